"""Every place that a store can be kept in; the object store is a real S3 server on loopback."""

import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from featurestore.storage.base import Storage
from featurestore.storage.cached import CachedStorage
from featurestore.storage.local import LocalStorage
from featurestore.storage.memory import MemoryStorage
from featurestore.storage.objects import ObjectStorage

WRITABLE = ("local", "memory", "s3", "s3 cached")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a server that speaks S3, with the bucket ``lab``."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("obstore")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/lab", method="PUT")).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "lab")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "lab")
        yield endpoint
    server.stop()


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
