"""Scores of predictions: P and its parts, with intervals, beside what knowing nothing scores.

P = (CCC_V + CCC_A) / 2 + macro F1 of the eight expressions + mean F1 of the twelve action units (ABAW multi-task
challenge), each pooled over the valid rows of the split. Beside each stand a 95 % interval by resampling videos
(intervals.py), if there are two or more, and the trivial reference on the same rows: every action unit active; the
TRAIN split's most frequent expression; constant valence and arousal, whose CCC is 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from pydantic import JsonValue

from featurestore.labels import AU_COLUMNS, EXPRESSIONS
from heads.arrays import Float64Array, IntArray
from heads.features.targets import Targets
from heads.tasks import PARTS, TASKS, PartName, Task

from .intervals import (
    N_RESAMPLES,
    VideoSums,
    action_unit_video_sums,
    bootstrap,
    concordance_video_sums,
    expression_video_sums,
    interval,
    within_video_concordance,
)
from .metrics import concordance_correlation, f1_action_units, f1_per_class
from .predictions import Predictions

_TASK_OF: Final[Mapping[PartName, Task]] = {task.part: task for task in TASKS.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartScore:
    """One score, its 95 % interval, and the trivial reference on the same rows.

    Attributes
    ----------
    score
        Of all rows.
    low, high
        The middle 95 % of its resamples; None where fewer than two videos tell of it, which say nothing of others. P
        has an interval if all its parts do.
    trivial
        What knowing nothing scores.
    """

    score: float
    low: float | None
    high: float | None
    trivial: float

    def as_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return {"score": self.score, "low": self.low, "high": self.high, "trivial": self.trivial}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Everything that is reported of one set of predictions.

    Attributes
    ----------
    p
        P, if all four parts are there.
    parts
        Part -> score; None where the task was not joined or has no valid label.
    reasons
        Part -> why it is None.
    per_au, per_expression
        F1 by action unit (``"au1"``) and by expression (``"Neutral"``); empty where the part is None.
    within_video
        ``ccc_valence`` and ``ccc_arousal`` inside videos (see `within_video_concordance`), where joined.
    n_frames, n_videos
        Rows that were scored, and their videos.
    n_unscored
        Rows with a label but without an embedding, left out of every score.
    """

    p: PartScore | None
    parts: Mapping[PartName, PartScore | None]
    reasons: Mapping[str, str] = field(default_factory=dict)
    per_au: Mapping[str, float] = field(default_factory=dict)
    per_expression: Mapping[str, float] = field(default_factory=dict)
    within_video: Mapping[str, float] = field(default_factory=dict)
    n_frames: int
    n_videos: int
    n_unscored: int = 0

    def of(self, select: str) -> PartScore | None:
        """The score of a task, or with ``"p"`` P."""
        return self.p if select == "p" else self.parts[TASKS[select].part]

    def points(self) -> dict[str, float]:
        """``"P"`` and the parts that are there, without intervals."""
        found = {} if self.p is None else {"P": self.p.score}
        return found | {name: part.score for name, part in self.parts.items() if part is not None}

    def as_dict(self) -> dict[str, JsonValue]:
        """For JSON: P and every part with score, low, high and trivial, then the details."""
        result: dict[str, JsonValue] = {"P": None if self.p is None else self.p.as_dict()}
        for name in PARTS:
            part = self.parts[name]
            result[name] = None if part is None else part.as_dict()
        return result | {
            "per_au": dict(self.per_au),
            "per_expression": dict(self.per_expression),
            "within_video": dict(self.within_video),
            "reasons": dict(self.reasons),
            "n_frames": self.n_frames,
            "n_videos": self.n_videos,
            "n_unscored": self.n_unscored,
        }


def score(
    targets: Targets,
    predictions: Predictions,
    video_ids: IntArray,
    *,
    train_rows: IntArray | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Score predictions against the labels of their rows.

    Parameters
    ----------
    targets
        Labels of the WHOLE frame table; `predictions.rows` says which of them are scored.
    predictions
        Of the rows to score. Rows without an embedding (NaN) are left out and counted.
    video_ids : shape (n_frames,), int64
        A number a video, for the whole table.
    train_rows
        Rows of the train split, whose most frequent expression is the trivial reference; None, or rows without
        an expression: the scored rows' own.
    n_resamples, seed
        Of the bootstrap over videos.
    """
    known = predictions.predicted()
    labelled = np.zeros(len(predictions), dtype=np.bool_)
    for task in predictions.joint:
        labelled |= targets.labelled(task)[predictions.rows]
    rows = predictions.rows[known]
    kept, truth = predictions.where(known), targets.take(rows)
    names, video = np.unique(video_ids[rows], return_inverse=True)
    n_videos = len(names)
    reasons = missing_parts(truth, kept)
    available = [part for part in PARTS if part not in reasons]
    sums = [video_sums(part, truth, kept, video, n_videos) for part in available]
    samples = bootstrap(sums, n_videos=n_videos, n_resamples=n_resamples, seed=seed) if sums else {}
    points = part_scores(truth, kept)
    trivial = trivial_scores(targets, rows, train_rows=train_rows)
    telling = {each.part: each.n_telling for each in sums}
    parts = {
        part: _part_score(points[part], samples[part], trivial[part], n_videos=telling[part])
        if part in samples
        else None
        for part in PARTS
    }
    if reasons:
        whole = None
        reasons["P"] = f"needs all four parts; without {', '.join(part for part in PARTS if part in reasons)}"
    else:
        least = min(telling.values())
        whole = _part_score(combine(points), combine_samples(samples), combine(trivial), n_videos=least)
    return Scores(
        p=whole,
        parts=parts,
        reasons=reasons,
        per_au=_per_unit(truth, kept) if "f1_au" in points else {},
        per_expression=_per_expression(truth, kept) if "f1_expression" in points else {},
        within_video=_within_video(truth, kept, video, n_videos, available),
        n_frames=len(rows),
        n_videos=n_videos,
        n_unscored=int((labelled & ~known).sum()),
    )


def part_scores(targets: Targets, predictions: Predictions) -> dict[PartName, float]:
    """The parts' scores alone, for `targets` of exactly the predicted rows; parts without a value are left out.

    What a fit looks at after each epoch. Rows without a prediction must have been left out.
    """
    reasons = missing_parts(targets, predictions)
    return {part: _point(part, targets, predictions) for part in PARTS if part not in reasons}


def combine(parts: Mapping[PartName, float]) -> float:
    """P of all parts; of some of them their sum, with P's shares (half for each of valence and arousal)."""
    return sum(_TASK_OF[part].share * parts[part] for part in PARTS if part in parts)


def trivial_scores(targets: Targets, rows: IntArray, *, train_rows: IntArray | None = None) -> dict[PartName, float]:
    """What predicting without looking scores on some rows; `targets` are the whole table's."""
    truth = targets.take(rows)
    source = targets if train_rows is None else targets.take(train_rows)
    labels = source.expression[source.valid_expression] if train_rows is not None else np.empty(0, np.int64)
    if not len(labels):
        labels = truth.expression[truth.valid_expression]
    majority = int(np.bincount(labels, minlength=len(EXPRESSIONS)).argmax())
    always = np.ones(truth.action_units.shape, dtype=np.bool_)
    guess = np.full(len(rows), majority, dtype=np.int64)
    return {
        "ccc_valence": 0.0,
        "ccc_arousal": 0.0,
        "f1_expression": float(f1_per_class(truth.expression, guess, valid=truth.valid_expression).mean()),
        "f1_au": float(f1_action_units(truth.action_units, always, valid=truth.valid_action_units).mean()),
    }


def missing_parts(targets: Targets, predictions: Predictions) -> dict[str, str]:
    """Part -> why it cannot be scored, of those that cannot; `targets` are of exactly the predicted rows."""
    reasons = {}
    for part in PARTS:
        task = _TASK_OF[part]
        n_labelled = int(targets.labelled(task.name).sum())
        least = 2 if part in ("ccc_valence", "ccc_arousal") else 1
        if task.name not in predictions.joint:
            reasons[str(part)] = f"task {task.name!r} is not joined"
        elif n_labelled < least:
            reasons[str(part)] = f"{n_labelled} of {len(targets)} rows have a label of {task.name!r}"
    return reasons


def _dimension(part: PartName, targets: Targets, predictions: Predictions) -> tuple[Float64Array, Float64Array]:
    """Valid targets and predictions of valence or arousal."""
    task = _TASK_OF[part].name
    target, valid = targets.of(task)
    prediction = predictions.valence if task == "v" else predictions.arousal
    values = np.empty(0) if prediction is None else prediction[valid]
    return target[valid].astype(np.float64), values


def _point(part: PartName, targets: Targets, predictions: Predictions) -> float:
    if part == "f1_au":
        return float(np.mean(list(_per_unit(targets, predictions).values())))
    if part == "f1_expression":
        return float(np.mean(list(_per_expression(targets, predictions).values())))
    return concordance_correlation(*_dimension(part, targets, predictions))


def video_sums(part: PartName, targets: Targets, predictions: Predictions, video: IntArray, n_videos: int) -> VideoSums:
    """Sufficient statistics of one part, an entry a video, or whatever else the rows are grouped by.

    Parameters
    ----------
    part
        One that is joined and has valid labels.
    targets, predictions
        Of the same n rows, none of them without a prediction.
    video : shape (n,), int64 in 0 .. n_videos - 1
    n_videos
        How many entries.
    """
    if part == "f1_au":
        return action_unit_video_sums(targets, predictions, video, n_videos=n_videos)
    if part == "f1_expression":
        valid = targets.valid_expression
        classes = predictions.expression_classes()[valid]
        return expression_video_sums(
            targets.expression[valid], classes, video[valid], n_videos=n_videos, n_classes=len(EXPRESSIONS)
        )
    target, prediction = _dimension(part, targets, predictions)
    valid = targets.of(_TASK_OF[part].name)[1]
    return concordance_video_sums(part, target, prediction, video[valid], n_videos=n_videos)


def _per_unit(targets: Targets, predictions: Predictions) -> dict[str, float]:
    scores = f1_action_units(targets.action_units, predictions.active_units(), valid=targets.valid_action_units)
    return dict(zip(AU_COLUMNS, scores.tolist(), strict=True))


def _per_expression(targets: Targets, predictions: Predictions) -> dict[str, float]:
    scores = f1_per_class(targets.expression, predictions.expression_classes(), valid=targets.valid_expression)
    return dict(zip(EXPRESSIONS, scores.tolist(), strict=True))


def _within_video(
    targets: Targets, predictions: Predictions, video: IntArray, n_videos: int, available: list[PartName]
) -> dict[str, float]:
    result = {}
    for part in available:
        if part in ("ccc_valence", "ccc_arousal"):
            target, prediction = _dimension(part, targets, predictions)
            valid = targets.of(_TASK_OF[part].name)[1]
            result[str(part)] = within_video_concordance(target, prediction, video[valid], n_videos=n_videos)
    return result


def _part_score(point: float, samples: Float64Array, trivial: float, *, n_videos: int) -> PartScore:
    if n_videos < 2:  # all resamples are the same one: of no width, which is no certainty
        return PartScore(score=point, low=None, high=None, trivial=trivial)
    bounds = interval(samples)
    return PartScore(score=point, low=bounds.low, high=bounds.high, trivial=trivial)


def combine_samples(samples: Mapping[PartName, Float64Array]) -> Float64Array:
    """P of every resample, from all parts'."""
    total: Float64Array = sum((_TASK_OF[part].share * samples[part] for part in PARTS), np.zeros(()))
    return total
