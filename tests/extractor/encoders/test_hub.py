"""Downloads from a hub that runs here, and what is said where there is none."""

import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from extractor.encoders.hub import cached_weights, download_weights, hub_endpoint, is_cached
from featurestore.errors import ConfigError, MissingFileError

TAG = "resnet10t.c3_in1k"
CONTENT = b"not weights, but bytes that arrive" * 1000
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ADVICE = "Download them elsewhere and put the file into weights."


class _Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for a file of a repository."""

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        is_there = self.path == f"/timm/{TAG}/resolve/main/model.safetensors"
        self.send_response(200 if is_there else 404)
        if is_there:
            self.send_header("ETag", f'"{hashlib.sha256(CONTENT).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(CONTENT)))
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
        self.end_headers()
        if is_there and with_content:
            self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a hub that has one model."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address + "/")
    yield address
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def test_a_file_is_downloaded_once(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_endpoint() == hub
    assert cached_weights(TAG, cache=tmp_path) is None
    assert not is_cached(TAG, cache=tmp_path)
    file = download_weights(TAG, advice=ADVICE, cache=tmp_path)
    assert file.read_bytes() == CONTENT
    assert is_cached(TAG, cache=tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # nobody is there: the cache suffices
    assert download_weights(TAG, advice=ADVICE, cache=tmp_path) == file == cached_weights(TAG, cache=tmp_path)


@pytest.mark.usefixtures("hub")
def test_a_hub_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gave none: it has none of model\.safetensors, pytorch_model\.bin"):
        download_weights("resnet18.a1_in1k", advice=ADVICE, cache=tmp_path)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address at which connections are neither made nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]  # they fill the queue of connections
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"
        for each in waiting:
            each.close()


def _set_endpoint(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)


def _hang(monkeypatch: pytest.MonkeyPatch, _: str) -> None:
    def resolve(*_: object, **__: object) -> socket.socket:
        time.sleep(2)
        raise TimeoutError("too late to be told")

    monkeypatch.setattr(socket, "create_connection", resolve)


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        (lambda patch, _: _set_endpoint(patch, "http://127.0.0.1:1"), "Connection refused"),
        (lambda patch, _: _set_endpoint(patch, "http://no-such-host.invalid"), r"[Nn]ame|resolution|address"),
        (_set_endpoint, "timed out|no answer from 127.0.0.1"),
        (_hang, "no answer from .* within 0.8 s"),  # a resolver that hangs, for which there is no timeout
        (lambda patch, _: patch.setenv("https_proxy", "http://127.0.0.1:1"), "Connection refused"),
        (lambda patch, _: patch.setenv("HF_HUB_OFFLINE", "1"), "HF_HUB_OFFLINE forbids it"),
    ],
    ids=["refused", "no name", "silent", "resolver hangs", "proxy", "offline"],
)
def test_without_a_network_it_fails_in_a_second_and_says_what_to_do(
    arrange: Callable[[pytest.MonkeyPatch, str], None],
    reason: str,
    silent: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    cached_weights(TAG, cache=tmp_path)  # the import of timm is not what is timed
    arrange(monkeypatch, silent)
    start = time.perf_counter()
    with pytest.raises(
        MissingFileError, match=rf"{TAG} are not on this machine, and http\S+/timm/\S+ .*({reason})"
    ) as e:
        download_weights(TAG, advice=ADVICE, cache=tmp_path)
    assert time.perf_counter() - start < 1.5
    assert str(e.value).endswith(ADVICE)


def test_a_hub_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("extractor.encoders.hub._ANSWER_S", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)  # the kernel takes connections, and nobody reads from them
        _set_endpoint(monkeypatch, f"http://127.0.0.1:{listener.getsockname()[1]}")
        start = time.perf_counter()
        with pytest.raises(MissingFileError, match=r"took the connection and gave no answer within 0\.2 s|timed out"):
            download_weights(TAG, advice=ADVICE, repository=f"timm/{TAG}", cache=tmp_path)
        assert time.perf_counter() - start < 1.5


def test_a_known_repository_needs_no_timm(hub: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from extractor.encoders.preparing import prepare_encoder\n"
        "try: prepare_encoder('mae', Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, sorted({'torch', 'timm'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "MissingFileError []"


def test_weights_that_no_hub_has(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"legacy_senet154\.in1k are not on the hub but at http"):
        download_weights("legacy_senet154.in1k", advice=ADVICE, cache=tmp_path)
    with pytest.raises(ConfigError, match=r"timm knows no published weights 'resnet10t\.none'"):
        download_weights("resnet10t.none", advice=ADVICE, cache=tmp_path)
