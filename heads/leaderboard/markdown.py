"""A leaderboard as Markdown."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from featurestore.atomic import replace_file
from heads.recipes.standing import Standing

from .lines import SCORED, board_lines
from .table import TITLES, beside, published_figure, remarks, score_text


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
    headings = ["system", "stage", *(TITLES[name] for name in SCORED), "paper, val P", "paper, test P"]
    headings += ["parameters", "seconds", "notes"]
    yield "# Leaderboard"
    yield ""
    spread = ", and after ± the spread over seeds" if any(line.n_seeds > 1 for line in lines) else ""
    yield f"Scores on val; in brackets 95 % intervals by resampling videos{spread}."
    yield ""
    yield _cells(headings)
    yield _cells(["---", "---", *(["---:"] * (len(headings) - 3)), "---"])
    for line in lines:
        behind = {name: ", ".join(beside(line, name)) for name in SCORED}
        scored = [score_text(line.scores[name]) + (f" ({behind[name]})" if behind[name] else "") for name in SCORED]
        figures = [
            published_figure(line, "val"),
            score_text(line.test),
            f"{line.parameters:,}",
            f"{line.seconds:.1f}",
            line.marks,
        ]
        yield _cells([line.label, line.stage, *scored, *figures])
    told = list(remarks(lines, missing=missing, failed=failed))
    if told:
        yield ""
        yield from (f"- {_flat(each)}" for each in told)


def _flat(text: str) -> str:
    """On one line, with nothing that Markdown would take for a cell's border."""
    return " ".join(text.split()).replace("|", "\\|")


def _cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_flat, cells))} |"
