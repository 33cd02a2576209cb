"""The joined tasks' losses, weighed and summed."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from featurestore.errors import ConfigError
from heads.tasks import TASKS, task_named

from .config import LossConfig
from .statistics import LabelStatistics
from .taskloss import TaskLosses
from .weighting import State, make_weighting


class MultiTaskLoss:
    """The weighted sum of the joined tasks' losses.

    Parameters
    ----------
    weights
        Task -> weight, at least 0; a task that is not named weighs 1.
    config
        Which losses, and how they are weighed on top of `weights`.
    statistics
        Of the train rows; needed where the config weighs by labels.

    Raises
    ------
    ConfigError
        If a weight is negative, or the statistics are needed and missing.
    UnknownNameError
        If a weight is of no task.
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, float] | None = None,
        config: LossConfig | None = None,
        statistics: LabelStatistics | None = None,
    ) -> None:
        self.config = LossConfig() if config is None else config
        self.weights = dict(weights or {})
        for name, weight in self.weights.items():
            if not task_named(name) or not 0 <= weight < float("inf"):
                raise ConfigError(f"The weight of task {name!r} must be a number of at least 0, got {weight}.")
        self._losses = TaskLosses(self.config, statistics)
        self._weighting = make_weighting(self.config)

    def prepare(self, joint: Sequence[str], device: torch.device) -> None:
        """Make what is learned along, for the joined tasks, on a device; anew if it is called again."""
        self._losses.to(device)
        self._weighting.prepare(joint, device)

    def parameters(self) -> Iterable[nn.Parameter]:
        """What is learned along, once it is prepared; not to be decayed, for 0 says as much as any other value."""
        return self._weighting.parameters()

    def end_epoch(self, task_losses: Mapping[str, float]) -> None:
        """Take note of an epoch's mean losses, each before its weight."""
        self._weighting.end_epoch(task_losses)

    def state(self) -> State:
        """What has been learned along, as plain numbers; waits for the device."""
        return self._weighting.state()

    def load_state(self, state: State) -> None:
        """Go on from a state of the same configuration and tasks; the parameters stay the same objects.

        Raises
        ------
        ConfigError
            If it is of others.
        """
        self._weighting.load_state(state)

    def __call__(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], valid: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each task's own loss before its weight (detached).

        Parameters
        ----------
        outputs, targets, valid
            Task -> tensor, as `TaskLosses` takes them; the tasks of `outputs` are the joined ones.
        """
        losses = {
            task: self._losses(task, outputs[task], targets[task], valid[task]) for task in TASKS if task in outputs
        }
        if not losses:
            raise ConfigError(f"No task to sum over: outputs are {sorted(outputs)}. Join some of {sorted(TASKS)}.")
        terms = self._weighting(losses)
        total = torch.stack([self.weights.get(task, 1.0) * term for task, term in terms.items()]).sum()
        return total, {task: loss.detach() for task, loss in losses.items()}
