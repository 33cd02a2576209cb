"""What a head is (`HeadConfig`) and how it is fitted (`FitConfig`).

Frozen, checked when made with every mistake reported at once, and saved as JSON beside what they produced.

Defaults that differ from the paper's: the ABAW7 winner trains the head together with a live encoder at a
learning rate of 1e-5. On cached embeddings only the head moves, and at 1e-5 it hardly leaves its start:
LEARNING_RATE below was chosen by trying on simulated embeddings (768 wide, 14,000 train rows, four tasks,
8 epochs, batches of 1024 rows). P on val at 1e-5, 1e-4, 3e-4 and 1e-3: single frames .99, 1.42, 1.68, 1.80; LSTM,
S = 20: .76, 1.18, 1.37, 1.38. It is an option like any other; more rows want less.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Final, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from featurestore.errors import ConfigError, unknown_name

from .fusion import FUSIONS
from .tasks import TASKS, in_task_order
from .temporal import TEMPORALS
from .windows import window_mistakes

LEARNING_RATE: Final = 1e-3
PRECISIONS: Final = ("float32", "bfloat16")
Config = TypeVar("Config", "HeadConfig", "FitConfig")

_DEVICE: Final = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """A head: base embedding + fused ones -> fusion -> temporal -> one output a joined task.

    Attributes
    ----------
    encoder
        Whose embedding is the base.
    fuse
        Encoders whose embeddings are fused into it.
    joint
        The tasks predicted together; kept in the order au, expr, v, a.
    fusion
        ``"sum"``, ``"none"``, or ``"auto"``: ``sum`` where something is fused, else ``none``.
    temporal
        ``"lstm"`` or ``"none"`` (each frame on its own; windows then only make batches).
    seq
        S, rows in a window.
    window
        W, rows from one window's start to the next one's; None is `seq`.

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    encoder: str = "mae"
    fuse: tuple[str, ...] = ()
    joint: tuple[str, ...] = tuple(TASKS)
    fusion: str = "auto"
    temporal: str = "lstm"
    seq: int = 20
    window: int | None = None

    def __post_init__(self) -> None:
        _raise_all("head", self._mistakes())
        object.__setattr__(self, "joint", in_task_order(self.joint))

    def _mistakes(self) -> list[str]:
        mistakes = [] if self.encoder else ["encoder must be a name, got ''."]
        if self.encoder in self.fuse:
            mistakes.append(f"fuse must not hold the base encoder {self.encoder!r} again.")
        if len(set(self.fuse)) < len(self.fuse):
            mistakes.append(f"fuse must name each encoder once, got {','.join(self.fuse)}.")
        if not self.joint:
            mistakes.append(f"joint must name at least one task of {', '.join(TASKS)}.")
        mistakes += [str(unknown_name("task", name, TASKS)) for name in self.joint if name not in TASKS]
        if self.fusion not in ("auto", *FUSIONS):
            mistakes.append(str(unknown_name("fusion", self.fusion, ("auto", *FUSIONS))))
        if self.fusion == "none" and self.fuse:
            mistakes.append(f"fusion 'none' would ignore the fused {','.join(self.fuse)}; use 'sum'.")
        if self.temporal not in TEMPORALS:
            mistakes.append(str(unknown_name("temporal module", self.temporal, TEMPORALS)))
        # W is S unless it is given: a mistake in S is told once.
        step = max(1, self.seq) if self.window is None else self.window
        return mistakes + window_mistakes(self.seq, step)

    @property
    def step(self) -> int:
        """W as a number."""
        return self.seq if self.window is None else self.window

    @property
    def encoders(self) -> tuple[str, ...]:
        """The base encoder and then the fused ones."""
        return (self.encoder, *self.fuse)

    def resolved(self) -> "HeadConfig":
        """The same head with nothing left to a default: fusion and window are spelled out."""
        fusion = ("sum" if self.fuse else "none") if self.fusion == "auto" else self.fusion
        return replace(self, fusion=fusion, window=self.step)

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON, resolved: two heads are the same exactly if these are equal."""
        return _to_json(asdict(self.resolved()))

    @classmethod
    def from_dict(cls, values: Mapping[str, JsonValue]) -> "HeadConfig":
        """The inverse of `to_dict`.

        Raises
        ------
        ConfigError
            If a name is unknown, a type is wrong, or a value is out of range.
        """
        return _from_json(cls, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How a head is fitted.

    Attributes
    ----------
    epochs
        How often the train split is seen; the best of them is kept.
    batch_frames
        Rows in a batch, padding included; the batch has ``batch_frames // seq`` windows, at least one.
    learning_rate
        AdamW's, constant.
    weight_decay
        AdamW's.
    gradient_clip
        The gradient's norm is cut to this; the paper says nothing of it, an LSTM is safer with it.
    weights
        Task -> weight of its loss; a task that is not named weighs 1.
    select
        Which score picks the epoch: a joined task, or ``"p"``: P, where not all tasks are joined its joined
        parts.
    seed
        Of weights, order and dropout. The same seed gives the same bits on the same machine.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    precision
        ``"float32"``, or ``"bfloat16"`` for autocast in training; scores are always computed in float32.

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    epochs: int = 20
    batch_frames: int = 1024
    learning_rate: float = LEARNING_RATE
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    select: str = "p"
    seed: int = 1
    device: str = "auto"
    precision: str = "float32"

    def __post_init__(self) -> None:
        _raise_all("fit", self._mistakes())
        weights = {task: float(self.weights.get(task, 1.0)) for task in TASKS}
        object.__setattr__(self, "weights", weights)

    def _mistakes(self) -> list[str]:
        mistakes = [
            f"{name} must be at least 1, got {value}."
            for name, value in (("epochs", self.epochs), ("batch_frames", self.batch_frames))
            if value < 1
        ]
        mistakes += [
            f"{name} must be a number above 0, got {value}."
            for name, value in (("learning_rate", self.learning_rate), ("gradient_clip", self.gradient_clip))
            if not (math.isfinite(value) and value > 0)
        ]
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            mistakes.append(f"weight_decay must be a number of at least 0, got {self.weight_decay}.")
        for task, weight in self.weights.items():
            if task not in TASKS:
                mistakes.append(str(unknown_name("task", task, TASKS)))
            elif not (math.isfinite(weight) and weight >= 0):
                mistakes.append(f"The weight of {task!r} must be a number of at least 0, got {weight}.")
        if self.select not in ("p", *TASKS):
            mistakes.append(str(unknown_name("score to select by", self.select, ("p", *TASKS))))
        if not 0 <= self.seed < 2**63:
            mistakes.append(f"seed must be in 0 .. 2^63 - 1, got {self.seed}.")
        if not _DEVICE.fullmatch(self.device):
            mistakes.append(f"device must be auto, cpu, mps, cuda or cuda:N, got {self.device!r}.")
        if self.precision not in PRECISIONS:
            mistakes.append(str(unknown_name("precision", self.precision, PRECISIONS)))
        return mistakes

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return _to_json(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, JsonValue]) -> "FitConfig":
        """The inverse of `to_dict`.

        Raises
        ------
        ConfigError
            If a name is unknown, a type is wrong, or a value is out of range.
        """
        return _from_json(cls, values)


def check_together(head: HeadConfig, training: FitConfig) -> None:
    """Refuse a head and a training that do not fit each other.

    Raises
    ------
    ConfigError
        If the epoch is selected by a task that is not joined, or every joined task weighs 0.
    """
    mistakes = []
    if training.select != "p" and training.select not in head.joint:
        mistakes.append(
            f"The epoch is selected by {training.select!r}, but the joined tasks are {', '.join(head.joint)}. "
            "Join it, or select by one of these or by 'p'."
        )
    if not any(training.weights[task] > 0 for task in head.joint):
        mistakes.append(f"Every joined task ({', '.join(head.joint)}) weighs 0. Give one of them a weight.")
    _raise_all("fit", mistakes)


def _raise_all(what: str, mistakes: Iterable[str]) -> None:
    found = list(mistakes)
    if found:
        raise ConfigError(f"The {what}'s configuration cannot be used: " + " ".join(found))


def _to_json(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _from_json(kind: type[Config], values: Mapping[str, JsonValue]) -> Config:
    known = [each.name for each in fields(kind)]
    unknown = [str(unknown_name("setting", name, known)) for name in values if name not in known]
    _raise_all("saved", unknown)
    try:
        made: Config = TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}." for each in error.errors()]
        raise ConfigError("The saved configuration cannot be used: " + " ".join(found)) from error
    return made
