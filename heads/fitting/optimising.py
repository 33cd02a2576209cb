"""AdamW with its rate over time, and the moving average of the weights."""

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from heads.modules.model import HeadModel

from .config import FitConfig


class Optimizer:
    """AdamW that clips gradients and follows a schedule, one step a batch.

    Parameters
    ----------
    parameters
        What is fitted.
    training
        Rate, schedule, decay, clipping.
    n_steps
        How many steps an epoch has.
    n_epochs
        How many epochs the schedule of the rate covers.
    undecayed
        What is fitted along without weight decay, such as the losses' variances.

    Attributes
    ----------
    rate
        Of the step taken last.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        training: FitConfig,
        *,
        n_steps: int,
        n_epochs: int,
        undecayed: Iterable[Tensor] = (),
    ) -> None:
        decayed, spared = list(parameters), list(undecayed)
        self._parameters = [*decayed, *spared]
        groups: list[dict[str, object]] = [{"params": decayed}]
        if spared:
            groups.append({"params": spared, "weight_decay": 0.0})
        self._training, self._n_steps, self._n_epochs = training, max(1, n_steps), n_epochs
        self._taken = 0
        self.rate = 0.0
        # One kernel for all parameters; weight by weight the step costs as much as the LSTM on a CPU.
        self._adamw = torch.optim.AdamW(
            groups,
            lr=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
            fused=True,
        )

    def step(self, loss: Tensor) -> None:
        """Go down the gradient of a loss."""
        self._adamw.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._parameters, self._training.gradient_clip)
        self.rate = self._training.learning_rate * self._share()
        for group in self._adamw.param_groups:
            group["lr"] = self.rate
        self._adamw.step()
        self._taken += 1

    def _share(self) -> float:
        """Of the highest rate, for the step to come."""
        warmup = self._training.warmup_epochs * self._n_steps
        if self._taken < warmup:
            return (self._taken + 1) / warmup
        rest = max(1.0, self._n_epochs * self._n_steps - warmup)
        done = min(1.0, (self._taken - warmup) / rest)
        match self._training.schedule:
            case "linear":
                return 1 - done
            case "cosine":
                return (1 + math.cos(math.pi * done)) / 2
            case _:
                return 1.0


class WeightAverage:
    """An exponential moving average of a module's weights.

    Parameters
    ----------
    model
        The module; its copy here starts as it is.
    decay
        How much of the average each step keeps, in (0, 1). The first steps keep less, so that the start is forgotten.
    """

    def __init__(self, model: HeadModel, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay, self._taken = decay, 0

    def update(self, model: HeadModel) -> None:
        """Take in the weights after a step."""
        self._taken += 1
        decay = min(self._decay, self._taken / (self._taken + 10))
        mine = [each.detach() for each in self.model.parameters()]
        theirs = [each.detach() for each in model.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for buffer, other in zip(self.model.buffers(), model.buffers(), strict=True):
            buffer.copy_(other)
