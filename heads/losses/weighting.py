"""How the joined tasks' losses are weighed against each other.

``fixed``
    By the weights that were asked for alone; the ABAW7 winner's (Netease Fuxi).
``normalised``
    Each divided by its own value, as AIM3-RUC (ABAW4) do it: the tasks then pull equally, however large their losses.
``uncertainty``
    By a learned variance each (Kendall, Gal and Cipolla, 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses
    for Scene Geometry and Semantics"): with s = log sigma^2, a regression costs exp(-s) L / 2 + s / 2 and a
    classification exp(-s) L + s / 2.
``dwa``
    By how fast each falls (Liu, Johns and Davison, 2019, "End-to-End Multi-Task Learning with Attention", dynamic
    weight average): the softmax, with a temperature, over the ratios of the last two epochs' losses, times the number
    of tasks. All weigh 1 in the first two epochs.

The weights that were asked for stand before all of this: what comes out here is multiplied by them.

What a weighting has learned is its `state`, plain numbers, and a weighting that was given it goes on as the one that
it was taken from: fine-tuning is killed and continued bit for bit.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from featurestore.errors import ConfigError, unknown_name

from .config import LossConfig

LEAST_LOSS: Final = 1e-8
"""What a loss is divided by at least; a batch without labels of a task costs 0, not NaN."""

State = Mapping[str, Sequence[Mapping[str, float]]]
"""Of a weighting: name -> rows of task -> number."""


class Weighting(Protocol):
    """Interface: losses -> what they weigh in."""

    def prepare(self, tasks: Sequence[str], device: torch.device) -> None:
        """Make what is learned, for these tasks."""

    def __call__(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Task -> its term of the total, of task -> loss; both scalar."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """What is learned by gradient."""
        ...

    def end_epoch(self, task_losses: Mapping[str, float]) -> None:
        """Take note of an epoch's mean losses."""

    def state(self) -> State:
        """What has been learned; waits for the device."""
        ...

    def load_state(self, state: State) -> None:
        """Go on from a state, in place."""
        ...


class Fixed:
    """Every loss as it is."""

    def prepare(self, tasks: Sequence[str], device: torch.device) -> None:
        """Nothing is learned."""

    def __call__(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The same."""
        return losses

    def parameters(self) -> Iterable[nn.Parameter]:
        """None."""
        return ()

    def end_epoch(self, task_losses: Mapping[str, float]) -> None:
        """Nothing is taken note of."""

    def state(self) -> State:
        """Empty."""
        return {}

    def load_state(self, state: State) -> None:
        """Nothing to go on from."""
        _check_state("fixed or normalised", state, {})


class Normalised(Fixed):
    """Every loss divided by its own value, which no gradient goes through."""

    def __call__(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Terms of value 1, 0 where a loss is 0."""
        return {task: loss / loss.detach().clamp(min=LEAST_LOSS) for task, loss in losses.items()}


class Uncertainty:
    """Learned variances, which start at 1."""

    def __init__(self) -> None:
        self._log_variances: dict[str, nn.Parameter] = {}

    def prepare(self, tasks: Sequence[str], device: torch.device) -> None:
        """One variance a task."""
        self._log_variances = {task: nn.Parameter(torch.zeros((), device=device)) for task in tasks}

    def __call__(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Kendall's terms; a batch that says nothing of a task leaves its variance alone."""
        return {task: self._term(task, loss) for task, loss in losses.items()}

    def _term(self, task: str, loss: Tensor) -> Tensor:
        if task not in self._log_variances:
            raise _not_prepared("uncertainty", task)
        log_variance = self._log_variances[task]
        half = 0.5 if task in ("v", "a") else 1.0
        # Without valid labels the loss is 0, and the second term would drive the variance to 0 for no reason.
        return half * torch.exp(-log_variance) * loss + 0.5 * log_variance * (loss.detach() != 0)

    def parameters(self) -> Iterable[nn.Parameter]:
        """The logarithms of the variances."""
        return tuple(self._log_variances.values())

    def end_epoch(self, task_losses: Mapping[str, float]) -> None:
        """Nothing: they are learned step by step."""

    def state(self) -> State:
        """The variances' logarithms."""
        return {"log_variances": [{task: float(each.detach()) for task, each in self._log_variances.items()}]}

    def load_state(self, state: State) -> None:
        """Go on from these."""
        _check_state("uncertainty", state, self.state())
        with torch.no_grad():
            for task, value in state["log_variances"][0].items():
                self._log_variances[task].fill_(value)


class DynamicAverage:
    """By the ratio of the last two epochs' losses."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._tasks: tuple[str, ...] = ()
        self._last: list[dict[str, float]] = []
        self.weights: dict[str, float] = {}

    def prepare(self, tasks: Sequence[str], device: torch.device) -> None:
        """All weigh 1."""
        self._tasks, self._last = tuple(tasks), []
        self._weigh()

    def __call__(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Each loss times its weight of this epoch."""
        for task in losses:
            if task not in self.weights:
                raise _not_prepared("dwa", task)
        return {task: self.weights[task] * loss for task, loss in losses.items()}

    def parameters(self) -> Iterable[nn.Parameter]:
        """None."""
        return ()

    def end_epoch(self, task_losses: Mapping[str, float]) -> None:
        """Weigh the next epoch by this one and the one before."""
        self._last = [*self._last[-1:], {task: float(task_losses[task]) for task in self._tasks}]
        self._weigh()

    def state(self) -> State:
        """The mean losses of the last two epochs."""
        return {"losses": [dict(row) for row in self._last]}

    def load_state(self, state: State) -> None:
        """Go on from these."""
        _check_state("dwa", state, {"losses": [dict.fromkeys(self._tasks, 0.0)] * len(state.get("losses", ()))})
        self._last = [dict(row) for row in state["losses"]]
        self._weigh()

    def _weigh(self) -> None:
        ratios = [0.0] * len(self._tasks)
        if len(self._last) == 2:
            before, now = self._last
            ratios = [now[task] / before[task] if before[task] > 0 else 1.0 for task in self._tasks]
        highest = max(ratios, default=0.0)  # taken off first: a loss that was tiny makes a ratio that exp cannot hold
        shares = [math.exp((ratio - highest) / self._temperature) for ratio in ratios]
        self.weights = {
            task: len(shares) * share / sum(shares) for task, share in zip(self._tasks, shares, strict=True)
        }


def make_weighting(config: LossConfig) -> Weighting:
    """The weighting that a config names.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    makers: dict[str, Callable[[], Weighting]] = {
        "fixed": Fixed,
        "normalised": Normalised,
        "uncertainty": Uncertainty,
        "dwa": lambda: DynamicAverage(config.dwa_temperature),
    }
    if config.weighting not in makers:
        raise unknown_name("weighting", config.weighting, makers)
    return makers[config.weighting]()


def _not_prepared(name: str, task: str) -> ConfigError:
    return ConfigError(
        f"The {name} weighting keeps something for each task, but task {task!r} was not among those that it was "
        "prepared for. Call `prepare` with every joined task first."
    )


def _check_state(name: str, state: State, like: State) -> None:
    """Refuse a state of another weighting or of other tasks."""

    def shape(of: State) -> dict[str, list[list[str]]]:
        return {key: [sorted(row) for row in rows] for key, rows in of.items()}

    if shape(state) != shape(like):
        raise ConfigError(
            f"The {name} weighting cannot go on from this state: expected {shape(like)}, got {shape(state)}. "
            "Continue with the loss and the tasks that it began with."
        )
