"""A leaderboard for people, on the console; and what stands under it there and in Markdown.

Systems stand in the order of P, post-processed where something was calibrated. Under each score stands its 95 %
interval by resampling videos; of several seeds the mean of their intervals, and under it the spread over seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich import box
from rich.markup import escape
from rich.table import Table

from heads.recipes.standing import Standing

from .lines import MARKS, NO_INTERVAL, SCORED, BoardLine, unsigned_zero

WIDE: Final = 112
"""Columns of a terminal from which on everything is shown."""

TITLES: Final[Mapping[str, str]] = {
    "p": "P",
    "ccc_valence": "V",
    "ccc_arousal": "A",
    "f1_expression": "EXPR",
    "f1_au": "AU",
}
_UNTOLD: Final = "?"
"""Behind a published score that is told without its set."""


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
    for heading in (*(TITLES[name] for name in SCORED), *published, *sizes):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("notes" if is_wide else "", no_wrap=True)
    previous = None
    for line in lines:
        if previous not in (None, line.label):
            table.add_section()
        figures = (
            (published_figure(line, "val"), score_text(line.test)) if is_wide else (published_figure(line, "test"),)
        )
        size = (_counted(line.parameters), _timed(line.seconds)) if is_wide else ()
        is_first = line.label != previous
        cells = [escape(line.label) if is_first else "", line.stage]
        cells += [
            "\n".join([score_text(line.scores[name]), *(f"[dim]{words}[/dim]" for words in beside(line, name))])
            for name in SCORED
        ]
        table.add_row(*cells, *(figures if is_first else ("",) * len(figures)), *size, line.marks)
        previous = line.label
    return table


def remarks(
    lines: Sequence[BoardLine], *, missing: Mapping[str, Sequence[Standing]], failed: Mapping[str, Mapping[int, str]]
) -> Iterator[str]:
    """What stands under a leaderboard: its marks, what encoders are, systems that lack some, and those that failed."""
    if any(line.stage == "post" for line in lines):
        yield "raw: as fitted and blended; post: post-processed"
    several = {line.label: line.n_seeds for line in lines if line.n_seeds > 1}
    if several:
        told = ", ".join(f"{system} ({n_seeds})" for system, n_seeds in several.items())
        yield f"means over seeds, of scores and of intervals; ±: standard deviation over seeds: {told}"
    if any(line.untold is not None for line in lines):
        yield f"{_UNTOLD}: published without saying of which set"
    if any(words == NO_INTERVAL for line in lines for words in line.intervals.values()):
        yield f"{NO_INTERVAL} under a score, or in brackets: no interval, since too few videos are scored"
    used = sorted({mark for line in lines for mark in line.marks})
    yield from (f"{mark}: {MARKS[mark]}" for mark in used)
    stand_ins = {line.label: line.stand_ins for line in lines if line.stand_ins}
    yield from (f"{system}: {words}" for system, words in stand_ins.items())
    tuned = {line.label: line.tuned for line in lines if line.tuned}
    yield from (f"{system}: fine-tuned: {words}" for system, words in tuned.items())
    for system, roles in missing.items():
        commands = "; ".join(dict.fromkeys(each.remedy for each in roles))
        yield f"{system}: not fitted. {' '.join(_sentence(each.problem) for each in roles)} To bring them: {commands}"
    for system, reasons in failed.items():
        for reason in dict.fromkeys(reasons.values()):
            seeds = [str(seed) for seed, each in reasons.items() if each == reason]
            word = "seed" if len(seeds) == 1 else "seeds"
            yield f"{system}: failed ({word} {', '.join(seeds)}). {_sentence(reason)}"


def beside(line: BoardLine, name: str) -> list[str]:
    """What stands under a score, or in brackets behind it: its interval, the spread over seeds."""
    return [words for words in (line.intervals[name], line.spreads[name]) if words]


def published_figure(line: BoardLine, of: str) -> str:
    """P on a set, or else one that is told without its set, marked."""
    known = line.val if of == "val" else line.test
    return f"{score_text(line.untold)}{_UNTOLD}" if known is None and line.untold is not None else score_text(known)


def score_text(value: float | None) -> str:
    """Three digits; ``"-"`` where there is none."""
    return "-" if value is None else unsigned_zero(f"{value:.3f}")


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
