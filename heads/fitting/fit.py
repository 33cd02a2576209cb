"""Fitting a head on cached embeddings.

AdamW over shuffled windows, as the ABAW7 winner does it. After each epoch the val split is predicted and scored, and
the best epoch's weights are kept. So the val score of a fit was picked on val: `selected_on` says it wherever it is
reported. With `FitConfig.select_on` "last" the last epoch is kept, and val is looked at once, at the end.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from featurestore.errors import ConfigError
from heads.features.featureset import FeatureSet
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores, combine, part_scores, score
from heads.tasks import TASKS, PartName

from .config import FitConfig, check_together
from .epochs import EpochReport
from .parts import Parts
from .predict import predict
from .trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A fitted head and how it came about.

    Attributes
    ----------
    model
        With the kept epoch's weights, in evaluation mode.
    head, training
        What was asked for.
    shapes
        Encoder -> row shape of its embeddings.
    epoch
        The one that was kept, from 1.
    selected_on
        What picked it: ``"val"`` or a fold, and the score there is optimistic; ``"last"`` if nothing did.
    scores
        Of the rows that judge, with intervals.
    predictions
        Of those rows.
    curve
        Every epoch.
    seconds
        Of the whole fit.
    """

    model: HeadModel
    head: HeadConfig
    training: FitConfig
    shapes: dict[str, tuple[int, ...]]
    epoch: int
    selected_on: str
    scores: Scores
    predictions: Predictions
    curve: tuple[EpochReport, ...]
    seconds: float

    @property
    def n_parameters(self) -> int:
        """How many numbers were fitted."""
        return self.model.n_parameters()


def fit(
    features: FeatureSet,
    head: HeadConfig,
    training: FitConfig,
    *,
    parts: Parts | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> FittedHead:
    """Fit a head.

    Parameters
    ----------
    features
        With every encoder of the head; they say the device.
    head
        What to fit.
    training
        How.
    parts
        Which rows are learned from and which judge; by default the train and the val split.
    on_epoch
        Called after each epoch; what it raises ends the fit.

    Returns
    -------
    FittedHead
        With the weights of the epoch that scored best, the first of equals, or of the last one.

    Raises
    ------
    ConfigError
        If there is no train or val split, or one without a valid label of a joined task.
    ShapeError
        If embeddings to be summed differ in width.
    PrecisionError
        If the loss stops being a number.
    """
    check_together(head, training)
    parts = Parts.of_splits(features) if parts is None else parts
    shapes = features.shapes(head.encoders)
    _check_judge(features, head, training, parts)
    started = time.monotonic()
    # Dropout draws from torch's global generator: borrowed here, and given back as it was.
    cuda = [features.device] if features.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(training.seed)
        model = HeadModel(head, shapes).to(features.device)
        trainer = Trainer(model, features, training, parts)
        curve, best = _run_epochs(trainer, on_epoch)
    model.load_state_dict(best)
    model.eval()
    predictions = predict(model, features, segments=parts.judged)
    return FittedHead(
        model=model,
        head=head,
        training=training,
        shapes=shapes,
        epoch=max(report.epoch for report in curve if report.is_best),
        selected_on=parts.judge if training.select_on == "val" else "last",
        scores=score_rows(features, predictions),
        predictions=predictions,
        curve=tuple(curve),
        seconds=time.monotonic() - started,
    )


def score_rows(features: FeatureSet, predictions: Predictions) -> Scores:
    """Score predictions against the features' labels, beside the train split's trivial references."""
    train_rows = features.frames.rows("train")
    return score(features.targets, predictions, features.video_ids, train_rows=train_rows)


def select_score(scores: dict[PartName, float], select: str) -> float:
    """The score that picks an epoch: a task's own, or with ``"p"`` the sum of the joined parts with P's shares."""
    return combine(scores) if select == "p" else scores[TASKS[select].part]


def _run_epochs(
    trainer: Trainer, on_epoch: Callable[[EpochReport], None] | None
) -> tuple[list[EpochReport], dict[str, Tensor]]:
    curve: list[EpochReport] = []
    best_score, best = -np.inf, trainer.scored.state_dict()
    training = trainer.training
    looks = training.select_on == "val"
    for epoch in range(1, training.epochs + 1):
        started = time.monotonic()
        loss, task_losses = trainer.train_epoch()
        scores = _judged_scores(trainer) if looks else {}
        selected = select_score(scores, training.select) if looks else float("nan")
        is_best = selected > best_score if looks else epoch == training.epochs
        if is_best:
            best_score, best = selected, copy.deepcopy(trainer.scored.state_dict())
        report = EpochReport(
            epoch=epoch,
            n_epochs=training.epochs,
            loss=loss,
            task_losses=task_losses,
            scores=scores,
            selected=selected,
            is_best=is_best,
            seconds=time.monotonic() - started,
        )
        curve.append(report)
        if on_epoch is not None:
            on_epoch(report)
    return curve, best


def _judged_scores(trainer: Trainer) -> dict[PartName, float]:
    """Part -> score of the rows that judge, points only."""
    predictions = trainer.judged()
    kept = predictions.where(predictions.predicted())
    return part_scores(trainer.features.targets.take(kept.rows), kept)


def _check_judge(features: FeatureSet, head: HeadConfig, training: FitConfig, parts: Parts) -> None:
    """Refuse rows that could not pick an epoch."""
    rows = parts.judged_rows
    usable = features.usable(head.encoders)[rows]
    needed = head.joint if training.select == "p" else (training.select,)
    counts = {task: int((features.targets.labelled(task)[rows] & usable).sum()) for task in needed}
    short = [task for task, count in counts.items() if count < 2]
    if len(short) == len(needed):
        raise ConfigError(
            f"The best epoch is picked on {parts.judge}, but of its {len(rows)} rows none has both an embedding and "
            f"a label of {', '.join(short)} (store: {features.source}). Give a validation set to `abaw frames`."
        )
