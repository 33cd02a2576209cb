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
_LEAST_PLACES: Final = 5
_TOO_FEW: Final = f"told from {MIN_TRIALS} complete trials on, if they differ"


def draw_search(trials: Sequence[FinishedTrial], space: Space, path: Path, *, title: str) -> None:
    """Draw finished trials into a PNG; as `search_figure`."""
    search_figure(trials, space, title=title).savefig(path, dpi=130)


def search_figure(trials: Sequence[FinishedTrial], space: Space, *, title: str) -> Figure:
    """Finished trials as a figure.

    Parameters
    ----------
    trials
        As they began; at least one is complete.
    space
        That they were chosen from.
    title
        Above both.
    """
    # Not through pyplot: its figures are global, and its backend may want a display.
    figure = Figure(figsize=(13, 5.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _draw_progress(left, trials)
    _draw_choices(right, choices(trials, space))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=11, color=_INK)
    return figure


def _draw_progress(axes: Axes, trials: Sequence[FinishedTrial]) -> None:
    complete = [(each.number, each.outcome.score) for each in trials if each.state == "complete"]
    others = [each.number for each in trials if each.state != "complete"]
    numbers, scores = [number for number, _ in complete], [score for _, score in complete]
    axes.scatter(numbers, scores, s=18, color=_BLUE, alpha=0.45, linewidths=0)
    best = [max(scores[: place + 1]) for place in range(len(scores))]
    axes.step([*numbers, trials[-1].number], [*best, best[-1]], where="post", color=_BLUE, linewidth=1.8)
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
    axes.set_xlabel("trial" + (f"   ({'; '.join(remarks)})" if remarks else ""))
    winner = best_of(trials)
    if winner is not None:
        _tell_winner(axes, trials, winner)


def _tell_winner(axes: Axes, trials: Sequence[FinishedTrial], winner: FinishedTrial) -> None:
    place, score = winner.number, winner.outcome.score
    axes.scatter([place], [score], s=44, color=_ORANGE, zorder=3)
    is_left = place < trials[-1].number / 2
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
    shown = [choice for choice in found if choice.importance > 0][:_N_CHOICES]
    if not shown:
        axes.set_axis_off()
        text = "no choice tells the scores apart better than chance" if found else _TOO_FEW
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=_PALE, fontsize=9)
        return
    places = list(range(len(shown)))[::-1]
    widest = max(0.05, 1.05 * max(choice.importance for choice in shown))
    axes.barh(places, [choice.importance for choice in shown], height=0.34, color=_BLUE)
    for place, choice in zip(places, shown, strict=True):
        values = [f"{label}: {score:.3f} ({n})" for label, score, n in choice.medians[:_N_VALUES]]
        more = len(choice.medians) - len(values)
        text = "   ".join([*values, *([f"and {more} more"] if more else [])])
        axes.text(0.004 * widest, place - 0.22, text, fontsize=7.5, color=_INK, va="top", ha="left")
    axes.set_yticks(places, [choice.name for choice in shown], fontsize=9)
    # Bars keep their height however few there are.
    axes.set_ylim(min(-0.75, len(shown) - _LEAST_PLACES), len(shown) - 0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))  # with as many decimals as the ticks need
    axes.set_xlim(0, widest)
    n_left = sum(choice.importance == 0 for choice in found)
    left = f"; not shown: {n_left}, no better than chance" if n_left else ""
    axes.set_xlabel(f"share of the scores' variance that the choice alone predicts\n(n): trials{left}")
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
