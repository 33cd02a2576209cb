"""A feature store is the same wherever it is kept: one contract over every storage."""

import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore, ObjectStore, ZipStore

from featurestore.errors import (
    ConfigError,
    EncoderMismatchError,
    MissingEmbeddingsError,
    NotWritableError,
    StoreError,
)
from featurestore.exchange.storezip import write_zip
from featurestore.frames import FrameTable
from featurestore.inspection.verification import verify_store
from featurestore.layout import FloatArray
from featurestore.provenance import Provenance
from featurestore.storage import objects
from featurestore.storage.base import Storage
from featurestore.storage.local import LocalStorage
from featurestore.store import FeatureStore
from featurestore.tokenprojection import TokenProjection

N_FRAMES, CHUNK_ROWS, DIM = 90, 16, 128  # a chunk is one page: in a folder they are mapped as one array
FAILED = {5: "no such file", 89: "empty file"}
EVERYWHERE = ["local", "memory", "s3", "s3 cached", "zip", "zip of s3"]
MakeStorage = Callable[[str], Storage]


def rows_of(n_rows: int, *row_shape: int) -> FloatArray:
    rows = np.random.default_rng(5).standard_normal((n_rows, *row_shape)).astype(np.float16)
    for row in FAILED:
        rows[row] = np.nan
    return rows


PROJECTION = TokenProjection(
    mean=np.arange(8.0),
    components=np.linalg.qr(np.random.default_rng(1).normal(size=(8, 5)))[0],
    explained=np.array([0.4, 0.2, 0.1, 0.05, 0.01]),
)


def fill(
    store: FeatureStore,
    name: str,
    provenance: Provenance,
    rows: FloatArray,
    *,
    stop: int = N_FRAMES,
    projection: TokenProjection | None = None,
) -> None:
    with store.writer(
        name, provenance, row_shape=rows.shape[1:], chunk_rows=CHUNK_ROWS, batch_rows=4, projection=projection
    ) as writer:
        for task in writer.pending():
            for start in range(task.start, min(task.stop, stop), 4):
                upto = min(start + 4, task.stop, stop)
                failures = {row: why for row, why in FAILED.items() if start <= row < upto}
                writer.append(start, rows[start:upto], failures)


@pytest.fixture(params=EVERYWHERE)
def store(
    make_storage: MakeStorage,
    make_frames: Callable[[int], FrameTable],
    provenance: Provenance,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> FeatureStore:
    """Encoder au is whole, v has its first 36 rows, tokens are three dimensional and were projected."""
    kind = request.param
    storage = make_storage({"zip": "local", "zip of s3": "s3"}.get(kind, kind))
    # What is read in an object store is copied there; that writing there makes the same is seen by tests that write.
    made = FeatureStore.create(
        LocalStorage(tmp_path / "local") if storage.is_remote else storage, make_frames(N_FRAMES)
    )
    fill(made, "au", provenance, rows_of(N_FRAMES, DIM))
    fill(made, "v", replace(provenance, weights="v"), rows_of(N_FRAMES, DIM), stop=36)
    fill(made, "tokens", replace(provenance, pooling="tokens"), rows_of(N_FRAMES, 3, 5), projection=PROJECTION)
    if storage.is_remote:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda key: storage.write(key, [made.storage.read(key) or b""]), made.storage.sizes()))
        made = FeatureStore.open(storage)
    if not kind.startswith("zip"):
        return FeatureStore.open(storage)
    write_zip(made, made.names(), tmp_path / "store.zarr.zip")
    return FeatureStore.open(tmp_path / "store.zarr.zip")


def test_reads_what_was_written(store: FeatureStore) -> None:
    assert store.names() == ("au", "tokens", "v")
    assert store.frames.fingerprint == store.fingerprint
    kept = store.embedding("tokens").projection
    assert kept is not None
    assert kept.digest == PROJECTION.digest == store.embedding("tokens").provenance.projection
    assert store.embedding("au").projection is None
    for name, rows in (("au", rows_of(N_FRAMES, DIM)), ("tokens", rows_of(N_FRAMES, 3, 5))):
        embedding = store.embedding(name)
        assert embedding.load().tobytes() == rows.tobytes()
        for start, stop in ((0, 90), (0, 0), (15, 17), (3, 60), (80, 90)):
            assert embedding.read(start, stop).tobytes() == rows[start:stop].tobytes()
            place = np.zeros_like(rows[start:stop])
            embedding.read_into(start, stop, place)
            assert place.tobytes() == rows[start:stop].tobytes()
        wanted = np.random.default_rng(0).integers(0, N_FRAMES, (7, 20))
        assert embedding.gather(wanted).tobytes() == rows[wanted].tobytes()
        windows = np.array([[start + i for i in range(20)] for start in (3, 40, 70)])
        place = np.zeros((3, 20, *rows.shape[1:]), dtype=rows.dtype)
        assert embedding.gather(windows, out=place) is place
        assert place.tobytes() == rows[windows].tobytes()
        assert embedding.failures() == FAILED
        assert np.flatnonzero(~embedding.valid()).tolist() == sorted(FAILED)
        assert embedding.verify() == []
        if store.location != "memory":
            assert pickle.loads(pickle.dumps(embedding)).read(2, 5).tobytes() == rows[2:5].tobytes()


def test_reads_no_row_that_is_not_committed(store: FeatureStore) -> None:
    embedding = store.embedding("v")
    assert embedding.rows_done() == 36
    assert np.flatnonzero(embedding.committed()).tolist() == list(range(36))
    assert embedding.read(30, 36).shape == (6, DIM)
    with pytest.raises(MissingEmbeddingsError, match="row 36 is not there"):
        embedding.read(30, 37)
    with pytest.raises(MissingEmbeddingsError, match="row 36 is not there"):
        embedding.read_into(30, 37, np.empty((7, DIM), dtype=np.float16))
    with pytest.raises(MissingEmbeddingsError, match="36 of 90 rows"):
        embedding.load()


def test_a_creation_that_a_kill_cut_short_leaves_no_part_of_its_projection(
    make_storage: MakeStorage,
    make_frames: Callable[[int], FrameTable],
    provenance: Provenance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In an object store a group is several objects; another projection's may lie there without the group's own."""
    monkeypatch.setattr(objects, "_PATIENCE_STEP_S", 0.01)  # for the worker who was killed, and does not come back
    store = FeatureStore.create(make_storage("s3"), make_frames(3))
    store.writer("tokens", provenance, row_shape=(3, 5), projection=PROJECTION)
    store.storage.remove("tokens/zarr.json")
    other = replace(PROJECTION, mean=np.ones(8))
    kept = store.writer("tokens", provenance, row_shape=(3, 5), projection=other).embedding.projection
    assert kept is not None
    assert kept.digest == other.digest


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_store_travels_to_another_process(
    make_storage: MakeStorage, make_frames: Callable[[int], FrameTable], provenance: Provenance, kind: str
) -> None:
    store = FeatureStore.create(make_storage(kind), make_frames(14))
    store.writer("au", provenance, row_shape=(DIM,))
    assert len(store.frames) == 14
    if kind == "memory":
        with pytest.raises(ConfigError, match="stays in the process that made it"):
            pickle.dumps(store)
        return
    sent = pickle.dumps(store)
    assert len(sent) < 2000  # no table
    FeatureStore.create(store.storage, make_frames(21), add=True)
    there = pickle.loads(sent)
    assert (there.n_frames, len(there.frames), there.fingerprint) == (14, 14, store.fingerprint)


def test_a_spawned_process_works_on_the_store(
    make_storage: MakeStorage, make_frames: Callable[[int], FrameTable], provenance: Provenance
) -> None:
    store = FeatureStore.create(make_storage("local"), make_frames(N_FRAMES))
    fill(store, "au", provenance, rows_of(N_FRAMES, DIM), stop=36)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(store.rows_done, "au").result(timeout=60) == 36


def test_zarr_reads_the_same_bytes(store: FeatureStore) -> None:
    """What is in the storage is handed to zarr-python as it is, or read by zarr's own store of that kind."""
    raw = {key: store.storage.read(key) for key in store.storage.sizes()}
    if store.location.startswith("s3://"):
        from obstore.store import from_url

        place: object = ObjectStore(from_url(store.location, client_options={"allow_http": True}), read_only=True)
    elif store.location.endswith(".zip"):
        place = ZipStore(store.location, mode="r")
    elif store.location == "memory":
        buffer = zarr.core.buffer.default_buffer_prototype().buffer
        place = MemoryStore({key: buffer.from_bytes(each or b"") for key, each in raw.items()})
    else:
        place = store.location
    group = zarr.open_group(place, mode="r")
    for name, shape in (("au", (DIM,)), ("tokens", (3, 5))):
        assert np.asarray(group["tokens/projection/components"][:]).tobytes() == PROJECTION.components.tobytes()
        assert np.asarray(group[f"{name}/embedding"][:]).tobytes() == rows_of(N_FRAMES, *shape).tobytes()
        assert group[f"{name}/commits"][:, 0].tolist() == [16, 16, 16, 16, 16, 10]
    assert FrameTable.from_bytes(raw["frames.parquet"] or b"", where="zarr").data.equals(store.frames.data)


def test_writes_what_is_missing_and_no_more(store: FeatureStore, provenance: Provenance) -> None:
    if store.location.endswith(".zip"):
        with pytest.raises(NotWritableError, match=r"can be read, not written.*store\.zarr\.zip"):
            fill(store, "v", replace(provenance, weights="v"), rows_of(N_FRAMES, DIM))
        with pytest.raises(NotWritableError, match="can be read, not written"):
            store.remove("au")
        return
    fill(store, "v", replace(provenance, weights="v"), rows_of(N_FRAMES, DIM))
    assert store.embedding("v").load().tobytes() == rows_of(N_FRAMES, DIM).tobytes()
    with pytest.raises(EncoderMismatchError, match=r"weights v there, w now.*Extract it as v@2, which keeps both"):
        store.writer("v", replace(provenance, weights="w"), row_shape=(DIM,))
    fill(store, "v@2", replace(provenance, weights="w"), rows_of(N_FRAMES, DIM))
    assert store.free_version("v") == store.free_version("v@2") == "v@3"
    store.remove("v")
    store.remove("tokens")
    assert store.names() == ("au", "v@2")
    assert store.embedding("v@2").is_complete()
    assert not [key for key in store.storage.sizes() if key.startswith(("v/", "tokens/"))]


def test_a_flipped_bit_is_found_and_mended(store: FeatureStore, provenance: Provenance) -> None:
    if store.location.endswith(".zip"):
        pytest.skip("a ZIP file is read only")
    embedding = store.embedding("au")
    key = embedding.chunks.key(2)
    raw = bytearray(store.storage.read(key) or b"")
    raw[7] ^= 8
    store.storage.write(key, [bytes(raw)])
    key = "tokens/projection/components/c.0.0"
    raw = bytearray(store.storage.read(key) or b"")
    raw[7] ^= 8
    store.storage.write(key, [bytes(raw)])
    with pytest.raises(StoreError, match="'tokens' has other bytes than were kept"):
        _ = store.embedding("tokens").projection
    assert [verdict.name for verdict in verify_store(store) if not verdict.is_sound] == ["au", "tokens"]
    again = store.embedding("au")
    assert again.verify() == again.repair() == [2]
    assert store.embedding("au").rows_done() == N_FRAMES - CHUNK_ROWS
    fill(store, "au", provenance, rows_of(N_FRAMES, DIM))
    assert store.embedding("au").load().tobytes() == rows_of(N_FRAMES, DIM).tobytes()


def test_the_store_grows_by_whole_videos(
    store: FeatureStore, make_frames: Callable[[int], FrameTable], provenance: Provenance
) -> None:
    if store.location.endswith(".zip"):
        pytest.skip("a ZIP file is read only")
    before = store.embedding("au")
    more = make_frames(126)  # 18 videos of 7 instead of 12 and a part: the last one stays as it was
    keep = FrameTable(more.data.filter(more.data["video"] != "v000012").vstack(store.frames.data.tail(6)))
    grown = FeatureStore.create(store.storage, keep, add=True)
    assert grown.frames.data["video"].head(90).equals(store.frames.data["video"])
    embedding = grown.embedding("au")
    assert (embedding.n_frames, embedding.rows_done()) == (125, 90)
    assert embedding.read(0, 90).tobytes() == rows_of(N_FRAMES, DIM).tobytes()
    fresh = np.random.default_rng(6).standard_normal((125, DIM)).astype(np.float16)
    fresh[:90] = 7  # never stored: what was committed stays
    with grown.writer("au", provenance, row_shape=(DIM,)) as writer:
        tasks = writer.pending()
        assert [task.start for task in tasks] == [88, 96, 112]  # the last batch of the chunk that was the last, and on
        for task in tasks:
            for start in range(task.start, task.stop, 4):
                writer.append(start, fresh[start : min(start + 4, task.stop)])
    tokens = grown.embedding("tokens")
    assert tokens.projection is not None
    with grown.writer("tokens", tokens.provenance, row_shape=(3, 5)) as writer:
        for task in writer.pending():
            writer.append(task.start, np.ones((task.stop - task.start, 3, 5), dtype=np.float32))
    grown_tokens = grown.embedding("tokens")
    assert grown_tokens.is_complete()
    assert grown_tokens.projection is not None
    assert grown_tokens.projection.digest == PROJECTION.digest
    embedding = grown.embedding("au")
    expected = np.concatenate([rows_of(N_FRAMES, DIM), fresh[90:]])
    assert embedding.load().tobytes() == expected.tobytes()
    assert embedding.failures() == FAILED
    assert embedding.verify() == before.verify() == []
    assert before.load().tobytes() == rows_of(N_FRAMES, DIM).tobytes()  # who had it open reads on
