"""The steps of a calibration, each judged on folds of videos that it was not fitted on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from featurestore.labels import AU_COLUMNS
from heads.arrays import BoolArray, Float64Array, IntArray
from heads.features.targets import Targets
from heads.scoring.intervals import VideoSums
from heads.scoring.metrics import correlation_from_sums, f1_from_counts
from heads.scoring.predictions import AU_THRESHOLD, Predictions
from heads.scoring.scores import video_sums
from heads.tasks import TASKS

from .calibration import Affine, Step, shift_logits
from .class_bias import fit_class_bias
from .rescale import IDENTITY, affine_from_sums, moment_sums
from .thresholds import best_thresholds, threshold_counts


@dataclass(frozen=True, slots=True)
class Ground:
    """What choices are judged on.

    Attributes
    ----------
    truth
        Labels of the predicted rows.
    fold : shape (n,), int64 in 0 .. n_folds - 1
    n_folds
        How many folds.
    least_gain
        What a step must bring to be kept.
    """

    truth: Targets
    fold: IntArray
    n_folds: int
    least_gain: float

    def scorable(self, task: str, values: Float64Array) -> IntArray:
        """Places of the rows with both a prediction and a label."""
        known = ~np.isnan(values.reshape(len(values), -1)).any(axis=1)
        return np.flatnonzero(known & self.truth.labelled(task))

    def sums(self, task: str, values: Float64Array) -> VideoSums:
        """The task's sufficient statistics, an entry a fold."""
        places = self.scorable(task, values)
        some = Predictions(rows=places).with_arrays({task: values[places]})
        return video_sums(TASKS[task].part, self.truth.take(places), some, self.fold[places], self.n_folds)

    def score(self, task: str, values: Float64Array) -> float:
        """All folds together."""
        found = self.sums(task, values)
        return float(found.score(found.sums.sum(axis=0)))

    def step(self, name: str, of: str, before: float, after: float, *, changes: bool) -> Step:
        """The record of a step, kept if it changes something and its gain suffices."""
        return Step(name=name, of=of, before=before, after=after, is_kept=changes and after - before > self.least_gain)


def choose_smoothing(
    ground: Ground, task: str, values: Float64Array, smoothed: list[Float64Array], *, by_correlation: bool
) -> tuple[int | None, Step]:
    """The best of the smoothed ones, None for no smoothing, judged by the one that is best on the other folds.

    Smoothing takes variance away, and with it concordance that a factor can give back: where one may follow, what
    counts is the correlation, the CCC after the best factor and offset.
    """
    found = [ground.sums(task, each) for each in (values, *smoothed)]  # the first is doing nothing
    sums = np.stack([each.sums for each in found])  # (n_candidates, n_folds, ...)
    totals = sums.sum(axis=1)
    score: Callable[[Float64Array], Float64Array] = correlation_from_sums if by_correlation else found[0].score
    on_others = score(totals[:, None] - sums)  # (n_candidates, n_folds)
    chosen = on_others.argmax(axis=0)
    after = float(score(sums[chosen, np.arange(ground.n_folds)].sum(axis=0)))
    everywhere = score(totals)
    best = int(everywhere.argmax())
    step = ground.step("smoothing", task, float(everywhere[0]), after, changes=best > 0)
    return best - 1 if step.is_kept else None, step


def fit_bias(ground: Ground, probabilities: Float64Array) -> tuple[tuple[float, ...] | None, Step]:
    """The shifts of the expressions' logits, and what they bring."""
    places = ground.scorable("expr", probabilities)
    some, truth, fold = probabilities[places], ground.truth.expression[places], ground.fold[places]
    shifted = probabilities.copy()
    for number in range(ground.n_folds):
        here = fold == number
        bias = fit_class_bias(some[~here], truth[~here])
        shifted[places[here]] = shift_logits(some[here], bias)
    bias = fit_class_bias(some, truth)
    before, after = ground.score("expr", probabilities), ground.score("expr", shifted)
    step = ground.step("class bias", "expr", before, after, changes=bool(bias.any()))
    return tuple(bias.tolist()) if step.is_kept else None, step


def fit_affine(ground: Ground, task: str, values: Float64Array) -> tuple[Affine | None, Step]:
    """Factor and offset of valence or arousal, and what they bring."""
    places = ground.scorable(task, values)
    fold = ground.fold[places]
    target = ground.truth.of(task)[0][places].astype(np.float64)
    sums = moment_sums(target, values[places], fold, n_folds=ground.n_folds)
    total = sums.sum(axis=0)
    rescaled = values.copy()
    for number in range(ground.n_folds):
        here = places[fold == number]
        rescaled[here] = affine_from_sums(total - sums[number]).apply(values[here])
    affine = affine_from_sums(total)
    before, after = ground.score(task, values), ground.score(task, rescaled)
    step = ground.step("rescale", task, before, after, changes=affine != IDENTITY)
    return affine if step.is_kept else None, step


def fit_thresholds(
    ground: Ground, probabilities: Float64Array, grid: tuple[float, ...]
) -> tuple[tuple[float, ...] | None, list[Step]]:
    """A threshold for each unit, .5 where another is not kept; each unit is a step of its own."""
    thresholds = sorted({AU_THRESHOLD, *grid})
    places = ground.scorable("au", probabilities)
    active: BoolArray = ground.truth.action_units[places] > AU_THRESHOLD
    counts = threshold_counts(
        probabilities[places],
        active,
        ground.truth.valid_action_units[places],
        ground.fold[places],
        grid=thresholds,
        n_folds=ground.n_folds,
    )  # (n_folds, 12, 3, n_grid)
    total = counts.sum(axis=0)
    held = np.zeros(total.shape[:2])  # (12, 3)
    units = np.arange(len(AU_COLUMNS))
    for fold_counts in counts:
        held += fold_counts[units, :, best_thresholds(total - fold_counts, thresholds)]
    before = f1_from_counts(total)[:, thresholds.index(AU_THRESHOLD)]
    after = f1_from_counts(held.T)
    best = best_thresholds(total, thresholds)
    fitted, steps = [], []
    for unit, name in enumerate(AU_COLUMNS):
        threshold = thresholds[best[unit]]
        step = ground.step(
            "threshold", name, float(before[unit]), float(after[unit]), changes=threshold != AU_THRESHOLD
        )
        steps.append(step)
        fitted.append(threshold if step.is_kept else AU_THRESHOLD)
    return tuple(fitted) if any(step.is_kept for step in steps) else None, steps
