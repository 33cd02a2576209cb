"""How a head is fitted: `FitConfig`.

Defaults that differ from the paper's: the ABAW7 winner trains the head together with a live encoder at a
learning rate of 1e-5. On cached embeddings only the head moves, and at 1e-5 it hardly leaves its start:
LEARNING_RATE below was chosen by trying on simulated embeddings (768 wide, 14,000 train rows, four tasks,
8 epochs, batches of 1024 rows). P on val at 1e-5, 1e-4, 3e-4 and 1e-3: single frames .99, 1.42, 1.68, 1.80; LSTM,
S = 20: .76, 1.18, 1.37, 1.38. Rows a step, epochs and patience follow from the number of rows (schedule.py).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from featurestore.errors import ConfigError, unknown_name
from heads.checking import at_least, from_json, in_unit_interval, raise_all, to_json
from heads.losses.config import BALANCED, LossConfig
from heads.modules.config import HeadConfig
from heads.tasks import TASKS

LEARNING_RATE: Final = 1e-3
PRECISIONS: Final = ("float32", "bfloat16")
SCHEDULES: Final = ("constant", "linear", "cosine")
SELECTS: Final = ("auto", "p", "each", *TASKS)
SELECT_ON: Final = ("val", "last")

_DEVICE: Final = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How a head is fitted.

    Attributes
    ----------
    epochs
        How often the train split is seen; None: until the score stops improving (see `heads.fitting.schedule`).
    batch_frames
        Rows in a batch, padding included; the batch has ``batch_frames // seq`` windows, at least one. None: by the
        number of rows.
    learning_rate
        AdamW's, at its highest.
    schedule
        What follows the warm-up: ``"constant"``, or down to 0, ``"linear"`` or ``"cosine"``.
    warmup_epochs
        Over which the rate rises from 0.
    weight_decay, betas
        AdamW's.
    gradient_clip
        The gradient's norm is cut to this; the paper says nothing of it, an LSTM is safer with it.
    average
        Decay, a step, of a moving average of the weights that is scored and kept in their place; 0 keeps the weights.
    weights
        Task -> weight of its loss; a task that is not named weighs 1.
    loss
        Of each task; by default the ABAW7 winner's with balanced expressions, since macro F1 counts a rare one as much
        as a frequent one, and action units balanced half the way (see `LossConfig`).
    label_sampling
        Of ``label-feedback``: share of true labels that are fed back, in the first epoch; it falls to 0 in the last.
    complete_labels
        Whether only train rows with labels of every joined task are learned from.
    select
        Which score picks the epoch: a joined task's; ``"p"``: P, where not all tasks are joined its joined parts;
        ``"each"``: an epoch for each task, by its own score (valence and arousal are often best long before the
        others); of what the tasks share, each then keeps a copy of its own epoch (see `HeadConfig.separable`).
        ``"auto"`` is ``"each"`` of a head whose tasks can be separated so, ``"p"`` of others.
    select_on
        Where: ``"val"``, or ``"last"``: the last epoch is kept, and val has no part in the fit.
    patience
        How many epochs may pass without a better one before the fit ends; None: all of `epochs` are seen, or with
        `epochs` None as many as the schedule says. Where nothing is looked at, none is left out.
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

    epochs: int | None = None
    batch_frames: int | None = None
    learning_rate: float = LEARNING_RATE
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float = 1.0
    average: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)
    loss: LossConfig = BALANCED
    label_sampling: float = 0.75
    complete_labels: bool = False
    select: str = "auto"
    select_on: str = "val"
    patience: int | None = None
    seed: int = 1
    device: str = "auto"
    precision: str = "float32"

    def __post_init__(self) -> None:
        raise_all("fit", self._mistakes())
        weights = {task: float(self.weights.get(task, 1.0)) for task in TASKS}
        object.__setattr__(self, "weights", weights)

    def _mistakes(self) -> list[str]:
        return [
            *at_least(1, epochs=self.epochs, batch_frames=self.batch_frames, patience=self.patience),
            *self._optimiser_mistakes(),
            *self._weight_mistakes(),
            *self._choice_mistakes(),
        ]

    def _optimiser_mistakes(self) -> list[str]:
        above = {"learning_rate": self.learning_rate, "gradient_clip": self.gradient_clip}
        mistakes = [
            f"{name} must be a number above 0, got {value}."
            for name, value in above.items()
            if not (math.isfinite(value) and value > 0)
        ]
        at_zero = {"weight_decay": self.weight_decay, "warmup_epochs": self.warmup_epochs}
        mistakes += [
            f"{name} must be a number of at least 0, got {value}."
            for name, value in at_zero.items()
            if not (math.isfinite(value) and value >= 0)
        ]
        mistakes += in_unit_interval(average=self.average, beta_1=self.betas[0], beta_2=self.betas[1])
        if not 0 <= self.label_sampling <= 1:
            mistakes.append(f"label_sampling must be in [0, 1], got {self.label_sampling}.")
        return mistakes

    def _weight_mistakes(self) -> list[str]:
        mistakes = []
        for task, weight in self.weights.items():
            if task not in TASKS:
                mistakes.append(str(unknown_name("task", task, TASKS)))
            elif not (math.isfinite(weight) and weight >= 0):
                mistakes.append(f"The weight of {task!r} must be a number of at least 0, got {weight}.")
        return mistakes

    def _choice_mistakes(self) -> list[str]:
        choices = (
            ("schedule", self.schedule, SCHEDULES),
            ("score to select by", self.select, SELECTS),
            ("split to select on", self.select_on, SELECT_ON),
            ("precision", self.precision, PRECISIONS),
        )
        mistakes = [str(unknown_name(what, name, known)) for what, name, known in choices if name not in known]
        if not 0 <= self.seed < 2**63:
            mistakes.append(f"seed must be in 0 .. 2^63 - 1, got {self.seed}.")
        if not _DEVICE.fullmatch(self.device):
            mistakes.append(f"device must be auto, cpu, mps, cuda or cuda:N, got {self.device!r}.")
        return mistakes

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return to_json(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, JsonValue]) -> "FitConfig":
        """The inverse of `to_dict`.

        Raises
        ------
        ConfigError
            If a name is unknown, a type is wrong, or a value is out of range.
        """
        return from_json(cls, values)


def picks_of(head: HeadConfig, select: str) -> dict[str, str]:
    """Joined task -> the score that picks its epoch: ``"p"``, or a task's own.

    Parameters
    ----------
    head
        What is fitted.
    select
        As of `FitConfig`.

    Raises
    ------
    ConfigError
        If that task is not joined, or an epoch for each task is asked of a head that is not separable.
    """
    if select == "auto":
        select = "each" if head.separable else "p"
    if select == "each":
        if not head.separable:
            cause = "fusion 'late'" if head.fusion == "late" else f"framework {head.framework!r}"
            raise ConfigError(
                "An epoch for each task (select 'each') needs a head whose tasks can be separated; they cannot with "
                f"{cause}. Choose another, or framework 'per-task', or select by 'p' or one task."
            )
        return {task: task for task in head.joint}
    if select != "p" and select not in head.joint:
        raise ConfigError(
            f"The epoch is selected by {select!r}, but the joined tasks are {', '.join(head.joint)}. "
            "Join it, or select by one of these or by 'p'."
        )
    return dict.fromkeys(head.joint, select)


def check_together(head: HeadConfig, training: FitConfig) -> None:
    """Refuse a head and a training that do not fit each other.

    Raises
    ------
    ConfigError
        As `picks_of` does, or if every joined task weighs 0.
    """
    picks_of(head, training.select)
    if not any(training.weights[task] > 0 for task in head.joint):
        raise ConfigError(f"Every joined task ({', '.join(head.joint)}) weighs 0. Give one of them a weight.")
