"""Fusion: the base embedding and the fused ones become one.

`SumFusion` is the ABAW7 winner's (Netease Fuxi): the element-wise sum, then Linear(D, D) -> ReLU -> Dropout(.3) ->
Linear(D, D); 1,181,184 parameters at D = 768. It alone needs embeddings of one width. Where nothing is fused each
module still works on the base alone, so that a search over what to fuse may hold the module fixed; and each but
``sum`` tells encoders apart, so that their order matters.

``late`` fuses predictions and has no module here: `HeadModel` gives each encoder a trunk of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from featurestore.errors import ConfigError, ShapeError

from .attention import AttentionLayer
from .config import HeadConfig


class Fusion(nn.Module):
    """Interface: embeddings, the base first, each (B, S, D_i) -> one (B, S, W).

    Attributes
    ----------
    out_width
        W.
    """

    out_width: int

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Fuse."""
        raise NotImplementedError


class NoFusion(Fusion):
    """The base embedding as it is; it takes no other.

    Parameters
    ----------
    width
        Of the base.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = width

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Pass the base on."""
        return embeddings[0]


class SumFusion(Fusion):
    """The element-wise sum, then a two-layer perceptron.

    Parameters
    ----------
    width
        D, the common width.
    dropout
        Within the perceptron.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.out_width = width
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width))

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Fuse."""
        total = embeddings[0]  # (B, S, D)
        for embedding in embeddings[1:]:
            total = total + embedding
        fused: Tensor = self.layers(total)
        return fused


class ConcatFusion(Fusion):
    """Side by side, as AIM3-RUC (ABAW4) has them; with a width a Linear and dropout then bring them to it.

    Parameters
    ----------
    widths
        Of each embedding.
    width
        W; None leaves the sum of the widths.
    dropout
        Behind the Linear.
    """

    def __init__(self, widths: Sequence[int], width: int | None, *, dropout: float) -> None:
        super().__init__()
        self.out_width = width or sum(widths)
        self.layers = nn.Sequential(nn.Linear(sum(widths), width), nn.Dropout(dropout)) if width else nn.Identity()

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Fuse."""
        fused: Tensor = self.layers(torch.cat(list(embeddings), dim=-1))
        return fused


class AffineFusion(Fusion):
    """Each embedding through its own Linear to one width, then their sum and dropout (HFUT-MAC1, ABAW7: 512 or 256).

    What becomes of the embeddings once they have one width is not published; the sum is this project's choice, since a
    Transformer reads what comes out at that width. It can compute what ``concat`` with a width computes, but starts
    otherwise: a narrow encoder weighs as much as a wide one.

    Parameters
    ----------
    widths
        Of each embedding.
    width
        W.
    dropout
        Of the sum.
    """

    def __init__(self, widths: Sequence[int], width: int, *, dropout: float) -> None:
        super().__init__()
        self.out_width = width
        self.affine = _affine(widths, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Fuse."""
        total: Tensor = self.dropout(torch.stack(_through(self.affine, embeddings)).sum(dim=0))
        return total


class GatedFusion(Fusion):
    """A weighted mean of the embeddings at one width, whose weights are computed of each row.

    One gate an encoder, by a softmax over encoders of a Linear of all embeddings; it starts at 0, so every encoder
    weighs the same at first. After Arevalo et al. (2017, arXiv:1702.01992), who gate each column by itself; a gate an
    encoder says of each frame how much it is listened to.

    Parameters
    ----------
    widths
        Of each embedding.
    width
        W.
    dropout
        Of the mean.
    """

    def __init__(self, widths: Sequence[int], width: int, *, dropout: float) -> None:
        super().__init__()
        self.out_width = width
        self.affine = _affine(widths, width)
        self.gate = nn.Linear(sum(widths), len(widths))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Fuse."""
        values = torch.stack(_through(self.affine, embeddings), dim=2)  # (B, S, n, W)
        fused: Tensor = self.dropout((values * self.gates(embeddings).unsqueeze(-1)).sum(dim=2))
        return fused

    def gates(self, embeddings: Sequence[Tensor]) -> Tensor:
        """How much each encoder counts in each row, shape (B, S, n), in [0, 1] and 1 in sum."""
        scores: Tensor = self.gate(torch.cat(list(embeddings), dim=-1))
        return scores.softmax(dim=-1)


class ResidualFusion(Fusion):
    """The base plus what a perceptron makes of the fused embeddings; it begins as the base itself.

    Linear to the base's width, ReLU, dropout, and a Linear that starts at 0. Where nothing is fused the perceptron
    reads the base.

    Parameters
    ----------
    widths
        Of each embedding.
    dropout
        Within the perceptron.
    """

    def __init__(self, widths: Sequence[int], *, dropout: float) -> None:
        super().__init__()
        width = self.out_width = widths[0]
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(sum(widths[1:]) or width, width), nn.ReLU(), nn.Dropout(dropout), last)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Fuse."""
        others = list(embeddings[1:] or embeddings)
        fused: Tensor = embeddings[0] + self.layers(torch.cat(others, dim=-1))
        return fused


class AttentionFusion(Fusion):
    """The base asks all encoders, itself among them: one attention layer over the encoders' embeddings of a row.

    Each embedding goes through its own Linear to one width, whose bias also tells the encoders apart.

    Parameters
    ----------
    widths
        Of each embedding.
    width
        W, a multiple of `heads`.
    heads, feedforward, dropout
        As of `AttentionLayer`.

    Raises
    ------
    ConfigError
        If the heads do not divide W.
    """

    def __init__(
        self, widths: Sequence[int], width: int, *, heads: int, feedforward: int | None, dropout: float
    ) -> None:
        super().__init__()
        self.out_width = width
        self.affine = _affine(widths, width)
        self.attention = AttentionLayer(width, heads=heads, feedforward=feedforward, dropout=dropout)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Fuse."""
        tokens = torch.stack(_through(self.affine, embeddings), dim=2)  # (B, S, n, W)
        rows = tokens.flatten(0, 1)
        fused: Tensor = self.attention(rows[:, :1], rows)  # (B * S, 1, W)
        return fused.reshape(*tokens.shape[:2], self.out_width)


def make_fusion(config: HeadConfig, widths: Sequence[int]) -> Fusion:
    """The fusion module that a config names.

    Parameters
    ----------
    config
        Its fusion, width, fusion_dropout and what attention needs.
    widths
        Columns of each embedding that is read, the base first.

    Raises
    ------
    ConfigError
        If the fusion is ``late``, which has no such module, or attention's heads do not divide the width.
    ShapeError
        If embeddings to be summed differ in width.
    """
    dropout = config.fusion_dropout
    width = config.width or widths[0]
    match config.resolved().fusion:
        case "none":
            return NoFusion(widths[0])
        case "sum":
            return SumFusion(_common(widths), dropout)
        case "concat":
            return ConcatFusion(widths, config.width, dropout=dropout)
        case "affine":
            return AffineFusion(widths, width, dropout=dropout)
        case "gated":
            return GatedFusion(widths, width, dropout=dropout)
        case "residual":
            return ResidualFusion(widths, dropout=dropout)
        case "attention":
            return AttentionFusion(
                widths, width, heads=config.attention_heads, feedforward=config.feedforward, dropout=dropout
            )
        case name:
            raise ConfigError(
                f"Fusion {name!r} joins the predictions of a trunk an encoder and has no module within a trunk "
                f"(encoders {', '.join(config.encoders)}). Build the whole HeadModel, or choose another fusion."
            )


def _common(widths: Sequence[int]) -> int:
    if len(set(widths)) > 1:
        raise ShapeError(
            f"A sum needs embeddings of equal widths, got {', '.join(map(str, widths))} columns, the base's first. "
            "Choose a fusion that takes any, such as affine or concat."
        )
    return widths[0]


def _affine(widths: Sequence[int], width: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(each, width) for each in widths)


def _through(affine: nn.ModuleList, embeddings: Sequence[Tensor]) -> list[Tensor]:
    """Each embedding through its own Linear, shape (B, S, W)."""
    return [linear(embedding) for linear, embedding in zip(affine, embeddings, strict=True)]
