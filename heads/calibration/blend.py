"""Ensembles: weighted means of several heads' predictions, a weight a member and task.

A blend gains where its members are about as good and err apart. So their errors are correlated first, and members that
err alike are named. The weights are fitted on predictions of train out of fold, by the score of the task: CCC, macro
F1, mean F1. Whether fitting pays is judged as a calibration is, by folds of videos: the blend takes the best member,
equal weights or fitted ones, whichever scores highest on the videos that it was not fitted on.

Probabilities and values are averaged. Where a row lacks a member's prediction, the others' weights make up for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations
from typing import Final

import numpy as np
import polars as pl
from pydantic import JsonValue

from featurestore.errors import ConfigError, ShapeError, unknown_name
from heads.arrays import Float64Array, IntArray
from heads.checking import from_json, to_json
from heads.features.targets import Targets
from heads.scoring.predictions import Predictions
from heads.tasks import TASKS, task_named

from .folding import balanced_folds
from .simplex import WAYS, held_out_score, weights_by

N_FOLDS: Final = 5
NEAR_COPY: Final = 0.98
"""Correlation of errors above which two members are nearly one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """Weights of members, for each task.

    Attributes
    ----------
    weights
        Task -> member -> weight; not negative, each task's sum to 1.
    fitted_on
        As in `Calibration`: ``"train, out of fold"``. Empty if the weights were given.
    ways
        Task -> how its weights came about: ``"best member"``, ``"equal weights"`` or ``"fitted weights"``.
    scores
        Task -> way -> score over all folds, each fold scored with what was fitted on the others.

    Raises
    ------
    UnknownNameError
        If a task is none.
    ConfigError
        If a task's weights are negative or do not sum to 1.
    """

    weights: Mapping[str, Mapping[str, float]]
    fitted_on: str = ""
    ways: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for task, weights in self.weights.items():
            task_named(task)
            if not weights or min(weights.values()) < 0 or abs(sum(weights.values()) - 1) > 1e-6:
                raise ConfigError(
                    f"The weights of a blend must be at least 0 and sum to 1, got {dict(weights)} for {task!r}."
                )

    @property
    def members(self) -> tuple[str, ...]:
        """Those that weigh something in some task."""
        named = [member for weights in self.weights.values() for member, weight in weights.items() if weight > 0]
        return tuple(dict.fromkeys(named))

    def in_sample(self, split: str) -> bool:
        """Whether a score on a split is to be marked: the weights were fitted on its labels."""
        return split == self.fitted_on.partition(",")[0].strip()

    def apply(self, members: Mapping[str, Predictions]) -> Predictions:
        """Blend predictions.

        Parameters
        ----------
        members
            Name -> predictions, all of the same rows; those without weight may be left out.

        Returns
        -------
        Predictions
            NaN in rows that no weighing member predicts. If members have thresholds, their weighted mean.

        Raises
        ------
        UnknownNameError
            If a member is not there.
        ShapeError
            If their rows differ, or a member lacks a task that it has a weight in.
        """
        for name in self.members:
            if name not in members:
                raise unknown_name("member", name, members)
        found: dict[str, Predictions] = {}
        for task, weights in self.weights.items():
            weighing = {name: weight for name, weight in weights.items() if weight > 0}
            found[task] = _blended(task, {name: members[name] for name in weighing}, weighing)
        return Predictions.together(found)

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return to_json(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, JsonValue]) -> "Blend":
        """The inverse of `to_dict`.

        Raises
        ------
        ConfigError
            If a name is unknown, a type is wrong, or a value is out of range.
        """
        return from_json(cls, values)


def fit_blend(
    members: Mapping[str, Predictions],
    targets: Targets,
    *,
    video_ids: IntArray,
    fitted_on: str = "train, out of fold",
    n_folds: int = N_FOLDS,
    seed: int = 0,
) -> Blend:
    """Fit a blend's weights.

    Parameters
    ----------
    members
        Name -> predictions; in honest use of train, each row by a model that did not see its video. A task is
        blended of the members that predict it, on the rows that all of these predict.
    targets, video_ids
        Labels, and a number a video (n_frames,), of the WHOLE frame table.
    fitted_on
        What the predictions are of (see `Calibration`).
    n_folds, seed
        Folds of videos by which the ways are judged.

    Returns
    -------
    Blend
        Of every task that some member predicts.

    Raises
    ------
    ConfigError
        If there is no member, or there are fewer than two videos.
    ShapeError
        If the members of a task have no labelled row in common.
    """
    if not members:
        raise ConfigError("A blend needs at least one member, got none.")
    weights: dict[str, dict[str, float]] = {}
    ways: dict[str, str] = {}
    scores: dict[str, dict[str, float]] = {}
    for task in TASKS:
        able = {name: each for name, each in members.items() if task in each.joint}
        if not able:
            continue
        arrays, rows = _labelled_by_all(task, able, targets)
        truth = targets.take(rows)
        fold = balanced_folds(video_ids[rows], n_folds, seed=seed)
        scores[task] = {name: held_out_score(task, arrays, truth, fold, way) for name, way in WAYS.items()}
        ways[task] = max(scores[task], key=lambda name: scores[task][name])
        fitted = weights_by(task, arrays, truth, np.arange(len(rows)), WAYS[ways[task]])
        weights[task] = dict(zip(able, fitted.tolist(), strict=True))
    return Blend(weights=weights, fitted_on=fitted_on, ways=ways, scores=scores)


def error_correlation(members: Mapping[str, Predictions], targets: Targets) -> pl.DataFrame:
    """How alike the members err, for every task and pair of them that predict it.

    The error is prediction - label of valence, arousal and each action unit (all units together), and 1 - the
    probability of the true expression.

    Parameters
    ----------
    members
        Name -> predictions.
    targets
        Labels of the WHOLE frame table.

    Returns
    -------
    Columns ``task``, ``first``, ``second``, ``correlation`` (null where an error does not vary), ``n_frames``: the
    labelled rows that both predict. Pairs without such rows are left out.
    """
    found = []
    for task in TASKS:
        errors = {name: _errors(task, each, targets) for name, each in members.items() if task in each.joint}
        for first, second in combinations(errors, 2):
            both = ~(np.isnan(errors[first]) | np.isnan(errors[second]))
            if both.any():
                correlation = _correlation(errors[first][both], errors[second][both])
                found.append((task, first, second, correlation, int(both.any(axis=1).sum())))
    schema = {"task": pl.String, "first": pl.String, "second": pl.String}
    return pl.DataFrame(found, schema=schema | {"correlation": pl.Float64, "n_frames": pl.Int64}, orient="row")


def near_copies(correlations: pl.DataFrame, *, above: float = NEAR_COPY) -> tuple[str, ...]:
    """A sentence for each pair that errs so alike that blending it brings nothing.

    Parameters
    ----------
    correlations
        As `error_correlation` gives them.
    above
        The correlation from which on a pair is named.
    """
    alike = correlations.filter(pl.col("correlation") > above).sort("correlation", descending=True, maintain_order=True)
    return tuple(
        f"Members {row['first']!r} and {row['second']!r} err alike in {TASKS[row['task']].title} (correlation "
        f"{row['correlation']:.3f} over {row['n_frames']:,} rows): they are nearly copies. One of them is enough."
        for row in alike.iter_rows(named=True)
    )


def _blended(task: str, members: Mapping[str, Predictions], weights: Mapping[str, float]) -> Predictions:
    rows = next(iter(members.values())).rows
    for name, each in members.items():
        if not np.array_equal(each.rows, rows):
            raise ShapeError(f"Members of a blend must predict the same rows; {name!r} has others in {task!r}.")
    arrays = {name: each.of(task).reshape(len(rows), -1) for name, each in members.items()}
    sums = np.zeros_like(next(iter(arrays.values())), dtype=np.float64)
    totals = np.zeros((len(rows), 1))
    for name, array in arrays.items():
        known = ~np.isnan(array).any(axis=1, keepdims=True)
        sums += weights[name] * np.where(known, array, 0.0)
        totals += weights[name] * known
    blended = np.divide(sums, totals, out=np.full_like(sums, np.nan), where=totals > 0)
    thresholds = None
    if task == "au" and any(each.thresholds is not None for each in members.values()):
        thresholds = np.sum([weights[name] * each.active_above() for name, each in members.items()], axis=0)
    values = blended if task in ("au", "expr") else blended[:, 0]
    return Predictions(rows=rows).with_arrays({task: values}).with_thresholds(thresholds)


def _common_rows(task: str, members: Mapping[str, Predictions], targets: Targets) -> IntArray:
    """The rows that all members predict and that carry a label of the task, ascending."""
    predicted = [each.rows[each.only([task]).predicted()] for each in members.values()]
    rows: IntArray = reduce(np.intersect1d, predicted)
    return rows[targets.labelled(task)[rows]]


def _labelled_by_all(
    task: str, members: Mapping[str, Predictions], targets: Targets
) -> tuple[list[Float64Array], IntArray]:
    """What each member says of the rows that all predict and that are labelled, as `score_of` takes it."""
    rows = _common_rows(task, members, targets)
    if not len(rows):
        raise ShapeError(
            f"Weights of {task!r} are fitted on labelled rows that all of {', '.join(members)} predict, but there is "
            "none. Predict the same split with each."
        )
    some = [each.take(rows) for each in members.values()]
    # Of action units what decides is on which side of its threshold the mean lies.
    return [each.of(task) - each.active_above() if task == "au" else each.of(task) for each in some], rows


def _errors(task: str, predictions: Predictions, targets: Targets) -> Float64Array:
    """Errors in every row of the frame table, (n_frames, 1 or 12); NaN where there is none."""
    rows, values = predictions.rows, predictions.of(task)
    truth = targets.take(rows)
    target, valid = truth.of(task)
    errors = 1 - values[np.arange(len(rows)), truth.expression] if task == "expr" else values - target
    known = np.where(valid, errors, np.nan).reshape(len(rows), -1)
    everywhere = np.full((len(targets), known.shape[1]), np.nan)
    everywhere[rows] = known
    return everywhere


def _correlation(first: Float64Array, second: Float64Array) -> float | None:
    """Pearson's, None where either does not vary; both (n,)."""
    x, y = first - first.mean(), second - second.mean()
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if np.ptp(first) > 0 and np.ptp(second) > 0 else None
