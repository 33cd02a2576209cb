"""Time: a window of fused embeddings is read in order.

`LstmTemporal` is the ABAW7 winner's (Netease Fuxi): LeakyReLU(.1), then a two-layer one-way LSTM(D -> D);
9,449,472 parameters at D = 768.

A one-way model never looks ahead and padding lies at a window's end only, so padding cannot reach a valid row:
no lengths are packed. A model that looks both ways must be given the mask.
"""

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor, nn

from featurestore.errors import unknown_name

LEAK: Final = 0.1


class Temporal(nn.Module):
    """Interface: (B, S, D) -> (B, S, D)."""

    def forward(self, window: Tensor) -> Tensor:
        """Read a batch of windows."""
        raise NotImplementedError


class LstmTemporal(Temporal):
    """LeakyReLU, then a two-layer one-way LSTM.

    Parameters
    ----------
    dim
        D, width of input and state.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.activation = nn.LeakyReLU(LEAK)
        self.lstm = nn.LSTM(dim, dim, num_layers=2, batch_first=True)

    def forward(self, window: Tensor) -> Tensor:
        """Read a batch of windows."""
        states: Tensor = self.lstm(self.activation(window))[0]  # (B, S, D)
        return states


class NoTemporal(Temporal):
    """Each frame on its own.

    Parameters
    ----------
    dim
        D; nothing depends on it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, window: Tensor) -> Tensor:
        """Pass the window on."""
        return window


TEMPORALS: Final[Mapping[str, Callable[[int], Temporal]]] = {"lstm": LstmTemporal, "none": NoTemporal}
"""Name -> module of (dim)."""


def make_temporal(name: str, dim: int) -> Temporal:
    """The temporal module called `name`.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    if name not in TEMPORALS:
        raise unknown_name("temporal module", name, TEMPORALS)
    return TEMPORALS[name](dim)
