"""The loss curve of a fit as a figure: training loss at the left, val scores at the right."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heads.tasks import TASKS

_COLOURS: Final = {"au": "#0072b2", "expr": "#d55e00", "v": "#009e73", "a": "#cc79a7"}
"""Okabe and Ito's colours, which stay apart for colour-blind readers too."""
_INK: Final = "#222222"
_PALE: Final = "#888888"


def draw_curve(table: pl.DataFrame, path: Path, *, title: str, epochs: Mapping[str, int]) -> None:
    """Draw what `curve_table` made into a PNG.

    Parameters
    ----------
    table
        One row an epoch.
    path
        The file.
    title
        The run's name.
    epochs
        Task -> the epoch that was kept of it: one line for all, or a ring on each task's curves.
    """
    # Not through pyplot: its figures are global, and its backend may want a display.
    figure = Figure(figsize=(10, 4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    looked = any(task.part in table.columns for task in TASKS.values())
    _draw_losses(losses, table)
    _draw_scores(scores, table)
    if len(set(epochs.values())) > 1:
        for task, epoch in epochs.items():
            _ring(losses, table, f"loss_{task}", epoch, _COLOURS[task])
            _ring(scores, table, TASKS[task].part, epoch, _COLOURS[task])
        losses.set_title("training loss; rings: epochs kept", loc="left", fontsize=10, color=_INK)
    else:
        _mark(losses, scores, table, max(epochs.values()), "best on val" if looked else "kept")
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=11, color=_INK)
    figure.savefig(path, dpi=130)


def _mark(losses: Axes, scores: Axes, table: pl.DataFrame, epoch: int, what: str) -> None:
    """A line at the epoch that was kept, and what it is."""
    for axes in (losses, scores):
        axes.axvline(epoch, color=_PALE, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    is_late = epoch > table.height / 2
    losses.annotate(
        f"{what}: epoch {epoch}",
        (epoch, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if is_late else 4, -2),
        textcoords="offset points",
        ha="right" if is_late else "left",
        va="top",
        fontsize=8,
        color=_PALE,
    )


def _ring(axes: Axes, table: pl.DataFrame, column: str, epoch: int, colour: str) -> None:
    """A ring on a curve, if the table has it."""
    if column in table.columns:
        axes.plot([epoch], [table[column][epoch - 1]], marker="o", ms=9, mfc="none", mec=colour, mew=1.6)


def _draw_losses(axes: Axes, table: pl.DataFrame) -> None:
    epochs = table["epoch"].to_numpy()
    present = [name for name in TASKS if f"loss_{name}" in table.columns]
    for name in present:
        axes.plot(epochs, table[f"loss_{name}"].to_numpy(), color=_COLOURS[name], linewidth=1.8, marker="o", ms=2.5)
    ends = [(float(table[f"loss_{name}"][-1]), TASKS[name].title, _COLOURS[name]) for name in present]
    if len(present) > 1:
        axes.plot(epochs, table["loss"].to_numpy(), color=_INK, linewidth=1.4, linestyle="--")
        ends.append((float(table["loss"][-1]), "weighted sum", _INK))
    axes.set_title("training loss", loc="left", fontsize=10, color=_INK)
    axes.set_ylim(bottom=0)
    _label_ends(axes, float(epochs[-1]), ends)


def _draw_scores(axes: Axes, table: pl.DataFrame) -> None:
    epochs = table["epoch"].to_numpy()
    present = [task for task in TASKS.values() if task.part in table.columns]
    for task in present:
        axes.plot(
            epochs, table[task.part].to_numpy(), color=_COLOURS[task.name], linewidth=1.8, marker="o", markersize=2.5
        )
    names = {"ccc_valence": "CCC V", "ccc_arousal": "CCC A", "f1_expression": "F1 EXPR", "f1_au": "F1 AU"}
    ends = [(float(table[task.part][-1]), names[task.part], _COLOURS[task.name]) for task in present]
    axes.set_title("score on val", loc="left", fontsize=10, color=_INK)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), max(0.2, axes.get_ylim()[1]))
    if not present:
        axes.text(0.5, 0.5, "not looked at", transform=axes.transAxes, ha="center", color=_PALE)
        return
    _label_ends(axes, float(epochs[-1]), ends)


def _label_ends(axes: Axes, last: float, ends: list[tuple[float, str, str]]) -> None:
    """Name each line at its right end, pushed apart where the ends lie close: no legend to look up."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.045
    heights: list[float] = []
    for height, _, _ in sorted(ends):
        heights.append(max(height, heights[-1] + gap) if heights else height)
    for placed, (_, text, colour) in zip(heights, sorted(ends), strict=True):
        axes.annotate(
            text, (last, placed), xytext=(7, 0), textcoords="offset points", va="center", fontsize=9, color=colour
        )
    axes.set_ylim(low, max(high, heights[-1] + gap))
