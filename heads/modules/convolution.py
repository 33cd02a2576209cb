"""A temporal convolutional network: dilated residual 1-D convolutions over a window.

After Bai, Kolter and Koltun (2018, arXiv:1803.01271), but centred where theirs is causal: windows are read when all
their rows are there, and the rows after a frame tell as much of it as those before. With 4 blocks of two convolutions
of 3 rows, dilated by 1, 2, 4 and 8, a row sees 30 rows to each side. Normalised per row (LayerNorm, first in each
block) and not over the batch, so that no row depends on which windows it came with.

What stands in padded rows is set to 0 before every convolution, which is what it finds past a window's end anyway.
"""

from typing import Final

from torch import Tensor, nn

from .sequence import Temporal

LAYERS: Final = 4
KERNEL_ROWS: Final = 3


class ConvolutionTemporal(Temporal):
    """A Linear to the state's width, residual blocks whose dilation doubles, a LayerNorm.

    Parameters
    ----------
    in_width, width
        Columns of a row, and of the state; where they are equal there is no Linear.
    layers
        Blocks.
    dropout
        Within and after each block.
    """

    def __init__(self, in_width: int, width: int, *, layers: int | None, dropout: float) -> None:
        super().__init__()
        self.out_width = width
        self.start = nn.Linear(in_width, width) if in_width != width else nn.Identity()
        self.blocks = nn.ModuleList(_Block(width, 2**number, dropout) for number in range(layers or LAYERS))
        self.norm = nn.LayerNorm(width)

    def forward(self, window: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read a batch of windows."""
        states: Tensor = self.start(window)  # (B, S, H)
        padding = None if mask is None else ~mask.unsqueeze(1)  # (B, 1, S)
        for block in self.blocks:
            states = block(states, padding)
        normed: Tensor = self.norm(states)
        return normed


class _Block(nn.Module):
    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        around = dilation * (KERNEL_ROWS - 1) // 2
        self.norm = nn.LayerNorm(width)
        self.first = nn.Conv1d(width, width, KERNEL_ROWS, padding=around, dilation=dilation)
        self.second = nn.Conv1d(width, width, KERNEL_ROWS, padding=around, dilation=dilation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, padding: Tensor | None) -> Tensor:
        inner = self.first(_emptied(self.norm(states).transpose(1, 2), padding))  # (B, H, S)
        inner = self.second(_emptied(self.dropout(inner.relu()), padding))
        added: Tensor = states + self.dropout(inner).transpose(1, 2)
        return added


def _emptied(states: Tensor, padding: Tensor | None) -> Tensor:
    """0 where there is padding, shape (B, H, S)."""
    return states if padding is None else states.masked_fill(padding, 0.0)
