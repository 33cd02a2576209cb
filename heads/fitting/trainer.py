"""The state of a fit between epochs: a model, its optimiser, and the windows that it learns from."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from featurestore.errors import ConfigError, PrecisionError
from heads.arrays import BoolArray
from heads.features.batches import Batch
from heads.features.featureset import FeatureSet
from heads.features.windows import WindowIndex
from heads.losses.multitask import MultiTaskLoss
from heads.losses.statistics import LabelStatistics
from heads.modules.model import HeadModel
from heads.scoring.predictions import Predictions

from .config import FitConfig
from .context import WindowContext
from .optimising import Optimizer, WeightAverage
from .parts import Parts, head_windows, segment_rows
from .predict import predict
from .schedule import Schedule, batch_windows_of
from .threads import threads_for


class Trainer:
    """A fit, epoch by epoch.

    Parameters
    ----------
    model
        On the device of the features.
    features
        With every encoder of the model.
    training
        How to fit.
    parts
        Which rows are learned from, and which are judged by.
    schedule
        In place of the one that follows from `training` and the rows: that of the fit whose folds are fitted.

    Attributes
    ----------
    schedule
        Rows a step, epochs, patience.

    Raises
    ------
    ConfigError
        If no row that is learned from has both an embedding and a label of a joined task.
    """

    def __init__(
        self,
        model: HeadModel,
        features: FeatureSet,
        training: FitConfig,
        parts: Parts,
        *,
        schedule: Schedule | None = None,
    ) -> None:
        self.model, self.features, self.training, self.parts = model, features, training, parts
        head = self.head = model.config
        windows, counted = training_windows(model, features, training, parts)
        self._context = WindowContext(features, head, windows)
        self.schedule = self._planned(windows, counted) if schedule is None else schedule
        model.set_hidden_dropout(head.dropout_for(self.schedule.n_rows))
        self._batch_windows = self.schedule.batch_windows
        self._reader = features.windows(
            head.encoders,
            windows.rows,
            batch_windows=self._batch_windows,
            seed=training.seed,
            lengths=windows.lengths,
        )
        self._counted = torch.from_numpy(counted).to(features.device)  # (n_windows, S)
        learned = np.unique(windows.rows[counted])
        model.prepare(features, learned)  # before the weights are averaged: a copy takes what was counted along
        statistics = LabelStatistics.of(features.targets, learned)
        self._loss = MultiTaskLoss(weights=training.weights, config=training.loss, statistics=statistics)
        self._loss.prepare(head.joint, features.device)
        self._optimizer = Optimizer(
            model.parameters(),
            training,
            n_steps=self._n_steps(windows, self._batch_windows),
            n_epochs=self.schedule.epochs,
            undecayed=self._loss.parameters(),
        )
        self._average = WeightAverage(model, training.average) if training.average else None
        self._order = np.random.default_rng(training.seed)
        self._epoch = 0

    def _planned(self, windows: WindowIndex, counted: BoolArray) -> Schedule:
        n_rows, n_windows = int(counted.sum()), len(windows)
        batch = batch_windows_of(self.training, n_rows=n_rows, n_windows=n_windows, length=windows.length)
        return Schedule.of(self.training, n_rows=n_rows, batch_windows=batch, n_steps=self._n_steps(windows, batch))

    def _n_steps(self, windows: WindowIndex, batch_windows: int) -> int:
        if self.head.stateful:
            return self._context.n_lane_steps(batch_windows)
        return -(-len(windows) // batch_windows)

    def threads(self) -> AbstractContextManager[None]:
        """Compute with as many threads as pay at the size of a step (see `threads_for`)."""
        step_rows = self.schedule.n_rows // self.schedule.steps_per_epoch
        is_temporal = self.head.temporal != "none"
        return threads_for(step_rows, self.model.n_parameters(), self.features.device, is_temporal=is_temporal)

    @property
    def scored(self) -> HeadModel:
        """The model whose predictions count: the averaged one, if weights are averaged."""
        return self.model if self._average is None else self._average.model

    def train_epoch(self) -> tuple[float, dict[str, float]]:
        """One pass over the windows; the mean loss, and each task's before its weight."""
        self.model.train()
        self._epoch += 1
        totals, by_task = [], []
        for batch, outputs in self._outputs():
            total, parts = self._step(batch, outputs)
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
        task_losses = dict(zip(self.head.joint, means, strict=True))
        self._loss.end_epoch(task_losses)
        return loss, task_losses

    def judged(self) -> Predictions:
        """Predictions of the rows that judge, as the fit stands.

        Raises
        ------
        PrecisionError
            If none is a number though there are embeddings: the epoch's last step may ruin the weights unseen.
        """
        predictions = predict(self.scored, self.features, segments=self.parts.judged)
        is_usable = self.features.usable(self.head.encoders)[predictions.rows]
        if is_usable.any() and not predictions.predicted().any():
            raise PrecisionError(
                f"No prediction is a number any more (head on {'+'.join(self.head.encoders)}, learning rate "
                f"{self.training.learning_rate}). Lower the learning rate, or check the embeddings' range."
            )
        return predictions

    def _outputs(self) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        half = self.training.precision == "bfloat16"
        if self.head.stateful:
            order = self._order.permutation(self._context.n_segments)
            yield from self._context.in_lanes(self.model, self._reader, self._batch_windows, order, half=half)
            return
        for batch in self._reader.epoch():
            labels = self._fed_labels(batch)
            with torch.autocast(self.features.device.type, dtype=torch.bfloat16, enabled=half):
                outputs = self.model(
                    batch.inputs, mask=self._context.mask(batch), gaps=self._context.gaps(batch), labels=labels
                )
            yield batch, outputs

    def _step(self, batch: Batch, outputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        targets, valid = self._targets(batch)
        total, parts = self._loss(outputs, targets, valid)
        self._optimizer.step(total)
        if self._average is not None:
            self._average.update(self.model)
        return total.detach(), parts

    def _targets(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Labels of a batch, and which of them count: (B, S), of action units (B, S, 12)."""
        rows = batch.rows
        counts = self._counted[batch.picked, : rows.shape[1]]
        targets, valid = {}, {}
        for task in self.head.joint:
            target, known = self.features.target_tensors[task]
            targets[task] = target[rows]
            valid[task] = known[rows] & (counts.unsqueeze(-1) if target.dim() == 2 else counts)
        return targets, valid

    def _fed_labels(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]] | None:
        """Task -> labels and where they are fed back in place of predictions (scheduled sampling)."""
        if self.head.framework != "label-feedback":
            return None
        share = self.training.label_sampling * (1 - (self._epoch - 1) / max(1, self.schedule.epochs - 1))
        targets, valid = self._targets(batch)
        fed = {}
        for task in self.head.joint:
            if task in self.head.feedback_from:
                drawn = torch.rand(batch.rows.shape, device=batch.rows.device) < share
                fed[task] = (targets[task], valid[task] & (drawn.unsqueeze(-1) if task == "au" else drawn))
        return fed


def training_windows(
    model: HeadModel, features: FeatureSet, training: FitConfig, parts: Parts
) -> tuple[WindowIndex, BoolArray]:
    """The windows that can teach something, and which of their rows count, shape (n_windows, S).

    A row counts that is no padding and was embedded by every encoder; with `complete_labels` if it also has a label
    of every joined task. A stateful head keeps all windows, since the state goes through them.
    """
    head = model.config
    windows = head_windows(features, head, parts.learned)
    labelled = np.stack([features.targets.labelled(task) for task in head.joint])
    usable = features.usable(head.encoders)
    if training.complete_labels:
        usable = usable & np.asarray(labelled.all(axis=0))
    counted = usable[windows.rows] & windows.mask
    taught = np.asarray(labelled.any(axis=0))[windows.rows] & counted
    useful: BoolArray = np.asarray(taught.any(axis=1))
    if not useful.any():
        raise ConfigError(
            f"There is nothing to learn from: of {len(segment_rows(parts.learned))} train rows none has both an "
            f"embedding and {'labels' if training.complete_labels else 'a label'} of {', '.join(head.joint)} "
            f"(store: {features.source}). Check `abaw frames`, or join other tasks."
        )
    return (windows, counted) if head.stateful else (windows.take(useful), counted[useful])
