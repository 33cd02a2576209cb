"""`abaw ablate`: what its tables say besides scores."""

import csv
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

Abaw = Callable[..., object]
SMALL = ("--epochs", 2, "--batch-frames", 4096)


def test_differences_are_judged(workspace: Path, abaw: Abaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = abaw("ablate", "fusion", *SMALL, "--seeds", "1,2", "--patience", 1, "--parallel", 1, "--json")
    assert made.code == 0, made.err
    summary = made.json()["summary"]
    assert [row["is_reference"] for row in summary] == [True, *[False] * 6] * 4
    # Val holds one video, and one video decides nothing (tests/heads/ablation has several).
    assert all(row["stands"] is None for row in summary)
    assert all((row["difference"] is None) == row["is_reference"] for row in summary)
    assert {row["patience"] for row in made.json()["rows"]} == {1}
    with (workspace / "ablations" / "fusion_summary.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 28
    assert pl.read_parquet(workspace / "ablations" / "fusion_videos.parquet").height == 56
    printed = abaw("ablate", "fusion", *SMALL, "--seeds", "1,2", "--patience", 1)
    assert "+ better, - worse than the task's first row" in " ".join(printed.out.split())
    assert "one seed" not in printed.out
    (workspace / "ablations" / "fusion_videos.parquet").unlink()
    monkeypatch.chdir(tmp_path)  # the tables belong to the workspace, wherever the command is given
    unknown = abaw("ablate", "fusion", *SMALL, "--seeds", "1,2", "--patience", 1, "-w", workspace)
    assert unknown.code == 0
    assert not (tmp_path / "ablations").exists()
    assert "? not known" in " ".join(unknown.out.split())
