"""The four tasks, described once: how many outputs, which label columns, which score.

Their order here (au, expr, v, a) is the order in which joined tasks are listed, saved and named everywhere.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from featurestore.errors import ConfigError, unknown_name
from featurestore.labels import ACTION_UNITS, AU_COLUMNS, EXPRESSIONS

PartName = Literal["ccc_valence", "ccc_arousal", "f1_expression", "f1_au"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing that a frame is labelled with.

    Attributes
    ----------
    name
        ``"au"``, ``"expr"``, ``"v"`` or ``"a"``: as on the command line.
    title
        As it reads in a figure or a table.
    n_outputs
        Width of the task's linear layer.
    columns
        The label columns of a frame table that hold it.
    part
        The part of P that scores it.
    share
        How much of that part enters P: valence and arousal enter as their mean.
    """

    name: str
    title: str
    n_outputs: int
    columns: tuple[str, ...]
    part: PartName
    share: float


AU: Final = Task(name="au", title="AU", n_outputs=len(ACTION_UNITS), columns=AU_COLUMNS, part="f1_au", share=1.0)
EXPR: Final = Task(
    name="expr",
    title="EXPR",
    n_outputs=len(EXPRESSIONS),
    columns=("expression",),
    part="f1_expression",
    share=1.0,
)
V: Final = Task(name="v", title="V", n_outputs=1, columns=("valence",), part="ccc_valence", share=0.5)
A: Final = Task(name="a", title="A", n_outputs=1, columns=("arousal",), part="ccc_arousal", share=0.5)

TASKS: Final[Mapping[str, Task]] = MappingProxyType({task.name: task for task in (AU, EXPR, V, A)})
PARTS: Final[tuple[PartName, ...]] = ("ccc_valence", "ccc_arousal", "f1_expression", "f1_au")
"""The parts of P, in the order in which a score is printed."""
PART_TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "P": "P",
        "ccc_valence": "CCC valence",
        "ccc_arousal": "CCC arousal",
        "f1_expression": "F1 expression",
        "f1_au": "F1 action units",
    }
)


def task_named(name: str) -> Task:
    """The task called `name`.

    Raises
    ------
    UnknownNameError
        If there is none; the message suggests the nearest.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def in_task_order(names: Iterable[str]) -> tuple[str, ...]:
    """Task names without repetition, in the one order (au, expr, v, a).

    Raises
    ------
    UnknownNameError
        If one of them is not a task.
    """
    wanted = {task_named(name).name for name in names}
    return tuple(name for name in TASKS if name in wanted)


def parse_tasks(text: str) -> tuple[str, ...]:
    """The tasks of an option such as ``"au,expr,v,a"``, in the one order.

    Raises
    ------
    UnknownNameError
        If one of them is not a task.
    ConfigError
        If there is none.
    """
    names = in_task_order(parse_names(text))
    if not names:
        raise ConfigError(f"Expected tasks, separated by commas, got {text!r}. Name some of {', '.join(TASKS)}.")
    return names


def parse_names(text: str) -> tuple[str, ...]:
    """The names of an option such as ``"au,v"``, in the order given; blanks and empty ones are dropped."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_weights(text: str) -> dict[str, float]:
    """The task weights of an option such as ``"au=1,expr=0.5"``; tasks that are not named are left out.

    Raises
    ------
    UnknownNameError
        If a name is not a task.
    ConfigError
        If an item is not ``task=number``.
    """
    weights: dict[str, float] = {}
    for item in parse_names(text):
        name, _, value = item.partition("=")
        try:
            weights[task_named(name.strip()).name] = float(value)
        except ValueError as error:
            raise ConfigError(
                f"Expected task weights such as 'au=1,expr=0.5', got {item!r} in {text!r}. Write each as task=number."
            ) from error
    return weights
