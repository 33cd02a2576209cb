"""A head: one framework of multi-task learning, made of the parts that a `HeadConfig` names.

The default is the ABAW7 winner's (Netease Fuxi): fusion -> temporal -> one output a joined task.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from featurestore.errors import ConfigError
from heads.arrays import IntArray
from heads.features.featureset import FeatureSet

from .augraph import AuGraph, co_occurrence
from .config import HeadConfig
from .feedback import HiddenFeedback, LabelFeedback
from .frameworks import Framework, PerTask, ShareBottom, ShareEncoder
from .fusion import Fusion
from .inputs import fit_inputs
from .late import LateFusion, member_configs
from .outputs import TaskOutput, in_range
from .sequence import State, Temporal
from .shapes import Shapes, read_widths
from .taskblock import TaskQueries
from .trunk import Trunk


class HeadModel(nn.Module):
    """The module that a `HeadConfig` describes.

    Parameters
    ----------
    config
        What it is made of.
    shapes
        Encoder -> (D,), or (T, D) if it holds tokens.

    Attributes
    ----------
    config
        Resolved.
    framework
        Gives the logits.

    Raises
    ------
    ConfigError, ShapeError
        If the embeddings are not what the config can read (see `read_widths`).
    """

    def __init__(self, config: HeadConfig, shapes: Shapes) -> None:
        super().__init__()
        config = config.resolved()
        read_widths(config, shapes)  # of all encoders at once, however the framework shares them out
        self.config = config
        self.framework = make_framework(config, shapes)

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
            in place of predictions, bool of the same shape. In evaluation mode they are not looked at.

        Returns
        -------
        Task -> shape (B, S, n_outputs): logits of ``au`` and ``expr``; ``v`` and ``a`` in [-1, 1], after tanh.
        """
        return in_range(self.framework(embeddings, mask=mask, gaps=gaps, labels=labels))

    def step(
        self,
        embeddings: Sequence[Tensor],
        state: State | None,
        *,
        mask: Tensor | None = None,
        gaps: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], State]:
        """What `forward` does, from the state that the segments' windows before these left, and the state after.

        Parameters
        ----------
        embeddings, mask, gaps
            As in `forward`.
        state
            Of each lane; None at the start. It is detached: gradients stay inside a window.

        Raises
        ------
        ConfigError
            If the head carries no state: its temporal modules look ahead, or it has none.
        """
        logits, after = self.framework.step(embeddings, state, mask=mask, gaps=gaps)
        return in_range(logits), after

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

    def set_hidden_dropout(self, rate: float) -> None:
        """Replace the dropout of every task's hidden layers (see `HeadConfig.dropout_for`)."""
        for part in self.modules():
            if isinstance(part, TaskOutput):
                part.set_dropout(rate)

    def prepare(self, features: FeatureSet, rows: IntArray) -> None:
        """Compute what is not learned, before the first step: means of the inputs, and the action units' graph.

        Parameters
        ----------
        features
            With every encoder of the head.
        rows : shape (n,), int64, ascending
            The rows that are learned from, and no others.

        Raises
        ------
        ConfigError
            If inputs are normalised and an encoder has embedded none of the rows.
        """
        fit_inputs(self, features, rows)
        for module in self.modules():
            if isinstance(module, ShareEncoder):
                module.centre(features, rows)
            if isinstance(module, AuGraph):
                module.set_co_occurrence(co_occurrence(features.targets, rows))

    @property
    def trunk(self) -> Trunk:
        """Fusion and temporal layers that all tasks share.

        Raises
        ------
        ConfigError
            If there is not one such trunk: with ``per-task``, ``task-queries``, fusion ``late``, and when `separated`.
        """
        if isinstance(self.framework, ShareEncoder | ShareBottom):
            return self.framework.trunk
        raise ConfigError(
            f"This head has no trunk that all tasks share: its framework is {self.config.framework!r} and its fusion "
            f"{self.config.fusion!r}, held as {type(self.framework).__name__}. Look at `framework` instead; or select "
            "by 'p', since tasks with epochs of their own have a trunk each."
        )

    @property
    def fusion(self) -> Fusion:
        """Of the trunk."""
        return self.trunk.fusion

    @property
    def temporal(self) -> Temporal:
        """Of the trunk."""
        return self.trunk.temporal

    def separated(self) -> "HeadModel":
        """A copy in which each task has a copy of the shared layers to itself; its outputs are the same.

        Raises
        ------
        ConfigError
            If the head is not `HeadConfig.separable`.
        """
        own = copy.deepcopy(self)
        if self.config.shares_nothing:
            return own
        if not self.config.separable or not isinstance(own.framework, ShareEncoder):
            raise ConfigError(
                f"The tasks of this head cannot be separated: its framework is {self.config.framework!r} and its "
                f"fusion {self.config.fusion!r}. Choose framework 'per-task', or keep one epoch for all tasks."
            )
        own.framework = PerTask({task: own.framework.alone(task) for task in self.config.joint})
        return own

    def with_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> "HeadModel":
        """A copy in which each task has the weights of its own state; `separated` if they differ.

        Parameters
        ----------
        states
            Joined task -> a state of this module.

        Raises
        ------
        ConfigError
            As `separated`.
        """
        first = states[self.config.joint[0]]
        taken = dict(first)
        if all(state is first for state in states.values()):
            own = copy.deepcopy(self)
        else:
            own = self.separated()
            for task, state in states.items():
                mine = (f"framework.heads.{task}.", f"framework.outputs.{task}.")
                for name, values in state.items():
                    if name.startswith(mine):
                        taken[name] = values
                    taken[mine[0] + name.removeprefix("framework.")] = values
        own.load_state_dict({name: taken[name] for name in own.state_dict()})
        return own

    @classmethod
    def from_weights(cls, config: HeadConfig, shapes: Shapes, weights: Mapping[str, Tensor]) -> "HeadModel":
        """The model of these weights in evaluation mode, as fitted or `separated`; arguments as of the constructor.

        Raises
        ------
        RuntimeError
            If they are no weights of such a head.
        """
        model = cls(config, shapes)
        if model.config.separable and not weights.keys() <= model.state_dict().keys():
            model = model.separated()
        model.load_state_dict(weights)
        return model.eval()

    def n_parameters(self) -> int:
        """Number of parameters; every copy of the shared layers counts in a `separated` head."""
        return sum(parameter.numel() for parameter in self.parameters())


def make_framework(config: HeadConfig, shapes: Shapes) -> Framework:
    """The framework that a resolved config names, of a head an encoder where they are fused late."""
    if config.framework == "per-task":
        alone = {task: replace(config, framework="share-encoder", joint=(task,)) for task in config.joint}
        return PerTask({task: make_framework(each, shapes) for task, each in alone.items()})
    if config.fusion == "late":
        members = {name: make_framework(each, shapes) for name, each in member_configs(config).items()}
        return LateFusion(members, config.joint)
    match config.framework:
        case "share-bottom":
            return ShareBottom(config, shapes)
        case "hidden-feedback":
            return HiddenFeedback(config, shapes)
        case "label-feedback":
            return LabelFeedback(config, shapes)
        case "task-queries":
            return TaskQueries(config, shapes)
        case _:
            return ShareEncoder(config, shapes)
