"""What a task puts out of its state.

The ABAW7 winner (Netease Fuxi) has one Linear a task. AIM3-RUC (ABAW4) has dropout, then Linear, ReLU and dropout for
each width of 512 and 256, then a Linear; what it feeds back of a task is the last of these layers. V and A go
through tanh in both here; AIM3's code leaves them unbounded, which the challenge's range does not ask for.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.tasks import task_named

from .config import HeadConfig


class TaskOutput(nn.Module):
    """One task's layers from its state to its logits.

    Parameters
    ----------
    task
        Its name.
    in_width
        H, columns of the state.
    config
        `hidden_layers` and `hidden_dropout` are read; a fit on many rows sets another dropout.
    """

    def __init__(self, task: str, in_width: int, config: HeadConfig) -> None:
        super().__init__()
        dropout = config.dropout_for(0)
        layers: list[nn.Module] = [nn.Dropout(dropout)] if config.hidden_layers else []
        width = in_width
        for each in config.hidden_layers:
            layers += [nn.Linear(width, each), nn.ReLU(), nn.Dropout(dropout)]
            width = each
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(width, task_named(task).n_outputs)

    def set_dropout(self, rate: float) -> None:
        """Replace the dropout of the hidden layers."""
        for layer in self.layers:
            if isinstance(layer, nn.Dropout):
                layer.p = rate

    @property
    def hidden_width(self) -> int:
        """Columns of the last hidden layer; the state's, if there is none."""
        return self.output.in_features

    def hidden(self, states: Tensor) -> Tensor:
        """The last hidden layer.

        Parameters
        ----------
        states : shape (B, S, H)

        Returns
        -------
        shape (B, S, hidden_width), after its ReLU and dropout; the states themselves, if there is no such layer.
        """
        last: Tensor = self.layers(states)
        return last

    def forward(self, states: Tensor) -> Tensor:
        """The task's logits, (B, S, H) -> (B, S, n_outputs); of ``v`` and ``a`` before tanh."""
        logits: Tensor = self.output(self.hidden(states))
        return logits


def read_outputs(outputs: Mapping[str, TaskOutput], states: Tensor) -> dict[str, Tensor]:
    """The logits of tasks that read one state (B, S, H); without hidden layers by one product over all of them.

    A linear head is bound by memory: read once a task, the states cost most of its step.
    """
    plain = all(not len(output.layers) for output in outputs.values())
    if not plain or len(outputs) < 2:
        return {task: output(states) for task, output in outputs.items()}
    linears = [output.output for output in outputs.values()]
    weight = torch.cat([linear.weight for linear in linears])
    bias = torch.cat([linear.bias for linear in linears])
    logits = functional.linear(states, weight, bias)
    sizes = [linear.out_features for linear in linears]
    return dict(zip(outputs, torch.split(logits, sizes, dim=-1), strict=True))


def in_range(logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Logits as a head puts them out: those of ``v`` and ``a`` through tanh, so in [-1, 1]; others as they are."""
    return {task: torch.tanh(values) if task in ("v", "a") else values for task, values in logits.items()}
