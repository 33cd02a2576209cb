"""SCU's head (ABAW7): a query a label asks a frame's patch tokens.

Published: 289 tokens of DINOv2, 1536 wide, are brought to 128 columns by a 1-D convolution; 22 learnable queries of 128
(12 action units, 8 expressions, valence and arousal) go through task-adaptive blocks: self-attention over the
queries, which the first block skips, cross-attention to the tokens, feed-forward; an action-unit graph helps the others
(augraph.py). No code is public, and the rest is not published. The proposal here, each number a setting: 3 blocks of 8
heads, 512 columns of GELU, dropout .1, and a learned embedding of each query that is added wherever it is compared.
Proposed without a setting: the convolution looks at one token, so it is a Linear; norms stand before each part; dropout
is on what a part adds, not on attention weights, so that fused kernels apply and no weights are held in memory; the
graph's mean is added to the expressions', valence's and arousal's states after the last block; one linear a query.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.tasks import TASKS

from .augraph import AuGraph
from .config import HeadConfig
from .frameworks import Framework
from .inputs import Inputs
from .shapes import Shapes

_START_STD = 0.02
"""Of queries and their embeddings at the start, as usual for learned tokens."""


class Attention(nn.Module):
    """Multi-head attention.

    Parameters
    ----------
    width
        Columns of all that goes in and out.
    n_heads
        A divisor of it.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What the queries find.

        Parameters
        ----------
        queries : shape (N, Q, width)
        keys, values : shape (N, K, width)

        Returns
        -------
        shape (N, Q, width)
        """
        query, key, value = self.query(queries), self.key(keys), self.value(values)
        found = attend(*(self._by_head(each) for each in (query, key, value)))
        joined: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return joined

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.reshape(*rows.shape[:2], self.n_heads, -1).transpose(1, 2)  # (N, heads, rows, width / heads)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention, fused wherever it gives the same bits twice.

    Fused kernels on a GPU add up gradients in any order, and a seed would no longer decide a fit. There training
    writes the products out; 22 queries of 289 tokens keep that small: 208 MB for 1024 frames and 8 heads.

    Parameters
    ----------
    query : shape (N, heads, Q, C)
    key, value : shape (N, heads, K, C)

    Returns
    -------
    shape (N, heads, Q, C)
    """
    if torch.is_grad_enabled() and query.is_cuda:
        return attend_plainly(query, key, value)
    return functional.scaled_dot_product_attention(query, key, value)


def attend_plainly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What `attend` gives, product by product."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (N, heads, Q, K)
    found: Tensor = scores.softmax(dim=-1) @ value
    return found


class TaskBlock(nn.Module):
    """One task-adaptive block.

    Parameters
    ----------
    config
        `query_width`, `query_heads`, `query_feedforward` and `query_dropout` are read.
    is_first
        Whether there is no self-attention: before they have seen a token, queries have nothing to tell each other.
    """

    def __init__(self, config: HeadConfig, *, is_first: bool) -> None:
        super().__init__()
        width = config.query_width
        self.self_norm = None if is_first else nn.LayerNorm(width)
        self.self_attention = None if is_first else Attention(width, config.query_heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, config.query_heads)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.query_feedforward),
            nn.GELU(),
            nn.Dropout(config.query_dropout),
            nn.Linear(config.query_feedforward, width),
        )
        self.dropout = nn.Dropout(config.query_dropout)

    def forward(self, states: Tensor, tokens: Tensor, embedding: Tensor) -> Tensor:
        """The queries' states after the block.

        Parameters
        ----------
        states : shape (N, Q, width)
        tokens : shape (N, T, width)
        embedding : shape (Q, width)
            Added to the states where they are compared, not to what they say.
        """
        if self.self_attention is not None and self.self_norm is not None:
            normed = self.self_norm(states)
            placed = normed + embedding
            states = states + self.dropout(self.self_attention(placed, placed, normed))
        asking = self.cross_norm(states) + embedding
        states = states + self.dropout(self.cross_attention(asking, tokens, tokens))
        after: Tensor = states + self.dropout(self.feedforward(states))
        return after


class TaskQueries(Framework):
    """A query a label of the joined tasks, on the base encoder's patch tokens; each frame on its own.

    Parameters
    ----------
    config
        The head's.
    shapes
        Encoder -> (T, D).

    Attributes
    ----------
    n_queries
        12, 8, 1 and 1 of the joined among au, expr, v and a.
    graph
        Of the action units; None if they are not joined, nothing else is, or the config leaves it out.
    """

    def __init__(self, config: HeadConfig, shapes: Shapes) -> None:
        super().__init__()
        width = config.query_width
        self.joint = config.joint
        self._n_outputs = [TASKS[task].n_outputs for task in config.joint]
        self.n_queries = sum(self._n_outputs)
        self.inputs = Inputs(config, shapes)
        self.tokens = nn.Sequential(nn.Linear(self.inputs.widths[0], width), nn.LayerNorm(width))
        self.queries = nn.Parameter(_START_STD * torch.randn(self.n_queries, width))
        self.embedding = nn.Parameter(_START_STD * torch.randn(self.n_queries, width))
        self.blocks = nn.ModuleList([TaskBlock(config, is_first=number == 0) for number in range(config.blocks)])
        self.norm = nn.LayerNorm(width)
        has_graph = config.graph_layers > 0 and "au" in config.joint and len(config.joint) > 1
        self.graph = AuGraph(width, config.graph_layers) if has_graph else None
        self.weight = nn.Parameter(torch.empty(self.n_queries, width).uniform_(-1, 1) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(self.n_queries))

    def forward(
        self,
        embeddings: Sequence[Tensor],
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
        labels: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """Logits of each joined task, (B, S, n_outputs); padding is computed and means nothing."""
        (base,) = self.inputs(embeddings)  # (B, S, T, D)
        tokens = self.tokens(base.flatten(0, 1))  # (B * S, T, width)
        states = self.helped(self.asked(tokens))
        logits = ((states * self.weight).sum(dim=-1) + self.bias).reshape(*base.shape[:2], -1)  # (B, S, Q)
        return dict(zip(self.joint, torch.split(logits, self._n_outputs, dim=-1), strict=True))

    def asked(self, tokens: Tensor) -> Tensor:
        """The queries' states after all blocks, (N, T, width) -> (N, Q, width)."""
        states = self.queries.expand(tokens.shape[0], -1, -1)  # not len(): a trace would hold it as a number
        for block in self.blocks:
            states = block(states, tokens, self.embedding)
        normed: Tensor = self.norm(states)
        return normed

    def helped(self, states: Tensor) -> Tensor:
        """The states (N, Q, width), those of other tasks with what the action units' graph tells them."""
        if self.graph is None:
            return states
        n_units = TASKS["au"].n_outputs  # au comes first in task order
        units, others = states[:, :n_units], states[:, n_units:]
        return torch.cat([units, others + self.graph(units).unsqueeze(1)], dim=1)
