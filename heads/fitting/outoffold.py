"""One fit a fold of train, each judged by the fold that it did not see: predictions of train that are honest.

All folds keep the same epoch. It is that of the fit on all of train whose folds they are (`epochs`); or the one that is
best for their predictions together: then one number, of some twenty, is chosen on what is reported, not one a fold, and
a last fit on all of train can be stopped there, without a look at val. That choice aside, nothing that predicts a row
has seen its video.
"""

import time
from collections.abc import Callable, Mapping, Sequence
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
from heads.tasks import PartName

from .config import FitConfig, check_together, picks_of
from .epochs import BestEpochs, select_score
from .fit import part_points, score_rows
from .parts import Parts
from .predict import predictions_of
from .schedule import Schedule
from .seeding import seeded
from .trainer import Trainer

OUT_OF_FOLD: Final = "train, out of fold"
"""What such predictions are, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedFit:
    """Fits on all folds but one each.

    Attributes
    ----------
    epochs
        Task -> the one kept, from 1.
    curve
        Part -> score of all folds together, an entry an epoch that was looked at.
    predictions
        Of all train rows, each by the model that did not see it.
    scores
        Of these, with intervals.
    folds : shape (n_frames,), int64
        As given.
    schedule
        Of every fold.
    n_parameters
        How many numbers each of the fits has.
    seconds
        Of everything.
    """

    epochs: Mapping[str, int]
    curve: tuple[dict[PartName, float], ...]
    predictions: Predictions
    scores: Scores
    folds: IntArray
    schedule: Schedule
    n_parameters: int
    seconds: float

    @property
    def epoch(self) -> int:
        """The last one kept of a task."""
        return max(self.epochs.values())


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
    schedule: Schedule | None = None,
    epochs: Sequence[Mapping[str, int]] | None = None,
    on_epoch: Callable[[FoldReport], None] | None = None,
) -> tuple[FoldedFit, ...]:
    """Fit a head once a fold, and keep an epoch for each of several scores (see `fit_each`).

    Parameters
    ----------
    features, head, training, selects, folds, on_epoch
        As in `fit_folds` and `fit_each`.
    schedule
        Of every fold; by default the first fold's.
    epochs
        Task -> the epoch to keep, for each of `selects`; by default they are chosen as `training` says. Where they are
        chosen with patience, the other folds go on for as long as the first one.
    """
    for select in selects:
        check_together(head, replace(training, select=select))
    n_folds = int(folds.max(initial=-1)) + 1
    if n_folds < 2:
        raise ConfigError(f"Out-of-fold predictions need at least 2 folds, got {n_folds}.")
    started = time.monotonic()
    ran = schedule
    chooses = epochs is None and training.select_on == "val"
    wanted = None if epochs is None else {epoch for each in epochs for epoch in each.values()}
    picks = [picks_of(head, select) for select in selects]
    found: dict[int, _FoldedPredictions] = {}
    end = None if wanted is None else max(wanted)
    n_parameters = 0
    for number in range(n_folds):
        with seeded(training.seed, features.device):
            model = HeadModel(head, features.shapes(head.encoders)).to(features.device)
            n_parameters = model.n_parameters()
            parts = Parts.of_fold(features, folds, number)
            trainer = Trainer(model, features, training, parts, schedule=ran)
            ran = trainer.schedule
            patience = ran.patience if chooses and end is None else None
            best = [BestEpochs(each, patience) for each in picks]
            epoch, n_epochs = 0, ran.epochs if end is None else end
            with trainer.threads():
                while epoch < n_epochs and not all(each.has_waited for each in best):
                    epoch += 1
                    trainer.train_epoch()
                    looks = chooses or (epoch == n_epochs if wanted is None else epoch in wanted)
                    points: dict[PartName, float] = {}
                    if looks:
                        judged = trainer.judged()
                        found.setdefault(epoch, _FoldedPredictions()).add(judged)
                        points = part_points(features, judged) if chooses else {}
                    for each in best:
                        each.add(points)
                    if on_epoch is not None:
                        on_epoch(FoldReport(number + 1, n_folds, epoch, n_epochs, select_score(points, selects[0])))
            end = epoch
    together = {epoch: each.together(head.joint) for epoch, each in sorted(found.items())}
    curve = {epoch: part_points(features, each) for epoch, each in together.items()}
    seconds = (time.monotonic() - started) / len(selects)
    folded = []
    for place, pick in enumerate(picks):
        kept = _best_of(curve, pick) if epochs is None else epochs[place]
        predictions = Predictions.together({task: together[kept[task]] for task in head.joint})
        folded.append(
            FoldedFit(
                epochs=kept,
                curve=tuple(curve.values()),
                predictions=predictions,
                scores=score_rows(features, predictions),
                folds=folds,
                schedule=trainer.schedule,
                n_parameters=n_parameters,
                seconds=seconds,
            )
        )
    return tuple(folded)


def _best_of(curve: Mapping[int, Mapping[PartName, float]], picks: Mapping[str, str]) -> dict[str, int]:
    """Task -> the epoch whose predictions by all folds together score best, by the score that picks it."""
    best = BestEpochs(picks, None)
    for scores in curve.values():
        best.add(scores)
    order = list(curve)
    return {task: order[number - 1] for task, number in best.epochs.items()}


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
