"""Late fusion: each encoder has a head of its own, and what the heads put out is mixed.

Sun & Gao (ABAW11) fuse logits; how they weigh them is not published. Here the weights are learned, one an encoder and
task, positive and of sum 1 by a softmax that starts at equal shares. Valence and arousal are mixed before tanh. The
loss is that of the mixture. With a `width` each encoder's embedding first goes through a Linear of its own to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from .config import HeadConfig
from .frameworks import Framework, Labels, split_state
from .sequence import State


class LateFusion(Framework):
    """Frameworks side by side, each on one encoder, their logits mixed.

    Parameters
    ----------
    members
        Encoder -> its framework, in the order of the embeddings.
    joint
        The tasks.
    """

    def __init__(self, members: Mapping[str, Framework], joint: Sequence[str]) -> None:
        super().__init__()
        # A list: an encoder's name may hold a dot, which a ModuleDict refuses.
        self.members = cast("Sequence[Framework]", nn.ModuleList(members.values()))
        self.encoders, self.joint = tuple(members), tuple(joint)
        self.shares = nn.Parameter(torch.zeros(len(joint), len(members)))

    def weights(self) -> dict[str, dict[str, float]]:
        """Task -> encoder -> weight of its logits, in (0, 1); of sum 1 a task."""
        table = self.shares.detach().softmax(dim=1).tolist()
        return {task: dict(zip(self.encoders, row, strict=True)) for task, row in zip(self.joint, table, strict=True)}

    def forward(
        self,
        embeddings: Sequence[Tensor],
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
        labels: Labels | None = None,
    ) -> dict[str, Tensor]:
        """Logits of each joined task."""
        pairs = zip(self.members, embeddings, strict=True)
        return self._mixed([member([own], mask=mask, gaps=gaps, labels=labels) for member, own in pairs])

    def step(
        self,
        embeddings: Sequence[Tensor],
        state: State | None,
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], State]:
        """The same with each member's state carried on."""
        logits: list[dict[str, Tensor]] = []
        after: State = ()
        for member, own, mine in zip(self.members, embeddings, split_state(state, len(self.members)), strict=True):
            found, own_after = member.step([own], mine, mask=mask, gaps=gaps)
            logits.append(found)
            after = (*after, *own_after)
        return self._mixed(logits), after

    def _mixed(self, members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        mixed = {}
        for task, weights in zip(self.joint, self.shares.softmax(dim=1), strict=True):
            stacked = torch.stack([logits[task] for logits in members], dim=-1)  # (B, S, n_outputs, n_members)
            mixed[task] = stacked @ weights.to(stacked.dtype)
        return mixed


def member_configs(config: HeadConfig) -> dict[str, HeadConfig]:
    """Encoder -> the head that reads it alone, of a head of fusion ``late``."""
    return {
        name: replace(
            config,
            encoder=name,
            fuse=(),
            columns={each: columns for each, columns in config.columns.items() if each == name},
            fusion="affine" if config.width else "none",
        )
        for name in config.encoders
    }
