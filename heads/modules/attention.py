"""Attention: the layer that a Transformer repeats, and that fusion asks other encoders with.

Layers are post-norm, as Vaswani et al. (2017) and both systems here have them: AIM3-RUC (ABAW4: Linear(D, H) and
sinusoidal positions, then 4 layers of H 1024, feed-forward 2048, 16 heads, dropout .3) and the Transformer in the code
of the ABAW7 winner (2 layers, 4 heads, no positions).

The products are written out rather than left to torch's fused attention: its backward pass on a GPU does not give the
same bits twice, and at the lengths of these windows the scores are small.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from featurestore.errors import ConfigError

from .sequence import Temporal

LAYERS: Final = 2
_LONGEST_WAVE: Final = 10_000.0


class AttentionLayer(nn.Module):
    """Queries attend to keys, then pass a feed-forward part; each adds to what came and is normalised.

    Parameters
    ----------
    width
        W, columns of queries and keys; a multiple of `heads`.
    heads
        How many.
    feedforward
        Columns within the feed-forward part; None is 2 W.
    dropout
        Of attention weights, within the feed-forward part, and of what each part adds.

    Raises
    ------
    ConfigError
        If the heads do not divide W.
    """

    def __init__(self, width: int, *, heads: int, feedforward: int | None, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"Attention of {heads} heads needs a width that is a multiple of {heads}, got {width} columns. "
                "Choose another number of attention heads, or set the width (in fusion width, in time temporal_width)."
            )
        self.heads, self.scale = heads, 1 / math.sqrt(width // heads)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        inner = feedforward or 2 * width
        self.feedforward = nn.Sequential(
            nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, width), nn.Dropout(dropout)
        )
        self.dropout = nn.Dropout(dropout)
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, queries: Tensor, keys: Tensor, known: Tensor | None = None) -> Tensor:
        """Attend.

        Parameters
        ----------
        queries : shape (N, Q, W)
        keys : shape (N, K, W)
            They are the values, too; the queries themselves for self-attention.
        known : shape (N, K), bool
            Which keys may be attended to; at least one of each N, or nothing is defined.

        Returns
        -------
        shape (N, Q, W).
        """
        key, value = (self._split(each) for each in self.key_value(keys).chunk(2, dim=-1))  # (N, heads, K, W / heads)
        scores = self._split(self.query(queries)) @ key.transpose(2, 3) * self.scale  # (N, heads, Q, K)
        if known is not None:
            scores = scores.masked_fill(~known[:, None, None, :], -math.inf)
        attended = self.dropout(scores.softmax(dim=-1)) @ value
        states = self.attention_norm(queries + self.dropout(self.out(attended.transpose(1, 2).flatten(2))))
        normed: Tensor = self.feedforward_norm(states + self.feedforward(states))
        return normed

    def _split(self, states: Tensor) -> Tensor:
        """(N, L, W) -> (N, heads, L, W / heads)."""
        return states.reshape(*states.shape[:2], self.heads, -1).transpose(1, 2)


class TransformerTemporal(Temporal):
    """A Linear to the state's width, positions if asked for, then self-attention layers over the rows of a window.

    Parameters
    ----------
    in_width, width
        Columns of a row, and of the state; where they are equal there is no Linear.
    layers
        How many.
    heads, feedforward, dropout
        As of `AttentionLayer`; the dropout is also that of the rows with their positions.
    positions
        Whether each row is told its place in the window, by sinusoids; without, the order of rows does not matter.

    Raises
    ------
    ConfigError
        If the heads do not divide the width.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        layers: int | None,
        heads: int,
        feedforward: int | None,
        dropout: float,
        positions: bool,
    ) -> None:
        super().__init__()
        self.out_width = width
        self.start = nn.Linear(in_width, width) if in_width != width else nn.Identity()
        self.positions = positions
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            AttentionLayer(width, heads=heads, feedforward=feedforward, dropout=dropout)
            for _ in range(layers or LAYERS)
        )

    def forward(self, window: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read a batch of windows."""
        states: Tensor = self.start(window)  # (B, S, H)
        if self.positions:
            states = states + sinusoids(states.shape[1], states.shape[2], device=states.device)
        states = self.dropout(states)
        # Where all is padding anything may be attended to: over no key at all the softmax would be NaN.
        known = None if mask is None else mask | ~mask.any(dim=1, keepdim=True)
        for layer in self.layers:
            states = layer(states, states, known)
        return states


def sinusoids(length: int, width: int, *, device: torch.device) -> Tensor:
    """Places 0 .. length - 1 as sine (even columns) and cosine (odd ones) of waves of 2 pi to 10,000 * 2 pi rows.

    Returns
    -------
    shape (length, width), float32 in [-1, 1].

    References
    ----------
    Vaswani et al. (2017), Attention is all you need, 3.5.
    """
    exponents = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    angles = torch.arange(length, device=device)[:, None] * torch.exp(-math.log(_LONGEST_WAVE) * exponents)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
