"""Choosing how to run: what is fixed stays, what is measured is kept, and short runs are not measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from extractor.encoders.encoder import Encoder
from extractor.encoders.spec import EncoderSpec
from extractor.extraction.calibration import WORTH_MEASURING_ROWS, _Trial, calibrate, native_low_precision
from extractor.extraction.config import ExtractConfig
from extractor.extraction.execution import Execution, recorded_execution
from extractor.extraction.extract import extract
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageFolder
from featurestore.store import FeatureStore

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_long_run_is_measured_once_a_machine(tiny_encoder: Encoder, cache: Path) -> None:
    notes: list[str] = []
    chosen = calibrate(tiny_encoder, CPU, n_rows=100_000, on_note=notes.append)
    assert chosen.batch in (8, 16, 32, 64)
    assert chosen.precision in ("float32", native_low_precision(CPU))
    assert len(notes) == 1
    assert f"batches of {chosen.batch}" in notes[0]
    (kept,) = cache.rglob("*.json")
    assert calibrate(tiny_encoder, CPU, n_rows=100_000, on_note=notes.append) == chosen
    assert len(notes) == 1  # not measured again
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "batch": 4}))
    assert calibrate(tiny_encoder, CPU, n_rows=100_000).batch == 4  # it really is read
    kept.write_text("{")
    assert calibrate(tiny_encoder, CPU, n_rows=100_000).batch != 4


def test_what_is_asked_for_is_not_chosen(tiny_encoder: Encoder, cache: Path) -> None:
    for n_rows in (100_000, 10):
        chosen = calibrate(tiny_encoder, CPU, n_rows=n_rows, precision="float32", batch=2)
        assert (chosen.precision, chosen.batch) == ("float32", 2)


def test_a_short_run_takes_the_defaults(tiny_encoder: Encoder, cache: Path) -> None:
    assert calibrate(tiny_encoder, CPU, n_rows=WORTH_MEASURING_ROWS - 1).batch == 32
    assert not cache.exists()


def test_a_slower_choice_and_an_inexact_one_are_not_taken(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = _Trial(tiny_encoder, CPU, 1_000_000)
    seconds = {8: 2.0, 16: 1.0, 32: 0.99, 64: 3.0}
    monkeypatch.setattr(trial, "_seconds_per_frame", lambda execution: seconds[execution.batch])
    monkeypatch.setattr(trial, "_perhaps_compiled", lambda best, best_s: (best, best_s))
    first = Execution(precision="float32", batch=8)
    assert trial.choose(first, "float32", None) == (replace(first, batch=16), 1.0)  # 32 is no 3 % faster

    trial = _Trial(tiny_encoder, CPU, 1_000_000)
    fast = {"bfloat16": 1.0, "float32": 0.1}
    monkeypatch.setattr(trial, "_seconds_per_frame", lambda execution: fast[execution.precision])
    low = Execution(precision="bfloat16", batch=8)
    assert trial._is_close(low, replace(low, precision="float32"))
    with torch.no_grad():
        tiny_encoder.backbone.pos_embed.mul_(1e6)  # type: ignore[union-attr, operator]
        tiny_encoder.backbone.pos_embed.add_(1e6)  # type: ignore[union-attr, operator]
    trial = _Trial(tiny_encoder, CPU, 1_000_000)
    assert not trial._is_close(low, replace(low, precision="float32"))


def test_networks_of_convolutions_may_like_their_channels_last(cache: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderSpec(architecture="resnet10t", input_px=32, pooling="default")).eval()
    first = Execution(precision="float32", batch=8)
    tried = [change(first) for change in _Trial(encoder, CPU, 10**6)._changes(first, None, [8, 16])]
    assert replace(first, channels_last=True) in tried


def test_an_extraction_goes_on_as_it_was_begun(
    tiny_encoder: Encoder, images: ImageFolder, frames: FrameTable, tmp_path: Path
) -> None:
    store = FeatureStore.create(tmp_path / "features", frames)
    extract(store, {"e": tiny_encoder}, images, ExtractConfig(device="cpu", batch=8, precision="float32"))
    there = store.embedding("e")
    assert there.provenance.execution["device"] == "cpu"
    assert recorded_execution(there, "auto", CPU) == Execution(precision="float32", batch=8)
    extract(store, {"e": tiny_encoder}, images, ExtractConfig(device="cpu", batch=64))  # it keeps its 8
    assert store.embedding("e").batch_rows == 8
