"""How joined tasks share a head.

AIM3-RUC (ABAW4) compares three frameworks: A, share-encoder, one trunk and an output a task, which is also the ABAW7
winner's (Netease Fuxi); B, share-bottom, temporal layers in common and then some of each task's own; C, feedback
(feedback.py). ``per-task`` shares nothing: a head a task, fitted at once.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, cast

from torch import Tensor, nn

from featurestore.errors import ConfigError
from heads.arrays import IntArray
from heads.features.featureset import FeatureSet

from .config import HeadConfig
from .inputs import column_statistics
from .outputs import TaskOutput, read_outputs
from .sequence import State
from .shapes import Shapes
from .temporal import make_temporal
from .trunk import Trunk

Labels = Mapping[str, tuple[Tensor, Tensor]]
"""Task -> true labels, and where they are fed back (see `HeadModel.forward`)."""
Part = TypeVar("Part", bound=nn.Module)


class Framework(nn.Module):
    """Interface: embeddings of windows -> logits of each joined task."""

    def forward(
        self,
        embeddings: Sequence[Tensor],
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
        labels: Labels | None = None,
    ) -> dict[str, Tensor]:
        """Task -> logits (B, S, n_outputs), of ``v`` and ``a`` before tanh; parameters as in `HeadModel.forward`."""
        raise NotImplementedError

    def step(
        self,
        embeddings: Sequence[Tensor],
        state: State | None,
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], State]:
        """What `forward` does, with a state carried on, as in `HeadModel.step`.

        Raises
        ------
        ConfigError
            If there is no state to carry.
        """
        raise ConfigError(
            f"A stateful head was expected, but {type(self).__name__} carries no state from window to window. "
            "Call forward, or choose another framework with stateful."
        )


class ShareEncoder(Framework):
    """One trunk, and an output a task.

    Parameters
    ----------
    config
        The head's.
    shapes
        Encoder -> (D,).
    """

    def __init__(self, config: HeadConfig, shapes: Shapes) -> None:
        super().__init__()
        self.trunk = Trunk(config, shapes)
        self.outputs = task_modules(self._make_outputs(config, self.trunk.out_width))

    def forward(
        self,
        embeddings: Sequence[Tensor],
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
        labels: Labels | None = None,
    ) -> dict[str, Tensor]:
        """Logits of each joined task."""
        return self.read(self.trunk(embeddings, mask=mask, gaps=gaps), labels)

    def step(
        self,
        embeddings: Sequence[Tensor],
        state: State | None,
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], State]:
        """The same with the trunk's state carried on."""
        states, after = self.trunk.step(embeddings, state, mask=mask, gaps=gaps)
        return self.read(states, None), after

    def read(self, states: Tensor, labels: Labels | None) -> dict[str, Tensor]:
        """Logits of each joined task from the trunk's states (B, S, H)."""
        return read_outputs(self.outputs, states)

    def centre(self, features: FeatureSet, rows: IntArray) -> None:
        """Subtract from the inputs of the action units' linear path their mean over the rows with action-unit labels.

        Nothing is done if something is learned between the inputs and that path, for their mean then moves.

        Parameters
        ----------
        features
            With every encoder of the trunk.
        rows : shape (n,), int64, ascending
            The rows that are learned from; those count that every encoder has embedded.
        """
        names = self.trunk.inputs.names
        for task, output in self.outputs.items():
            if output.linear is None or not self.trunk.shows_inputs:
                continue
            labelled = rows[features.targets.labelled(task)[rows] & features.usable(names)[rows]]
            if len(labelled):
                found = column_statistics(features, names, labelled)
                means = [found[name].mean.float().to(features.device) for name in names]
                output.centre(self.trunk.fusion(self.trunk.inputs(means)))

    def alone(self, task: str) -> "ShareEncoder":
        """A copy that gives one task's logits."""
        own = copy.deepcopy(self)
        own.outputs = task_modules({task: own.outputs[task]})
        return own

    def _make_outputs(self, config: HeadConfig, width: int) -> dict[str, TaskOutput]:
        return {task: self._output(task, width, config) for task in config.joint}

    def _output(self, task: str, width: int, config: HeadConfig) -> TaskOutput:
        return TaskOutput(task, width, config, linear_columns=self.trunk.frame_columns)


class ShareBottom(Framework):
    """Temporal layers in common, then temporal layers of the same kind of each task's own, then its output.

    Parameters
    ----------
    config
        The head's: `layers` in common, `own_layers` a task, all of the trunk's width.
    shapes
        Encoder -> (D,).
    """

    def __init__(self, config: HeadConfig, shapes: Shapes) -> None:
        super().__init__()
        self.trunk = Trunk(config, shapes)
        # The shared states carry their positions already; AIM3's code adds them once more.
        mine = replace(config, layers=config.own_layers, temporal_width=self.trunk.temporal_width, positions=False)
        own = {task: make_temporal(mine, self.trunk.out_width) for task in config.joint}
        self.own = task_modules(own)
        self.outputs = task_modules({task: TaskOutput(task, own[task].out_width, config) for task in config.joint})

    def forward(
        self,
        embeddings: Sequence[Tensor],
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
        labels: Labels | None = None,
    ) -> dict[str, Tensor]:
        """Logits of each joined task."""
        states = self.trunk(embeddings, mask=mask, gaps=gaps)
        return {task: output(self.own[task](states, mask)) for task, output in self.outputs.items()}

    def step(
        self,
        embeddings: Sequence[Tensor],
        state: State | None,
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], State]:
        """The same with all states carried on, the common one before those of the tasks."""
        before = split_state(state, 1 + len(self.own))
        states, after = self.trunk.step(embeddings, before[0], mask=mask, gaps=gaps)
        logits = {}
        for (task, temporal), mine in zip(self.own.items(), before[1:], strict=True):
            own, own_after = temporal.step(states, mine, mask)
            logits[task] = self.outputs[task](own)
            after = (*after, *own_after)
        return logits, after


class PerTask(Framework):
    """A head a task: nothing is shared.

    Parameters
    ----------
    heads
        Task -> a framework that gives its logits.
    """

    def __init__(self, heads: Mapping[str, Framework]) -> None:
        super().__init__()
        self.heads = task_modules(heads)

    def forward(
        self,
        embeddings: Sequence[Tensor],
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
        labels: Labels | None = None,
    ) -> dict[str, Tensor]:
        """Logits of each joined task."""
        return {task: head(embeddings, mask=mask, gaps=gaps)[task] for task, head in self.heads.items()}

    def step(
        self,
        embeddings: Sequence[Tensor],
        state: State | None,
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], State]:
        """The same with each head's state carried on."""
        logits: dict[str, Tensor] = {}
        after: State = ()
        for head, mine in zip(self.heads.values(), split_state(state, len(self.heads)), strict=True):
            found, own_after = head.step(embeddings, mine, mask=mask, gaps=gaps)
            logits |= found
            after = (*after, *own_after)
        return logits, after


def task_modules(modules: Mapping[str, Part]) -> Mapping[str, Part]:
    """A module that holds a module a task, known by the kind of these: `nn.ModuleDict` forgets it."""
    return cast("Mapping[str, Part]", nn.ModuleDict(dict(modules)))


def split_state(state: State | None, n_parts: int) -> list[State | None]:
    """The states of modules of one kind that were carried side by side, in their order; None for each at the start."""
    if state is None:
        return [None] * n_parts
    size = len(state) // n_parts
    return [state[part * size : (part + 1) * size] for part in range(n_parts)]
