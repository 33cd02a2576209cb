"""Means over seeds, and which differences stand.

The reference of each task is the first row of its table: nothing fused, single frames, nothing joined. A row's
difference to it is resampled as `heads.scoring.compare` does it: the same videos for both, so that what is hard for
both is no part of it, and each row's own seeds, with what so few of them leave open of their spread.

A difference stands if the middle 95 % of its resamples leave 0 out: then at least 97.5 % of them have its sign. That is
said of each row alone. A table has six rows or so a task beside the first, 24 in all, and of rows that are all as good
as the first one in twenty stands nevertheless, about one a table, with 5 seeds; with 3 one in 25, with 2 one in 40
(measured, see there), since with so few only great differences stand. With one seed what stands is that these two fits
differ on videos like these, not that their heads do: another seed may turn it round. The epoch of each row was
picked on the same videos, which favours rows whose score jumps from epoch to epoch.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl

from heads.arrays import Float64Array
from heads.scoring.compare import PartComparison, compare_samples
from heads.scoring.intervals import N_RESAMPLES, VideoSums, resample

ROW_OF_TABLE: Final = ["task", "base", "fused", "fusion", "joined", "temporal", "S", "W"]
"""What tells rows of one table apart, but for the seed."""

SUMMARY_SCHEMA: Final = pl.Schema(
    {
        "table": pl.String,
        **{name: pl.Int64 if name in ("S", "W") else pl.String for name in ROW_OF_TABLE},
        "n_seeds": pl.Int64,
        "mean": pl.Float64,
        "std": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "is_reference": pl.Boolean,
        "difference": pl.Float64,
        "difference_low": pl.Float64,
        "difference_high": pl.Float64,
        "probability": pl.Float64,
        "stands": pl.Boolean,
        "trivial": pl.Float64,
        "published": pl.Float64,
        "published_mark": pl.String,
        "is_best": pl.Boolean,
    }
)
"""Columns: `std` (ddof=1) is null for one seed; `low` and `high` are the ends of the interval by resampling videos,
means over seeds, null where there is none; `difference` is the mean's to that of its task's reference, with its 95 %
interval, the `probability` that it is real (the share of resamples that have its sign) and whether it `stands`, null
for the reference itself and, but for the difference, where a row's videos are unknown or but one tells of it;
`is_best`: of its table and task, by mean."""


def summarise(rows: pl.DataFrame, sums: Mapping[str, VideoSums], *, n_resamples: int = N_RESAMPLES) -> pl.DataFrame:
    """One row a head: means over seeds, beside the reference of its task.

    Parameters
    ----------
    rows
        As `run_ablation` returns them: in the order of the plan, so that a task's first row is its reference.
    sums
        Key -> statistics by video (see `heads.ablation.videosums`); a key may lack.
    n_resamples
        Of the bootstrap over videos and seeds.

    Returns
    -------
    DataFrame
        As `SUMMARY_SCHEMA` says, in the order of the rows.
    """
    made: list[dict[str, object]] = []
    for group in rows.partition_by("table", "task", "base", maintain_order=True):
        heads = group.partition_by(ROW_OF_TABLE, maintain_order=True)
        samples = _samples(group, sums, n_resamples)
        for head in heads:
            compared = None if head is heads[0] else _compared(heads[0], head, samples)
            made.append(_row(head, heads[0], compared))
    table = pl.DataFrame(made, schema=SUMMARY_SCHEMA, orient="row")
    return table.with_columns((pl.col("mean") == pl.col("mean").max().over("table", "task")).alias("is_best"))


def _row(head: pl.DataFrame, reference: pl.DataFrame, compared: PartComparison | None) -> dict[str, object]:
    first = head.row(0, named=True)
    kept = ("table", *ROW_OF_TABLE, "trivial", "published", "published_mark")
    mean = np.mean(head["score"].to_numpy())
    difference = None if head is reference else float(mean - np.mean(reference["score"].to_numpy()))
    return {name: first[name] for name in kept} | {
        "n_seeds": head.height,
        "mean": float(mean),
        "std": head["score"].std(ddof=1),
        "low": head["low"].mean(),
        "high": head["high"].mean(),
        "is_reference": head is reference,
        "difference": difference,
        "difference_low": None if compared is None else compared.low,
        "difference_high": None if compared is None else compared.high,
        "probability": None if compared is None else compared.probability,
        "stands": None if compared is None else compared.stands,
        "is_best": False,
    }


def _samples(group: pl.DataFrame, sums: Mapping[str, VideoSums], n_resamples: int) -> dict[str, Float64Array]:
    """Key -> resampled scores (n_resamples,), of the rows whose videos are known; over the same resamples."""
    # One video says nothing of others.
    keys = [key for key in group["key"].to_list() if key in sums and sums[key].n_telling > 1]
    if not keys:
        return {}
    n_videos = len(sums[keys[0]].sums)
    alike = [key for key in keys if len(sums[key].sums) == n_videos]
    scores = resample([sums[key] for key in alike], n_videos=n_videos, n_resamples=n_resamples, seed=0)
    return dict(zip(alike, scores, strict=True))


def _compared(
    reference: pl.DataFrame, head: pl.DataFrame, samples: Mapping[str, Float64Array]
) -> PartComparison | None:
    """A row against its reference; None where the videos of one of them are unknown."""
    keys: Sequence[str] = [*reference["key"].to_list(), *head["key"].to_list()]
    if not all(key in samples for key in keys):
        return None
    points = np.concatenate([reference["score"].to_numpy(), head["score"].to_numpy()])
    return compare_samples(points, np.stack([samples[key] for key in keys]), n_a=reference.height)
