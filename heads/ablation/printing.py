"""An ablation's table for the console: means, their spread or interval, and marks at differences that stand."""

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl
from rich import box
from rich.markup import escape
from rich.table import Table

_PUBLISHED: Final = {"text": "[t]", "inferred": "[i]", "table": "   "}
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
    several = summary["n_seeds"].max() != 1
    shown = _telling_columns(summary)
    # Without lines between the columns, so that it fits in 80 characters.
    made = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption=_legend(summary),
        caption_justify="left",
    )
    for heading in shown:
        made.add_column(heading, no_wrap=True)
    for heading in ("S/W", "score", "+- seeds" if several else "95 % interval", "trivial", "published"):
        made.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for row in summary.iter_rows(named=True):
        if previous not in (None, (row["table"], row["task"])):
            made.add_section()
        previous = (row["table"], row["task"])
        # Escaped: rich would take the paper's mark [i] for "italic from here".
        cells = _cells(row, shown, several=several)
        made.add_row(*map(escape, cells), style="bold" if row["is_best"] else None)
    return made


def _legend(summary: pl.DataFrame) -> str | None:
    others = summary.filter(~pl.col("is_reference"))
    if not others.height:
        return None
    seeds = "" if summary["n_seeds"].max() != 1 else "; one seed: another may differ"
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
    spread = "" if row["std"] is None else f"{row['std']:.4f}"
    beside = spread if several else f"{_short(row['low'])}..{_short(row['high'])}"
    published = "" if row["published"] is None else f"{row['published']:.4f} {_PUBLISHED[str(row['published_mark'])]}"
    window = "single" if row["S"] == 1 else f"{row['S']}/{row['W']}"
    texts = [str(row[name] or "-") for name in shown]
    return [*texts, window, f"{row['mean']:.4f} {_mark(row)}", beside, f"{row['trivial']:.3f}", published]


def _short(value: object) -> str:
    """Three decimals without the zero before them: two of them must fit beside all else."""
    return f"{value:.3f}".replace("0.", ".", 1)


def _mark(row: Mapping[str, object]) -> str:
    difference = row["difference"]
    if row["is_reference"] or not isinstance(difference, float):
        return " "
    if row["stands"] is None:
        return "?"
    return ("+" if difference > 0 else "-") if row["stands"] else " "
