"""What a task puts out of its state.

The ABAW7 winner (Netease Fuxi) has one Linear a task. AIM3-RUC (ABAW4) has dropout, then Linear, ReLU and dropout for
each width of 512 and 256, then a Linear; what it feeds back of a task is the last of these layers. V and A go
through tanh in both here; AIM3's code leaves them unbounded, which the challenge's range does not ask for. The default
head's action units are the mean of hidden layers and of one Linear that reads the frame alone.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.tasks import task_named

from .config import HeadConfig

_LINEAR_SCALE = 4.0
"""Factor of the linear path's layer, which starts at 0. Adam moves a weight by about the learning rate a step, whatever
its scale, so the layer learns four times as fast: one layer has to keep up with two, or patience ends the fit before it
has converged (F1 on 600 rows of the true state with 1, 2, 4 and 8: .812, .848, .847, .849)."""


class TaskOutput(nn.Module):
    """One task's layers from its state to its logits.

    Parameters
    ----------
    task
        Its name.
    in_width
        H, columns of the state.
    config
        `hidden_layers`, `hidden_dropout` and `au_linear_share` are read; a fit on many rows sets another dropout.
    linear_columns
        Columns of the state that the linear path reads.

    Attributes
    ----------
    linear
        The action units' linear path beside the hidden layers, before its scale; None for other tasks, and where its
        share is 0.
    linear_centre : shape (read_width,)
        What is taken off its columns first, 0 until `centre` is called.
    """

    linear_centre: Tensor

    def __init__(self, task: str, in_width: int, config: HeadConfig, *, linear_columns: slice = slice(None)) -> None:
        super().__init__()
        dropout = config.dropout_for(0)
        layers: list[nn.Module] = [nn.Dropout(dropout)] if config.hidden_layers else []
        width = in_width
        for each in config.hidden_layers:
            layers += [nn.Linear(width, each), nn.ReLU(), nn.Dropout(dropout)]
            width = each
        self.layers = nn.Sequential(*layers)
        n_outputs = task_named(task).n_outputs
        self.output = nn.Linear(width, n_outputs)
        self._linear_share = config.au_linear_share if task == "au" and config.hidden_layers else 0.0
        self._linear_columns = linear_columns
        read_width = len(range(in_width)[linear_columns])
        self.linear = nn.Linear(read_width, n_outputs) if self._linear_share else None
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
            self.register_buffer("linear_centre", torch.zeros(read_width))

    def centre(self, mean: Tensor) -> None:
        """Take this off the columns of the linear path from now on: their mean, shape (read_width,).

        Adam moves each weight as far as the bias. A mean that is not 0 therefore lets all weights together learn how
        frequent a label is, many times faster than the bias does, along a direction that says nothing of another
        person (LeCun et al., 1998, "Efficient BackProp"). F1 of unseen people on 200 rows of pixels, which are
        normalised by all rows that are learned from, is .48, and .54 when centred on those with action units.
        """
        self.linear_centre.copy_(mean)

    def set_dropout(self, rate: float) -> None:
        """Replace the dropout of the hidden layers."""
        for layer in self.layers:
            if isinstance(layer, nn.Dropout):
                layer.p = rate

    @property
    def hidden_width(self) -> int:
        """Columns of the last hidden layer; the state's, if there is none."""
        return self.output.in_features

    def read(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The task's logits and the last hidden layer.

        Parameters
        ----------
        states : shape (B, S, H)

        Returns
        -------
        logits : shape (B, S, n_outputs)
            Of ``v`` and ``a`` before tanh.
        hidden : shape (B, S, hidden_width)
            After its ReLU and dropout; the states themselves, if there is no such layer.
        """
        hidden: Tensor = self.layers(states)
        logits: Tensor = self.output(hidden)
        if self.linear is not None:
            read = states[..., self._linear_columns] - self.linear_centre
            logits = self._mixed(_LINEAR_SCALE * self.linear(read), logits)
        return logits, hidden

    def forward(self, states: Tensor) -> Tensor:
        """The task's logits, (B, S, H) -> (B, S, n_outputs); of ``v`` and ``a`` before tanh."""
        return self.read(states)[0]

    def _mixed(self, linear: Tensor, nonlinear: Tensor) -> Tensor:
        """The weighted mean of both paths' logits; in training one of the two, drawn for each row."""
        if not self.training:
            return self._linear_share * linear + (1 - self._linear_share) * nonlinear
        is_linear = torch.rand(linear.shape[:-1], device=linear.device) < self._linear_share
        return torch.where(is_linear.unsqueeze(-1), linear, nonlinear)


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
