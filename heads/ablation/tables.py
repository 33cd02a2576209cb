"""The ablation tables of the ABAW7 winner's paper (Netease Fuxi) as grids of heads over one's own store.

fusion    Table 2: single frames, one task; its own encoder alone, and with each other one and each two of them.
temporal  Table 3: one task, its own encoder alone; S/W from single frames to 30/30.
joint     Table 4: a task with the paper's inputs for it, joined with every set of the other tasks.

In the paper the base is an encoder that is still being trained; here it is that encoder's cached embedding, so
the joint rows of single frames get a shared module in its place (the fusion module on the base alone). The
paper's figures stand beside the rows that are the paper's rows. Its tables' check marks were lost in publication,
so each of Table 2's figures says whether its row is stated in the text or inferred.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from types import MappingProxyType
from typing import Final

from featurestore.errors import ConfigError, ShapeError, unknown_name
from heads.modules.config import HeadConfig
from heads.modules.shapes import Shapes, read_widths
from heads.tasks import TASKS

TABLES: Final = ("fusion", "temporal", "joint")

JOINT_BASE: Final = "mae"
"""Base encoder of Table 4, the one whose embeddings know no task."""

_WINDOWS: Final = ((1, 1), (5, 5), (10, 10), (15, 15), (20, 20), (20, 15), (30, 30))


@dataclass(frozen=True, slots=True)
class Published:
    """A figure of the paper.

    Attributes
    ----------
    score
        The task's own score on val.
    mark
        How its row is known: ``"text"`` (stated there), ``"inferred"``, or ``"table"`` (legible as printed).
    """

    score: float
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRow:
    """One row of a table: one head, scored by one task."""

    table: str
    task: str
    head: HeadConfig
    published: Published | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The rows that a store allows, and what it does not.

    Attributes
    ----------
    rows
        In the order of the paper.
    notes
        What was left out, in sentences.
    """

    rows: tuple[PlannedRow, ...]
    notes: tuple[str, ...]

    @property
    def encoders(self) -> tuple[str, ...]:
        """Every encoder that a row needs, each once: what to load."""
        return tuple(dict.fromkeys(chain.from_iterable(row.head.encoders for row in self.rows)))


def plan(table: str, encoders: Iterable[str], *, base: str | None = None) -> Plan:
    """The rows of a table over the encoders that are there.

    Parameters
    ----------
    table
        ``"fusion"``, ``"temporal"``, ``"joint"``, or ``"all"`` of them.
    encoders
        Names of the store's encoders; those called au, expr, v and a are taken for the tasks' own.
    base
        Base encoder of every row; by default the task's own (joint: mae).

    Raises
    ------
    UnknownNameError
        If the table or the base is unknown.
    ConfigError
        If no row is left.
    """
    known = tuple(encoders)
    if table not in (*TABLES, "all"):
        raise unknown_name("table", table, (*TABLES, "all"))
    if base is not None and base not in known:
        raise unknown_name("encoder", base, known)
    rows: list[PlannedRow] = []
    notes: list[str] = []
    for name in TABLES if table == "all" else (table,):
        for task in TASKS:
            made, note = _GRIDS[name](task, known, base)
            rows += made
            notes += [f"{name}: {each}" for each in note]
    if not rows:
        raise ConfigError(
            f"Nothing is left of table {table!r}: the store has encoders {', '.join(known) or '(none)'}, the table "
            f"needs those of the tasks ({', '.join(TASKS)}) or --base. Extract them with `abaw extract --encoder au`."
        )
    return Plan(rows=tuple(rows), notes=tuple(dict.fromkeys(notes)))


def readable(planned: Plan, shapes: Shapes) -> Plan:
    """A plan without the rows whose embeddings do not go together, with a note on them: found before the first fit.

    Parameters
    ----------
    planned
        As `plan` makes it.
    shapes
        Of the embeddings of its encoders.

    Raises
    ------
    ConfigError
        If no row is left.
    """
    rows: list[PlannedRow] = []
    skipped: dict[tuple[str, str], list[str]] = {}
    for row in planned.rows:
        try:
            read_widths(row.head, shapes)
            rows.append(row)
        except (ConfigError, ShapeError) as error:
            skipped.setdefault((row.table, str(error)), []).append(row.task)
    notes = [
        f"{table}: {len(tasks)} of {sum(row.table == table for row in planned.rows)} rows skipped (task "
        f"{', '.join(dict.fromkeys(tasks))}). {reason}"
        for (table, reason), tasks in skipped.items()
    ]
    if not rows:
        raise ConfigError(f"Nothing is left of the table: its rows need embeddings that go together. {notes[0]}")
    return Plan(rows=tuple(rows), notes=(*planned.notes, *notes))


_Grid = tuple[list[PlannedRow], list[str]]


def plain(head: HeadConfig) -> HeadConfig:
    """A head with the paper's outputs: one Linear a task, on the fused or temporal state alone.

    Inputs are standardised all the same: the paper's encoders learn along with the head, cached ones do not.
    """
    return replace(head, hidden=(), skip=False, input_dropout=0.0, temporal_dropout=0.0, temporal_width=0)


def _fusion_grid(task: str, known: Sequence[str], base: str | None) -> _Grid:
    encoder = base or task
    if encoder not in known:
        return [], [f"{task} skipped, the store lacks encoder {encoder!r}."]
    others = [name for name in TASKS if name not in (task, encoder)]
    notes = [f"rows that fuse {name!r} skipped, the store lacks it." for name in others if name not in known]
    others = [name for name in others if name in known]
    rows = [
        _row("fusion", task, HeadConfig(encoder=encoder, fuse=fuse, joint=(task,), temporal="none", seq=1))
        for size in (0, 1, 2)
        for fuse in combinations(others, size)
    ]
    return rows, notes


def _temporal_grid(task: str, known: Sequence[str], base: str | None) -> _Grid:
    encoder = base or task
    if encoder not in known:
        return [], [f"{task} skipped, the store lacks encoder {encoder!r}."]
    heads = (
        HeadConfig(encoder=encoder, joint=(task,), temporal="lstm" if seq > 1 else "none", seq=seq, window=window)
        for seq, window in _WINDOWS
    )
    return [_row("temporal", task, head) for head in heads], []


def _joint_grid(task: str, known: Sequence[str], base: str | None) -> _Grid:
    encoder = base or JOINT_BASE
    if encoder not in known:
        return [], [f"{task} skipped, the store lacks encoder {encoder!r} (choose one with --base)."]
    wanted, seq = _JOINT_INPUTS[task]
    fuse = tuple(name for name in wanted if name in known and name != encoder)
    missing = [name for name in wanted if name not in known]
    notes = [f"{task} without the fused {name!r}, the store lacks it." for name in missing]
    others = [name for name in TASKS if name != task]
    rows = [
        _row(
            "joint",
            task,
            HeadConfig(
                encoder=encoder,
                fuse=fuse,
                joint=(task, *more),
                # Linear outputs on an embedding that stands still share nothing, and joining them changes
                # nothing: where neither fusion nor time is shared, the fusion module reads the base alone.
                fusion="sum" if seq == 1 and not fuse else "auto",
                temporal="lstm" if seq > 1 else "none",
                seq=seq,
            ),
        )
        for size in range(len(others) + 1)
        for more in combinations(others, size)
    ]
    return rows, notes


_GRIDS: Final = {"fusion": _fusion_grid, "temporal": _temporal_grid, "joint": _joint_grid}

_JOINT_INPUTS: Final[Mapping[str, tuple[tuple[str, ...], int]]] = MappingProxyType(
    {"au": ((), 1), "expr": (("au", "v"), 5), "v": (("au", "v"), 20), "a": (("au", "v"), 30)}
)
"""Task -> what the paper fuses for it, and its S = W."""


def _row(table: str, task: str, head: HeadConfig) -> PlannedRow:
    return PlannedRow(table=table, task=task, head=plain(head), published=_published(table, task, head))


def _published(table: str, task: str, head: HeadConfig) -> Published | None:
    """The paper's figure, if the row's inputs are the paper's."""
    if table == "fusion":
        return _TABLE_2.get((task, head.fuse)) if head.encoder == task else None
    if table == "temporal":
        return _TABLE_3.get((task, head.seq, head.step)) if head.encoder == task else None
    if (head.fuse, head.seq) != _JOINT_INPUTS[task] or head.encoder != JOINT_BASE:
        return None
    return _TABLE_4.get((task, head.joint))


def _single(
    task: str, scores: Mapping[tuple[str, ...], tuple[float, str]]
) -> dict[tuple[str, tuple[str, ...]], Published]:
    return {(task, fuse): Published(score, mark) for fuse, (score, mark) in scores.items()}


_TABLE_2: Final[Mapping[tuple[str, tuple[str, ...]], Published]] = MappingProxyType(
    _single(
        "au",
        {
            (): (0.5001, "table"),
            ("expr",): (0.4826, "inferred"),
            ("v",): (0.4988, "inferred"),
            ("a",): (0.4974, "inferred"),
        },
    )
    | _single(
        "expr",
        {
            (): (0.4012, "table"),
            ("au",): (0.4142, "text"),
            ("v",): (0.4105, "inferred"),
            ("a",): (0.3941, "inferred"),
            ("au", "v"): (0.4207, "inferred"),
        },
    )
    | _single(
        "v",
        {
            (): (0.5606, "table"),
            ("au",): (0.5721, "inferred"),
            ("expr",): (0.5208, "inferred"),
            ("au", "a"): (0.5780, "text"),
        },
    )
    | _single(
        "a",
        {
            (): (0.4026, "table"),
            ("au",): (0.4142, "inferred"),
            ("expr",): (0.3987, "inferred"),
            ("v",): (0.4297, "inferred"),
            ("au", "v"): (0.4581, "text"),
        },
    )
)

# The table's single-frame arousal is .4012, Table 2's is .4026: as published.
_TABLE_3: Final[Mapping[tuple[str, int, int], Published]] = MappingProxyType(
    {
        (task, seq, window): Published(score, "table")
        for task, scores in {
            "au": (0.5001, 0.4912, 0.4599),
            "expr": (0.4012, 0.3956, 0.3876),
            "v": (0.5606, 0.5705, 0.5774, 0.5831, 0.5842, 0.5806),
            "a": (0.4012, 0.4148, 0.4248, 0.4231, 0.4304, 0.4276, 0.4357),
        }.items()
        for (seq, window), score in zip(_WINDOWS, scores, strict=False)
    }
)

_TABLE_4: Final[Mapping[tuple[str, tuple[str, ...]], Published]] = MappingProxyType(
    {
        ("au", ("au", "v")): Published(0.6351, "table"),
        ("expr", ("au", "expr", "v")): Published(0.5030, "table"),
        ("v", ("au", "v", "a")): Published(0.6926, "table"),
        ("a", ("au", "v", "a")): Published(0.6139, "table"),
    }
)
