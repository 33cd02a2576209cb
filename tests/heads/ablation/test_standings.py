import io
import re

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from featurestore.labels import ACTION_UNITS
from heads.ablation.ledger import SCHEMA, LedgerRow
from heads.ablation.printing import LEGEND, render_table
from heads.ablation.standings import SUMMARY_SCHEMA, summarise
from heads.ablation.tables import TABLES, plan
from heads.ablation.videosums import row_sums
from heads.arrays import IntArray
from heads.features.featureset import FeatureSet
from heads.scoring.compare import compare
from heads.scoring.intervals import VideoSums, concordance_video_sums
from heads.scoring.predictions import Predictions

N_VIDEOS, N_ROWS = 12, 40


def _row(fused: str, seed: int, score: float, *, task: str = "v", base: str = "v") -> LedgerRow:
    empty: LedgerRow = dict.fromkeys(SCHEMA)
    told: LedgerRow = {
        "table": "fusion",
        "task": task,
        "base": base,
        "fused": fused,
        "fusion": "sum" if fused else "none",
    }
    more: LedgerRow = {"joined": task, "temporal": "none", "S": 1, "W": 1, "seed": seed, "score": score}
    rest: LedgerRow = {"low": score - 0.1, "high": score + 0.1, "trivial": 0.0, "key": f"{task}{base}{fused}{seed}"}
    return empty | told | more | rest


def _videos() -> tuple[np.ndarray, IntArray]:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, N_VIDEOS * N_ROWS), np.repeat(np.arange(N_VIDEOS), N_ROWS)


def _sums(noise: float, seed: int) -> tuple[VideoSums, float]:
    """A predictor of the same valence, so far off; and its score."""
    target, video = _videos()
    prediction = np.clip(target + noise * np.random.default_rng(seed).normal(size=len(target)), -1, 1)
    sums = concordance_video_sums("ccc_valence", target, prediction, video, n_videos=N_VIDEOS)
    return sums, float(sums.score(sums.sums.sum(axis=0)))


def _made(noises: dict[str, float], seeds: tuple[int, ...]) -> tuple[pl.DataFrame, dict[str, VideoSums]]:
    rows, sums = [], {}
    for number, (fused, noise) in enumerate(noises.items()):
        for seed in seeds:
            drawn, score = _sums(noise, 100 * number + seed)
            rows.append(_row(fused, seed, score))
            sums[str(rows[-1]["key"])] = drawn
    return pl.DataFrame(rows, schema=SCHEMA, orient="row"), sums


def test_what_stands_and_what_does_not() -> None:
    rows, sums = _made({"": 0.6, "au": 0.2, "expr": 0.601, "a": 1.5}, (1, 2, 3))
    made = summarise(rows, sums)
    assert made.schema == SUMMARY_SCHEMA
    assert made["is_reference"].to_list() == [True, False, False, False]
    assert made["stands"].to_list() == [None, True, False, True]
    assert made["difference"][0] is None
    means = rows.group_by("fused", maintain_order=True).agg(pl.col("score").mean())["score"].to_list()
    assert made["mean"].to_list() == pytest.approx(means)
    assert made["difference"].to_list()[1:] == pytest.approx([mean - means[0] for mean in means[1:]])
    for row in made.filter(~pl.col("is_reference")).iter_rows(named=True):
        assert row["difference_low"] < row["difference"] < row["difference_high"]
        assert row["stands"] == (row["difference_low"] > 0 or row["difference_high"] < 0)
        assert (row["probability"] >= 0.975) == row["stands"]
    assert made["is_best"].to_list() == [False, True, False, False]


def test_the_same_numbers_as_a_comparison_of_two_runs(features: FeatureSet) -> None:
    rows = features.frames.rows("val")
    rng = np.random.default_rng(3)
    target = features.targets.valence[rows].astype(np.float64)
    runs = [Predictions(rows=rows, valence=np.clip(target + rng.normal(size=len(rows)) * s, -1, 1)) for s in (0.9, 0.5)]
    expected = compare(features.targets, runs[:1], runs[1:], features.video_ids).parts["ccc_valence"]
    assert expected is not None
    table = [_row(fused, 1, score) for fused, score in (("", expected.a), ("au", expected.b))]
    sums = {str(row["key"]): row_sums(features, "v", run) for row, run in zip(table, runs, strict=True)}
    made = summarise(pl.DataFrame(table, schema=SCHEMA, orient="row"), sums).row(1, named=True)
    assert made["difference"] == pytest.approx(expected.difference)
    assert made["difference_low"] == pytest.approx(expected.low)
    assert made["difference_high"] == pytest.approx(expected.high)
    assert made["probability"] == pytest.approx(expected.probability)


def test_each_task_and_base_has_its_own_reference() -> None:
    rows, sums = _made({"": 0.6, "au": 0.2}, (1,))
    others = [_row("", 1, 0.3, task="a", base="a"), _row("v", 1, 0.4, task="a", base="a"), _row("", 1, 0.1, base="mae")]
    made = summarise(pl.concat([rows, pl.DataFrame(others, schema=SCHEMA, orient="row")]), sums)
    assert made["is_reference"].to_list() == [True, False, True, False, True]
    assert made["difference"][3] == pytest.approx(0.1)
    assert made["std"].null_count() == 5


def test_videos_that_are_not_known() -> None:
    rows, sums = _made({"": 0.6, "au": 0.2, "expr": 0.1}, (1, 2))
    del sums["vvau2"]
    made = summarise(rows, sums)
    assert made["stands"].to_list() == [None, None, True]
    assert made["difference"].null_count() == 1
    del sums["vv1"]
    assert summarise(rows, sums)["stands"].null_count() == 3
    # Of another val split: rows whose videos are others cannot be paired.
    rows, sums = _made({"": 0.6, "au": 0.2}, (1,))
    sums["vvau1"] = VideoSums("ccc_valence", sums["vvau1"].sums[:5])
    assert summarise(rows, sums)["stands"].null_count() == 2
    # But one of the videos has labels.
    rows, sums = _made({"": 0.6, "au": 0.2}, (1,))
    for key, each in sums.items():
        alone = np.zeros_like(each.sums)
        alone[3] = each.sums[3]
        sums[key] = VideoSums("ccc_valence", alone)
    assert summarise(rows, sums)["stands"].null_count() == 2


def test_the_printed_table() -> None:
    rows, sums = _made({"": 0.6, "au": 0.2, "expr": 0.601, "a": 1.5}, (1,))
    rows = rows.with_columns(
        published=pl.when(fused="au").then(0.5721), published_mark=pl.when(fused="au").then(pl.lit("inferred"))
    )
    made = summarise(rows, sums)
    text = _text(made)
    assert "Table 2" in text
    assert ".5721 [i]" in text
    marks = [re.search(rf"{_short(mean)} (.)", text)[1] for mean in made["mean"]]
    assert marks == [" ", "+", " ", "-"]
    assert " ".join(LEGEND.split()) in " ".join(text.split())
    assert "one seed" in " ".join(text.split())
    del sums["vvau1"]
    unknown = _text(summarise(rows, sums))
    assert f"{_short(made['mean'][1])} ?" in unknown
    assert "? not known" in " ".join(unknown.split())
    rows, sums = _made({"": 0.6, "au": 0.2}, (1, 2))
    several = _text(summarise(rows, sums))
    assert "one seed" not in several
    assert "2 seeds: with fewer than 5 only great differences stand" in " ".join(several.split())
    five = summarise(*_made({"": 0.6, "au": 0.2}, (1, 2, 3, 4, 5)))
    assert "fewer than" not in _text(five)
    alone = _text(summarise(rows.filter(fused=""), sums))
    assert " ".join(LEGEND.split()) not in " ".join(alone.split())


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_intervals_are_two_numbers_apart_beside_the_spread_over_seeds(seeds: tuple[int, ...]) -> None:
    rows = pl.DataFrame(
        [_row("", seed, 0.153 + 0.01 * seed) | {"low": -0.271 + 0.01 * seed, "high": 0.225} for seed in seeds],
        schema=SCHEMA,
        orient="row",
    )
    summary = summarise(rows, {})
    line = next(line for line in _text(summary).splitlines() if line.split()[:1] == ["v"]).split()
    n = len(seeds)
    interval = ["-.261" if n == 1 else "-.251", ".225"]
    assert line == ["v", "single", ".1630" if n == 1 else ".1730", *interval, *([".010"] if n > 1 else []), ".000"]
    assert "seeds" in _text(summary) if n > 1 else "seeds" not in _text(summary)
    gone = summary.with_columns(low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64))
    assert " - " in next(line for line in _text(gone).splitlines() if line.split()[:1] == ["v"])


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("encoders", [("au", "expr", "v", "a", "mae"), ("au", "v", "mae"), ("mae",)])
@pytest.mark.parametrize("base", [None, "mae"])
@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_a_table_fits_eighty_columns(
    table: str, encoders: tuple[str, ...], base: str | None, seeds: tuple[int, ...]
) -> None:
    if base is None and table != "joint" and encoders == ("mae",):
        return  # nothing is left of it
    rows = []
    for planned in plan(table, encoders, base=base).rows:
        head = planned.head.resolved()
        told: LedgerRow = {"table": table, "joined": "+".join(head.joint), "temporal": head.temporal}
        told |= {"S": head.seq, "W": head.step, "fusion": head.fusion, "low": -0.271, "high": -0.225}
        if planned.published is not None:
            told |= {"published": planned.published.score, "published_mark": planned.published.mark}
        base_row = [_row("+".join(head.fuse), seed, -0.25, task=planned.task, base=head.encoder) for seed in seeds]
        rows += [row | told for row in base_row]
    lines = _text(summarise(pl.DataFrame(rows, schema=SCHEMA, orient="row"), {}), title=None).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert max(line.count("-.271 -.225") for line in lines) == 1
    assert not any("…" in line for line in lines)


def _short(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)


def _text(summary: pl.DataFrame, *, title: str | None = "Table 2") -> str:
    console = Console(width=160, file=io.StringIO())
    console.print(render_table(summary, title=title))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_sums_are_of_all_videos_of_val(features: FeatureSet) -> None:
    rows = features.frames.rows("val")
    values = np.full((len(rows), len(ACTION_UNITS)), 0.9)
    first = features.video_ids[rows] == features.video_ids[rows][0]
    values[first] = np.nan  # not embedded
    sums = row_sums(features, "au", Predictions(rows=rows, action_units=values)).sums
    assert sums.shape == (3, 3, 12)
    assert not sums[0].any()
    assert sums[1:].any(axis=(1, 2)).all()
