"""The loop that pre-training and fine-tuning share: steps, schedule, checkpoints, resume.

All randomness of a step derives from (seed, step): masks, augmentation, dropout. So a killed run continues from its
last checkpoint without stored generator states, and ends at the very weights of a run that was never interrupted (on
a CPU; on a GPU the backward pass of fused attention may differ in the last bit from run to run). A checkpoint is
written every minute and after each epoch, to a temporary name first.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from extractor.precision import Precision, autocast
from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, StoreError

_CHECKPOINT_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Linear warm-up, then half a cosine down to zero.

    Attributes
    ----------
    epochs, steps_per_epoch
        Length of the run.
    warmup_epochs
        Epochs of linear warm-up; may be fractional.
    learning_rate
        At the top.
    """

    epochs: int
    steps_per_epoch: int
    warmup_epochs: float
    learning_rate: float

    @property
    def n_steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def at(self, step: int) -> float:
        """Learning rate of one step, counted from 0."""
        warmup = self.warmup_epochs * self.steps_per_epoch
        if step < warmup:
            return self.learning_rate * min(1.0, (step + 1) / warmup)
        progress = (step - warmup) / max(1.0, self.n_steps - warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(slots=True)
class Progress:
    """Where a run stands; what a checkpoint carries beside weights and optimiser.

    Attributes
    ----------
    step
        Steps done.
    history
        One dict of figures for each finished epoch.
    best_score
        Best validation score so far; None before the first.
    best_weights
        The module's weights at that epoch.
    epoch_loss
        Sum of the losses of the steps done in the running epoch.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_score: float | None = None
    best_weights: dict[str, Tensor] | None = None
    epoch_loss: float = 0.0


class Checkpoint:
    """One file with a run's whole state, bound to the run's options.

    Parameters
    ----------
    path
        The file.
    key
        Digest of everything that shapes the result; a checkpoint of another key is refused.
    force
        Start over instead of refusing.
    """

    def __init__(self, path: Path, key: str, *, force: bool = False) -> None:
        self.path = path
        self.key = key
        self._force = force
        self._written_at = time.monotonic()

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Progress:
        """Restore module and optimiser; a fresh `Progress` if there is no checkpoint.

        Raises
        ------
        ConfigError
            If the checkpoint belongs to other options.
        StoreError
            If it cannot be read.
        """
        if not self.path.exists():
            return Progress()
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
            key = state["key"]
        except Exception as error:
            raise StoreError(
                f"The checkpoint {self.path} cannot be read ({type(error).__name__}). Delete its folder to start over."
            ) from error
        if key != self.key and self._force:
            return Progress()
        if key != self.key:
            raise ConfigError(
                f"An interrupted run with other options stands in {self.path.parent}. "
                "Give the same options to continue it, or --force to start over."
            )
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"])

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write the state; the previous checkpoint stands until the new one is whole."""
        state: dict[str, Any] = {
            "key": self.key,
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "progress": {name: getattr(progress, name) for name in Progress.__slots__},
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(self.path) as partial:
            torch.save(state, partial)
        self._written_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last one is a minute old."""
        return time.monotonic() - self._written_at > _CHECKPOINT_EVERY_S


def train(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_losses: Callable[[int], Iterator[Callable[[], Tensor]]],
    *,
    schedule: Schedule,
    seed: int,
    checkpoint: Checkpoint,
    device: torch.device,
    precision: Precision,
    end_of_epoch: Callable[[int, Progress], None],
    on_step: Callable[[int, float], None] | None = None,
) -> Progress:
    """Run or continue a training run.

    Parameters
    ----------
    module
        On the device, in train mode at every step.
    optimizer
        Its groups may carry ``lr_scale`` (layer decay).
    batch_losses
        ``batch_losses(first_step)`` yields, for each step from there to the end of the run, a function that computes
        the step's loss; fetching the next one may load data, calling it does the arithmetic.
    schedule
        Learning rates and length.
    seed
        Of all randomness.
    checkpoint
        Where the state is kept.
    device, precision
        Of the arithmetic.
    end_of_epoch
        Called with the epoch's number and the progress, whose last history entry it may extend and whose best score
        and weights it may set.
    on_step
        Called with the number of steps done and the loss.

    Returns
    -------
    The progress at the end.

    Raises
    ------
    ConfigError
        If the loss is not finite.
    """
    progress = checkpoint.load(module, optimizer, device)
    history = progress.history
    for loss_of in batch_losses(progress.step) if progress.step < schedule.n_steps else iter(()):
        seed_step(seed, progress.step)
        module.train()
        rate = schedule.at(progress.step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigError(
                f"The loss became {value} at step {progress.step}. Lower the learning rate (now {rate:.2g})."
            )
        progress.step += 1
        progress.epoch_loss += value
        if on_step is not None:
            on_step(progress.step, value)
        if progress.step % schedule.steps_per_epoch == 0:
            history.append({"loss": progress.epoch_loss / schedule.steps_per_epoch})
            progress.epoch_loss = 0.0
            end_of_epoch(len(history), progress)
            checkpoint.save(module, optimizer, progress)
        elif checkpoint.is_due():
            checkpoint.save(module, optimizer, progress)
    return progress


def seed_step(seed: int, step: int) -> None:
    """Set torch's global generators from (seed, step)."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1))


def shuffled_batches(
    n_items: int, *, batch: int, schedule: Schedule, seed: int, first_step: int
) -> Iterator[NDArray[np.int64]]:
    """Item numbers of each step, from one step to the end of the run; every epoch in an order of its own.

    Parameters
    ----------
    n_items
        How many there are.
    batch
        Items a step; the last, smaller batch of an epoch is dropped, unless it is the only one.
    schedule
        Made with ``steps_per_epoch(n_items, batch)``.
    seed
        With the epoch it decides the order.
    first_step
        The step to begin with.
    """
    order, of_epoch = np.empty(0, dtype=np.int64), -1
    for step in range(first_step, schedule.n_steps):
        epoch, position = divmod(step, schedule.steps_per_epoch)
        if epoch != of_epoch:
            order, of_epoch = np.random.default_rng([seed, epoch]).permutation(n_items), epoch
        yield order[position * batch : (position + 1) * batch]


def steps_per_epoch(n_items: int, batch: int) -> int:
    """Full batches in an epoch, at least one."""
    return max(1, n_items // batch)
