"""Choosing how to run: what is fixed stays, what is measured is kept, and short runs are not measured."""

import json
from collections.abc import Callable
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
from extractor.precision import Precision
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageFolder
from featurestore.store import FeatureStore

CPU = torch.device("cpu")


@pytest.fixture(params=[None, "bfloat16"], ids=["only float32", "bfloat16"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Precision | None:
    """What the processor computes in natively beside float32, whatever this one does."""
    low: Precision | None = request.param
    monkeypatch.setattr("extractor.extraction.calibration.native_low_precision", lambda _: low)
    return low


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_long_run_is_measured_once_a_machine(
    tiny_encoder: Encoder, cache: Path, native: Precision | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractor.extraction.calibration._SHARE", 100.0)  # on a busy machine measuring takes longer
    notes: list[str] = []
    chosen = calibrate(tiny_encoder, CPU, n_rows=100_000, on_note=notes.append)
    assert chosen.batch in (8, 16, 32, 64)
    assert chosen.precision in ("float32", native)
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


def test_a_short_run_takes_the_defaults(tiny_encoder: Encoder, cache: Path, native: Precision | None) -> None:
    chosen = calibrate(tiny_encoder, CPU, n_rows=WORTH_MEASURING_ROWS - 1)
    assert chosen == Execution(precision=native or "float32", batch=32)
    assert not cache.exists()


def test_rows_are_computed_in_the_precision_that_auto_takes(
    tiny_encoder: Encoder, images: ImageFolder, frames: FrameTable, tmp_path: Path, native: Precision | None
) -> None:
    named, auto = (FeatureStore.create(tmp_path / name, frames) for name in ("named", "auto"))
    extract(named, {"e": tiny_encoder}, images, ExtractConfig(device="cpu", precision=native or "float32"))
    extract(auto, {"e": tiny_encoder}, images, ExtractConfig(device="cpu"))
    assert auto.embedding("e").provenance.precision == (native or "float32")
    assert auto.embedding("e").load().tobytes() == named.embedding("e").load().tobytes()


@pytest.mark.parametrize("offers", [False, True])
def test_a_processor_is_asked_what_it_computes_in(offers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: offers, raising=False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False, raising=False)
    assert native_low_precision(CPU) == ("bfloat16" if offers else None)


def trial_of(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[Execution], float], n_rows: int = 10**6
) -> _Trial:
    """A trial whose clock is ours; what the encoder puts out is its own."""
    trial = _Trial(encoder, CPU, n_rows)
    monkeypatch.setattr(trial, "_seconds_per_frame", seconds)
    monkeypatch.setattr(trial, "_perhaps_compiled", lambda best, best_s: (best, best_s))
    return trial


def test_what_is_a_little_faster_is_not_worth_it(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {8: 2.0, 16: 1.0, 32: 1.01, 64: 3.0}
    trial = trial_of(tiny_encoder, monkeypatch, lambda execution: seconds[execution.batch])
    first = Execution(precision="float32", batch=32)
    assert trial.choose(first, "float32", None) == (first, 1.01)  # 16 is no 3 % faster
    seconds[8] = 0.5
    assert trial.choose(first, "float32", None) == (replace(first, batch=8), 0.5)


def test_a_low_precision_must_be_close_and_fast(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    low, exact = Execution(precision="bfloat16", batch=8), Execution(precision="float32", batch=8)
    fast = {"bfloat16": 1.0, "float32": 2.0}
    trial = trial_of(tiny_encoder, monkeypatch, lambda execution: fast[execution.precision])
    assert trial.choose(low, None, 8) == (low, 1.0)
    slow = {"bfloat16": 2.0, "float32": 1.0}
    trial = trial_of(tiny_encoder, monkeypatch, lambda execution: slow[execution.precision])
    assert trial.choose(low, None, 8) == (exact, 1.0)
    with torch.no_grad():  # positions so large that bfloat16 loses the image beside them
        tiny_encoder.backbone.pos_embed.mul_(1e6)  # type: ignore[union-attr, operator]
        tiny_encoder.backbone.pos_embed.add_(1e6)  # type: ignore[union-attr, operator]
    trial = trial_of(tiny_encoder, monkeypatch, lambda execution: fast[execution.precision])
    assert trial.choose(low, None, 8) == (exact, 2.0)
    assert trial.choose(low, "bfloat16", 8) == (low, 1.0)  # asked for


@pytest.mark.usefixtures("native")
def test_a_search_that_was_cut_off_is_not_kept(
    tiny_encoder: Encoder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractor.extraction.calibration._SHARE", 0.0)
    assert calibrate(tiny_encoder, CPU, n_rows=WORTH_MEASURING_ROWS).batch == 32
    assert not cache.exists()


def test_what_memory_does_not_do_for_is_halved(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of(
        tiny_encoder, monkeypatch, lambda execution: float("inf") if execution.batch > 4 else 1.0 / execution.batch
    )
    chosen, _ = trial.choose(Execution(precision="float32", batch=32), "float32", None)
    assert chosen.batch == 4


def test_networks_of_convolutions_may_like_their_channels_last(cache: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderSpec(architecture="resnet10t", input_px=32, pooling="default")).eval()
    first = Execution(precision="float32", batch=8)
    tried = [change(first) for change in _Trial(encoder, CPU, 10**6)._changes(first, None, None)]
    assert replace(first, channels_last=True) in tried


@pytest.mark.usefixtures("native")
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
