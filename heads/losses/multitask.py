"""The joined tasks' losses, weighed and summed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from featurestore.errors import ConfigError
from heads.tasks import TASKS, task_named

from .config import LossConfig
from .masked import task_loss
from .statistics import LabelStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiTaskLoss:
    """The weighted sum of the joined tasks' losses.

    Attributes
    ----------
    weights
        Task -> weight, at least 0; a task that is not named weighs 1.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    config: LossConfig = field(default_factory=LossConfig)
    statistics: LabelStatistics | None = None

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not task_named(name) or not 0 <= weight < float("inf"):
                raise ConfigError(f"The weight of task {name!r} must be a number of at least 0, got {weight}.")

    def prepare(self, joint: Sequence[str], device: torch.device) -> None:
        """Make what is learned along, for the joined tasks, on a device."""

    def parameters(self) -> Iterable[Tensor]:
        """What is learned along."""
        return ()

    def end_epoch(self, task_losses: Mapping[str, float]) -> None:
        """Take note of an epoch's mean losses."""

    def __call__(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], valid: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each task's own loss before its weight (detached).

        Parameters
        ----------
        outputs, targets, valid
            Task -> tensor, as in `task_loss`; the tasks of `outputs` are the joined ones.
        """
        losses = {task: task_loss(task, outputs[task], targets[task], valid[task]) for task in TASKS if task in outputs}
        if not losses:
            raise ConfigError(f"No task to sum over: outputs are {sorted(outputs)}. Join some of {sorted(TASKS)}.")
        total = torch.stack([self.weights.get(task, 1.0) * loss for task, loss in losses.items()]).sum()
        return total, {task: loss.detach() for task, loss in losses.items()}
