"""What every head begins with: inputs -> fusion -> gaps in time -> temporal, one state a row.

The ABAW7 winner's head (Netease Fuxi) is a `Trunk` and one Linear a task; the frameworks of multi-task learning
(frameworks.py) put other things on it, or several trunks side by side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from featurestore.errors import ConfigError

from .config import HeadConfig
from .fusion import make_fusion
from .inputs import Inputs
from .sequence import State
from .shapes import Shapes
from .temporal import make_temporal


class Trunk(nn.Module):
    """Embeddings of a window -> a state a row.

    Parameters
    ----------
    config
        Its inputs, fusion, gap input and temporal module; what stands behind these is not read. Fusion ``late``
        has a trunk an encoder: give each its own encoder, ``fuse=()`` and fusion ``none``.
    shapes
        Encoder -> (D,), of at least the config's encoders.

    Attributes
    ----------
    inputs, fusion, temporal
        The parts, in their order.
    fused_width
        Columns of the fused embedding.
    temporal_width
        H, columns of the temporal module's state in one direction.
    out_width
        Columns of what `forward` gives: H, twice that where the last temporal module reads both ways; with `skip` the
        fused embedding's besides.
    frame_columns
        Which of these columns hold the fused embedding of the frame itself; without `skip` all of them.
    shows_inputs
        Whether those columns are the inputs of the frame, with nothing learned between.

    Raises
    ------
    ConfigError, ShapeError
        If the widths of the embeddings do not fit the parts.
    """

    def __init__(self, config: HeadConfig, shapes: Shapes) -> None:
        super().__init__()
        config = config.resolved()
        self.inputs = Inputs(config, shapes)
        self.fusion = make_fusion(config, self.inputs.widths)
        self.fused_width = self.fusion.out_width
        self.gap = GapInput(self.fused_width) if config.gap_input else None
        self.dropout = nn.Dropout(config.input_dropout)
        self.temporal = make_temporal(config, self.fused_width)
        self._is_temporal = config.temporal != "none"
        self.temporal_width = (self._is_temporal and config.temporal_width) or self.fused_width
        self._skips = config.skip and self._is_temporal
        self._state_dropout = config.state_dropout
        self.out_width = self.temporal.out_width + (self.fused_width if self._skips else 0)
        self.frame_columns = slice(self.out_width - self.fused_width if self._skips else 0, self.out_width)
        self.shows_inputs = config.fuses_as_is and (self._skips or not self._is_temporal)

    def forward(
        self, embeddings: Sequence[Tensor], *, mask: Tensor | None = None, gaps: Tensor | None = None
    ) -> Tensor:
        """A state a row, shape (B, S, out_width).

        Parameters
        ----------
        embeddings : each shape (B, S, D)
            The base first, then the fused ones in the config's order.
        mask : shape (B, S), bool
            False is padding, at a window's end only: it changes nothing in the rows before it, and what stands in
            its own rows means nothing. None: there is none.
        gaps : shape (B, S)
            Frames since the row before, 0 for a video's first row; read where the config says `gap_input`.
        """
        fused = self.fused(embeddings, gaps=gaps)
        states: Tensor = self.temporal(self._read(fused), mask)
        return self._beside(states, fused)

    def step(
        self,
        embeddings: Sequence[Tensor],
        state: State | None,
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """What `forward` does, from the state that the segments before these left, and the state after.

        Parameters
        ----------
        embeddings, mask, gaps
            As in `forward`.
        state : each shape (layers, B, H)
            None at the start. What comes back is detached: gradients stay inside a window.
        """
        fused = self.fused(embeddings, gaps=gaps)
        states, after = self.temporal.step(self._read(fused), state, mask)
        return self._beside(states, fused), after

    def _read(self, fused: Tensor) -> Tensor:
        """What the temporal module reads; single frames pass through as they are."""
        dropped: Tensor = self.dropout(fused) if self._is_temporal else fused
        return dropped

    def _beside(self, states: Tensor, fused: Tensor) -> Tensor:
        """Input of the outputs: the states; with `skip` the fused embedding too, and training hides some states."""
        if not self._skips:
            return states
        if self.training and self._state_dropout:
            is_seen = torch.rand(states.shape[:2], device=states.device) >= self._state_dropout
            states = states * is_seen.unsqueeze(-1)
        return torch.cat([states, fused], dim=-1)

    def fused(self, embeddings: Sequence[Tensor], *, gaps: Tensor | None = None) -> Tensor:
        """What the temporal module reads, shape (B, S, fused_width)."""
        fused: Tensor = self.fusion(self.inputs(embeddings))
        return fused if self.gap is None else self.gap(fused, gaps)


class GapInput(nn.Module):
    """Adds the time since the row before to a fused embedding: log1p(gap) through one Linear, which starts at 0.

    On s-Aff-Wild2 the quartiles of the gap are 2, 4 and 8 frames and the longest is 543: hence the logarithm.

    Parameters
    ----------
    width
        Columns of the fused embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, fused: Tensor, gaps: Tensor | None) -> Tensor:
        """Add, shape (B, S, width).

        Raises
        ------
        ConfigError
            If the gaps are not given.
        """
        if gaps is None:
            raise ConfigError(
                "This head reads the gap to the row before (gap_input), but no gaps were given with the embeddings. "
                "Give them, shape (B, S) in frames, or fit a head without gap_input."
            )
        told: Tensor = self.linear(torch.log1p(gaps.to(self.linear.weight.dtype)).unsqueeze(-1))
        return fused + told
