"""What only an object store does: requests side by side, copies kept in a folder, a network that fails."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import ConfigError, StoreError, UnreachableStoreError
from featurestore.frames import FrameTable
from featurestore.provenance import Provenance
from featurestore.storage import objects
from featurestore.storage.cached import CachedStorage
from featurestore.storage.objects import ObjectStorage
from featurestore.store import FeatureStore

N_FRAMES, CHUNK_ROWS, DIM = 640, 32, 8
ROWS = np.random.default_rng(1).standard_normal((N_FRAMES, DIM)).astype(np.float16)


@pytest.fixture
def url(new_url: Callable[[], str], make_frames: Callable[[int], FrameTable], provenance: Provenance) -> str:
    """A store of twenty chunks."""
    location = new_url()
    store = FeatureStore.create(location, make_frames(N_FRAMES))
    with store.writer("au", provenance, row_shape=(DIM,), chunk_rows=CHUNK_ROWS) as writer:
        for task in writer.pending():
            writer.append(task.start, ROWS[task.start : task.stop])
    return location


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys whose bytes crossed the network since."""
    keys: list[str] = []
    view, fetch = ObjectStorage.view, ObjectStorage.fetch

    def noted_view(self: ObjectStorage, key: str) -> memoryview | None:
        keys.append(key)
        return view(self, key)

    def noted_fetch(self: ObjectStorage, key: str, known: str | None) -> tuple[str, memoryview | None] | None:
        found = fetch(self, key, known)
        if found is not None and found[1] is not None:
            keys.append(key)
        return found

    monkeypatch.setattr(objects.ObjectStorage, "view", noted_view)
    monkeypatch.setattr(objects.ObjectStorage, "fetch", noted_fetch)
    return keys


def test_a_chunk_is_fetched_once_for_all_its_windows(url: str, fetched: list[str]) -> None:
    embedding = FeatureStore.open(url).embedding("au")
    for start in range(0, 60):
        assert embedding.read(start, start + 4).tobytes() == ROWS[start : start + 4].tobytes()
    assert [key for key in fetched if "/embedding/c." in key] == ["au/embedding/c.0.0", "au/embedding/c.1.0"]


def test_memory_holds_so_many_chunks_and_no_more(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.views._MAX_FETCHED_BYTES", 4 * CHUNK_ROWS * DIM * 2)
    embedding = FeatureStore.open(url).embedding("au")
    rows = np.random.default_rng(0).integers(0, N_FRAMES, 300)
    assert embedding.gather(rows).tobytes() == ROWS[rows].tobytes()
    for start in range(0, N_FRAMES, 16):
        assert embedding.read(start, start + 16).tobytes() == ROWS[start : start + 16].tobytes()
    assert len(embedding._views._arrays) <= 4


def test_a_second_process_fetches_no_chunk_again(url: str, fetched: list[str], tmp_path: Path) -> None:
    first = FeatureStore.open(url, cache=tmp_path / "cache").embedding("au")
    assert first.load().tobytes() == ROWS.tobytes()
    assert len([key for key in fetched if "/embedding/c." in key]) == 20
    fetched.clear()
    second = FeatureStore.open(url, cache=tmp_path / "cache").embedding("au")
    assert second.load().tobytes() == ROWS.tobytes()
    assert second.gather(np.arange(100)).tobytes() == ROWS[:100].tobytes()
    assert [key for key in fetched if "/embedding/c." in key] == []


def test_a_copy_that_is_out_of_date_is_not_used(url: str, tmp_path: Path) -> None:
    cached = CachedStorage(ObjectStorage(url), tmp_path / "cache")
    key = "au/embedding/c.3.0"
    before = bytes(cached.view(key) or b"")
    ObjectStorage(url).write(key, [before[::-1]])
    assert bytes(cached.view(key) or b"") == before[::-1]
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 1


def test_a_copy_that_rotted_is_not_served(url: str, tmp_path: Path) -> None:
    FeatureStore.open(url, cache=tmp_path / "cache").embedding("au").load()
    copy = next(path for path in (tmp_path / "cache").rglob("*") if path.is_file() and "c.3.0" in str(path))
    raw = bytearray(copy.read_bytes())
    raw[9] ^= 1
    copy.write_bytes(raw)
    for change in (bytes(raw), b""):
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(change)
        again = FeatureStore.open(url, cache=tmp_path / "cache").embedding("au")
        assert again.read(96, 128).tobytes() == ROWS[96:128].tobytes()  # fetched once more
        copy.write_bytes(change)
        assert again.verify() == []  # the store is asked, not the copy
        assert again.load().tobytes() == ROWS.tobytes()


def test_a_cache_that_cannot_be_written_is_no_reason_not_to_read(url: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    embedding = FeatureStore.open(url, cache=tmp_path / "taken" / "cache").embedding("au")
    assert embedding.load().tobytes() == ROWS.tobytes()


def test_a_network_that_fails_is_no_damage(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = FeatureStore.open(url).embedding("au")
    view = ObjectStorage.view

    def fails_once(self: ObjectStorage, key: str) -> memoryview | None:
        if key.endswith("c.2.0") and "embedding" in key:
            raise UnreachableStoreError("The object store did not answer.")
        return view(self, key)

    monkeypatch.setattr(ObjectStorage, "view", fails_once)
    with pytest.raises(UnreachableStoreError, match="did not answer"):
        embedding.repair()
    monkeypatch.undo()
    assert embedding.rows_done() == N_FRAMES


def test_rows_of_a_removal_that_was_killed_are_not_another_encoders(url: str, provenance: Provenance) -> None:
    ObjectStorage(url).remove("au/zarr.json")  # and no further
    store = FeatureStore.open(url)
    assert store.names() == ()
    writer = store.writer("au", replace(provenance, weights="1"), row_shape=(DIM,), chunk_rows=CHUNK_ROWS)
    assert writer.embedding.rows_done() == 0
    assert len(writer.pending()) == 20


def test_of_two_that_make_a_group_the_later_changes_nothing(new_url: Callable[[], str]) -> None:
    storage = ObjectStorage(new_url())
    assert storage.create("g", {"x/zarr.json": b"first", "zarr.json": b"first"})
    assert not storage.create("g", {"x/zarr.json": b"second", "zarr.json": b"second"})
    assert (storage.read("g/x/zarr.json"), storage.read("g/zarr.json")) == (b"first", b"first")


def test_metadata_that_a_killed_creation_left_is_replaced(
    new_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_PATIENCE_STEP_S", 0.001)
    storage = ObjectStorage(new_url())
    storage.write("g/x/zarr.json", [b"left"])
    assert storage.create("g", {"x/zarr.json": b"new", "zarr.json": b"new"})
    assert storage.read("g/x/zarr.json") == b"new"


def test_what_was_damaged_on_the_way_is_not_served(url: str) -> None:
    storage = ObjectStorage(url)
    raw = bytearray(storage.read("au/embedding/c.2.0") or b"")
    raw[0] ^= 1
    storage.write("au/embedding/c.2.0", [bytes(raw)])
    embedding = FeatureStore.open(url).embedding("au")
    for read in (embedding.load, lambda: embedding.read(64, 66), lambda: embedding.gather(np.array([65, 1]))):
        with pytest.raises(StoreError, match=r"Chunk 2 of encoder 'au'.*other bytes than were written"):
            read()


def test_a_url_that_cannot_be_used(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"like s3://bucket/prefix; 'ftps://x/y' cannot be opened"):
        FeatureStore.open("ftps://x/y")
    with pytest.raises(UnreachableStoreError, match=r"\(s3://no-such-bucket/features/a\): there is no such bucket"):
        ObjectStorage("s3://no-such-bucket/features").write("a", [b"x"])
    monkeypatch.setattr(objects, "_RETRY_S", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(
        UnreachableStoreError, match=r"did not answer as it should \(s3://lab/features/zarr.json\).*AWS_ENDPOINT_URL"
    ):
        FeatureStore.open("s3://lab/features")


def test_without_the_extra_the_message_says_how_to_get_it() -> None:
    script = (
        "import sys; sys.modules['obstore'] = None\n"
        "from featurestore.errors import ConfigError\n"
        "from featurestore.store import FeatureStore\n"
        "try:\n    FeatureStore.open('s3://lab/features')\n"
        "except ConfigError as error:\n    print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'abaw[s3]'" in ran.stdout
