"""A search as a figure: at the left how the best score rose, at the right which choices mattered."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .mattering import MIN_TRIALS, Choice, choices
from .reporting import best_of
from .space import Space, strategy
from .study import FinishedTrial

_BLUE: Final = "#0072b2"
_ORANGE: Final = "#d55e00"
_INK: Final = "#222222"
_PALE: Final = "#888888"
_GRID: Final = "#e6e6e6"
_N_CHOICES: Final = 10
_N_VALUES: Final = 4


def draw_search(trials: Sequence[FinishedTrial], space: Space, path: Path, *, title: str) -> None:
    """Draw finished trials into a PNG.

    Parameters
    ----------
    trials
        As they began; at least one is complete.
    space
        That they were chosen from.
    path
        The file.
    title
        Above both.
    """
    # Not through pyplot: its figures are global, and its backend may want a display.
    figure = Figure(figsize=(13, 5.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _draw_progress(left, trials)
    _draw_choices(right, choices(trials, space)[:_N_CHOICES])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=11, color=_INK)
    figure.savefig(path, dpi=130)


def _draw_progress(axes: Axes, trials: Sequence[FinishedTrial]) -> None:
    complete = [(number, each.outcome.score) for number, each in enumerate(trials, 1) if each.state == "complete"]
    others = [number for number, each in enumerate(trials, 1) if each.state != "complete"]
    numbers, scores = [number for number, _ in complete], [score for _, score in complete]
    axes.scatter(numbers, scores, s=18, color=_BLUE, alpha=0.45, linewidths=0)
    best = [max(scores[: place + 1]) for place in range(len(scores))]
    axes.step([*numbers, len(trials)], [*best, best[-1]], where="post", color=_BLUE, linewidth=1.8)
    # The poorest would press the rest together: what counts is how the best ones differ.
    low, high = sorted(scores)[len(scores) // 10], max(scores)
    margin = max(0.02, 0.08 * (high - low))
    axes.set_ylim(low - 2 * margin, high + 2 * margin)
    n_below = sum(score < low - 2 * margin for score in scores)
    floor = axes.get_ylim()[0]
    axes.scatter(others, [floor + margin / 3] * len(others), s=16, marker="x", color=_PALE, linewidths=0.9)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("score of each trial, and the best so far", loc="left", fontsize=10, color=_INK)
    remarks = [f"x: pruned or failed, {len(others)}"] if others else []
    remarks += [f"below the picture: {n_below}"] if n_below else []
    axes.set_xlabel("finished trials" + (f"   ({'; '.join(remarks)})" if remarks else ""))
    winner = best_of(trials)
    if winner is not None:
        _tell_winner(axes, trials, winner)


def _tell_winner(axes: Axes, trials: Sequence[FinishedTrial], winner: FinishedTrial) -> None:
    place, score = trials.index(winner) + 1, winner.outcome.score
    axes.scatter([place], [score], s=44, color=_ORANGE, zorder=3)
    is_left = place < len(trials) / 2
    axes.annotate(
        f"trial {winner.number}: {score:.4f}",
        (place, score),
        xytext=(6 if is_left else -6, 6),
        textcoords="offset points",
        ha="left" if is_left else "right",
        fontsize=9,
        color=_ORANGE,
    )
    told = strategy(winner.candidate)
    fused = f" + {str(told['fused']).replace('+', ' + ')}" if told["fused"] else ""
    window = "" if told["temporal"] == "none" else f", S {told['S']}, W {told['W']}"
    lines = (
        f"trial {winner.number}: {told['base']}{fused} (fusion {told['fusion']}); {told['temporal']}{window}",
        f"joined with weights {told['weights']}; learning rate {told['learning_rate']:.2g}",
    )
    # Under the axis, where no trial lies.
    axes.text(0, -0.155, "\n".join(lines), transform=axes.transAxes, ha="left", va="top", fontsize=8.5, color=_ORANGE)


def _draw_choices(axes: Axes, found: Sequence[Choice]) -> None:
    axes.set_title("what mattered, and the median score of each choice", loc="left", fontsize=10, color=_INK)
    if not found:
        axes.set_axis_off()
        text = f"told from {MIN_TRIALS} complete trials on, if they differ"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=_PALE, fontsize=9)
        return
    places = list(range(len(found)))[::-1]
    widest = max(0.05, 1.05 * max(choice.importance for choice in found))
    axes.barh(places, [choice.importance for choice in found], height=0.34, color=_BLUE)
    for place, choice in zip(places, found, strict=True):
        shown = [f"{label}: {score:.3f} ({n})" for label, score, n in choice.medians[:_N_VALUES]]
        more = len(choice.medians) - len(shown)
        text = "   ".join([*shown, *([f"and {more} more"] if more else [])])
        axes.text(0.004 * widest, place - 0.22, text, fontsize=7.5, color=_INK, va="top", ha="left")
    axes.set_yticks(places, [choice.name for choice in found], fontsize=9)
    axes.set_ylim(-0.75, len(found) - 0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0, widest)
    axes.set_xlabel("share of the scores' variance; (n): trials")
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
