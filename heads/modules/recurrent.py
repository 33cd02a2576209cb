"""Recurrent networks over a window: LSTM and GRU, one way and both ways.

`LstmTemporal` is the ABAW7 winner's (Netease Fuxi): LeakyReLU(.1), then a two-layer one-way LSTM; 9,449,472
parameters at 768 columns. The LeakyReLU is his and stands before LSTMs only; the GRUs read as AIM3-RUC's (ABAW4) and
CPRL's (ABAW11) do.

A one-way network never sees what comes after a row, and padding comes at the end: it needs no mask. One that reads both
ways must begin its way back at the last valid row. Packed sequences do that, but they want the lengths on the host, so
that every batch would wait for the device, and an exported head cannot hold them. Here the rows of each window are
mirrored within its length, read forwards, and mirrored again: plain networks, the same numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from .sequence import State, Temporal

LEAK: Final = 0.1
LAYERS: Final = 2
"""Of each of these networks, unless the config says otherwise: the winner's LSTM, AIM3's GRU."""


class LstmTemporal(Temporal):
    """LeakyReLU, then a one-way LSTM.

    Parameters
    ----------
    in_width, width
        Columns of a row, and of the state.
    layers
        How many.
    dropout
        Between layers.
    """

    n_states = 2  # what it puts out, and its cell

    def __init__(self, in_width: int, width: int, *, layers: int | None, dropout: float) -> None:
        super().__init__()
        layers = layers or LAYERS
        self.out_width = width
        self.activation = nn.LeakyReLU(LEAK)
        self.lstm = nn.LSTM(in_width, width, layers, batch_first=True, dropout=_between(layers, dropout))

    def forward(self, window: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read a batch of windows."""
        with _readable(self.activation(window)) as rows:
            states: Tensor = self.lstm(rows)[0]  # (B, S, H)
        return states

    def step(self, window: Tensor, state: State | None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Read on."""
        with _readable(self.activation(window)) as rows:
            before = None if state is None else (state[0].to(rows.dtype), state[1].to(rows.dtype))
            states, (hidden, cell) = self.lstm(rows, before)
        return states, (hidden.detach(), cell.detach())


class GruTemporal(Temporal):
    """A one-way GRU.

    Parameters
    ----------
    in_width, width, layers, dropout
        As of `LstmTemporal`.
    """

    n_states = 1

    def __init__(self, in_width: int, width: int, *, layers: int | None, dropout: float) -> None:
        super().__init__()
        layers = layers or LAYERS
        self.out_width = width
        self.gru = nn.GRU(in_width, width, layers, batch_first=True, dropout=_between(layers, dropout))

    def forward(self, window: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read a batch of windows."""
        with _readable(window) as rows:
            states: Tensor = self.gru(rows)[0]  # (B, S, H)
        return states

    def step(self, window: Tensor, state: State | None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Read on."""
        with _readable(window) as rows:
            states, hidden = self.gru(rows, None if state is None else state[0].to(rows.dtype))
        return states, (hidden.detach(),)


class BothWays(Temporal):
    """An LSTM or a GRU that reads both ways, layer by layer.

    Parameters
    ----------
    kind
        ``"lstm"`` or ``"gru"``.
    in_width, width
        Columns of a row, and of the state of each direction.
    layers
        How many.
    dropout
        Between layers.
    """

    def __init__(self, kind: str, in_width: int, *, width: int, layers: int | None, dropout: float) -> None:
        super().__init__()
        self.out_width = 2 * width
        widths = [in_width] + [2 * width] * ((layers or LAYERS) - 1)
        cell = nn.LSTM if kind == "lstm" else nn.GRU
        self.activation = nn.LeakyReLU(LEAK) if kind == "lstm" else nn.Identity()
        self.forwards = nn.ModuleList(cell(each, width, batch_first=True) for each in widths)
        self.backwards = nn.ModuleList(cell(each, width, batch_first=True) for each in widths)
        self.dropout = nn.Dropout(dropout)

    def forward(self, window: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read a batch of windows."""
        order = None if mask is None else mirror_order(mask)
        with _readable(self.activation(window)) as states:
            for number, (there, back) in enumerate(zip(self.forwards, self.backwards, strict=True)):
                rows = self.dropout(states) if number else states
                backwards = mirrored(back(mirrored(rows, order))[0], order)
                states = torch.cat([there(rows)[0], backwards], dim=-1)  # (B, S, 2 H)
        return states


@contextmanager
def _readable(window: Tensor) -> Iterator[Tensor]:
    """A window as a network can read it: on a CPU in float32, whose bfloat16 LSTM few processors have."""
    if window.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            yield window.float()
    else:
        yield window


def mirror_order(mask: Tensor) -> Tensor:
    """Where each row of a batch stands once the valid rows of every window are turned round; padding stays.

    Parameters
    ----------
    mask : shape (B, S), bool

    Returns
    -------
    shape (B * S,), int64, rows of the flattened batch; it is its own inverse.
    """
    n_windows, length = mask.shape
    places = torch.arange(length, device=mask.device)
    valid = mask.sum(dim=1, keepdim=True)  # (B, 1)
    within = torch.where(places < valid, valid - 1 - places, places)  # (B, S)
    firsts = length * torch.arange(n_windows, device=mask.device)
    return (within + firsts[:, None]).flatten()


def mirrored(window: Tensor, order: Tensor | None) -> Tensor:
    """The rows of each window turned round, shape (B, S, D); all of them if there is no order."""
    if order is None:
        return window.flip(1)
    return window.flatten(0, 1).index_select(0, order).reshape(window.shape)


def _between(layers: int, dropout: float) -> float:
    """There is nothing between the layers where there is one; torch warns of it."""
    return dropout if layers > 1 else 0.0
