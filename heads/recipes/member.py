"""A model of a recipe: which tasks it answers, what it is made of, and how models that answer one task are blended."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from featurestore.errors import AbawError, ConfigError, unknown_name
from heads.checking import raise_all
from heads.fitting.config import FitConfig, check_together
from heads.light.config import LightConfig
from heads.modules.config import HeadConfig
from heads.tasks import TASKS, in_task_order

from .names import name_mistakes

BLENDS: Final = ("given", "fitted", "best")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model of a system.

    Attributes
    ----------
    name
        Of the model, in its system.
    tasks
        Which tasks it answers, of those it joins; kept in the order au, expr, v, a.
    head
        What it is made of; its encoders are roles.
    training
        How it is fitted; None for a light head, whose configuration says that itself. Its seed and device are set
        when the recipe is fitted.
    epoch_per_task
        Whether each task that it answers keeps the epoch which is best for that task, as if it were fitted once a
        task; else `training` says which score picks the one epoch.

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    name: str
    tasks: tuple[str, ...]
    head: HeadConfig | LightConfig
    training: FitConfig | None = None
    epoch_per_task: bool = False

    def __post_init__(self) -> None:
        raise_all(f"model {self.name}", self._mistakes())
        object.__setattr__(self, "tasks", in_task_order(self.tasks))
        if isinstance(self.head, HeadConfig):
            # Spelled out, so that a recipe that was written equals the one that is read.
            object.__setattr__(self, "head", self.head.resolved())
        else:
            object.__setattr__(self, "head", replace(self.head, seed=1))
        if self.training is not None:
            object.__setattr__(self, "training", replace(self.training, seed=1, device="auto"))

    def _mistakes(self) -> list[str]:
        mistakes = name_mistakes("name", self.name)
        mistakes += [str(unknown_name("task", task, TASKS)) for task in self.tasks if task not in TASKS]
        if not self.tasks:
            mistakes.append("tasks must name what the model answers.")
        absent = [task for task in self.tasks if task in TASKS and task not in self.head.joint]
        if absent:
            mistakes.append(
                f"it answers {', '.join(absent)}, but joins only {', '.join(self.head.joint)}. Join what it answers."
            )
        if isinstance(self.head, LightConfig):
            if self.training is not None or self.epoch_per_task:
                mistakes.append("a light head has no training and no epochs.")
            return mistakes
        if self.training is None:
            return [*mistakes, "a head needs a training, even an empty one."]
        try:
            check_together(self.head, self.training)
        except AbawError as error:
            mistakes.append(str(error))
        return mistakes

    def on(self, encoders: Mapping[str, str]) -> "Member":
        """The same model on encoders of a store: role -> name; a role that is not named keeps its own.

        Raises
        ------
        ConfigError
            If two roles of the model are played by one encoder.
        """
        return replace(self, head=on_encoders(self.head, encoders))


def on_encoders(head: HeadConfig | LightConfig, encoders: Mapping[str, str]) -> HeadConfig | LightConfig:
    """A head with other encoders in the places of its own: old name -> new one.

    Raises
    ------
    ConfigError
        If two of its places would hold the same.
    """

    def named(name: str) -> str:
        return encoders.get(name, name)

    played = Counter(map(named, head.encoders))
    twice = [name for name, count in played.items() if count > 1]
    if twice:
        roles = ", ".join(name for name in head.encoders if named(name) == twice[0])
        raise ConfigError(
            f"Each encoder of a model must be another one, but {twice[0]!r} would play {roles}. "
            "Give another encoder for one of these roles."
        )
    columns = {named(name): part for name, part in head.columns.items()}
    return replace(head, encoder=named(head.encoder), fuse=tuple(map(named, head.fuse)), columns=columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendPlan:
    """How the models that answer one task are put together.

    Attributes
    ----------
    how
        ``"given"``: with `weights`; ``"fitted"``: with weights that are fitted to the models' out-of-fold predictions
        of the train split; ``"best"``: each task is answered by the one model that is best for it there.
    weights
        Of ``given``: task -> model -> weight, at least 0; where a task is not named its models weigh the same.

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    how: str = "given"
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mistakes = [] if self.how in BLENDS else [str(unknown_name("blend", self.how, BLENDS))]
        if self.weights and self.how != "given":
            mistakes.append(f"weights are of a blend that is 'given', not {self.how!r}.")
        for task, weights in self.weights.items():
            if task not in TASKS:
                mistakes.append(str(unknown_name("task", task, TASKS)))
            wrong = [weight for weight in weights.values() if not (math.isfinite(weight) and weight >= 0)]
            if wrong or not any(weights.values()):
                mistakes.append(f"weights of {task!r} must be numbers of at least 0, one of them above, got {weights}.")
        raise_all("blend", mistakes)

    @property
    def looks_at_train(self) -> bool:
        """Whether out-of-fold predictions of train decide it."""
        return self.how != "given"

    def mistakes(self, members: Iterable[Member]) -> list[str]:
        """What is wrong with the weights, for these models, in sentences."""
        answering = {task: [member.name for member in members if task in member.tasks] for task in TASKS}
        return [
            f"The blend of {task!r}: {unknown_name('model that answers it', name, answering[task])}"
            for task, weights in self.weights.items()
            for name in weights
            if task in TASKS and name not in answering[task]
        ]
