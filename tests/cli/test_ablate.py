"""`abaw ablate`: what its tables say besides scores."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

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
    assert all(row["low"] is row["high"] is None for row in (*summary, *made.json()["rows"]))
    assert {row["patience"] for row in made.json()["rows"]} == {1}
    with (workspace / "ablations" / "fusion_summary.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 28
    assert pl.read_parquet(workspace / "ablations" / "fusion_videos.parquet").height == 56
    printed = abaw("ablate", "fusion", *SMALL, "--seeds", "1,2", "--patience", 1)
    assert "+ better, - worse than the task's first row" in " ".join(printed.out.split())
    assert "one seed" not in printed.out
    assert "2 seeds: with fewer than 5 only great differences stand" in " ".join(printed.out.split())
    (workspace / "ablations" / "fusion_videos.parquet").unlink()
    monkeypatch.chdir(tmp_path)  # the tables belong to the workspace, wherever the command is given
    unknown = abaw("ablate", "fusion", *SMALL, "--seeds", "1,2", "--patience", 1, "-w", workspace)
    assert unknown.code == 0
    assert not (tmp_path / "ablations").exists()
    assert "? not known" in " ".join(unknown.out.split())


def test_rows_of_unequal_widths_are_told_before_the_first_fit(workspace: Path, abaw: Abaw) -> None:
    store = FeatureStore.open(workspace / "features")
    provenance = Provenance(
        architecture="test", weights="truth", preprocessing={"size_px": 8}, pooling="mean", precision="float32"
    )
    with store.writer("truth", provenance, row_shape=(15,), chunk_rows=64) as writer:
        for _, first, stop in writer.pending():
            writer.append(first, np.ones((stop - first, 15), dtype=np.float32), {})
    made = abaw("ablate", "fusion", *SMALL, "--encoder", "truth", "--parallel", 1, "--json")
    assert made.code == 0, made.err
    assert "fusion: 9 of 28 rows skipped (task expr, v, a). Embeddings of encoder 'au' have" in made.err
    assert [(row["task"], row["fused"]) for row in made.json()["rows"]] == [(t, "") for t in ("au", "expr", "v", "a")]
