"""An ablation's table for the console: means, their intervals and spread, and marks at differences that stand."""

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl
from rich import box
from rich.markup import escape
from rich.table import Table

from heads.scoring.compare import FEW_SEEDS

_MARKS: Final = {"text": "[t]", "inferred": "[i]", "table": ""}
LEGEND: Final = "+ better, - worse than the task's first row:\nthe 95 % interval of the difference leaves out 0"


def render_table(summary: pl.DataFrame, *, title: str | None = None) -> Table:
    """What `summarise` made, for the console: the best row of each task is bold.

    Parameters
    ----------
    summary
        Of one table or several.
    title
        Above it.
    """
    several = _n_seeds(summary) > 1
    shown = _telling_columns(summary)
    # Without lines between the columns, so that it fits in 80 characters.
    made = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
        caption=_legend(summary),
        caption_justify="left",
    )
    for heading in shown:
        made.add_column(heading, no_wrap=True)
    spread = ("+-\nseeds",) if several else ()
    for heading in ("S/W", "score", "95 %\ninterval", *spread, "trivial"):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("paper", no_wrap=True)  # to the left: behind some figures is how they are known
    previous = None
    for row in summary.iter_rows(named=True):
        if previous not in (None, (row["table"], row["task"])):
            made.add_section()
        previous = (row["table"], row["task"])
        # Escaped: rich would take the paper's mark [i] for "italic from here".
        cells = _cells(row, shown, several=several)
        made.add_row(*map(escape, cells), style="bold" if row["is_best"] else None)
    return made


def _n_seeds(summary: pl.DataFrame) -> int:
    return int(summary.select(pl.col("n_seeds").max()).item() or 1)


def _legend(summary: pl.DataFrame) -> str | None:
    others = summary.filter(~pl.col("is_reference"))
    if not others.height:
        return None
    n_seeds = _n_seeds(summary)
    seeds = (
        "" if n_seeds >= FEW_SEEDS else f"\n{n_seeds} seeds: with fewer than {FEW_SEEDS} only great differences stand"
    )
    if n_seeds == 1:
        seeds = "; one seed: another may differ"
    unknown = (
        "" if others["stands"].null_count() == 0 else "\n? not known: one video, or a row's scores by video are gone"
    )
    return f"{LEGEND}{seeds}{unknown}"


def _telling_columns(summary: pl.DataFrame) -> list[str]:
    """Columns that tell printed rows apart: not those with one value, nor those that repeat the task."""
    telling = [
        name
        for name in ("table", "base", "fused", "joined")
        if summary[name].n_unique() > 1 and not (summary[name] == summary["task"]).all()
    ]
    # The fusion module follows from what is fused, unless something else was asked for.
    follows = pl.when(pl.col("fused") == "").then(pl.lit("none")).otherwise(pl.lit("sum"))
    if summary["fusion"].n_unique() > 1 and not summary.select((pl.col("fusion") == follows).all()).item():
        telling.append("fusion")
    return ["task", *telling]


def _cells(row: Mapping[str, object], shown: Sequence[str], *, several: bool) -> list[str]:
    interval = "-" if row["low"] is None else f"{_short(row['low'])} {_short(row['high'])}"
    spread = [] if not several else ["" if row["std"] is None else _short(row["std"])]
    published = (
        "" if row["published"] is None else f"{_short(row['published'], 4)} {_MARKS[str(row['published_mark'])]}"
    )
    window = "single" if row["S"] == 1 else f"{row['S']}/{row['W']}"
    texts = [str(row[name] or "-") for name in shown]
    score = f"{_short(row['mean'], 4)} {_mark(row)}"
    return [*texts, window, score, interval, *spread, _short(row["trivial"]), published.rstrip()]


def _short(value: object, n_decimals: int = 3) -> str:
    """Decimals without the zero before them: all columns must fit beside each other."""
    return f"{value:.{n_decimals}f}".replace("0.", ".", 1)


def _mark(row: Mapping[str, object]) -> str:
    difference = row["difference"]
    if row["is_reference"] or not isinstance(difference, float):
        return " "
    if row["stands"] is None:
        return "?"
    return ("+" if difference > 0 else "-") if row["stands"] else " "
