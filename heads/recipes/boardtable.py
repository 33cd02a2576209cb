"""A leaderboard for people: on the console, and as Markdown.

Systems stand in the order of P, post-processed where something was calibrated. Under each score stands its 95 %
interval by resampling videos; of several seeds the mean of their intervals, and under it the spread over seeds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

import polars as pl
from rich import box
from rich.markup import escape
from rich.table import Table

from featurestore.atomic import replace_file
from heads.tasks import PARTS

from .standing import Standing

WIDE: Final = 112
"""Columns of a terminal from which on everything is shown."""

_SCORED: Final = ("p", *PARTS)
_TITLES: Final[Mapping[str, str]] = {
    "p": "P",
    "ccc_valence": "V",
    "ccc_arousal": "A",
    "f1_expression": "EXPR",
    "f1_au": "AU",
}
_MARKS: Final[Mapping[str, str]] = {
    "c": "in-sample: post-processing calibrated on the frames that are scored",
    "e": "epochs picked by the score on val",
    "s": "encoders that are not the recipe's own stand in (below)",
    "x": "epochs not the recipe's",
}
_UNTOLD: Final = "?"
"""Behind a published score that is told without its set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardLine:
    """A system at one stage, over its seeds.

    Attributes
    ----------
    system, stage
        Which.
    n_seeds
        How many runs.
    scores
        Part, or ``p`` -> mean over seeds; None where there is none.
    intervals
        The same -> ends of the interval, means over seeds, in words; empty where there is none.
    spreads
        The same -> standard deviation over seeds, in words; empty for one seed.
    val, test, untold
        The published P; the last without its set.
    parameters, seconds
        Of one run; seconds are the mean.
    marks
        Letters of `_MARKS`.
    stand_ins
        In words.
    """

    system: str
    stage: str
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


def board_lines(rows: pl.DataFrame) -> list[BoardLine]:
    """The lines of a leaderboard, the best system first.

    Parameters
    ----------
    rows
        As `run_leaderboard` returns them.
    """
    groups: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in rows.iter_rows(named=True):
        groups.setdefault((row["system"], row["stage"]), []).append(row)
    lines = [_line(group) for group in groups.values()]
    best = {system: -1.0 for system, _ in groups}
    for line in lines:  # of a system's stages the last is what it comes to
        best[line.system] = -1.0 if line.scores["p"] is None else line.scores["p"]
    return sorted(lines, key=lambda line: (-best[line.system], line.system))  # stable: raw stays before post


def render_board(lines: Sequence[BoardLine], *, is_wide: bool = True) -> Table:
    """For the console.

    Parameters
    ----------
    lines
        Of `board_lines`.
    is_wide
        Whether there are `WIDE` columns; with fewer, sizes, times and the published P on val are left out, and
        ``paper`` is P on test. A P without its set stands before a question mark, in the first of these columns.
    """
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("system", no_wrap=True)
    table.add_column("", no_wrap=True)
    published = ("paper: val", "test") if is_wide else ("paper",)
    sizes = ("params", "time") if is_wide else ()
    for heading in (*(_TITLES[name] for name in _SCORED), *published, *sizes):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("notes" if is_wide else "", no_wrap=True)
    previous = None
    for line in lines:
        if previous not in (None, line.system):
            table.add_section()
        figures = (_published(line, "val"), _score(line.test)) if is_wide else (_published(line, "test"),)
        size = (_counted(line.parameters), _timed(line.seconds)) if is_wide else ()
        is_first = line.system != previous
        cells = [escape(line.system) if is_first else "", line.stage]
        cells += [
            "\n".join([_score(line.scores[name]), *(f"[dim]{words}[/dim]" for words in _beside(line, name))])
            for name in _SCORED
        ]
        table.add_row(*cells, *(figures if is_first else ("",) * len(figures)), *size, line.marks)
        previous = line.system
    return table


def remarks(
    lines: Sequence[BoardLine], *, missing: Mapping[str, Sequence[Standing]], failed: Mapping[str, Mapping[int, str]]
) -> Iterator[str]:
    """What stands under a leaderboard: its marks, stand-ins, systems that lack encoders, and those that failed."""
    if any(line.stage == "post" for line in lines):
        yield "raw: as fitted and blended; post: post-processed"
    several = {line.system: line.n_seeds for line in lines if line.n_seeds > 1}
    if several:
        told = ", ".join(f"{system} ({n_seeds})" for system, n_seeds in several.items())
        yield f"means over seeds, of scores and of intervals; ±: standard deviation over seeds: {told}"
    if any(line.untold is not None for line in lines):
        yield f"{_UNTOLD}: published without saying of which set"
    used = sorted({mark for line in lines for mark in line.marks})
    yield from (f"{mark}: {_MARKS[mark]}" for mark in used)
    stand_ins = {line.system: line.stand_ins for line in lines if line.stand_ins}
    yield from (f"{system}: {words}" for system, words in stand_ins.items())
    for system, roles in missing.items():
        commands = "; ".join(dict.fromkeys(each.remedy for each in roles))
        yield f"{system}: not fitted. {' '.join(_sentence(each.problem) for each in roles)} To bring them: {commands}"
    for system, reasons in failed.items():
        for reason in dict.fromkeys(reasons.values()):
            seeds = [str(seed) for seed, each in reasons.items() if each == reason]
            word = "seed" if len(seeds) == 1 else "seeds"
            yield f"{system}: failed ({word} {', '.join(seeds)}). {_sentence(reason)}"


def write_markdown(
    path: Path,
    rows: pl.DataFrame,
    *,
    missing: Mapping[str, Sequence[Standing]],
    failed: Mapping[str, Mapping[int, str]],
) -> None:
    """Write a leaderboard as Markdown, the whole file or nothing."""
    with replace_file(path) as partial:
        partial.write_text("\n".join(_markdown(rows, missing, failed)) + "\n", encoding="utf-8")


def _markdown(
    rows: pl.DataFrame, missing: Mapping[str, Sequence[Standing]], failed: Mapping[str, Mapping[int, str]]
) -> Iterator[str]:
    lines = board_lines(rows)
    headings = ["system", "stage", *(_TITLES[name] for name in _SCORED), "paper, val P", "paper, test P"]
    headings += ["parameters", "seconds", "notes"]
    yield "# Leaderboard"
    yield ""
    spread = ", and after ± the spread over seeds" if any(line.n_seeds > 1 for line in lines) else ""
    yield f"Scores on val; in brackets 95 % intervals by resampling videos{spread}."
    yield ""
    yield _cells(headings)
    yield _cells(["---", "---", *(["---:"] * (len(headings) - 3)), "---"])
    for line in lines:
        beside = {name: ", ".join(_beside(line, name)) for name in _SCORED}
        scored = [_score(line.scores[name]) + (f" ({beside[name]})" if beside[name] else "") for name in _SCORED]
        figures = [
            _published(line, "val"),
            _score(line.test),
            f"{line.parameters:,}",
            f"{line.seconds:.1f}",
            line.marks,
        ]
        yield _cells([line.system, line.stage, *scored, *figures])
    told = list(remarks(lines, missing=missing, failed=failed))
    if told:
        yield ""
        yield from (f"- {_flat(each)}" for each in told)


def _line(group: Sequence[Mapping[str, object]]) -> BoardLine:
    first = group[0]
    scores: dict[str, float | None] = {}
    intervals: dict[str, str] = {}
    spreads: dict[str, str] = {}
    for name in _SCORED:
        values = _numbers(group, name)
        scores[name] = fmean(values) if values else None
        ends = [_numbers(group, f"{name}_{end}") for end in ("low", "high")]
        intervals[name] = " ".join(_short(fmean(each)) for each in ends) if all(ends) else ""
        spreads[name] = f"± {_short(stdev(values))}" if len(values) > 1 else ""
    val, test, untold = (_numbers([first], f"published_{name}") for name in ("val", "test", "untold"))
    return BoardLine(
        system=str(first["system"]),
        stage=str(first["stage"]),
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
    )


def _numbers(group: Sequence[Mapping[str, object]], column: str) -> list[float]:
    return [float(str(row[column])) for row in group if row[column] is not None]


def _beside(line: BoardLine, name: str) -> list[str]:
    """What stands under a score, or in brackets behind it: its interval, the spread over seeds."""
    return [words for words in (line.intervals[name], line.spreads[name]) if words]


def _published(line: BoardLine, of: str) -> str:
    """P on a set, or else one that is told without its set, marked."""
    known = line.val if of == "val" else line.test
    return f"{_score(line.untold)}{_UNTOLD}" if known is None and line.untold is not None else _score(known)


def _marks(row: Mapping[str, object]) -> Iterable[str]:
    if row["in_sample"]:
        yield "c"
    if "val" in str(row["selected_on"]).split("; "):
        yield "e"
    if row["stand_ins"]:
        yield "s"
    if row["epochs"] is not None:
        yield "x"


def _score(value: float | None) -> str:
    return "-" if value is None else _unsigned_zero(f"{value:.3f}")


def _short(value: float) -> str:
    """Two digits, without the zero before the point."""
    text = _unsigned_zero(f"{value:.2f}")
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _unsigned_zero(text: str) -> str:
    return text if float(text) else text.removeprefix("-")


def _counted(number: int) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def _timed(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", ")")) else f"{text}."


def _flat(text: str) -> str:
    """On one line, with nothing that Markdown would take for a cell's border."""
    return " ".join(text.split()).replace("|", "\\|")


def _cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_flat, cells))} |"
