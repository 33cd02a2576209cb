"""What a search chooses from: inputs, fusion, tasks joined and their weights, time, learning rate.

It is the winner's "optimal multi-task synergy" (ABAW7, the Netease Fuxi system: fusion set x joint set x S x W x
weights) with the parts of the other systems added. The paper's own choice for the task is tried first, after a linear
head: what a search finds is at least as good as both, on what it selects by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING, Final

from featurestore.errors import ConfigError, unknown_name
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.modules.config import TEMPORAL_WIDTH, HeadConfig
from heads.tasks import TASKS

if TYPE_CHECKING:
    from optuna.trial import Trial

Parameters = Mapping[str, str | float | int | bool]
"""Name -> choice."""

FUSIONS: Final = ("sum", "concat", "affine", "gated", "residual", "attention")
ANY_WIDTH: Final = FUSIONS[1:]
"""Fusions of embeddings that differ in width."""
TEMPORALS: Final = ("none", "lstm", "gru", "bigru", "transformer", "tcn")
ATTENTION_HEADS: Final = 4
"""Number of attention heads; fewer if 4 does not divide the widths, since some embeddings have 10 or 15 columns."""
LENGTHS: Final = (5, 10, 20, 30, 50)
"""S."""
STEPS: Final = (1.0, 0.75, 0.5)
"""W, as a share of S."""
WEIGHTS: Final = (0.05, 5.0)
"""Of the loss of a task that is joined, beside 1 for the one that is searched for."""
RATES: Final = (1e-4, 3e-3)

_PAPER: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...], int]]] = {
    "au": ((), ("v",), 1),
    "expr": (("au", "v"), ("au", "v"), 5),
    "v": (("au", "v"), ("au", "a"), 20),
    "a": (("au", "v"), ("au", "v"), 30),
    "p": (("au", "v"), (), 20),
}
"""Task -> what the ABAW7 winner fuses and joins for it, and its S = W; for P its choice for valence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One choice."""

    head: HeadConfig
    training: FitConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What may be chosen for one task.

    Attributes
    ----------
    task
        A task, or ``"p"``: all four together.
    widths
        Encoder -> D, of those that may be read, by name: proposals do not depend on the order in which they were named.
    joinable
        Tasks that may be joined to it.
    training
        What is not searched for: epochs, batches and so on.
    """

    task: str
    widths: Mapping[str, int]
    joinable: tuple[str, ...]
    training: FitConfig

    @classmethod
    def of(cls, features: FeatureSet, task: str, training: FitConfig) -> "Space":
        """The space of all encoders that are loaded, and all tasks that train rows have labels of.

        Raises
        ------
        UnknownNameError
            If there is no such task.
        ConfigError
            If no train row has a label of the task, or an encoder holds tokens.
        """
        if task != "p" and task not in TASKS:
            raise unknown_name("task to search for", task, ("p", *TASKS))
        rows = features.frames.rows("train")
        labelled = [name for name in TASKS if features.targets.labelled(name)[rows].any()]
        missing = [name for name in (TASKS if task == "p" else (task,)) if name not in labelled]
        if missing:
            raise ConfigError(
                f"A search for {task!r} needs train rows with labels of {', '.join(missing)}, but there are none "
                f"(store: {features.source}). Check `abaw frames`, or search for another task."
            )
        shapes = features.shapes(features.names)
        tokens = [name for name, shape in shapes.items() if len(shape) != 1]
        if tokens:
            raise ConfigError(
                f"A search reads one vector a frame, but {', '.join(tokens)} hold tokens. Leave them out."
            )
        return cls(
            task=task,
            widths={name: shapes[name][0] for name in sorted(shapes)},
            joinable=tuple(name for name in labelled if name != task and task != "p"),
            training=replace(training, select=task),
        )

    def suggest(self, trial: "Trial") -> Candidate:
        """A choice, each part of it asked of an optuna trial."""
        base = str(trial.suggest_categorical("base", list(self.widths)))
        others = [name for name in self.widths if name != base]
        fuse = tuple(name for name in others if trial.suggest_categorical(f"fuse_{name}", [False, True]))
        fusion = self._fusion(trial, (base, *fuse))
        more = [name for name in self.joinable if trial.suggest_categorical(f"join_{name}", [False, True])]
        temporal = str(trial.suggest_categorical("temporal", list(TEMPORALS)))
        seq = int(trial.suggest_categorical("S", list(LENGTHS))) if temporal != "none" else 1
        share = float(trial.suggest_categorical("W", list(STEPS))) if temporal != "none" else 1.0
        weighed = tuple(TASKS)[1:] if self.task == "p" else tuple(more)
        weights = {name: trial.suggest_float(f"weight_{name}", *WEIGHTS, log=True) for name in weighed}
        rate = trial.suggest_float("learning_rate", *RATES, log=True)
        head = HeadConfig(
            encoder=base,
            fuse=fuse,
            fusion=fusion,
            # As wide as the base: concatenated, a recurrent module's cost would grow with the square of the inputs.
            width=self.widths[base] if fusion == "concat" else None,
            joint=tuple(TASKS) if self.task == "p" else (self.task, *more),
            temporal=temporal,
            # Whatever is fused is as wide as the base, and a Transformer's state has its own width.
            attention_heads=gcd(self.widths[base], TEMPORAL_WIDTH, ATTENTION_HEADS),
            seq=seq,
            window=max(1, round(share * seq)),
        )
        return Candidate(head=head, training=replace(self.training, learning_rate=rate, weights=weights))

    def _fusion(self, trial: "Trial", encoders: Sequence[str]) -> str:
        if len(encoders) == 1:  # the winner's two layers on the base alone, or nothing
            return str(trial.suggest_categorical("fusion_alone", ["none", "sum"]))
        if len({self.widths[name] for name in encoders}) > 1:
            return str(trial.suggest_categorical("fusion_mixed", list(ANY_WIDTH)))
        return str(trial.suggest_categorical("fusion", list(FUSIONS)))

    def first(self) -> list[Parameters]:
        """Tried before anything is drawn: a head of single frames, then the paper's choice as the store allows."""
        own = self.task if self.task in self.widths else self._general()
        linear: dict[str, str | float | int | bool] = {"base": own, "temporal": "none", "fusion_alone": "none"}
        fused, joined, seq = _PAPER[self.task]
        base = own if self.task == "au" else self._general()
        fuse = [name for name in fused if name in self.widths and name != base]
        is_mixed = len({self.widths[name] for name in (base, *fuse)}) > 1
        paper: dict[str, str | float | int | bool] = {"base": base, "temporal": "lstm" if seq > 1 else "none"}
        paper |= {"S": seq, "W": 1.0} if seq > 1 else {}
        kind = "fusion_alone" if not fuse else "fusion_mixed" if is_mixed else "fusion"
        paper[kind] = "affine" if is_mixed else "sum"
        for chosen, wanted, together in ((linear, (), ()), (paper, fuse, joined)):
            chosen |= {f"fuse_{name}": name in wanted for name in self.widths if name != chosen["base"]}
            chosen |= {f"join_{name}": name in together for name in self.joinable}
            weighed = tuple(TASKS)[1:] if self.task == "p" else [name for name in self.joinable if name in together]
            chosen |= {f"weight_{name}": 1.0 for name in weighed}
            chosen["learning_rate"] = self.training.learning_rate
        return [linear, paper]

    def _general(self) -> str:
        """The encoder that knows no task, if it goes by its usual name; else the first by name."""
        return "mae" if "mae" in self.widths else next(iter(self.widths))


def strategy(candidate: Candidate) -> dict[str, str | float | int]:
    """A choice as columns of a table: each has a value whatever the others are."""
    head, training = candidate.head.resolved(), candidate.training
    return {
        "base": head.encoder,
        "fused": "+".join(head.fuse),
        "fusion": head.fusion,
        "joined": "+".join(head.joint),
        "temporal": head.temporal,
        "S": head.seq,
        "W": head.step,
        "weights": " ".join(f"{task}={training.weights[task]:.3g}" for task in head.joint),
        "learning_rate": training.learning_rate,
    }
