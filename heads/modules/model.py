"""A head: fusion -> temporal -> one output a joined task (ABAW7, the Netease Fuxi system)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from heads.tasks import TASKS

from .config import HeadConfig
from .fusion import make_fusion
from .shapes import Shapes, read_widths
from .temporal import make_temporal

State = tuple[Tensor, ...]
"""What a stateful head carries on, each (layers, B, H)."""


class HeadModel(nn.Module):
    """The module that a `HeadConfig` describes.

    Parameters
    ----------
    config
        What it is made of.
    shapes
        Encoder -> (D,), or (T, D) if it holds tokens.
    """

    def __init__(self, config: HeadConfig, shapes: Shapes) -> None:
        super().__init__()
        config = config.resolved()
        self.config = config
        dim = read_widths(config, shapes)[config.encoder]
        self.fusion = make_fusion(config.fusion, dim, n_inputs=1 + len(config.fuse))
        self.temporal = make_temporal(config.temporal, dim)
        self.outputs = nn.ModuleDict({task: nn.Linear(dim, TASKS[task].n_outputs) for task in config.joint})

    def forward(
        self,
        embeddings: Sequence[Tensor],
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
        labels: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """Outputs of each joined task.

        Parameters
        ----------
        embeddings : each shape (B, S, D) or (B, S, T, D)
            The base first, then the fused ones in the config's order.
        mask : shape (B, S), bool
            False is padding; all rows are there by default.
        gaps : shape (B, S)
            Frames since the row before, 0 for a video's first row; read where the config says `gap_input`.
        labels
            Of ``label-feedback`` in training: task -> true labels (B, S) or (B, S, 12), and where they are fed back
            in place of predictions, bool of the same shape.

        Returns
        -------
        Task -> shape (B, S, n_outputs): logits of ``au`` and ``expr``; ``v`` and ``a`` in [-1, 1], after tanh.
        """
        states = self.temporal(self.fusion(embeddings))  # (B, S, D)
        outputs = {task: linear(states) for task, linear in self.outputs.items()}
        return {task: torch.tanh(x) if task in ("v", "a") else x for task, x in outputs.items()}

    def step(
        self, embeddings: Sequence[Tensor], state: State | None, *, mask: Tensor | None, gaps: Tensor | None
    ) -> tuple[dict[str, Tensor], State]:
        """What `forward` does, from the state that the segments' windows before these left, and the state after.

        Parameters
        ----------
        embeddings, mask, gaps
            As in `forward`.
        state
            Of each lane; None at the start. It is detached: gradients stay inside a window.
        """
        raise NotImplementedError

    @staticmethod
    def kept(state: State, lanes: Tensor, fresh: Tensor) -> State:
        """The state of some lanes, 0 where a lane begins another segment.

        Parameters
        ----------
        state
            As `step` returned it.
        lanes : shape (B,), int64
            Which lanes go on.
        fresh : shape (B,), bool
            Which of these begin anew.
        """
        return tuple(each[:, lanes] * ~fresh[:, None] for each in state)

    def n_parameters(self) -> int:
        """How many numbers are fitted."""
        return sum(parameter.numel() for parameter in self.parameters())
