"""Is one better than the other? Two heads compared on the same videos, each over its seeds.

The intervals of two scores may overlap widely and their difference still be sure: videos that are hard are hard for
both. So the difference itself is resampled, of each side the mean over its seeds: the same videos are drawn for both.

What other seeds would change is added to each resample. Drawing 2 or 3 seeds with replacement, as videos are drawn,
hardly does that: it finds too small a spread, and does not know how little it knows of it. So the seeds' spread is
drawn as Student's t has it: its variance as what two samples of their sizes leave open (Welch's degrees of freedom: a
head that hardly depends on its seed may stand beside one that does), the rest normal. Seeds of two heads are not pairs,
though their numbers are the same: each side's are independent. What resampling videos shows of the spread already (a
seed that is better on some videos) is not counted twice. A side of one seed is taken to spread as the other does; with
one on both sides nothing is known of it, and nothing is added.

So measured, two heads that are the same differ ("stand") in 2 % of comparisons with 2 seeds a side, in 4 % with 3, in
5 % with 5 where the seed itself is good or bad, and in fewer where it is so by the video; 5 % would be right. The price
is paid in differences that are there: four of five are found with 2 seeds a side if they are some 11 times the seeds'
standard deviation, with 3 if 3.5 times, with 5 if twice. Hence `FEW_SEEDS`.

References
----------
Welch (1947), Biometrika 34(1-2):28-35.
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
FEW_SEEDS: Final = 5
"""With fewer a side, only great differences stand."""


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
        The middle 95 % of its resamples; where but one video tells of it, which says nothing of others, -inf and inf.
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
    of_one = {each.part for each in sums if each.n_telling < 2}
    points = [part_scores(truth, run) for run in runs]
    if reasons:
        reasons["P"] = f"needs all four parts; without {', '.join(part for part in PARTS if part in reasons)}"

    def both(point: Sequence[float], resampled: Float64Array, *, of_one_video: bool) -> PartComparison:
        if of_one_video:
            return _of_one_video(np.array(point), n_a=len(a))
        return compare_samples(np.array(point), resampled, n_a=len(a), seed=seed)

    whole = None
    if not reasons:
        whole = both([combine(each) for each in points], combine_samples(by_part), of_one_video=bool(of_one))
    return Comparison(
        p=whole,
        parts={
            part: both([each[part] for each in points], by_part[part], of_one_video=part in of_one)
            if part in by_part
            else None
            for part in PARTS
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
    score_a, score_b = float(points[:n_a].mean()), float(points[n_a:].mean())
    difference = score_b - score_a
    # The noise takes the difference's sign, or sides that change places would get other draws.
    noise = _seed_noise(points, samples, n_a=n_a, seed=seed) * (1 if difference >= 0 else -1)
    differences = samples[n_a:].mean(axis=0) - samples[:n_a].mean(axis=0) + noise
    agrees = np.sign(differences) == np.sign(difference)
    share = agrees.mean() + _TIE * (differences == 0).mean() if difference else _TIE
    bounds = interval(differences)
    return PartComparison(
        a=score_a, b=score_b, difference=difference, low=bounds.low, high=bounds.high, probability=float(share)
    )


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


def _of_one_video(points: Float64Array, *, n_a: int) -> PartComparison:
    """A comparison that says nothing of other videos."""
    score_a, score_b = float(points[:n_a].mean()), float(points[n_a:].mean())
    return PartComparison(a=score_a, b=score_b, difference=score_b - score_a, low=-inf, high=inf, probability=_TIE)


def _seed_noise(points: Float64Array, samples: Float64Array, *, n_a: int, seed: int) -> Float64Array:
    """What other seeds would add to the difference of the means, a draw a resample: shape (n_resamples,)."""
    n = np.array([n_a, len(points) - n_a])
    sides = (slice(None, n_a), slice(n_a, None))
    several = [_seed_variances(points[side], samples[side]) for side in sides if len(points[side]) > 1]
    if not several:
        return np.zeros(samples.shape[1])
    # A side of one seed borrows the other's variance, which leaves as much open as the other's seeds do.
    variances = np.stack([several[0], several[-1]]) / n[:, None]
    seen, by_video = variances.sum(axis=0)
    if seen <= 0:
        return np.zeros(samples.shape[1])
    free = seen**2 / (variances[:, 0] ** 2 / (n - 1)).sum() if len(several) == 2 else n.max() - 1
    # A stream of its own: drawing seeds must not change which videos are drawn.
    rng = np.random.default_rng([seed, 1])
    drawn = seen * free / rng.chisquare(free, samples.shape[1])
    noise: Float64Array = np.sqrt(np.maximum(drawn - by_video, 0)) * rng.normal(size=samples.shape[1])
    return noise


def _seed_variances(points: Float64Array, samples: Float64Array) -> Float64Array:
    """Of one side's runs, shape (2,): the variance of their scores, and the part of it that differs by the video."""
    apart = samples - samples.mean(axis=0)
    return np.array([points.var(ddof=1), apart.var(axis=1).sum() / (len(points) - 1)])
