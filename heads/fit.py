"""Fitting a head on cached embeddings.

AdamW at a constant rate over shuffled windows, as the ABAW7 winner does it. After each epoch the val split is predicted
and scored, and the best epoch's weights are kept. So the val score of a fit was picked on val: `selected_on` says it
wherever it is reported.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from featurestore.errors import ConfigError, PrecisionError

from .arrays import BoolArray
from .batches import Batch
from .config import FitConfig, HeadConfig, check_together
from .features import FeatureSet
from .losses import MultiTaskLoss
from .model import HeadModel
from .predict import predict
from .predictions import Predictions
from .scores import Scores, combine, part_scores, score
from .tasks import TASKS, PartName
from .windows import WindowIndex, window_index


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """One epoch of a fit.

    Attributes
    ----------
    epoch, n_epochs
        Number of the epoch, from 1, and how many there will be.
    loss
        Mean weighted loss of its batches.
    task_losses
        Task -> mean loss before its weight.
    scores
        Part -> score on val after the epoch.
    selected
        The score that picks the epoch.
    is_best
        Whether it is the best so far.
    seconds
        Of the epoch, scoring included.
    """

    epoch: int
    n_epochs: int
    loss: float
    task_losses: Mapping[str, float]
    scores: Mapping[PartName, float]
    selected: float
    is_best: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A fitted head and how it came about.

    Attributes
    ----------
    model
        With the best epoch's weights, in evaluation mode.
    head, training
        What was asked for.
    dim
        D, width of the embeddings.
    epoch
        The best one, from 1.
    selected_on
        The split that picked it: its score there is optimistic.
    scores
        On that split, with intervals.
    predictions
        Of that split.
    curve
        Every epoch.
    seconds
        Of the whole fit.
    """

    model: HeadModel
    head: HeadConfig
    training: FitConfig
    dim: int
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
    on_epoch
        Called after each epoch.

    Returns
    -------
    FittedHead
        With the weights of the epoch that scored best on val, the first of equals.

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
    dim = features.dim_of(head)
    windows = _training_windows(features, head)
    _check_val(features, head, training)
    started = time.monotonic()
    # Dropout draws from torch's global generator: borrowed here, and given back as it was.
    cuda = [features.device] if features.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(training.seed)
        model = HeadModel(head, dim).to(features.device)
        trainer = _Trainer(model, features, head, training, windows)
        curve, best = _run_epochs(trainer, on_epoch)
    model.load_state_dict(best)
    model.eval()
    predictions = predict(model, features, head, split="val")
    return FittedHead(
        model=model,
        head=head,
        training=training,
        dim=dim,
        epoch=max(report.epoch for report in curve if report.is_best),
        selected_on="val",
        scores=score_split(features, predictions),
        predictions=predictions,
        curve=tuple(curve),
        seconds=time.monotonic() - started,
    )


def score_split(features: FeatureSet, predictions: Predictions) -> Scores:
    """Score predictions against the features' labels, beside the train split's trivial references."""
    train_rows = features.frames.rows("train")
    return score(features.targets, predictions, features.video_ids, train_rows=train_rows)


def _run_epochs(
    trainer: "_Trainer", on_epoch: Callable[[EpochReport], None] | None
) -> tuple[list[EpochReport], dict[str, Tensor]]:
    curve: list[EpochReport] = []
    best_score, best = -np.inf, trainer.model.state_dict()
    n_epochs = trainer.training.epochs
    for epoch in range(1, n_epochs + 1):
        started = time.monotonic()
        loss, task_losses = trainer.train_epoch()
        scores = trainer.val_scores()
        select = trainer.training.select
        selected = combine(scores) if select == "p" else scores[TASKS[select].part]
        is_best = selected > best_score
        if is_best:
            best_score, best = selected, copy.deepcopy(trainer.model.state_dict())
        report = EpochReport(
            epoch=epoch,
            n_epochs=n_epochs,
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


class _Trainer:
    """The state of a fit between epochs."""

    def __init__(
        self,
        model: HeadModel,
        features: FeatureSet,
        head: HeadConfig,
        training: FitConfig,
        windows: WindowIndex,
    ) -> None:
        self.model, self.features, self.head, self.training = model, features, head, training
        self.loss = MultiTaskLoss(weights=training.weights)
        batch_windows = max(1, training.batch_frames // head.seq)
        self.reader = features.windows(head.encoders, windows.rows, batch_windows=batch_windows, seed=training.seed)
        usable = features.usable(head.encoders)[windows.rows] & windows.mask
        self.counts = torch.from_numpy(usable).to(features.device)  # (n_windows, S): rows whose labels count
        # One kernel for all parameters; weight by weight the step costs as much as the LSTM on a CPU.
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        self.val = features.frames.rows("val")

    def train_epoch(self) -> tuple[float, dict[str, float]]:
        """One pass over the train windows; the mean loss and each task's."""
        self.model.train()
        totals, by_task = [], []
        for batch in self.reader.epoch():
            total, parts = self._step(batch)
            totals.append(total)
            by_task.append(torch.stack([parts[task] for task in self.head.joint]))
        # Read once an epoch: a read per step would make the device wait for the host.
        loss = float(torch.stack(totals).cpu().double().mean())
        if not np.isfinite(loss):
            raise PrecisionError(
                f"The training loss became {loss} (head on {'+'.join(self.head.encoders)}, learning rate "
                f"{self.training.learning_rate}). Lower the learning rate, or check the embeddings' range."
            )
        means = torch.stack(by_task).cpu().double().mean(dim=0).tolist()
        return loss, dict(zip(self.head.joint, means, strict=True))

    def _step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        rows, counts = batch.rows, self.counts[batch.picked]  # (B, S)
        targets, valid = {}, {}
        for task in self.head.joint:
            target, known = self.features.target_tensors[task]
            targets[task] = target[rows]  # (B, S) or (B, S, 12)
            shaped = counts.unsqueeze(-1) if target.dim() == 2 else counts
            valid[task] = known[rows] & shaped
        half = self.training.precision == "bfloat16"
        with torch.autocast(self.features.device.type, dtype=torch.bfloat16, enabled=half):
            outputs = self.model(batch.inputs)
        total, parts = self.loss(outputs, targets, valid)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.training.gradient_clip)
        self.optimizer.step()
        return total.detach(), parts

    def val_scores(self) -> dict[PartName, float]:
        """Part -> score on val, points only."""
        predictions = predict(self.model, self.features, self.head, split="val")
        kept = predictions.where(predictions.predicted())
        return part_scores(self.features.targets.take(kept.rows), kept)


def _training_windows(features: FeatureSet, head: HeadConfig) -> WindowIndex:
    """The train split's windows that can teach something: with a usable row that has a joined task's label."""
    windows = window_index(features.frames.segments("train"), length=head.seq, step=head.step)
    taught = np.zeros(len(features.frames), dtype=np.bool_)
    for task in head.joint:
        taught |= features.targets.labelled(task)
    taught &= features.usable(head.encoders)
    useful: BoolArray = np.any(taught[windows.rows] & windows.mask, axis=1)
    if not useful.any():
        raise ConfigError(
            f"There is nothing to learn from: of {len(features.frames.rows('train'))} train rows none has both an "
            f"embedding and a label of {', '.join(head.joint)} (store: {features.source}). "
            "Check `abaw frames`, or join other tasks."
        )
    return windows.take(useful)


def _check_val(features: FeatureSet, head: HeadConfig, training: FitConfig) -> None:
    """Refuse a val split that could not pick an epoch."""
    rows = features.frames.rows("val")
    usable = features.usable(head.encoders)[rows]
    needed = head.joint if training.select == "p" else (training.select,)
    counts = {task: int((features.targets.labelled(task)[rows] & usable).sum()) for task in needed}
    short = [task for task, count in counts.items() if count < 2]
    if len(short) == len(needed):
        raise ConfigError(
            f"The best epoch is picked on the val split, but of its {len(rows)} rows none has both an embedding and "
            f"a label of {', '.join(short)} (store: {features.source}). Give a validation set to `abaw frames`."
        )
