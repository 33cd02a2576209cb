"""Fusion: the base embedding and the fused ones become one.

`SumFusion` is the ABAW7 winner's (Netease Fuxi): the element-wise sum, then
Linear(D, D) -> ReLU -> Dropout(.3) -> Linear(D, D); 1,181,184 parameters at D = 768.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from torch import Tensor, nn

from featurestore.errors import ConfigError, unknown_name

DROPOUT: Final = 0.3


class Fusion(nn.Module):
    """Interface: embeddings, the base first, each (B, S, D) -> one (B, S, D)."""

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Fuse."""
        raise NotImplementedError


class SumFusion(Fusion):
    """Sum, then a two-layer perceptron.

    Parameters
    ----------
    dim
        D, the common width.
    n_inputs
        How many embeddings come, the base included.
    """

    def __init__(self, dim: int, n_inputs: int) -> None:
        super().__init__()
        self.n_inputs = n_inputs
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(dim, dim))

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Fuse."""
        total = embeddings[0]  # (B, S, D)
        for embedding in embeddings[1:]:
            total = total + embedding
        fused: Tensor = self.layers(total)
        return fused


class NoFusion(Fusion):
    """The base embedding as it is; it takes no other.

    Parameters
    ----------
    dim
        D.
    n_inputs
        Must be 1.
    """

    def __init__(self, dim: int, n_inputs: int) -> None:
        super().__init__()
        if n_inputs != 1:
            raise ConfigError(
                f"Fusion 'none' takes the base embedding alone, got {n_inputs} embeddings. "
                "Choose fusion 'sum', or fuse nothing."
            )

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Pass the base on."""
        return embeddings[0]


FUSIONS: Final[Mapping[str, Callable[[int, int], Fusion]]] = {"sum": SumFusion, "none": NoFusion}
"""Name -> module of (dim, n_inputs)."""


def make_fusion(name: str, dim: int, *, n_inputs: int) -> Fusion:
    """The fusion module called `name`.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    if name not in FUSIONS:
        raise unknown_name("fusion", name, FUSIONS)
    return FUSIONS[name](dim, n_inputs)
