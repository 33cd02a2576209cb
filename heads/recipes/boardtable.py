"""A leaderboard for people: on the console, and as Markdown.

Systems stand in the order of P, post-processed where something was calibrated. Under each score stands its 95 %
interval by resampling videos, or, if there are several seeds, the spread over these.
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
    beside
        The same -> interval, or spread over seeds, in words.
    val, test
        The published P.
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
    beside: Mapping[str, str]
    val: float | None
    test: float | None
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
        ``paper`` is P on test.
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
        figures = (_score(line.val), _score(line.test)) if is_wide else (_score(line.test),)
        size = (_counted(line.parameters), _timed(line.seconds)) if is_wide else ()
        is_first = line.system != previous
        cells = [escape(line.system) if is_first else "", line.stage]
        cells += [f"{_score(line.scores[name])}\n[dim]{line.beside[name]}[/dim]" for name in _SCORED]
        table.add_row(*cells, *(figures if is_first else ("",) * len(figures)), *size, line.marks)
        previous = line.system
    return table


def remarks(
    lines: Sequence[BoardLine], *, missing: Mapping[str, Sequence[Standing]], failed: Mapping[str, str]
) -> Iterator[str]:
    """What stands under a leaderboard: its marks, stand-ins, systems that lack encoders, and those that failed."""
    if any(line.stage == "post" for line in lines):
        yield "raw: as fitted and blended; post: post-processed"
    used = sorted({mark for line in lines for mark in line.marks})
    yield from (f"{mark}: {_MARKS[mark]}" for mark in used)
    told = {line.system: line.stand_ins for line in lines if line.stand_ins}
    yield from (f"{system}: {words}" for system, words in told.items())
    for system, roles in missing.items():
        commands = "; ".join(dict.fromkeys(each.command for each in roles))
        yield f"{system}: not fitted. {' '.join(_sentence(each.problem) for each in roles)} To bring them: {commands}"
    yield from (f"{system}: failed. {_sentence(reason)}" for system, reason in failed.items())


def write_markdown(
    path: Path, rows: pl.DataFrame, *, missing: Mapping[str, Sequence[Standing]], failed: Mapping[str, str]
) -> None:
    """Write a leaderboard as Markdown, the whole file or nothing."""
    with replace_file(path) as partial:
        partial.write_text("\n".join(_markdown(rows, missing, failed)) + "\n", encoding="utf-8")


def _markdown(
    rows: pl.DataFrame, missing: Mapping[str, Sequence[Standing]], failed: Mapping[str, str]
) -> Iterator[str]:
    lines = board_lines(rows)
    headings = ["system", "stage", *(_TITLES[name] for name in _SCORED), "paper, val P", "paper, test P"]
    headings += ["parameters", "seconds", "notes"]
    yield "# Leaderboard"
    yield ""
    several = any(line.n_seeds > 1 for line in lines)
    within = "the spread over seeds" if several else "95 % intervals by resampling videos"
    yield f"Scores on val; in brackets {within}."
    yield ""
    yield _cells(headings)
    yield _cells(["---", "---", *(["---:"] * (len(headings) - 3)), "---"])
    for line in lines:
        beside = {name: f" ({words})" if words else "" for name, words in line.beside.items()}
        scored = [f"{_score(line.scores[name])}{beside[name]}" for name in _SCORED]
        figures = [_score(line.val), _score(line.test), f"{line.parameters:,}", f"{line.seconds:.1f}", line.marks]
        yield _cells([line.system, line.stage, *scored, *figures])
    told = list(remarks(lines, missing=missing, failed=failed))
    if told:
        yield ""
        yield from (f"- {_flat(each)}" for each in told)


def _line(group: Sequence[Mapping[str, object]]) -> BoardLine:
    first = group[0]
    scores: dict[str, float | None] = {}
    beside: dict[str, str] = {}
    for name in _SCORED:
        values = [float(str(row[name])) for row in group if row[name] is not None]
        scores[name] = fmean(values) if values else None
        if len(values) > 1:
            beside[name] = f"± {_short(stdev(values))}"
        else:
            ends = (first[f"{name}_low"], first[f"{name}_high"])
            beside[name] = " ".join(_short(float(str(end))) for end in ends) if values else ""
    val, test = (first[name] for name in ("published_val", "published_test"))
    return BoardLine(
        system=str(first["system"]),
        stage=str(first["stage"]),
        n_seeds=len(group),
        scores=scores,
        beside=beside,
        val=None if val is None else float(str(val)),
        test=None if test is None else float(str(test)),
        parameters=int(str(first["parameters"])),
        seconds=fmean(float(str(row["seconds"])) for row in group),
        marks="".join(_marks(first)),
        stand_ins=str(first["stand_ins"] or ""),
    )


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
