import errno
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.embedding import Embedding
from featurestore.errors import (
    ConfigError,
    NotWritableError,
    PrecisionError,
    ShapeError,
    StorageFullError,
    StoreError,
)
from featurestore.frames import FrameTable
from featurestore.layout import FloatArray
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from featurestore.writer import ChunkTask, EmbeddingWriter, Share

N_FRAMES, CHUNK_ROWS, BATCH_ROWS = 40, 16, 4
MakeStore = Callable[[int], FeatureStore]
OpenWriter = Callable[[], EmbeddingWriter]
ROWS: FloatArray = np.random.default_rng(3).standard_normal((N_FRAMES, 3)).astype(np.float16)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_writer(make_store: MakeStore, provenance: Provenance, clock: Clock) -> OpenWriter:
    """Open the one encoder's writer again, as another process would."""
    store = make_store(N_FRAMES)
    return lambda: store.writer(
        "au", provenance, row_shape=(3,), chunk_rows=CHUNK_ROWS, batch_rows=BATCH_ROWS, clock=clock
    )


def finish(writer: EmbeddingWriter) -> int:
    """Append all that is pending, batch by batch; how many rows that was."""
    n_rows = 0
    with writer:
        for task in writer.pending():
            for start in range(task.start, task.stop, writer.batch_rows):
                stop = min(start + writer.batch_rows, task.stop)
                writer.append(start, ROWS[start:stop])
                n_rows += stop - start
    return n_rows


def test_pending_of_a_new_encoder(open_writer: OpenWriter) -> None:
    assert open_writer().pending() == [ChunkTask(0, 0, 16), ChunkTask(1, 16, 32), ChunkTask(2, 32, 40)]


def test_writes_everything_in_any_order_of_chunks(open_writer: OpenWriter) -> None:
    writer = open_writer()
    for task in reversed(writer.pending()):
        writer.append(task.start, ROWS[task.start : task.stop])
    assert writer.pending() == []
    assert writer.embedding.load().tobytes() == ROWS.tobytes()


def test_a_kill_loses_what_was_not_committed_and_no_more(open_writer: OpenWriter, clock: Clock) -> None:
    writer = open_writer()
    writer.append(0, ROWS[0:4])
    clock.now_s = 29.9
    writer.append(4, ROWS[4:8])
    assert writer.embedding.rows_done() == 0
    clock.now_s = 30.0
    writer.append(8, ROWS[8:10])  # half a batch: the commit stops before it
    assert writer.embedding.rows_done() == 8
    assert (writer.pending()[0].start, open_writer().pending()[0].start) == (10, 8)
    clock.now_s = 59.9
    writer.append(10, ROWS[10:12])
    assert writer.embedding.rows_done() == 8
    clock.now_s = 60.0
    writer.append(12, ROWS[12:13])
    assert writer.embedding.rows_done() == 12
    assert open_writer().pending() == [ChunkTask(0, 12, 16), ChunkTask(1, 16, 32), ChunkTask(2, 32, 40)]
    assert finish(open_writer()) == 28
    assert writer.embedding.load().tobytes() == ROWS.tobytes()


def test_leaving_keeps_whole_batches(open_writer: OpenWriter) -> None:
    with open_writer() as writer:
        writer.append(16, ROWS[16:23])
    assert np.flatnonzero(writer.embedding.committed()).tolist() == [16, 17, 18, 19]


def test_an_error_keeps_what_was_computed_and_is_not_hidden(open_writer: OpenWriter) -> None:
    def extract() -> None:
        with open_writer() as writer:
            writer.append(0, ROWS[0:8])
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        extract()
    assert open_writer().embedding.rows_done() == 8


def test_recorded_sizes_win(open_writer: OpenWriter, make_store: MakeStore, provenance: Provenance) -> None:
    open_writer()
    writer = make_store(N_FRAMES).writer("au", provenance, row_shape=(3,), chunk_rows=32, batch_rows=8)
    assert (writer.chunk_rows, writer.batch_rows) == (CHUNK_ROWS, BATCH_ROWS)
    assert (writer.embedding.chunk_rows, writer.embedding.batch_rows) == (CHUNK_ROWS, BATCH_ROWS)


def test_failures_hold_nan_and_keep_their_reason(open_writer: OpenWriter) -> None:
    writer = open_writer()
    writer.append(0, ROWS[0:4], {1: "cannot be decoded"})
    writer.flush()
    resumed = open_writer()
    resumed.append(4, ROWS[4:16], {9: "not there: v000001/00005.jpg – gone"})
    embedding = resumed.embedding
    assert embedding.failures() == {1: "cannot be decoded", 9: "not there: v000001/00005.jpg – gone"}
    stored = embedding.read(0, 16)
    assert np.flatnonzero(np.isnan(stored).any(axis=1)).tolist() == [1, 9]
    assert np.flatnonzero(~embedding.valid()).tolist() == [1, 9, *range(16, 40)]
    keep = [0, 2, 8, 10, 15]
    assert stored[keep].tobytes() == ROWS[keep].tobytes()
    assert embedding.storage.size(embedding.failure_log.key(1)) is None


def test_failures_past_the_commit_count_for_nothing(open_writer: OpenWriter) -> None:
    writer = open_writer()
    writer.append(0, ROWS[0:8], {2: "gone"})
    writer.flush()
    # As a kill leaves it that comes between the failures and the commit of the next batch.
    writer.embedding.failure_log.write(0, {2: "gone", 9: "for now"})
    assert writer.embedding.failures() == {2: "gone"}
    finish(open_writer())
    assert writer.embedding.failures() == {2: "gone"}
    assert not np.isnan(writer.embedding.read(9, 10)).any()


def test_a_kill_between_chunk_and_commit_keeps_the_older_commit(open_writer: OpenWriter) -> None:
    writer = open_writer()
    writer.append(0, ROWS[0:4])
    writer.flush()
    older = writer.embedding.commits.read(0)
    writer.append(4, ROWS[4:12])
    writer.flush()
    writer.embedding.commits.write(0, older)
    assert writer.embedding.verify() == []
    assert open_writer().pending()[0] == ChunkTask(0, 4, 16)
    assert finish(open_writer()) == N_FRAMES - 4
    assert writer.embedding.load().tobytes() == ROWS.tobytes()


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
@pytest.mark.parametrize("n_rows", [8, 16])
def test_a_damaged_chunk_starts_over(open_writer: OpenWriter, n_rows: int, damage: str) -> None:
    writer = open_writer()
    writer.append(0, ROWS[0:n_rows])
    writer.flush()
    path = Path(writer.embedding.storage.location, writer.embedding.chunks.key(0))
    raw = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(raw[:-1] if damage == "cut" else bytes([raw[0] ^ 1]) + raw[1:])
    resumed = open_writer()
    if damage == "flip" and n_rows == 16:
        # Finished chunks are hashed by verify only.
        assert resumed.embedding.verify() == [0]
        assert resumed.pending()[0].chunk == 1
        assert resumed.embedding.repair() == [0]
    assert resumed.pending()[0] == ChunkTask(0, 0, 16)
    resumed.append(0, ROWS[0:4])
    assert resumed.embedding.rows_done() == 0  # the false commit is withdrawn at once
    resumed.flush()
    finish(open_writer())
    assert writer.embedding.load().tobytes() == ROWS.tobytes()
    assert writer.embedding.verify() == []


def test_rows_must_go_on_where_their_chunk_stands(open_writer: OpenWriter) -> None:
    writer = open_writer()
    with pytest.raises(ShapeError, match=r"goes on with table row 16 .*not with 20"):
        writer.append(20, ROWS[20:24])
    with pytest.raises(ShapeError, match=r"rows \[12, 20\).*ends at 16"):
        writer.append(12, ROWS[12:20])
    with pytest.raises(ShapeError, match="ends at 40"):
        writer.append(36, np.ones((5, 3), dtype=np.float32))
    with pytest.raises(ShapeError, match="leave theirs"):
        writer.append(-4, ROWS[:4])
    with pytest.raises(ShapeError, match=r"shape \(n_rows, \*\(3,\)\), not \(4, 2\)"):
        writer.append(0, ROWS[:4, :2])
    with pytest.raises(ShapeError, match="not int64"):
        writer.append(0, np.ones((4, 3), dtype=np.int64))
    with pytest.raises(ConfigError, match=r"within \[0, 4\), not 4"):
        writer.append(0, ROWS[:4], {4: "gone"})
    writer.append(0, ROWS[:16])
    writer.append(0, ROWS[16:32])  # another worker could have committed them: what is there stays
    assert writer.embedding.read(0, 16).tobytes() == ROWS[:16].tobytes()


def test_a_chunk_is_not_left_inside_a_batch(open_writer: OpenWriter) -> None:
    writer = open_writer()
    writer.append(0, ROWS[0:3])
    with pytest.raises(ConfigError, match=r"middle of a batch of 4 \(next row: 3\)"):
        writer.append(16, ROWS[16:20])
    writer.append(3, ROWS[3:4])
    writer.append(16, ROWS[16:20])
    assert writer.embedding.rows_done() == 4
    assert open_writer().pending()[0] == ChunkTask(0, 4, 16)


def test_a_batch_that_is_refused_leaves_no_trace(open_writer: OpenWriter) -> None:
    writer = open_writer()
    broken = ROWS[0:4].astype(np.float32)
    broken[2, 1] = 1e6
    with pytest.raises(PrecisionError, match=r"'au'.*row 2 holds 1e\+06"):
        writer.append(0, broken)
    broken[2, 1] = np.nan
    with pytest.raises(StoreError, match="NaN for table row 2"):
        writer.append(0, broken)
    finish(writer)
    assert writer.embedding.load().tobytes() == ROWS.tobytes()


@settings(max_examples=15, deadline=None)
@given(data=st.data(), n_frames=st.integers(1, 40), batch_rows=st.sampled_from([1, 2, 8]), chunks=st.integers(1, 3))
def test_any_batches_with_any_interruptions_give_the_same_files(
    make_frames: Callable[[int], FrameTable],
    provenance: Provenance,
    data: st.DataObject,
    n_frames: int,
    batch_rows: int,
    chunks: int,
) -> None:
    row_shape = data.draw(st.sampled_from([(1,), (5,), (2, 3)]))
    rows = np.random.default_rng(n_frames).standard_normal((n_frames, *row_shape)).astype(np.float32)
    failed = data.draw(st.sets(st.integers(0, n_frames - 1), max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.create(Path(folder, "features"), make_frames(n_frames))

        def open_writer(name: str) -> EmbeddingWriter:
            return store.writer(
                name, provenance, row_shape=row_shape, chunk_rows=chunks * batch_rows, batch_rows=batch_rows
            )

        with open_writer("whole") as writer:
            for _, start, stop in writer.pending():
                writer.append(start, rows[start:stop], {row: "gone" for row in failed if start <= row < stop})
        while tasks := open_writer("torn").pending():
            task = data.draw(st.sampled_from(tasks))
            torn = open_writer("torn")
            row = task.start
            while row < task.stop and not data.draw(st.booleans(), label="killed"):
                upto = task.stop - data.draw(st.integers(0, task.stop - row - 1))
                torn.append(row, rows[row:upto], {r: "gone" for r in failed if row <= r < upto})
                row = upto
                if data.draw(st.booleans()):
                    torn.flush()
        assert files_of(Path(store.location) / "torn") == files_of(Path(store.location) / "whole")
        assert store.embedding("torn").verify() == []
        assert sorted(store.embedding("torn").failures()) == sorted(failed)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


FILLS_UP = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from featurestore.errors import StorageFullError
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with EFBIG instead
store = FeatureStore.open(Path(sys.argv[1]))
made = Provenance(architecture="a", weights="w", preprocessing={}, pooling="cls", precision="float32", made_at="now")
writer = store.writer("au", made, row_shape=(4096,), chunk_rows=16, batch_rows=4)
writer.append(0, np.ones((16, 4096), dtype=np.float32))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    with writer:
        writer.append(16, np.ones((16, 4096), dtype=np.float32))
except StorageFullError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_a_write_that_finds_no_space_says_what_is_safe(make_store: MakeStore) -> None:
    store = make_store(N_FRAMES)
    ran = subprocess.run([sys.executable, "-c", FILLS_UP, store.location], capture_output=True, text=True, check=True)
    assert "encoder 'au': 16 of 40 rows are safely committed" in ran.stdout
    embedding = store.embedding("au")
    assert embedding.rows_done() == 16
    assert embedding.verify() == []
    assert not [path for path in Path(store.location).rglob(".*") if path.is_file()]  # the half-written file is gone


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Path:
    """A file system of 1 MiB, where this user may mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_says_what_is_safe_and_is_gone_on_from(
    tiny_disk: Path, make_frames: Callable[[int], FrameTable], provenance: Provenance
) -> None:
    rows = np.ones((200, 1024), dtype=np.float16)
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(700_000))
    store = FeatureStore.create(tiny_disk / "features", make_frames(200))

    def extract() -> Embedding:
        with store.writer("au", provenance, row_shape=(1024,), chunk_rows=32, batch_rows=8) as writer:
            for task in writer.pending():
                writer.append(task.start, rows[task.start : task.stop])
        return writer.embedding

    with pytest.raises(StorageFullError, match=r"'au': (32|64|96|128|160) of 200 rows are safely committed") as caught:
        extract()
    assert isinstance(caught.value.__cause__, OSError)
    assert store.embedding("au").verify() == []
    ballast.unlink()
    assert extract().load().tobytes() == rows.tobytes()


def test_a_read_only_file_system_is_named_and_nothing_is_lost(
    tiny_disk: Path, make_frames: Callable[[int], FrameTable], provenance: Provenance
) -> None:
    store = FeatureStore.create(tiny_disk / "features", make_frames(N_FRAMES))
    rows = np.ones((N_FRAMES, 4), dtype=np.float16)
    writer = store.writer("au", provenance, row_shape=(4,), chunk_rows=16)
    writer.append(0, rows[:16])
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    named = re.escape(str(tiny_disk / "features"))
    with pytest.raises(NotWritableError, match=rf"{named}/au/embedding/c\.1\.0 cannot be written: Read-only.*was"):
        writer.append(16, rows[16:32])
    with pytest.raises(NotWritableError, match=rf"{named}/v cannot be written: Read-only"):
        store.writer("v", provenance, row_shape=(4,))
    with pytest.raises(NotWritableError, match=rf"{named}/au cannot be written: Read-only"):
        store.remove("au")
    with pytest.raises(NotWritableError, match=rf"{named}/frames\.parquet cannot be written: Read-only"):
        FeatureStore.create(store.location, make_frames(N_FRAMES))
    assert store.embedding("au").read(0, 16).tobytes() == rows[:16].tobytes()
    assert store.embedding("au").verify() == []


def test_a_folder_that_may_not_be_written_to(open_writer: OpenWriter) -> None:
    writer = open_writer()
    group = Path(writer.embedding.storage.location, writer.embedding.name)
    folders = [group / "embedding", group / "commits"]
    for folder in folders:
        folder.chmod(0o500)
    try:
        if os.access(folders[0], os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(NotWritableError, match=os.strerror(errno.EACCES)):
            writer.append(0, ROWS[:16])
    finally:
        for folder in folders:
            folder.chmod(0o700)


@pytest.mark.parametrize("chunk_rows", [256, 1024, 4096, 8192, 768])
def test_shares_are_whole_chunks_and_together_all(
    make_store: Callable[[int], FeatureStore], provenance: Provenance, chunk_rows: int
) -> None:
    store = make_store(30_000)
    writer = store.writer("au", provenance, row_shape=(1,), chunk_rows=chunk_rows)
    shares = [writer.pending(Share(number, 3)) for number in (1, 2, 3)]
    assert sorted(task for share in shares for task in share) == writer.pending()
    assert all(shares)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    # Encoders with chunks of other sizes have the same rows in the same share, but for a chunk.
    assert abs(shares[1][0].start - 10_000) <= chunk_rows
