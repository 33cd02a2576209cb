"""A head: fusion -> temporal -> one linear layer a joined task (ABAW7, the Netease Fuxi system)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .config import HeadConfig
from .fusion import make_fusion
from .tasks import TASKS
from .temporal import make_temporal


class HeadModel(nn.Module):
    """The module that a `HeadConfig` describes.

    Parameters
    ----------
    config
        What it is made of.
    dim
        D, the width of every embedding.
    """

    def __init__(self, config: HeadConfig, dim: int) -> None:
        super().__init__()
        config = config.resolved()
        self.dim = dim
        self.fusion = make_fusion(config.fusion, dim, n_inputs=1 + len(config.fuse))
        self.temporal = make_temporal(config.temporal, dim)
        self.outputs = nn.ModuleDict({task: nn.Linear(dim, TASKS[task].n_outputs) for task in config.joint})

    def forward(self, embeddings: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs of each joined task.

        Parameters
        ----------
        embeddings : each shape (B, S, D)
            The base first, then the fused ones in the config's order.

        Returns
        -------
        Task -> shape (B, S, n_outputs): logits of ``au`` and ``expr``; ``v`` and ``a`` in [-1, 1], after tanh.
        """
        states = self.temporal(self.fusion(embeddings))  # (B, S, D)
        outputs = {task: linear(states) for task, linear in self.outputs.items()}
        return {task: torch.tanh(x) if task in ("v", "a") else x for task, x in outputs.items()}

    def n_parameters(self) -> int:
        """How many numbers are fitted."""
        return sum(parameter.numel() for parameter in self.parameters())
