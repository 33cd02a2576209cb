"""The steps of a calibration, each judged on folds of videos that it was not fitted on.

A class bias, a factor with its offset and thresholds are fitted; `held_out` applies to each fold what the others lead
to. Of smoothings one is chosen, in view of the step that will follow: on probabilities that lean to one class smoothing
does harm until the class bias is set, and the variance that it takes from valence a factor gives back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from featurestore.labels import AU_COLUMNS
from heads.arrays import BoolArray, Float64Array, IntArray
from heads.features.targets import Targets
from heads.scoring.intervals import VideoSums
from heads.scoring.metrics import f1_from_counts
from heads.scoring.predictions import AU_THRESHOLD, Predictions
from heads.scoring.scores import video_sums
from heads.tasks import TASKS

from .calibration import Affine, Step, shift_logits
from .class_bias import fit_class_bias
from .rescale import IDENTITY, affine_from_sums, moment_sums
from .thresholds import best_thresholds, threshold_counts

Fitted_co = TypeVar("Fitted_co", covariant=True)


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


def choose(ground: Ground, task: str, candidates: Sequence[Float64Array]) -> tuple[int, Step]:
    """The best of some smoothings, and what choosing brings: for each fold the one that is best on the others.

    Parameters
    ----------
    ground
        What is judged on.
    task
        Which.
    candidates
        Values after each, the first of them without any.

    Returns
    -------
    The place of the one to keep, 0 for none, and the record.
    """
    found = [ground.sums(task, each) for each in candidates]
    sums = np.stack([each.sums for each in found])  # (n_candidates, n_folds, ...)
    totals = sums.sum(axis=1)
    score = found[0].score
    on_others = score(totals[:, None] - sums)  # (n_candidates, n_folds)
    chosen = on_others.argmax(axis=0)
    after = float(score(sums[chosen, np.arange(ground.n_folds)].sum(axis=0)))
    everywhere = score(totals)
    best = int(everywhere.argmax())
    step = ground.step("smoothing", task, float(everywhere[0]), after, changes=best > 0)
    return best if step.is_kept else 0, step


class Following(Protocol[Fitted_co]):
    """A step that follows the smoothing of a task."""

    def held_out(self, values: Float64Array) -> Float64Array:
        """Values after it, each fold by what the others lead to; as they are scored (units above .5 are active)."""

    def fit(self, values: Float64Array) -> tuple[Fitted_co | None, list[Step]]:
        """What all folds lead to, None if it is not kept; and what was tried."""


@dataclass(frozen=True, slots=True)
class ClassBias:
    """Shifts of the expressions' logits."""

    ground: Ground

    def held_out(self, values: Float64Array) -> Float64Array:
        """See `Following`."""
        places = self.ground.scorable("expr", values)
        truth, fold = self.ground.truth.expression[places], self.ground.fold[places]
        shifted = values.copy()
        for number in range(self.ground.n_folds):
            here, others = places[fold == number], fold != number
            shifted[here] = shift_logits(values[here], fit_class_bias(values[places[others]], truth[others]))
        return shifted

    def fit(self, values: Float64Array) -> tuple[tuple[float, ...] | None, list[Step]]:
        """See `Following`."""
        places = self.ground.scorable("expr", values)
        bias = fit_class_bias(values[places], self.ground.truth.expression[places])
        before, after = (self.ground.score("expr", each) for each in (values, self.held_out(values)))
        step = self.ground.step("class bias", "expr", before, after, changes=bool(bias.any()))
        return tuple(bias.tolist()) if step.is_kept else None, [step]


@dataclass(frozen=True, slots=True)
class Rescale:
    """Factor and offset of valence or arousal."""

    ground: Ground
    task: str

    def held_out(self, values: Float64Array) -> Float64Array:
        """See `Following`."""
        sums = self._sums(values)
        rescaled = values.copy()
        for number in range(self.ground.n_folds):
            here = self.ground.fold == number
            rescaled[here] = affine_from_sums(sums.sum(axis=0) - sums[number]).apply(values[here])
        return rescaled

    def fit(self, values: Float64Array) -> tuple[Affine | None, list[Step]]:
        """See `Following`."""
        affine = affine_from_sums(self._sums(values).sum(axis=0))
        before, after = (self.ground.score(self.task, each) for each in (values, self.held_out(values)))
        step = self.ground.step("rescale", self.task, before, after, changes=affine != IDENTITY)
        return affine if step.is_kept else None, [step]

    def _sums(self, values: Float64Array) -> Float64Array:
        """Moments, an entry a fold."""
        places = self.ground.scorable(self.task, values)
        target = self.ground.truth.of(self.task)[0][places].astype(np.float64)
        return moment_sums(target, values[places], self.ground.fold[places], n_folds=self.ground.n_folds)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """A threshold for each action unit, each a step of its own: one may be kept and another not."""

    ground: Ground
    grid: tuple[float, ...]

    @property
    def candidates(self) -> list[float]:
        """The grid, ascending, with .5 in it."""
        return sorted({AU_THRESHOLD, *self.grid})

    def held_out(self, values: Float64Array) -> Float64Array:
        """See `Following`."""
        counts = self._counts(values)
        limits = np.array(self.candidates)
        chosen = [limits[best_thresholds(counts.sum(axis=0) - each, self.candidates)] for each in counts]
        return np.asarray(values - np.stack(chosen)[self.ground.fold] + AU_THRESHOLD)

    def fit(self, values: Float64Array) -> tuple[tuple[float, ...] | None, list[Step]]:
        """See `Following`."""
        counts = self._counts(values)
        total = counts.sum(axis=0)
        held = np.zeros(total.shape[:2])  # (12, 3)
        units = np.arange(len(AU_COLUMNS))
        for each in counts:
            held += each[units, :, best_thresholds(total - each, self.candidates)]
        before = f1_from_counts(total)[:, self.candidates.index(AU_THRESHOLD)].tolist()
        after = f1_from_counts(held.T).tolist()
        best = [self.candidates[place] for place in best_thresholds(total, self.candidates)]
        steps = [
            self.ground.step("threshold", name, *scores, changes=threshold != AU_THRESHOLD)
            for name, threshold, *scores in zip(AU_COLUMNS, best, before, after, strict=True)
        ]
        fitted = [limit if step.is_kept else AU_THRESHOLD for limit, step in zip(best, steps, strict=True)]
        return tuple(fitted) if any(step.is_kept for step in steps) else None, steps

    def _counts(self, values: Float64Array) -> Float64Array:
        """Confusion counts at every candidate, shape (n_folds, 12, 3, n_candidates)."""
        places = self.ground.scorable("au", values)
        active: BoolArray = self.ground.truth.action_units[places] > AU_THRESHOLD
        return threshold_counts(
            values[places],
            active,
            self.ground.truth.valid_action_units[places],
            self.ground.fold[places],
            grid=self.candidates,
            n_folds=self.ground.n_folds,
        )


def fit_task(
    ground: Ground,
    task: str,
    candidates: Sequence[Float64Array],
    following: Following[Fitted_co] | None,
) -> tuple[int, Fitted_co | None, list[Step]]:
    """Fit what concerns one task.

    Parameters
    ----------
    ground, task
        What is judged on, and of what.
    candidates
        Values after each smoothing, the first of them without any.
    following
        The step that follows, if one is asked for.

    Returns
    -------
    The place of the candidate to keep, what was fitted of the following step (None if it is not kept), and what was
    tried.
    """
    if following is None:
        best, step = choose(ground, task, candidates) if len(candidates) > 1 else (0, None)
        return best, None, [] if step is None else [step]
    if len(candidates) == 1:
        return 0, *following.fit(candidates[0])
    held_out = [following.held_out(each) for each in candidates]
    best, step = choose(ground, task, held_out)
    fitted, steps = following.fit(candidates[best])
    gain = ground.score(task, held_out[best]) - ground.score(task, candidates[0])
    if best > 0 and (fitted is None or gain <= ground.least_gain):
        # Chosen in view of a step that is not there, or that does not make up for it: choose by the values as they are.
        best, step = choose(ground, task, candidates)
        fitted, steps = following.fit(candidates[best])
    return best, fitted, [step, *steps]
