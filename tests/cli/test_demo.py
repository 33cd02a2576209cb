"""The demo, to its end and once more, with a small ViT and few epochs."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cli import demo
from extractor.encoders.spec import EncoderSpec

TINY = EncoderSpec(
    architecture="vit_tiny_patch16_224",
    arguments={"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    input_px=32,
)
TABLE = ["trivial references", "single frame", "fused", "temporal", "joint", "truth, the ceiling"]


def test_the_demo_runs_to_its_end_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"encoder": TINY, "epochs": 1, "warmup_epochs": 0.5, "decoder_dim": 32}
    monkeypatch.setattr(demo, "PRETRAINING", demo.PRETRAINING.model_copy(update=small))
    whole = demo.finetuning
    monkeypatch.setattr(demo, "finetuning", lambda task, seed: whole(task, seed).model_copy(update={"epochs": 1}))
    monkeypatch.setattr(demo, "FitConfig", partial(demo.FitConfig, epochs=1))
    monkeypatch.setattr(demo, "ABLATION", replace(demo.ABLATION, epochs=1))
    monkeypatch.setattr(demo, "FRAMES", 16)

    root = tmp_path / "demo"
    demo.run_demo(root, videos=6, seed=7)
    first = capsys.readouterr().out
    _check_report(first, root)
    for path in ("faces.png", "predictions.txt", "ablations/fusion.csv", "runs/joint/metrics.json"):
        assert (root / path).stat().st_size > 0
    assert {path.name for path in (root / "encoders").glob("[!.]*")} == {"mae", "au", "expr", "v", "a"}
    encoders = {path: path.read_bytes() for path in (root / "encoders").rglob("*.safetensors")}
    chunks = {path: path.stat().st_mtime_ns for path in (root / "features").glob("*/embedding/c/**/*")}
    ablation = (root / "ablations" / "fusion.csv").read_bytes()

    demo.run_demo(root, videos=6, seed=7)
    second = capsys.readouterr().out
    _check_report(second, root)
    assert "there already" in second
    assert "all there" in second
    assert {path: path.read_bytes() for path in (root / "encoders").rglob("*.safetensors")} == encoders
    assert (root / "ablations" / "fusion.csv").read_bytes() == ablation
    computed = {name: time for name, time in chunks.items() if "truth" not in name.parts}
    assert computed.items() <= {p: p.stat().st_mtime_ns for p in (root / "features").glob("*/embedding/c/**/*")}.items()
    assert _table(second) == _table(first)  # the same seed, the same figures


def _check_report(text: str, root: Path) -> None:
    steps = [int(number) for number in re.findall(r"^(\d+)/\d+ ", text, flags=re.MULTILINE)]
    assert steps == list(range(1, len(steps) + 1))
    assert f"{len(steps)}/{len(steps)} " in text
    assert list(_table(text)) == TABLE
    assert "…" not in text  # no column was cut
    for figure in ("encoders", "features", "runs", "fusion.csv", "predictions.txt"):
        assert str(root / figure) in text or figure in text


def _table(text: str) -> dict[str, list[str]]:
    """Label to figures of the closing table."""
    lines = text.partition("95 % interval")[2].partition("Intervals resample")[0].splitlines()
    found = [re.fullmatch(r" ?(\D+?) +(-?\d\.\d{3} .*)", line.rstrip()) for line in lines]
    return {match[1]: match[2].split() for match in found if match}
