"""The lines of a leaderboard: one a system and stage, over its seeds, in the order of P.

Rows are of one line if nothing but the seed tells them apart. Where one name stands for several systems, as after runs
with other options, a label says which is which.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final

import polars as pl

from heads.tasks import PARTS

SCORED: Final = ("p", *PARTS)
MARKS: Final[Mapping[str, str]] = {
    "c": "in-sample: post-processing calibrated on the frames that are scored",
    "e": "epochs picked by the score on val",
    "s": "encoders that are not the recipe's own stand in (below)",
    "t": "encoders that were fine-tuned, commonly on train (below), and may know the frames of every fold",
    "x": "epochs not the recipe's",
}
"""Letter -> what should be known of a score."""
NO_INTERVAL: Final = "-"

_Row = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardLine:
    """A system at one stage, over its seeds.

    Attributes
    ----------
    system, stage
        Which.
    label
        The system's name, and where others of that name are there too, what tells it from them.
    n_seeds
        How many runs.
    scores
        Part, or ``p`` -> mean over seeds; None where there is none.
    intervals
        The same -> ends of the interval, means over seeds, in words; ``"-"`` of a score without one, empty where
        there is no score.
    spreads
        The same -> standard deviation over seeds, in words; empty for one seed.
    val, test, untold
        The published P; the last without its set.
    parameters, seconds
        Of one run; seconds are the mean.
    marks
        Letters of `MARKS`.
    stand_ins, tuned
        In words; empty if there are none.
    """

    system: str
    stage: str
    label: str
    n_seeds: int
    scores: Mapping[str, float | None]
    intervals: Mapping[str, str]
    spreads: Mapping[str, str]
    val: float | None
    test: float | None
    untold: float | None
    parameters: int
    seconds: float
    marks: str
    stand_ins: str
    tuned: str


def board_lines(rows: pl.DataFrame) -> list[BoardLine]:
    """The lines of a leaderboard, the best system first.

    Parameters
    ----------
    rows
        As `run_leaderboard` returns them.
    """
    groups: dict[tuple[str, str], list[_Row]] = {}
    for row in rows.iter_rows(named=True):
        groups.setdefault((f"{row['system']} {row['variant']}", row["stage"]), []).append(row)
    labels = _labels({variant: group[0] for (variant, _), group in groups.items()})
    lines = [_line(group, labels[variant]) for (variant, _), group in groups.items()]
    best: dict[str, float] = {}
    for line in lines:  # of a system's stages the last is what it comes to
        best[line.label] = -1.0 if line.scores["p"] is None else line.scores["p"]
    return sorted(lines, key=lambda line: (-best[line.label], line.label))  # stable: raw stays before post


def _labels(firsts: Mapping[str, _Row]) -> dict[str, str]:
    """Variant -> label: the system's name, with as much behind it as it takes to tell them apart."""
    more: tuple[Callable[[_Row], str], ...] = (
        lambda row: str(row["options"] or ""),
        lambda row: str(row["stand_ins"] or ""),
        lambda row: str(row["variant"])[:6],  # of a recipe that has changed under its name
    )
    labels = {variant: str(row["system"]) for variant, row in firsts.items()}
    told: dict[str, list[str]] = {variant: [] for variant in firsts}
    for tell in more:
        taken = list(labels.values())
        for variant in [variant for variant, label in labels.items() if taken.count(label) > 1]:
            told[variant] += filter(None, [tell(firsts[variant])])
            words = f" ({', '.join(told[variant])})" if told[variant] else ""
            labels[variant] = f"{firsts[variant]['system']}{words}"
    return labels


def _line(group: Sequence[_Row], label: str) -> BoardLine:
    first = group[0]
    scores: dict[str, float | None] = {}
    intervals: dict[str, str] = {}
    spreads: dict[str, str] = {}
    for name in SCORED:
        values = _numbers(group, name)
        scores[name] = fmean(values) if values else None
        ends = [_numbers(group, f"{name}_{end}") for end in ("low", "high")]
        intervals[name] = " ".join(short(fmean(each)) for each in ends) if all(ends) else NO_INTERVAL if values else ""
        spreads[name] = f"± {short(stdev(values))}" if len(values) > 1 else ""
    val, test, untold = (_numbers([first], f"published_{name}") for name in ("val", "test", "untold"))
    return BoardLine(
        system=str(first["system"]),
        stage=str(first["stage"]),
        label=label,
        n_seeds=len(group),
        scores=scores,
        intervals=intervals,
        spreads=spreads,
        val=val[0] if val else None,
        test=test[0] if test else None,
        untold=untold[0] if untold else None,
        parameters=int(str(first["parameters"])),
        seconds=fmean(float(str(row["seconds"])) for row in group),
        marks="".join(_marks(first)),
        stand_ins=str(first["stand_ins"] or ""),
        tuned=str(first["tuned"] or "").replace("+", ", "),
    )


def _numbers(group: Sequence[_Row], column: str) -> list[float]:
    return [float(str(row[column])) for row in group if row[column] is not None]


def _marks(row: _Row) -> Iterator[str]:
    if row["in_sample"]:
        yield "c"
    if "val" in str(row["selected_on"]).split("; "):
        yield "e"
    if row["stand_ins"]:
        yield "s"
    if row["tuned"]:
        yield "t"
    if row["epochs"] is not None:
        yield "x"


def short(value: float) -> str:
    """Two digits, without the zero before the point."""
    text = unsigned_zero(f"{value:.2f}")
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def unsigned_zero(text: str) -> str:
    """Without the sign of what was rounded to zero."""
    return text if float(text) else text.removeprefix("-")
