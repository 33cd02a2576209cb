"""Several devices: processes of their own, one store, the same bits."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import featurestore.layout
from extractor.encoders.encoder import Encoder
from extractor.encoders.readout import Readout
from extractor.extraction.config import ExtractConfig
from extractor.extraction.devices import extract_on, parse_devices
from extractor.extraction.extract import extract
from featurestore.errors import ConfigError, ImageError, WorkerError
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageFolder
from featurestore.store import FeatureStore

CONFIG = ExtractConfig(batch=16, device="cpu", precision="float32")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are some to share out."""
    monkeypatch.setattr(featurestore.layout, "default_chunk_rows", lambda *_: 32)


def test_two_processes_write_what_one_does(
    tiny_encoder: Encoder, images: ImageFolder, frames: FrameTable, tmp_path: Path
) -> None:
    few = tiny_encoder.with_readout(Readout(pooling="tokens", token_grid=(2, 2), n_components=4))
    made = {"e": tiny_encoder, "tokens": few}
    one, two = (FeatureStore.create(tmp_path / name, frames) for name in ("one", "two"))
    extract(one, made, images, CONFIG)
    seen: list[tuple[int, int, int]] = []
    report = extract_on(["cpu", "cpu"], two, made, images, CONFIG, on_progress=lambda *state: seen.append(state))
    assert report.computed == {"e": 150, "tokens": 150}
    assert (report.reused, report.left, report.n_frames) == ({"e": 0, "tokens": 0}, {"e": 0, "tokens": 0}, 150)
    assert seen[-1] == (150, 150, 0)
    assert 0 < report.device_busy <= 1
    for name in made:
        assert np.array_equal(one.embedding(name).load(), two.embedding(name).load())
    assert extract_on(["cpu"], two, made, images, CONFIG).computed == {"e": 0, "tokens": 0}


def test_an_error_in_a_worker_is_told_as_it_is(
    tiny_encoder: Encoder, images: ImageFolder, frames: FrameTable, tmp_path: Path
) -> None:
    store = FeatureStore.create(tmp_path / "features", frames)
    gone = FrameTable(frames.data)
    paths = gone.data["path"].to_list()
    torn = tmp_path / "images"
    torn.mkdir()
    for path in paths:
        (torn / path).parent.mkdir(exist_ok=True)
        (torn / path).write_bytes(images.read(path) if path != paths[140] else b"torn")
    with pytest.raises(ImageError, match=r"Frame v4/00021\.jpg .* cannot be read: .* Mend or remove it"):
        extract_on(["cpu", "cpu"], store, {"e": tiny_encoder}, ImageFolder(torn), replace(CONFIG, stop_on_error=True))
    assert not store.embedding("e").verify()


def test_a_worker_that_dies_takes_nothing_with_it(
    tiny_encoder: Encoder, images: ImageFolder, frames: FrameTable, tmp_path: Path
) -> None:
    store = FeatureStore.create(tmp_path / "features", frames)
    killed = threading.Event()

    def kill_one() -> None:
        while not killed.is_set():
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
            for child in map(int, children.read_text().split()):
                command = Path(f"/proc/{child}/cmdline").read_bytes()
                if b"spawn_main" in command:
                    killed.set()
                    os.kill(child, signal.SIGKILL)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(WorkerError, match=r"The worker on cpu was ended by signal 9 .* run the same command again"):
        extract_on(["cpu", "cpu"], store, {"e": tiny_encoder}, images, CONFIG)
    killer.join()
    embedding = store.embedding("e")
    assert 0 < embedding.rows_done() < 150
    assert not embedding.verify()
    extract(store, {"e": tiny_encoder}, images, CONFIG)
    whole = FeatureStore.create(tmp_path / "whole", frames)
    extract(whole, {"e": tiny_encoder}, images, CONFIG)
    assert np.array_equal(whole.embedding("e").load(), store.embedding("e").load())


def test_devices_are_listed() -> None:
    assert parse_devices("cpu, cpu") == ("cpu", "cpu")
    with pytest.raises(ConfigError, match=r"names no device"):
        parse_devices(" , ")
    with pytest.raises(ConfigError, match=r"'cuda:99' is not on this machine"):
        parse_devices("99")
