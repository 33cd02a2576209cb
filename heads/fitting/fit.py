"""Fitting a head on cached embeddings.

AdamW over shuffled windows, as the ABAW7 winner does it. After each epoch the val split is predicted and scored, and
the best epoch's weights are kept. So the val score of a fit was picked on val: `selected_on` says it wherever it is
reported. With `FitConfig.select_on` "last" the last epoch is kept, and val is looked at once, at the end.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from featurestore.errors import ConfigError
from heads.features.featureset import FeatureSet
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores, part_scores, score
from heads.tasks import TASKS, PartName

from .config import FitConfig, check_together, picks_of
from .epochs import BestEpochs, EpochReport, select_score
from .parts import Parts
from .predict import predict
from .schedule import Schedule
from .seeding import seeded
from .trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A fitted head and how it came about.

    Attributes
    ----------
    model
        With the weights of the epochs kept, in evaluation mode.
    head, training
        What was asked for.
    schedule
        What it came to on these rows: rows a step, epochs, patience.
    shapes
        Encoder -> row shape of its embeddings.
    epochs
        Task -> the epoch that was kept of it, from 1 (see `picks_of`). Where they differ, `model` is separated.
    selected_on
        What picked it: ``"val"`` or a fold, and the score there is optimistic; ``"last"`` if nothing did.
    scores
        Of the rows that judge, with intervals.
    predictions
        Of those rows.
    curve
        Every epoch.
    n_parameters
        How many numbers were fitted; a separated `model` holds more.
    seconds
        Of the whole fit.
    """

    model: HeadModel
    head: HeadConfig
    training: FitConfig
    schedule: Schedule
    shapes: dict[str, tuple[int, ...]]
    epochs: Mapping[str, int]
    selected_on: str
    scores: Scores
    predictions: Predictions
    curve: tuple[EpochReport, ...]
    n_parameters: int
    seconds: float

    @property
    def epoch(self) -> int:
        """The last one that was kept of a task."""
        return max(self.epochs.values())


def fit(
    features: FeatureSet,
    head: HeadConfig,
    training: FitConfig,
    *,
    parts: Parts | None = None,
    schedule: Schedule | None = None,
    epochs: Mapping[str, int] | None = None,
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
    schedule
        Rows a step, epochs and patience in place of those that follow from `training` and the rows.
    epochs
        Epoch to keep for each task. The judged rows are then not scored during the fit, which ends at the last of these
        epochs. By default `training` says how they are chosen.
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
    return fit_each(
        features,
        head,
        training,
        (training.select,),
        parts=parts,
        schedule=schedule,
        epochs=None if epochs is None else (epochs,),
        on_epoch=on_epoch,
    )[0]


def fit_each(
    features: FeatureSet,
    head: HeadConfig,
    training: FitConfig,
    selects: Sequence[str],
    *,
    parts: Parts | None = None,
    schedule: Schedule | None = None,
    epochs: Sequence[Mapping[str, int]] | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> tuple[FittedHead, ...]:
    """Fit a head once, and keep an epoch for each of several scores, such as each task's own.

    Which score picks the epoch does not change how a head learns: each result is that of `fit` with that `select`, bit
    for bit, at the cost of one fit. `seconds` is shared out among them; `on_epoch` is told of the first one's score.

    Parameters
    ----------
    features, head, training, parts, schedule, on_epoch
        As in `fit`; `training.select` is passed over.
    selects
        Each as `FitConfig.select`.
    epochs
        As in `fit`, for each of `selects`.

    Returns
    -------
    One for each of `selects`, in their order.
    """
    trainings = [replace(training, select=select) for select in selects]
    for each in trainings:
        check_together(head, each)
    parts = Parts.of_splits(features) if parts is None else parts
    shapes = features.shapes(head.encoders)
    started = time.monotonic()
    with seeded(training.seed, features.device):  # of the weights, and of dropout
        model = HeadModel(head, shapes).to(features.device)
        trainer = Trainer(model, features, training, parts, schedule=schedule)
        picks = [_checked_picks(features, head, each, parts) for each in trainings]
        kept = [
            _Kept(each, trainer.schedule, picks[place], None if epochs is None else epochs[place])
            for place, each in enumerate(trainings)
        ]
        with trainer.threads():
            _run_epochs(trainer, kept, on_epoch)
    seconds = (time.monotonic() - started) / len(kept)
    return tuple(each.fitted(model, shapes, features, parts, seconds) for each in kept)


def score_rows(features: FeatureSet, predictions: Predictions) -> Scores:
    """Score predictions against the features' labels, beside the train split's trivial references."""
    train_rows = features.frames.rows("train")
    return score(features.targets, predictions, features.video_ids, train_rows=train_rows)


class _Kept:
    """The epochs that a fit keeps, as far as it has come: those that some scores pick, given ones, or the last."""

    def __init__(
        self, training: FitConfig, schedule: Schedule, picks: Mapping[str, str], given: Mapping[str, int] | None
    ) -> None:
        self.training, self.schedule = training, schedule
        self.curve: list[EpochReport] = []
        is_last = given is None and training.select_on == "last"
        self._given = dict.fromkeys(picks, schedule.epochs) if is_last else given
        self._best = BestEpochs(picks, schedule.patience)
        self._states: dict[str, dict[str, Tensor]] = {}
        self._predictions: dict[str, Predictions] = {}

    @property
    def looks(self) -> bool:
        """True if scores of the judged rows choose the epochs."""
        return self._given is None

    def add(self, report: EpochReport, model: HeadModel, predictions: Predictions | None) -> None:
        """Take an epoch in."""
        if self._given is not None:
            better = [task for task, epoch in self._given.items() if epoch == report.epoch]
        else:
            better = self._best.add(report.scores)
        if better:
            state = copy.deepcopy(model.state_dict())
            self._states |= dict.fromkeys(better, state)
            if predictions is not None:
                self._predictions |= dict.fromkeys(better, predictions)
        selected = select_score(report.scores, self.training.select)
        self.curve.append(replace(report, selected=selected, is_best=bool(better)))

    @property
    def has_waited(self) -> bool:
        """Whether nothing more is to be kept."""
        if self._given is not None:
            return len(self.curve) >= max(self._given.values())
        return self._best.has_waited

    def fitted(
        self,
        model: HeadModel,
        shapes: dict[str, tuple[int, ...]],
        features: FeatureSet,
        parts: Parts,
        seconds: float,
    ) -> FittedHead:
        """The head at the epochs kept."""
        own = model.with_states(self._states).eval()
        if self.looks:
            predictions = Predictions.together(self._predictions)
        else:
            predictions = predict(own, features, segments=parts.judged)
        return FittedHead(
            model=own,
            head=model.config,
            training=self.training,
            schedule=self.schedule,
            shapes=shapes,
            epochs=self._best.epochs if self._given is None else self._given,
            selected_on=parts.judge if self.looks else "last",
            scores=score_rows(features, predictions),
            predictions=predictions,
            curve=tuple(self.curve),
            n_parameters=model.n_parameters(),
            seconds=seconds,
        )


def _run_epochs(trainer: Trainer, kept: Sequence[_Kept], on_epoch: Callable[[EpochReport], None] | None) -> None:
    n_epochs = trainer.schedule.epochs
    looks = any(each.looks for each in kept)
    for epoch in range(1, n_epochs + 1):
        started = time.monotonic()
        loss, task_losses = trainer.train_epoch()
        predictions = trainer.judged() if looks else None
        report = EpochReport(
            epoch=epoch,
            n_epochs=n_epochs,
            loss=loss,
            task_losses=task_losses,
            scores={} if predictions is None else part_points(trainer.features, predictions),
            selected=float("nan"),
            is_best=False,
            seconds=time.monotonic() - started,
        )
        first = kept[0]
        for each in kept:
            if not each.has_waited:
                each.add(report, trainer.scored, predictions)
        if on_epoch is not None:  # told of the first score, also when only the others still wait
            on_epoch(first.curve[-1] if first.curve[-1].epoch == epoch else report)
        if all(each.has_waited for each in kept):
            return


def part_points(features: FeatureSet, predictions: Predictions) -> dict[PartName, float]:
    """Part -> score of predictions, without intervals."""
    kept = predictions.where(predictions.predicted())
    return part_scores(features.targets.take(kept.rows), kept)


def _checked_picks(features: FeatureSet, head: HeadConfig, training: FitConfig, parts: Parts) -> dict[str, str]:
    """Score that picks the epoch of each task: P of the others for a task without labels among the judged rows.

    Raises
    ------
    ConfigError
        If no task has labels that could pick an epoch.
    """
    rows = parts.judged_rows
    usable = features.usable(head.encoders)[rows]
    counts = {task: int((features.targets.labelled(task)[rows] & usable).sum()) for task in head.joint}
    needed = (training.select,) if training.select in TASKS else head.joint
    short = [task for task, count in counts.items() if count < 2]
    if set(needed) <= set(short):
        judge = "the val split" if parts.judge == "val" else parts.judge
        raise ConfigError(
            f"The best epoch is picked on {judge}, but of its {len(rows)} rows none has both an embedding and "
            f"a label of {', '.join(needed)} (store: {features.source}). Give a validation set to `abaw frames`."
        )
    return {task: "p" if pick in short else pick for task, pick in picks_of(head, training.select).items()}
