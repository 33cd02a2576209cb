"""What every place that holds a store promises: one contract, over all that can be written."""

import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from featurestore.errors import ConfigError, StoreError
from featurestore.storage.base import Storage
from featurestore.storage.local import LocalStorage

MakeStorage = Callable[[str], Storage]


@pytest.fixture(params=["local", "memory", "s3", "s3 cached"])
def storage(make_storage: MakeStorage, request: pytest.FixtureRequest) -> Storage:
    return make_storage(request.param)


def test_what_was_written_is_read(storage: Storage) -> None:
    storage.write("a/b.bin", [b"one ", memoryview(b"two"), b""])
    assert storage.read("a/b.bin") == b"one two"
    assert bytes(storage.view("a/b.bin") or b"") == b"one two"
    assert storage.size("a/b.bin") == 7
    storage.write("a/b.bin", [b"three"], flush=False)
    storage.sync()
    assert storage.read("a/b.bin") == bytes(storage.view("a/b.bin") or b"") == b"three"


def test_an_empty_object_is_there(storage: Storage) -> None:
    storage.write("empty", [])
    assert storage.read("empty") == b""
    assert storage.view("empty") == b""
    assert storage.size("empty") == 0


def test_what_is_not_there(storage: Storage) -> None:
    storage.write("a/b", [b"x"])
    for key in ("c", "a/c", "a/b/c", "a"):
        assert storage.read(key) is None  # "a" holds one, and is none
        assert storage.view(key) is None
        assert storage.read_into(key, memoryview(bytearray(3))) is None
        assert storage.size(key) is None
    assert storage.names("c") == storage.names("a/b/c") == []
    assert storage.sizes("c") == {}
    storage.remove("c")
    storage.remove("a/b/c")


def test_a_view_outlives_its_object(storage: Storage) -> None:
    storage.write("a", [b"before"])
    view = storage.view("a")
    assert view is not None
    storage.write("a", [b"after!"])
    assert bytes(view) == b"before"
    assert bytes(storage.view("a") or b"") == b"after!"
    storage.remove("a")
    assert bytes(view) == b"before"
    assert storage.view("a") is None


def test_parts_are_read_into_place(storage: Storage) -> None:
    storage.write("a", [bytes(range(10))])
    place = bytearray(4)
    assert storage.read_into("a", memoryview(place), 3) == 4
    assert place == bytes([3, 4, 5, 6])
    assert storage.read_into("a", memoryview(place), 8) == 2
    assert place[:2] == bytes([8, 9])
    assert storage.read_into("a", memoryview(place), 10) == 0


def test_listings(storage: Storage) -> None:
    for key in ("b/2", "b/10", "b/c/1", "a", "bb/x"):
        storage.write(key, [key.encode()])
    assert storage.names() == ["a", "b", "bb"]
    assert storage.names("b") == ["10", "2", "c"]
    assert storage.sizes("b") == {"b/10": 4, "b/2": 3, "b/c/1": 5}
    assert sum(storage.sizes().values()) == 17
    assert storage.read_many(["a", "none", "b/2"]) == [b"a", None, b"b/2"]


def test_a_group_is_made_once_and_goes_as_a_whole(storage: Storage) -> None:
    storage.write("other", [b"stays"])
    assert storage.create("g", {"zarr.json": b"first", "x/zarr.json": b"array"})
    assert not storage.create("g", {"zarr.json": b"second", "x/zarr.json": b"array"})
    assert storage.read("g/zarr.json") == b"first"
    storage.write("g/x/c.0", [b"chunk"])
    storage.discard("g")
    assert storage.sizes() == {"other": 5}
    assert storage.create("g", {"zarr.json": b"third"})


def test_of_groups_made_at_once_one_is_made(storage: Storage) -> None:
    # The server that the tests talk to looks and then puts; a real one does it in one step.
    with ThreadPoolExecutor(1 if storage.is_remote else 8) as pool:
        made = list(pool.map(lambda n: storage.create("g", {"zarr.json": b"%d" % n, "x": b"x"}), range(8)))
    assert made.count(True) == 1
    assert storage.read("g/zarr.json") == b"%d" % made.index(True)


@pytest.mark.parametrize("key", ["../x", "/x", "a/../../x", ""])
def test_keys_stay_inside(storage: Storage, key: str) -> None:
    with pytest.raises(StoreError, match="relative path without"):
        storage.write(key, [b"x"])


def test_travels_to_another_process(storage: Storage) -> None:
    storage.write("a", [b"x"])
    if storage.location == "memory":
        with pytest.raises(ConfigError, match=r"stays in the process that made it \(memory\).*store in a folder"):
            pickle.dumps(storage)
    else:
        assert pickle.loads(pickle.dumps(storage)).read("a") == b"x"


def test_says_how_much_room_there_is(storage: Storage) -> None:
    if isinstance(storage, LocalStorage):  # of a folder that is not there yet
        free = storage.free_bytes()
        assert free is not None
        assert free == pytest.approx(
            os.statvfs(storage.root.parent).f_bavail * os.statvfs(storage.root.parent).f_frsize, rel=0.05
        )
    else:
        assert storage.free_bytes() is None
