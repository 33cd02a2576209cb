"""What is calibrated: `PostConfig`.

Everything is off unless it is asked for, and what is asked for is only kept where it helps (see `calibrate`).

Published: AIM3's moving mean over 0, 5, 10 or 15 rows to either side (ABAW4); HSEmotion's weights
exp(-d^2 / sigma), d in true frame numbers, sigma = 1e5, cut off at 50 rows for expressions and 10 for valence and
arousal, action units not smoothed, and thresholds on a grid .1 .. .9 for each of these (ABAW7). Its class bias is a
shift of the logits (ABAW11). Not published, so proposals: the smaller sigmas, the gaussians' widths, the number of
folds, the least gain.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from featurestore.errors import unknown_name
from heads.checking import at_least, from_json, raise_all, to_json
from heads.tasks import TASKS, in_task_order

SMOOTHINGS: Final = ("none", "box", "gaussian", "exp")
WIDTHS: Final[Mapping[str, tuple[float, ...]]] = {
    "none": (),
    "box": (5.0, 10.0, 15.0),
    "gaussian": (2.0, 5.0, 10.0, 20.0),
    "exp": (1e3, 1e4, 1e5),
}
"""Kind -> candidates: half-widths in rows; standard deviations in frames; sigmas in squared frames."""
CLIP_ROWS: Final[Mapping[str, int]] = {"au": 50, "expr": 50, "v": 10, "a": 10}
"""Task -> how many rows to either side a weight by frame numbers may reach."""
THRESHOLD_GRID: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostConfig:
    """What is calibrated; nothing by default. Mappings are completed for every task, so what is saved says it all.

    Attributes
    ----------
    smoothing
        Task -> ``"none"``, ``"box"`` (moving mean over rows), ``"gaussian"`` or ``"exp"`` (weights that fall with the
        distance in true frame numbers); a task that is not named is not smoothed.
    widths
        Task -> candidates for its width, in the kind's unit (see `WIDTHS`); 0 is no smoothing, which is always a
        candidate. A task that is not named has its kind's.
    clip_rows
        Task -> rows to either side beyond which ``"gaussian"`` and ``"exp"`` weigh nothing.
    thresholds
        Whether each action unit gets a threshold from `threshold_grid`; else it is .5.
    threshold_grid
        In (0, 1); .5 is always a candidate.
    class_bias
        Whether each expression gets a shift of its logit.
    rescale
        Whether valence and arousal get a factor and an offset.
    n_folds
        Folds of videos by which every choice is judged.
    least_gain
        What a step must bring, in its task's score, to be kept.

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    smoothing: Mapping[str, str] = field(default_factory=dict)
    widths: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    clip_rows: Mapping[str, int] = field(default_factory=dict)
    thresholds: bool = False
    threshold_grid: tuple[float, ...] = THRESHOLD_GRID
    class_bias: bool = False
    rescale: bool = False
    n_folds: int = 5
    least_gain: float = 0.001

    def __post_init__(self) -> None:
        raise_all("post-processing", self._mistakes())
        kinds = {task: self.smoothing.get(task, "none") for task in TASKS}
        widths = {task: tuple(map(float, self.widths.get(task, WIDTHS[kind]))) for task, kind in kinds.items()}
        object.__setattr__(self, "smoothing", kinds)
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "clip_rows", {task: self.clip_rows.get(task, CLIP_ROWS[task]) for task in TASKS})

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        smooths = any(kind != "none" for kind in self.smoothing.values())
        return not (smooths or self.thresholds or self.class_bias or self.rescale)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that something is asked for."""
        asked = {task for task, kind in self.smoothing.items() if kind != "none"}
        asked |= {"au"} if self.thresholds else set()
        asked |= {"expr"} if self.class_bias else set()
        asked |= {"v", "a"} if self.rescale else set()
        return in_task_order(asked)

    def _mistakes(self) -> list[str]:
        named = {*self.smoothing, *self.widths, *self.clip_rows}
        mistakes = [str(unknown_name("task", task, TASKS)) for task in sorted(named) if task not in TASKS]
        mistakes += [
            str(unknown_name(f"smoothing (of {task!r})", kind, SMOOTHINGS))
            for task, kind in self.smoothing.items()
            if kind not in SMOOTHINGS
        ]
        mistakes += [
            f"The widths of {task!r} must be numbers of at least 0, got {', '.join(map(str, widths))}."
            for task, widths in self.widths.items()
            if not all(math.isfinite(width) and width >= 0 for width in widths)
        ]
        mistakes += at_least(1, **{f"clip_rows of {task!r}": rows for task, rows in self.clip_rows.items()})
        if not self.threshold_grid or not all(0 < threshold < 1 for threshold in self.threshold_grid):
            mistakes.append(f"threshold_grid must hold numbers in (0, 1), got {list(self.threshold_grid)}.")
        mistakes += at_least(2, n_folds=self.n_folds)
        if not (math.isfinite(self.least_gain) and self.least_gain >= 0):
            mistakes.append(f"least_gain must be a number of at least 0, got {self.least_gain}.")
        return mistakes

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return to_json(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, JsonValue]) -> "PostConfig":
        """The inverse of `to_dict`.

        Raises
        ------
        ConfigError
            If a name is unknown, a type is wrong, or a value is out of range.
        """
        return from_json(cls, values)
