"""Is one better than the other? Two heads compared on the same videos, each over its seeds.

The intervals of two scores may overlap widely and their difference still be sure: videos that are hard are hard for
both. So the difference itself is resampled: the same videos are drawn for both sides, and for each side as many of its
seeds as it has, with replacement; where both have as many, the same ones (a list is compared to a list, its first run
with the other's first). A side's score is the mean over the seeds drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import inf, isfinite
from typing import Final

import numpy as np
from pydantic import JsonValue

from featurestore.errors import ShapeError
from heads.arrays import Float64Array, IntArray
from heads.features.targets import Targets
from heads.tasks import PARTS, TASKS, PartName

from .intervals import N_RESAMPLES, interval, resample
from .predictions import Predictions
from .scores import combine, combine_samples, missing_parts, part_scores, video_sums

_TIE: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PartComparison:
    """One score of both sides.

    Attributes
    ----------
    a, b
        Mean over the side's seeds.
    difference
        ``b - a``.
    low, high
        The middle 95 % of its resamples; of a single video, which says nothing of others, -inf and inf.
    probability
        That the difference is real: the share of resamples in which it has the sign that it has here; one of exactly
        0 counts half. Where there is no difference, or but one video, .5. Above .975 the interval leaves 0 out.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    probability: float

    @property
    def stands(self) -> bool:
        """Whether the interval leaves 0 out; never where there is none."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "low": self.low if isfinite(self.low) else None,
            "high": self.high if isfinite(self.high) else None,
            "probability": self.probability,
            "stands": self.stands,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two heads on the same rows.

    Attributes
    ----------
    p
        P, if all four parts are there.
    parts
        Part -> comparison; None where a side did not join the task or no row has a label.
    reasons
        Part -> why it is None.
    n_frames, n_videos
        Rows that every run of both sides predicted, and their videos.
    n_seeds
        Runs of each side.
    """

    p: PartComparison | None
    parts: Mapping[PartName, PartComparison | None]
    reasons: Mapping[str, str] = field(default_factory=dict)
    n_frames: int
    n_videos: int
    n_seeds: tuple[int, int]

    def of(self, select: str) -> PartComparison | None:
        """The comparison of a task, or with ``"p"`` of P."""
        return self.p if select == "p" else self.parts[TASKS[select].part]

    def as_dict(self) -> dict[str, JsonValue]:
        """For JSON: P and every part, then the counts."""
        result: dict[str, JsonValue] = {"P": None if self.p is None else self.p.as_dict()}
        for name in PARTS:
            part = self.parts[name]
            result[name] = None if part is None else part.as_dict()
        return result | {
            "reasons": dict(self.reasons),
            "n_frames": self.n_frames,
            "n_videos": self.n_videos,
            "n_seeds": list(self.n_seeds),
        }


def compare(
    targets: Targets,
    a: Sequence[Predictions],
    b: Sequence[Predictions],
    video_ids: IntArray,
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two heads, each fitted with one or several seeds.

    Parameters
    ----------
    targets
        Labels of the WHOLE frame table.
    a, b
        Predictions of each side, one a seed. Only rows that all of them predict are scored, and tasks that all join.
    video_ids : shape (n_frames,), int64
        A number a video, for the whole table.
    n_resamples, seed
        Of the bootstrap over videos and seeds.

    Raises
    ------
    ShapeError
        If a side has no predictions, or no task or no row is predicted by all.
    """
    runs, rows = _common([*a, *b], n_sides=(len(a), len(b)))
    truth = targets.take(rows)
    names, video = np.unique(video_ids[rows], return_inverse=True)
    reasons = missing_parts(truth, runs[0])
    available = [part for part in PARTS if part not in reasons]
    sums = [video_sums(part, truth, run, video, len(names)) for run in runs for part in available]
    samples = resample(sums, n_videos=len(names), n_resamples=n_resamples, seed=seed)
    by_part = {part: np.stack(samples[number :: len(available)]) for number, part in enumerate(available)}
    points = [part_scores(truth, run) for run in runs]
    if reasons:
        reasons["P"] = f"needs all four parts; without {', '.join(part for part in PARTS if part in reasons)}"
    weights = _seed_weights(len(a), len(b), n_resamples=n_resamples, seed=seed)

    def side(point: Sequence[float], resampled: Float64Array) -> PartComparison:
        return _compared(np.array(point), resampled, weights, n_a=len(a), of_one_video=len(names) < 2)

    return Comparison(
        p=None if reasons else side([combine(each) for each in points], combine_samples(by_part)),
        parts={
            part: side([each[part] for each in points], by_part[part]) if part in by_part else None for part in PARTS
        },
        reasons=reasons,
        n_frames=len(rows),
        n_videos=len(names),
        n_seeds=(len(a), len(b)),
    )


def compare_samples(points: Float64Array, samples: Float64Array, *, n_a: int, seed: int = 0) -> PartComparison:
    """Compare one score of two sides whose runs have been resampled already.

    Parameters
    ----------
    points : shape (n_runs,)
        The score of each run, those of side a first.
    samples : shape (n_runs, n_resamples)
        Its resamples, over the same videos, two or more (see `resample`).
    n_a
        How many runs are side a's.
    seed
        Of the bootstrap over seeds.
    """
    weights = _seed_weights(n_a, len(points) - n_a, n_resamples=samples.shape[1], seed=seed)
    return _compared(points, samples, weights, n_a=n_a)


def _common(runs: list[Predictions], *, n_sides: tuple[int, int]) -> tuple[list[Predictions], IntArray]:
    """The tasks and rows that all have, and those rows."""
    if not all(n_sides):
        raise ShapeError(f"Both sides of a comparison need predictions, got {n_sides[0]} and {n_sides[1]}.")
    tasks = [task for task in TASKS if all(task in run.joint for run in runs)]
    if not tasks:
        joined = "; ".join(sorted({", ".join(run.joint) for run in runs}))
        raise ShapeError(f"Runs are compared by tasks that all of them join, but there is none ({joined}).")
    some = [run.only(tasks) for run in runs]
    rows: IntArray = reduce(np.intersect1d, [each.rows[each.predicted()] for each in some])
    if not len(rows):
        raise ShapeError("Runs are compared on rows that all of them predict, but there is none. Predict one split.")
    return [each.take(rows) for each in some], rows


def _seed_weights(n_a: int, n_b: int, *, n_resamples: int, seed: int) -> Float64Array:
    """The share of every run in its side's mean, for each resample, shape (n_a + n_b, n_resamples)."""
    # A stream of its own: drawing seeds must not change which videos are drawn.
    rng = np.random.default_rng([seed, 1])
    drawn_a = rng.multinomial(n_a, np.full(n_a, 1 / n_a), size=n_resamples).T / n_a
    drawn_b = drawn_a if n_a == n_b else rng.multinomial(n_b, np.full(n_b, 1 / n_b), size=n_resamples).T / n_b
    return np.concatenate([drawn_a, drawn_b])


def _compared(
    points: Float64Array, samples: Float64Array, weights: Float64Array, *, n_a: int, of_one_video: bool = False
) -> PartComparison:
    """One score's comparison; points (n_runs,), samples and weights (n_runs, n_resamples), side a's runs first."""
    weighted = samples * weights
    differences = weighted[n_a:].sum(axis=0) - weighted[:n_a].sum(axis=0)
    score_a, score_b = float(points[:n_a].mean()), float(points[n_a:].mean())
    difference = score_b - score_a
    if of_one_video:
        return PartComparison(a=score_a, b=score_b, difference=difference, low=-inf, high=inf, probability=_TIE)
    agrees = np.sign(differences) == np.sign(difference)
    share = agrees.mean() + _TIE * (differences == 0).mean() if difference else _TIE
    bounds = interval(differences)
    return PartComparison(
        a=score_a, b=score_b, difference=difference, low=bounds.low, high=bounds.high, probability=float(share)
    )
