"""One fit a fold of train, each judged by the fold that it did not see: predictions of train that are honest.

All folds keep the same epoch: the one that is best for their predictions together. So one number, of some twenty, is
chosen on what is reported, not one a fold; and a last fit on all of train can be stopped there, without a look at val.
That choice aside, nothing that predicts a row has seen its video.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import ConfigError
from heads.arrays import IntArray
from heads.features.featureset import FeatureSet
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores
from heads.tasks import TASKS, PartName

from .config import FitConfig, check_together
from .fit import part_points, score_rows, select_score
from .parts import Parts
from .predict import predictions_of
from .seeding import seeded
from .trainer import Trainer

OUT_OF_FOLD: Final = "train, out of fold"
"""What such predictions are, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedFit:
    """Fits on all folds but one each.

    Attributes
    ----------
    epoch
        The one kept, from 1.
    curve
        Part -> score of all folds together, an entry an epoch that was looked at.
    predictions
        Of all train rows, each by the model that did not see it.
    scores
        Of these, with intervals.
    folds : shape (n_frames,), int64
        As given.
    n_parameters
        How many numbers each of the fits has.
    seconds
        Of everything.
    """

    epoch: int
    curve: tuple[dict[PartName, float], ...]
    predictions: Predictions
    scores: Scores
    folds: IntArray
    n_parameters: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FoldReport:
    """An epoch of a fold: `fold` of `n_folds`, from 1, and its `epoch` of `n_epochs`.

    `selected` is the fold's own score after it, by the first of the scores that pick an epoch; NaN where nothing is
    looked at, or the fold has no labels for it.
    """

    fold: int
    n_folds: int
    epoch: int
    n_epochs: int
    selected: float = float("nan")


def fit_folds(
    features: FeatureSet,
    head: HeadConfig,
    training: FitConfig,
    folds: IntArray,
    *,
    on_epoch: Callable[[FoldReport], None] | None = None,
) -> FoldedFit:
    """Fit a head once a fold.

    Parameters
    ----------
    features, head, training
        As in `fit`; the epoch is chosen as `training` says, by all folds together, or is the last.
    folds : shape (n_frames,), int64
        Fold of every train row, -1 elsewhere (see `video_folds`).
    on_epoch
        Called after each epoch of each fold; what it raises ends the fits.

    Returns
    -------
    FoldedFit

    Raises
    ------
    ConfigError
        If a fold leaves nothing to learn from or to judge by.
    """
    return fit_folds_each(features, head, training, (training.select,), folds, on_epoch=on_epoch)[0]


def fit_folds_each(
    features: FeatureSet,
    head: HeadConfig,
    training: FitConfig,
    selects: Sequence[str],
    folds: IntArray,
    *,
    on_epoch: Callable[[FoldReport], None] | None = None,
) -> tuple[FoldedFit, ...]:
    """Fit a head once a fold, and keep an epoch for each of several scores (see `fit_each`)."""
    for select in selects:
        check_together(head, replace(training, select=select))
    n_folds = int(folds.max(initial=-1)) + 1
    if n_folds < 2:
        raise ConfigError(f"Out-of-fold predictions need at least 2 folds, got {n_folds}.")
    started = time.monotonic()
    looks = training.select_on == "val"
    epochs = [_FoldedPredictions() for _ in range(training.epochs if looks else 1)]
    n_parameters = 0
    for number in range(n_folds):
        with seeded(training.seed, features.device):
            model = HeadModel(head, features.shapes(head.encoders)).to(features.device)
            n_parameters = model.n_parameters()
            trainer = Trainer(model, features, training, Parts.of_fold(features, folds, number))
            for epoch in range(1, training.epochs + 1):
                trainer.train_epoch()
                judged = trainer.judged() if looks or epoch == training.epochs else None
                if judged is not None:
                    epochs[epoch - 1 if looks else 0].add(judged)
                if on_epoch is not None:
                    own = _own_score(features, judged, selects[0]) if looks and judged is not None else float("nan")
                    on_epoch(FoldReport(number + 1, n_folds, epoch, training.epochs, own))
    curve = tuple(part_points(features, each.together(head.joint)) for each in epochs)
    seconds = (time.monotonic() - started) / len(selects)
    return tuple(
        _kept(features, head, training, select, epochs, curve, folds, n_parameters, seconds) for select in selects
    )


def _own_score(features: FeatureSet, judged: Predictions, select: str) -> float:
    points = part_points(features, judged)
    is_scored = bool(points) if select == "p" else TASKS[select].part in points
    return select_score(points, select) if is_scored else float("nan")


def _kept(
    features: FeatureSet,
    head: HeadConfig,
    training: FitConfig,
    select: str,
    epochs: "Sequence[_FoldedPredictions]",
    curve: tuple[dict[PartName, float], ...],
    folds: IntArray,
    n_parameters: int,
    seconds: float,
) -> FoldedFit:
    best = int(np.argmax([select_score(scores, select) for scores in curve]))
    predictions = epochs[best].together(head.joint)
    return FoldedFit(
        epoch=best + 1 if training.select_on == "val" else training.epochs,
        curve=curve,
        predictions=predictions,
        scores=score_rows(features, predictions),
        folds=folds,
        n_parameters=n_parameters,
        seconds=seconds,
    )


class _FoldedPredictions:
    """What the folds predict after one epoch; in float32, since every epoch's are held until one is kept."""

    def __init__(self) -> None:
        self._rows: list[IntArray] = []
        self._columns: list[NDArray[np.float32]] = []

    def add(self, predictions: Predictions) -> None:
        arrays = (predictions.action_units, predictions.expression, predictions.valence, predictions.arousal)
        columns = [each.reshape(len(each), -1) for each in arrays if each is not None]
        self._rows.append(predictions.rows)
        self._columns.append(np.concatenate(columns, axis=1).astype(np.float32))

    def together(self, joint: Sequence[str]) -> Predictions:
        rows = np.concatenate(self._rows)
        order = np.argsort(rows)
        columns = np.concatenate(self._columns)[order].astype(np.float64)
        return predictions_of(columns, rows[order], joint)
