import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import chunks
from featurestore.embedding import Embedding
from featurestore.errors import MissingEmbeddingsError, ShapeError, StoreError
from featurestore.layout import FloatArray
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

N_FRAMES, CHUNK_ROWS = 50, 16
MakeStore = Callable[[int], FeatureStore]


def random_rows(n_rows: int, *row_shape: int) -> FloatArray:
    return np.random.default_rng(7).standard_normal((n_rows, *row_shape)).astype(np.float16)


def path_of(embedding: Embedding, key: str = "") -> Path:
    """The file of an object, or the encoder's folder."""
    return Path(embedding.storage.location, key or embedding.name)


def fill(store: FeatureStore, provenance: Provenance, rows: FloatArray, *, stop: int, batch_rows: int = 2) -> Embedding:
    """Write rows [0, stop) of `rows` as encoder au."""
    with store.writer(
        "au", provenance, row_shape=rows.shape[1:], dtype=rows.dtype, chunk_rows=CHUNK_ROWS, batch_rows=batch_rows
    ) as writer:
        for task in writer.pending():
            upto = min(task.stop, stop)
            if task.start < upto:
                writer.append(task.start, rows[task.start : upto])
    return store.embedding("au")


@pytest.fixture
def rows() -> FloatArray:
    return random_rows(N_FRAMES, 3)


@pytest.fixture
def embedding(make_store: MakeStore, provenance: Provenance, rows: FloatArray) -> Embedding:
    return fill(make_store(N_FRAMES), provenance, rows, stop=N_FRAMES)


@pytest.fixture
def partial(make_store: MakeStore, provenance: Provenance, rows: FloatArray) -> Embedding:
    """Rows 0 to 35 are there: two chunks and four rows of the third."""
    return fill(make_store(N_FRAMES), provenance, rows, stop=36)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("row_shape", [(3,), (4, 3)])
@pytest.mark.parametrize("n_frames", [1, 16, 32, 50])
def test_reads_what_zarr_reads(
    make_store: MakeStore, provenance: Provenance, n_frames: int, row_shape: tuple[int, ...], dtype: type[np.float16]
) -> None:
    rows = random_rows(n_frames, *row_shape).astype(dtype)
    store = make_store(n_frames)
    embedding = fill(store, provenance, rows, stop=n_frames)
    by_zarr = np.asarray(zarr.open_group(Path(store.location), mode="r")["au/embedding"][:])
    loaded = embedding.load()
    assert loaded.dtype == by_zarr.dtype == dtype
    assert loaded.tobytes() == by_zarr.tobytes() == rows.tobytes()
    assert embedding.read(0, n_frames).tobytes() == rows.tobytes()
    assert embedding.gather(np.arange(n_frames)).tobytes() == rows.tobytes()


def test_zarr_reads_the_commits_and_nan_where_nothing_is(partial: Embedding, rows: FloatArray) -> None:
    group = zarr.open_group(path_of(partial), mode="r")
    commits = np.asarray(group["commits"][:])
    assert commits[:, 0].tolist() == [16, 16, 4, 0]
    assert commits[:, 1].all() == (commits[:, 0] > 0).all()
    by_zarr = np.asarray(group["embedding"][:])
    assert by_zarr[:36].tobytes() == rows[:36].tobytes()
    assert np.isnan(by_zarr[36:]).all()


def test_what_is_blank_is_written_in_pieces(
    make_store: MakeStore, provenance: Provenance, rows: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a chunk of wide rows does not take its size in memory once more; 12 rows of 3 are blank here."""
    monkeypatch.setattr(chunks, "_BLANK_VALUES", 7)
    partial = fill(make_store(N_FRAMES), provenance, rows, stop=36)
    raw = np.fromfile(path_of(partial, partial.chunks.key(2)), dtype=np.float16).reshape(CHUNK_ROWS, 3)
    assert raw[:4].tobytes() == rows[32:36].tobytes()
    assert np.isnan(raw[4:]).all()


def test_describes_itself(embedding: Embedding, provenance: Provenance) -> None:
    assert (embedding.name, embedding.n_frames, embedding.row_shape, embedding.dim) == ("au", N_FRAMES, (3,), 3)
    assert (embedding.dtype, embedding.chunk_rows, embedding.batch_rows) == (np.float16, CHUNK_ROWS, 2)
    assert embedding.provenance == provenance
    assert embedding.is_complete()
    assert embedding.failures() == {}
    assert embedding.valid().all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_any_window_and_any_rows(embedding: Embedding, rows: FloatArray, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, N_FRAMES))
    stop = data.draw(st.integers(start, N_FRAMES))
    window = embedding.read(start, stop)
    assert window.shape == (stop - start, 3)
    assert window.tobytes() == rows[start:stop].tobytes()
    picks = np.array(data.draw(st.lists(st.integers(0, N_FRAMES - 1), max_size=40)), dtype=np.int64)
    assert embedding.gather(picks).tobytes() == rows[picks].tobytes()


def test_gathers_windows_at_once(embedding: Embedding, rows: FloatArray) -> None:
    windows = np.array([[40, 41, 42], [14, 15, 16], [0, 0, 49]], dtype=np.int32)
    np.testing.assert_array_equal(embedding.gather(windows), rows[windows])


def test_a_view_cannot_be_written_to(embedding: Embedding) -> None:
    with pytest.raises(ValueError, match="read-only"):
        embedding.read(0, 2)[0] = 0


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, N_FRAMES + 1), (N_FRAMES, N_FRAMES + 1), (-3, -1)])
@pytest.mark.parametrize("is_warm", [False, True])
def test_windows_outside_the_table_are_refused(embedding: Embedding, start: int, stop: int, is_warm: bool) -> None:
    if is_warm:
        embedding.read(0, N_FRAMES)
    with pytest.raises(ShapeError, match="within the table's 50 frames"):
        embedding.read(start, stop)


@pytest.mark.parametrize("picks", [[-1], [N_FRAMES], [0.5], [True, False]])
def test_rows_outside_the_table_are_refused(embedding: Embedding, picks: list[int]) -> None:
    with pytest.raises(ShapeError, match=r"integers within \[0, 50\)"):
        embedding.gather(np.array(picks))


def test_uncommitted_rows_are_never_returned(partial: Embedding, rows: FloatArray) -> None:
    assert partial.committed().tolist() == [True] * 36 + [False] * 14
    assert partial.rows_done() == 36
    with pytest.raises(MissingEmbeddingsError, match=r"36 of 50 rows.*abaw extract --encoder au"):
        partial.load()
    assert partial.read(30, 36).tobytes() == rows[30:36].tobytes()
    with pytest.raises(MissingEmbeddingsError, match="row 36 is not there"):
        partial.read(30, 37)
    with pytest.raises(MissingEmbeddingsError, match="row 36 is not there"):
        partial.gather(np.array([1, 36]))
    with pytest.raises(MissingEmbeddingsError, match="row 48 is not there"):
        partial.read(48, 50)


def test_a_reader_follows_a_writer(partial: Embedding, rows: FloatArray, provenance: Provenance) -> None:
    before = partial.read(32, 36)
    fill(FeatureStore.open(partial.storage.location), provenance, rows, stop=N_FRAMES)
    assert partial.read(32, 50).tobytes() == rows[32:].tobytes()
    assert partial.load().tobytes() == rows.tobytes()
    assert before.tobytes() == rows[32:36].tobytes()


def test_survives_pickling_with_its_maps_open(embedding: Embedding, rows: FloatArray) -> None:
    embedding.read(0, N_FRAMES)
    assert pickle.loads(pickle.dumps(embedding)).read(3, 20).tobytes() == rows[3:20].tobytes()


def test_verify_names_the_chunk_with_a_flipped_bit(embedding: Embedding) -> None:
    assert embedding.verify() == []
    path = path_of(embedding, embedding.chunks.key(2))
    raw = bytearray(path.read_bytes())
    raw[5] ^= 1
    path.write_bytes(raw)
    assert embedding.verify() == [2]


def test_every_one_of_a_hundred_flipped_bits_is_found(
    make_store: MakeStore, provenance: Provenance, rows: FloatArray
) -> None:
    """Anywhere in rows and commits; and it is named, dropped, computed again."""
    store = make_store(N_FRAMES)
    with store.writer("au", provenance, row_shape=(3,), chunk_rows=CHUNK_ROWS, batch_rows=2) as writer:
        for task in writer.pending():
            failures = {row: "no such file" for row in (5, 49) if task.start <= row < task.stop}
            writer.append(task.start, rows[task.start : task.stop], failures)
    embedding = store.embedding("au")
    whole = embedding.load().tobytes()
    rng = np.random.default_rng(100)
    counted = {embedding.chunks.key(chunk): (chunk, 96) for chunk in range(3)}
    counted |= {embedding.chunks.key(3): (3, 12)}  # two rows; what is behind them is no data
    counted |= {embedding.commits.key(chunk): (chunk, 16) for chunk in range(4)}
    keys = list(counted)
    found = 0
    for flip in range(100):
        key = keys[flip % len(keys)]
        chunk, n_bytes = counted[key]
        raw = bytearray(store.storage.read(key) or b"")
        raw[rng.integers(n_bytes)] ^= 1 << rng.integers(8)
        path_of(embedding, key).write_bytes(raw)
        found += store.embedding("au").verify() == [chunk]
        assert store.embedding("au").repair() == [chunk], f"flip {flip} in {key}"
        assert store.embedding("au").rows_done() < N_FRAMES
        with store.writer("au", provenance, row_shape=(3,)) as writer:
            for task in writer.pending():
                failures = {row: "no such file" for row in (5, 49) if task.start <= row < task.stop}
                writer.append(task.start, rows[task.start : task.stop], failures)
        assert store.embedding("au").load().tobytes() == whole
    assert found == 100


def test_a_commit_of_more_rows_than_a_chunk_has_is_named(embedding: Embedding) -> None:
    for bit in (5, 40, 63):
        path = path_of(embedding, embedding.commits.key(1))
        good = path.read_bytes()
        n_rows = int.from_bytes(good[:8], "little") ^ (1 << bit)
        path.write_bytes(n_rows.to_bytes(8, "little") + good[8:])
        with pytest.raises(StoreError, match=f"at most its chunk's 16 rows, not {n_rows} .*verify --repair"):
            embedding.rows_done()
        assert embedding.verify() == [1]
        path.write_bytes(good)


def test_rows_that_are_missing_inside_a_chunk_are_not_handed_out(embedding: Embedding) -> None:
    short = np.array(embedding.read(16, 32))
    short[4:6] = np.nan
    embedding.chunks.write(1, short)
    fresh = FeatureStore.open(embedding.storage).embedding("au")
    for read in (fresh.load, lambda: fresh.read(16, 18), lambda: fresh.gather(np.array([17]))):
        with pytest.raises(StoreError, match=r"Chunk 1 of encoder 'au'.*rows of it are missing"):
            read()


def test_failures_that_were_lost_are_found(make_store: MakeStore, provenance: Provenance, rows: FloatArray) -> None:
    store = make_store(N_FRAMES)
    with store.writer("au", provenance, row_shape=(3,), chunk_rows=CHUNK_ROWS) as writer:
        writer.append(0, rows[:16], {3: "no such file"})
    embedding = store.embedding("au")
    assert embedding.verify() == []
    path = path_of(embedding, embedding.failure_log.key(0))
    good = path.read_text()
    for text in ("{}", "{", good.replace("3", "4"), good.replace("{", '{"4": "gone", ')):
        path.write_text(text)
        assert embedding.verify() == [0]
    path.unlink()
    assert embedding.verify() == [0]


def test_verify_does_not_look_past_the_commit(partial: Embedding) -> None:
    path = path_of(partial, partial.chunks.key(2))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1  # what an interrupted later commit may leave
    path.write_bytes(raw)
    assert partial.verify() == []


@pytest.mark.parametrize("n_bytes", [None, 0, 95, 96])
def test_a_chunk_that_is_cut_is_named(embedding: Embedding, n_bytes: int | None) -> None:
    path = path_of(embedding, embedding.chunks.key(1))
    raw = path.read_bytes()
    path.unlink()
    if n_bytes is not None:
        path.write_bytes((raw + b"\0")[: n_bytes if n_bytes < 96 else 97])
    wanted = f"Chunk 1 of encoder 'au' is 96 bytes.*{path}.*abaw store verify --encoder au --repair"
    for read in (embedding.load, lambda: embedding.read(16, 18), lambda: embedding.gather(np.array([17]))):
        with pytest.raises(StoreError, match=wanted):
            read()
    assert embedding.verify() == [1]
    assert embedding.read(0, 16).shape == (16, 3)


def test_a_damaged_commit_is_named(embedding: Embedding) -> None:
    path: Path = path_of(embedding, embedding.commits.key(1))
    path.write_bytes(b"short")
    with pytest.raises(StoreError, match=f"16 bytes, not 5.*{path}"):
        embedding.committed()


def test_hidden_temporary_files_count_for_nothing(partial: Embedding) -> None:
    for key in (partial.chunks.key(3), partial.commits.key(3), partial.failure_log.key(3)):
        path = path_of(partial, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / f".{path.name}.tmp").write_bytes(b"half")
    assert partial.rows_done() == 36
    assert partial.failures() == {}
    assert partial.verify() == []
