"""`--memory`: what does not fit is streamed, which is said; the scores of a run are the same either way."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Abaw = Callable[..., object]
Refused = Callable[..., str]
SMALL = ("--seq", 5, "--batch-frames", 5, "--epochs", 1, "--fuse", "au,v")


def test_a_fit_within_a_budget(workspace: Path, abaw: Abaw) -> None:
    loaded = abaw("fit-heads", *SMALL, "--memory", "1GiB", "--name", "whole", "--json")
    assert loaded.json()["stream_bytes"] is None
    assert "streamed" not in loaded.err
    streamed = abaw("fit-heads", *SMALL, "--memory", "24kB", "--name", "part", "--json")
    assert streamed.code == 0, streamed.err
    assert streamed.json()["stream_bytes"] == 24_000
    assert "more than the 24kB they may: they are streamed within 24kB." in streamed.err
    recorded = {name: json.loads((workspace / "runs" / name / "config.json").read_text()) for name in ("whole", "part")}
    assert {name: record["stream_bytes"] for name, record in recorded.items()} == {"whole": None, "part": 24_000}
    again = abaw("fit-heads", *SMALL, "--memory", "24kB", "--name", "part", "--json")
    assert again.json()["P"] == streamed.json()["P"]


def test_a_run_is_judged_and_used_within_a_budget(workspace: Path, abaw: Abaw) -> None:
    whole, part = (abaw("evaluate", "joint", *memory, "--json") for memory in ((), ("--memory", "16kB")))
    assert "streamed within 16kB" in part.err
    assert part.json()["P"] == pytest.approx(whole.json()["P"], abs=1e-5)
    files = {"whole.txt": (), "part.txt": ("--memory", "16kB")}
    for name, memory in files.items():
        assert abaw("predict", "joint", "--split", "val", "--out", name, *memory).code == 0
    answers = [[line.split(",") for line in (workspace / name).read_text().splitlines()[1:]] for name in files]
    for one, other in zip(*answers, strict=True):
        assert one[0] == other[0]
        assert [float(value) for value in one[1:]] == pytest.approx([float(value) for value in other[1:]], abs=1e-4)


def test_an_ablation_within_a_budget(workspace: Path, abaw: Abaw) -> None:
    outcome = abaw("ablate", "fusion", "--epochs", 1, "--batch-frames", 5, "--memory", "36kB", "--json")
    assert outcome.code == 0, outcome.err
    assert "streamed within 36kB" in outcome.err
    assert len(outcome.json()["rows"]) == 28


@pytest.mark.parametrize("size", ["4XB", "-1GB", "lots", "0"])
def test_what_is_no_size(workspace: Path, refused: Refused, size: str) -> None:
    text = refused(2, "fit-heads", "--memory", size)
    assert f"Expected a size in bytes such as 4GB, 512MB, 1.5GiB or 65536, got {size!r}" in text


def test_a_budget_that_is_too_small_says_what_is_enough(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    text = refused(2, "fit-heads", *SMALL, "--name", "small", "--memory", "1kB", n_lines=1)
    assert "takes at least" in text
    assert not (workspace / "runs" / "small").exists()
    enough = text.split("Give --memory ")[1].split()[0]
    assert abaw("fit-heads", *SMALL, "--name", "small", "--memory", enough).code == 0
