"""Every place that a store can be kept in."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore.storage.base import Storage
from featurestore.storage.cached import CachedStorage
from featurestore.storage.local import LocalStorage
from featurestore.storage.memory import MemoryStorage
from featurestore.storage.objects import ObjectStorage

WRITABLE = ("local", "memory", "s3", "s3 cached")


@pytest.fixture
def new_url(s3_server: str) -> Callable[[], str]:
    """URLs of prefixes that nothing is under."""
    return lambda: f"s3://lab/{uuid.uuid4().hex}"


@pytest.fixture
def make_storage(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Storage]:
    """An empty storage of a kind."""

    def make(kind: str) -> Storage:
        if kind == "local":
            return LocalStorage(tmp_path / "features")
        if kind == "memory":
            return MemoryStorage()
        url = request.getfixturevalue("new_url")()
        if kind == "s3":
            return ObjectStorage(url)
        return CachedStorage(ObjectStorage(url), tmp_path / "cache")

    return make
