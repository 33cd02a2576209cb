"""How action units go together, and what a face that shows them says of expression and affect.

SCU (ABAW7) passes its action units' queries through a graph convolution (Kipf & Welling, ICLR 2017) over their
co-occurrence and lets the result help expressions, valence and arousal; neither adjacency nor depth is published. The
proposal here: A_ij = P(AU_j | AU_i), counted over the rows that are learned from and never over rows that judge, plus
the identity, each row brought to sum 1; two layers of the queries' width, ReLU between them; the mean over the
units is what the other queries are given.
"""

import numpy as np
import torch
from torch import Tensor, nn

from featurestore.errors import ShapeError
from featurestore.labels import ACTION_UNITS
from heads.arrays import Float64Array, IntArray
from heads.features.targets import Targets

N_UNITS = len(ACTION_UNITS)


def co_occurrence(targets: Targets, rows: IntArray) -> Float64Array:
    """How often one action unit is active where another is.

    Parameters
    ----------
    targets
        Labels of all frames.
    rows : shape (n_rows,)
        The rows that are counted: those that a head learns from.

    Returns
    -------
    shape (12, 12), float64 in [0, 1]: P(AU_j | AU_i) over the rows where AU_i is active and AU_j is labelled, 0 where
    there is none. The diagonal is 0: that a unit goes with itself says nothing, and `AuGraph` adds the identity.
    """
    known = targets.valid_action_units[rows]
    active = ((targets.action_units[rows] > 0.5) & known).astype(np.float64)  # (n_rows, 12)
    both, counted = active.T @ active, active.T @ known.astype(np.float64)  # (12, 12)
    shares: Float64Array = np.divide(both, counted, out=np.zeros_like(both), where=counted > 0)
    np.fill_diagonal(shares, 0.0)
    return shares


class AuGraph(nn.Module):
    """Graph convolutions over the action units' states, and their mean.

    Until `set_co_occurrence` is called every unit stands alone: the adjacency is the identity.

    Parameters
    ----------
    width
        Columns of a state, and of every layer.
    n_layers
        Layers, at least 1.
    """

    adjacency: Tensor

    def __init__(self, width: int, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(n_layers)])
        self.register_buffer("adjacency", torch.eye(N_UNITS))

    def set_co_occurrence(self, shares: Float64Array) -> None:
        """Make the adjacency: shares plus identity, each row brought to sum 1.

        Parameters
        ----------
        shares : shape (12, 12), in [0, 1]
            As `co_occurrence` counts them.

        Raises
        ------
        ShapeError
            If they are not of twelve units.
        """
        if shares.shape != (N_UNITS, N_UNITS):
            raise ShapeError(
                f"Shares of co-occurrence must have shape {(N_UNITS, N_UNITS)}, got {shares.shape}. Count them with "
                "co_occurrence."
            )
        with_self = shares + np.eye(N_UNITS)
        self.adjacency.copy_(torch.from_numpy(with_self / with_self.sum(axis=1, keepdims=True)))

    def forward(self, units: Tensor) -> Tensor:
        """Pass states along the graph.

        Parameters
        ----------
        units : shape (N, 12, width)
            States of the action units' queries of N frames.

        Returns
        -------
        shape (N, width), the mean over the units.
        """
        for number, layer in enumerate(self.layers):
            units = layer(self.adjacency.to(units.dtype) @ units)
            if number + 1 < len(self.layers):
                units = torch.relu(units)
        return units.mean(dim=1)
