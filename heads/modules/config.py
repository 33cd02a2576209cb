"""What a head is made of: `HeadConfig`.

Frozen, checked when made with every mistake reported at once, and saved as JSON beside what was made of it. The
defaults are the ABAW7 winner's fusion and LSTM (Netease Fuxi) on standardised inputs, with a hidden layer a task in
place of the winner's one Linear: it is what lets a head of single frames keep up with a support vector machine on
small data (docs/benchmarks.md). Every published system is another choice of the same parts (`heads.recipes`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pydantic import JsonValue

from featurestore.errors import unknown_name
from heads.checking import at_least, from_json, in_unit_interval, raise_all, to_json
from heads.features.windows import SPANS, window_mistakes
from heads.tasks import TASKS, in_task_order

FUSION_NAMES: Final = ("none", "sum", "concat", "affine", "gated", "residual", "late", "attention")
WIDTH_FUSIONS: Final = ("concat", "affine", "gated", "late", "attention")
"""Those that can bring the embeddings to another width than the base's."""
TEMPORAL_NAMES: Final = ("none", "lstm", "gru", "bilstm", "bigru", "transformer", "tcn")
FRAMEWORKS: Final = (
    "share-encoder",
    "share-bottom",
    "hidden-feedback",
    "label-feedback",
    "per-task",
    "task-queries",
)
HIDDEN: Final = (256,)
"""Hidden layers of each task, unless `HeadConfig.hidden` says otherwise."""
HIDDEN_DROPOUT: Final = 0.5
"""Dropout of the hidden layers on few rows, unless `HeadConfig.hidden_dropout` says otherwise."""
FEW_ROWS: Final = 2000
MANY_ROWS: Final = 25_000
"""Between `FEW_ROWS` and `MANY_ROWS` train rows the dropout decreases to 0, linearly in the logarithm of the number of
rows. P with dropout .5, .2 and 0: 1.88, 2.06 and 2.10 on 50,000 rows of pixels; 1.85, 1.81 and 1.78 on 1,375 rows of
the true state (docs/benchmarks.md)."""
TEMPORAL_WIDTH: Final = 64
IN_EARLIER_RECORDS: Final = {
    "skip": False,
    "input_dropout": 0.0,
    "state_dropout": 0.0,
    "temporal_width": 0,
    "au_linear_share": 0.0,
}
"""Value of each setting in records that were written before the setting existed."""
STATEFUL: Final = ("lstm", "gru")
"""Temporal modules whose state can be carried into a video's next segment: those that only look back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """A head: base embedding + fused ones -> fusion -> temporal -> one output a joined task.

    Attributes
    ----------
    encoder
        Whose embedding is the base.
    fuse
        Encoders whose embeddings are fused into it.
    columns
        Encoder -> [start, stop) of the columns that are read of its embedding, counted from the end if negative,
        such as ``(-10, None)`` for the ten scores that an encoder puts out after its features; all by default.
    normalise
        Whether each column is brought to mean 0 and variance 1 by the train rows' statistics.
    joint
        The tasks predicted together; kept in the order au, expr, v, a.
    fusion
        One of `FUSION_NAMES`, or ``"auto"``: ``sum`` where something is fused, else ``none``.
    width
        Columns of the fused embedding, of `WIDTH_FUSIONS`; None is the base's, for ``concat`` the sum of all widths.
        Of ``late`` each encoder's before its temporal module; None is its own.
    fusion_dropout
        In the fusion module.
    temporal
        One of `TEMPORAL_NAMES`, or several joined by ``+``, which read one after the other (``tcn+bigru``);
        ``none``: each frame on its own, windows then only make batches.
    layers
        Layers of each temporal module; None is its own default: 4 of ``tcn``, 2 of the others.
    temporal_width
        Columns of its state, of each direction; 0 (or None, which becomes 0) is the fused embedding's width, as the
        winner has it. `TEMPORAL_WIDTH` learns as much from small data in a fraction of the time.
    attention_heads, feedforward
        Of a Transformer and of attention in fusion; the feed-forward part's width, None for twice the state's.
    positions
        Whether a Transformer is told each row's place in its window, by sinusoids.
    temporal_dropout
        Between and inside the temporal layers.
    input_dropout
        Of what the temporal module reads: without it a recurrent network soon knows the frames of small data by heart.
    skip
        Whether the outputs read the fused embedding beside the temporal module's state: expressions and action units
        are mostly seen in the frame itself. Without a temporal module it changes nothing.
    state_dropout
        With `skip`, the share of rows whose whole state is hidden in training from what reads the trunk (the outputs; a
        task's own layers in ``share-bottom``): they learn what the frame alone says, and rely less on what a recurrent
        network knows of small data by heart.
    stateful
        Whether the state goes on, detached, from a video's segment to its next one (`STATEFUL` modules).
    framework
        How the tasks share, one of `FRAMEWORKS`: ``share-encoder`` (all but the outputs), ``share-bottom`` (the
        first `layers` temporal layers, then `own_layers` a task), ``hidden-feedback`` and ``label-feedback`` (the
        tasks of `feedback_from` first, their hidden states or labels then go to the others), ``per-task``
        (nothing), ``task-queries`` (a query a label attends to the base encoder's patch tokens).
    own_layers
        Temporal layers of each task in ``share-bottom``.
    feedback_from
        The tasks that are fed back, if they are joined.
    feedback_to
        The joined tasks that receive; empty: all that are not fed back.
    label_width
        Columns of a label's table in ``label-feedback``.
    hidden
        Widths of the layers between state and output, each Linear, ReLU and dropout; None is `HIDDEN`, of
        ``task-queries`` no layer.
    hidden_dropout
        Before and between those layers; without such layers there is none. None: it follows from the number of
        rows (see `dropout_for`).
    au_linear_share
        Weight, in the action units' logits, of a linear layer beside their hidden layers, in [0, 1). It reads the
        fused embedding of the frame, which, if nothing is learned in fusion, is centred on the rows with labels of
        action units; without `skip` the temporal module's state. In training each row is predicted
        by one of the two paths, drawn at random with this probability, so that each learns to predict alone: hidden
        layers miss a rare action unit of a person whom they have not seen. Without hidden layers it changes nothing.
    blocks, query_width, query_heads, query_feedforward, query_dropout
        Of ``task-queries``: how often queries attend, their columns, and each block's attention heads, feed-forward
        width and dropout.
    graph_layers
        Of the action units' graph in ``task-queries``; 0 leaves the graph out.
    seq
        S, how long a window is.
    window
        W, from one window's start to the next one's; None is `seq`.
    span
        What S and W count: ``"rows"``, as the paper does, or ``"frames"`` of the source video.
    gap_input
        Whether the temporal module reads how many frames lie between a row and the one before it.

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    encoder: str = "mae"
    fuse: tuple[str, ...] = ()
    columns: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    normalise: bool = True
    joint: tuple[str, ...] = tuple(TASKS)
    fusion: str = "auto"
    width: int | None = None
    fusion_dropout: float = 0.3
    temporal: str = "lstm"
    layers: int | None = None
    temporal_width: int | None = TEMPORAL_WIDTH
    attention_heads: int = 4
    feedforward: int | None = None
    positions: bool = False
    temporal_dropout: float = 0.3
    input_dropout: float = 0.7
    skip: bool = True
    state_dropout: float = 0.5
    stateful: bool = False
    framework: str = "share-encoder"
    own_layers: int = 3
    feedback_from: tuple[str, ...] = ("au", "v")
    feedback_to: tuple[str, ...] = ()
    label_width: int = 256
    hidden: tuple[int, ...] | None = None
    hidden_dropout: float | None = None
    au_linear_share: float = 0.7
    blocks: int = 3
    query_width: int = 128
    query_heads: int = 8
    query_feedforward: int = 512
    query_dropout: float = 0.1
    graph_layers: int = 2
    seq: int = 20
    window: int | None = None
    span: str = "rows"
    gap_input: bool = False

    def __post_init__(self) -> None:
        raise_all("head", self._mistakes())
        object.__setattr__(self, "temporal_width", self.temporal_width or 0)
        object.__setattr__(self, "joint", in_task_order(self.joint))
        object.__setattr__(self, "feedback_from", in_task_order(self.feedback_from))
        object.__setattr__(self, "feedback_to", in_task_order(self.feedback_to))

    def _mistakes(self) -> list[str]:
        # W is S unless it is given: a mistake in S is told once.
        step = max(1, self.seq) if self.window is None else self.window
        return [
            *self._input_mistakes(),
            *self._task_mistakes(),
            *self._module_mistakes(),
            *self._framework_mistakes(),
            *window_mistakes(self.seq, step),
            *([] if self.span in SPANS else [str(unknown_name("span", self.span, SPANS))]),
        ]

    def _input_mistakes(self) -> list[str]:
        mistakes = [] if self.encoder else ["encoder must be a name, got ''."]
        if self.encoder in self.fuse:
            mistakes.append(f"fuse must not hold the base encoder {self.encoder!r} again.")
        if len(set(self.fuse)) < len(self.fuse):
            mistakes.append(f"fuse must name each encoder once, got {','.join(self.fuse)}.")
        for name, (start, stop) in self.columns.items():
            if name not in self.encoders:
                mistakes.append(f"columns names {name!r}, which is neither base nor fused.")
            elif stop is not None and (start < 0) == (stop <= 0) and stop <= start:
                mistakes.append(f"columns of {name!r} must be [start, stop) with start below stop, got {start}:{stop}.")
        return mistakes

    def _task_mistakes(self) -> list[str]:
        mistakes = [] if self.joint else [f"joint must name at least one task of {', '.join(TASKS)}."]
        named = (*self.joint, *self.feedback_from, *self.feedback_to)
        return mistakes + [str(unknown_name("task", name, TASKS)) for name in named if name not in TASKS]

    def _module_mistakes(self) -> list[str]:
        mistakes = at_least(
            1,
            width=self.width,
            layers=self.layers,
            attention_heads=self.attention_heads,
            feedforward=self.feedforward,
            own_layers=self.own_layers,
            label_width=self.label_width,
            blocks=self.blocks,
            query_width=self.query_width,
            query_heads=self.query_heads,
            query_feedforward=self.query_feedforward,
        )
        mistakes += at_least(0, graph_layers=self.graph_layers, temporal_width=self.temporal_width)
        mistakes += [
            f"hidden must hold widths of at least 1, got {width}." for width in self.hidden_layers if width < 1
        ]
        mistakes += in_unit_interval(
            fusion_dropout=self.fusion_dropout,
            input_dropout=self.input_dropout,
            state_dropout=self.state_dropout,
            temporal_dropout=self.temporal_dropout,
            hidden_dropout=self.dropout_for(0),
            au_linear_share=self.au_linear_share,
            query_dropout=self.query_dropout,
        )
        if self.fusion not in ("auto", *FUSION_NAMES):
            mistakes.append(str(unknown_name("fusion", self.fusion, ("auto", *FUSION_NAMES))))
        if self.width is not None and self.fusion in ("auto", *FUSION_NAMES) and self.fusion not in WIDTH_FUSIONS:
            mistakes.append(
                f"width is of fusion {', '.join(WIDTH_FUSIONS)}; {self.fusion!r} keeps the base's: leave it out."
            )
        if self.fusion == "none" and self.fuse:
            mistakes.append(f"fusion 'none' would ignore the fused {','.join(self.fuse)}; use 'sum'.")
        names = self.temporal.split("+")
        mistakes += [
            str(unknown_name("temporal module", name, TEMPORAL_NAMES)) for name in names if name not in TEMPORAL_NAMES
        ]
        if len(names) > 1 and "none" in names:
            mistakes.append(f"temporal 'none' stands alone, got {self.temporal!r}.")
        if self.stateful and not set(names) <= set(STATEFUL):
            mistakes.append(f"stateful needs modules that only look back ({', '.join(STATEFUL)}), got {self.temporal}.")
        if self.stateful and (self.span != "rows" or self.window not in (None, self.seq)):
            mistakes.append("stateful reads consecutive segments: leave out window, and count rows.")
        return mistakes

    def _framework_mistakes(self) -> list[str]:
        mistakes = []
        if self.framework not in FRAMEWORKS:
            mistakes.append(str(unknown_name("framework", self.framework, FRAMEWORKS)))
        if self.framework.endswith("-feedback"):
            mistakes += self._feedback_mistakes()
        if self.framework == "share-bottom" and self.temporal == "none":
            mistakes.append("share-bottom shares temporal layers, but temporal is 'none'.")
        if self.stateful and self.framework == "label-feedback":
            mistakes.append("stateful does not work with label-feedback, whose true labels are drawn window by window.")
        return mistakes + (self._query_mistakes() if self.framework == "task-queries" else [])

    def _feedback_mistakes(self) -> list[str]:
        mistakes = []
        if not self.sources or not self.receivers:
            mistakes.append(
                f"{self.framework} needs joined tasks that are fed back and joined tasks that receive; of "
                f"{', '.join(self.joint)} those fed back are {', '.join(self.sources) or '(none)'}, and "
                f"{', '.join(self.receivers) or '(none)'} receive (see feedback_from and feedback_to)."
            )
        both = [task for task in self.feedback_to if task in self.feedback_from]
        if both:
            mistakes.append(f"feedback_to must not name tasks that are fed back, got {', '.join(both)} in both.")
        if self.framework == "hidden-feedback" and not self.hidden_layers:
            mistakes.append("hidden-feedback feeds back the last hidden layers, but hidden is (): set it, to 512, 256.")
        return mistakes

    def _query_mistakes(self) -> list[str]:
        mistakes = []
        if self.temporal != "none" or self.fuse or self.fusion not in ("auto", "none"):
            mistakes.append("task-queries reads the base's patch tokens of single frames: fuse nothing, temporal none.")
        if self.hidden or self.gap_input:
            mistakes.append("task-queries has one linear layer a query: leave out hidden layers and gap_input.")
        if self.query_heads > 0 and self.query_width % self.query_heads:
            mistakes.append(
                f"query_width must be a multiple of query_heads, got {self.query_width} and {self.query_heads}."
            )
        return mistakes

    @property
    def step(self) -> int:
        """W as a number."""
        return self.seq if self.window is None else self.window

    @property
    def sources(self) -> tuple[str, ...]:
        """The joined tasks that are fed back where the framework feeds back."""
        return tuple(task for task in self.joint if task in self.feedback_from)

    @property
    def receivers(self) -> tuple[str, ...]:
        """The joined tasks that they are fed back to."""
        if not self.feedback_to:
            return tuple(task for task in self.joint if task not in self.feedback_from)
        return tuple(task for task in self.joint if task in self.feedback_to)

    @property
    def encoders(self) -> tuple[str, ...]:
        """The base encoder and then the fused ones."""
        return (self.encoder, *self.fuse)

    @property
    def hidden_layers(self) -> tuple[int, ...]:
        """Widths of the layers between state and output, as numbers."""
        if self.hidden is None:
            return () if self.framework == "task-queries" else HIDDEN
        return self.hidden

    @property
    def shares_nothing(self) -> bool:
        """True if no weight is shared between joined tasks."""
        if len(self.joint) == 1 or self.framework == "per-task":
            return True
        return self.framework == "share-encoder" and self.temporal == "none" and self.fuses_as_is and not self.gap_input

    @property
    def fuses_as_is(self) -> bool:
        """True if nothing is learned between the inputs and the fused embedding."""
        fusion = self.resolved().fusion
        return fusion == "none" or (fusion == "concat" and self.width is None)

    @property
    def separable(self) -> bool:
        """True if each task can have a copy of the layers that it shares, and so its own epoch."""
        return self.shares_nothing or (self.framework == "share-encoder" and self.resolved().fusion != "late")

    @property
    def reads_tokens(self) -> bool:
        """Whether the base must hold patch tokens rather than one vector a frame."""
        return self.framework == "task-queries"

    def dropout_for(self, n_rows: int) -> float:
        """Dropout of the hidden layers in a fit on `n_rows` rows, in [0, 1)."""
        if self.hidden_dropout is not None:
            return self.hidden_dropout
        few, many, rows = (math.log(n) for n in (FEW_ROWS, MANY_ROWS, max(1, n_rows)))
        return HIDDEN_DROPOUT * min(1.0, max(0.0, (many - rows) / (many - few)))

    def resolved(self) -> "HeadConfig":
        """The same head with fusion, window and hidden layers spelled out."""
        fusion = ("sum" if self.fuse else "none") if self.fusion == "auto" else self.fusion
        return replace(self, fusion=fusion, window=self.step, hidden=self.hidden_layers)

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON, resolved: two heads are the same exactly if these are equal."""
        return to_json(self.resolved())

    @classmethod
    def from_dict(cls, values: Mapping[str, JsonValue]) -> "HeadConfig":
        """The inverse of `to_dict`.

        Raises
        ------
        ConfigError
            If a name is unknown, a type is wrong, or a value is out of range.
        """
        return from_json(cls, values)
