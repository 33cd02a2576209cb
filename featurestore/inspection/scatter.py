"""A projection as a picture: the points, what their colours mean, and how much variance the components have."""

import warnings
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, MissingFileError

from .projection import Projection

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".pdf", ".svg")
"""What a picture may end in."""

_OKABE_ITO: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
"""Okabe and Ito's colours, which stay apart for colour-blind readers too; its yellow is lost on white."""
_EXPRESSIONS: Final = ("#a3a3a3", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#0072b2", "#56b4e9", "#222222")
"""The same for the eight classes, in their order: grey for Neutral, black for Other."""
_MANY: Final = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933")
_MANY_MORE: Final = ("#ddcc77", "#cc6677", "#882255", "#aa4499", "#222222")
"""Tol's muted colours, and black: ten that stay apart."""
_DIVERGING: Final = LinearSegmentedColormap.from_list("affect", ["#0a4a8f", "#6aa5d8", "#dcdcdc", "#e8925a", "#a33c00"])
"""From blue over a grey that shows on white to vermilion."""
_OFF: Final = "#c4c4c4"
_INK: Final = "#222222"
_PALE: Final = "#888888"
_N_NAMED: Final = 10
_N_BARS: Final = 10
_MAX_TITLE: Final = 20  # characters


def check_picture(path: Path) -> None:
    """Refuse a place where a picture cannot be drawn, before anything is computed for it.

    Raises
    ------
    ConfigError
        If the suffix is none of `SUFFIXES`.
    MissingFileError
        If the folder is not there.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"A picture ends in {', '.join(SUFFIXES)}, not in {path.suffix or 'nothing'!r} (--out {path}). "
            f"Take {path.with_suffix('.png').name}."
        )
    if not path.parent.is_dir():
        raise MissingFileError(
            f"A picture is written to a folder that is there; {path.parent} is not (file: {path.name}). "
            "Make the folder, or correct the path."
        )


def draw_projection(projection: Projection, path: Path) -> None:
    """Draw a projection; what was at `path` is replaced.

    Parameters
    ----------
    projection
        The points.
    path
        The picture, ending in one of `SUFFIXES`.

    Raises
    ------
    ConfigError, MissingFileError
        As of `check_picture`.
    """
    check_picture(path)
    # Not through pyplot: its figures are global, and its backend may want a display.
    figure = Figure(figsize=(8.6, 6.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic([["map", "key"], ["map", "bars"]], width_ratios=(3.6, 1), height_ratios=(1.7, 1))
    named = _class_colours(projection)
    _draw_points(axes["map"], projection, named)
    axes["key"].set_axis_off()
    if projection.colouring.is_real:
        _draw_scale(figure, axes["key"], projection)
    else:
        _draw_medians(axes["map"], projection, named)
        _draw_legend(axes["key"], projection, named)
    _draw_bars(axes["bars"], projection)
    with replace_file(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in a script the font has not: boxes
        figure.savefig(partial, dpi=150, format=path.suffix[1:].lower())


def _class_colours(projection: Projection) -> dict[int, str]:
    """Class number -> colour, of the classes that get one, in the order of the legend; none for reals."""
    colouring = projection.colouring
    if colouring.name == "expression":
        return dict(enumerate(_EXPRESSIONS))
    if colouring.name == "video":
        # Of the whole table: a sample gives all of them about as many rows.
        counts = np.bincount(colouring.values[colouring.labelled].astype(np.int64))
        sampled = np.unique(projection.values).astype(np.int64)
        largest = sampled[np.argsort(-counts[sampled], kind="stable")][:_N_NAMED]
        return dict(zip(largest.tolist(), _MANY + _MANY_MORE, strict=False))
    if colouring.classes == ("off", "on"):
        return {0: _OFF, 1: _OKABE_ITO[1]}
    return dict(zip(range(len(colouring.classes)), _OKABE_ITO, strict=False))


def _draw_points(axes: Axes, projection: Projection, named: dict[int, str]) -> None:
    points, values = projection.points, projection.values
    # In a shuffled order, so that no class lies on top because of where its rows stand in the table.
    order = np.random.default_rng(0).permutation(len(values))
    if projection.colouring.is_real:
        colours = _DIVERGING(Normalize(-1, 1)(values))
    else:
        colours = to_rgba_array([named.get(int(value), _OFF) for value in values])
        is_grey = (colours[order] == to_rgba_array(_OFF)).all(axis=1)
        order = order[np.argsort(~is_grey, kind="stable")]  # what is off, or has no name, lies below
    axes.scatter(
        points[order, 0],
        points[order, 1],
        c=colours[order],
        s=float(np.clip(40_000 / len(values), 5, 22)),
        alpha=0.8 if len(values) < 5_000 else 0.5,
        linewidths=0,
        rasterized=True,  # points in the thousands make a PDF that takes seconds to open
    )
    axes.set_title(_title(projection), loc="left", fontsize=12, pad=24, color=_INK, parse_math=False)
    axes.text(0, 1.015, projection.knowledge.sentence(), transform=axes.transAxes, fontsize=9.5, color=_PALE)
    axes.set_aspect("equal", adjustable="datalim")  # distances are what a projection shows
    axes.set_xlabel(f"component 1: {100 * projection.explained[0]:.1f} % of the variance", color=_INK)
    axes.set_ylabel(f"component 2: {100 * projection.explained[1]:.1f} % of the variance", color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_PALE)


def _draw_medians(axes: Axes, projection: Projection, named: dict[int, str]) -> None:
    """Where the middle of each class is: with classes that overlap, that is what there is to see."""
    for number, colour in named.items():
        members = projection.points[projection.values == number]
        if len(members):
            x, y = np.median(members, axis=0).tolist()
            axes.scatter(x, y, s=110, c=colour, edgecolors="white", linewidths=1.6, zorder=3)


def _draw_legend(axes: Axes, projection: Projection, named: dict[int, str]) -> None:
    counts = np.bincount(projection.values.astype(np.int64), minlength=len(projection.colouring.classes))
    entries = [(colour, projection.colouring.classes[number], int(counts[number])) for number, colour in named.items()]
    if n_others := int(counts.sum()) - sum(count for _, _, count in entries):
        entries.append((_OFF, f"{int((counts > 0).sum()) - len(named)} others", n_others))
    dots = [Line2D([], [], marker="o", linestyle="", markersize=7, color=colour) for colour, _, _ in entries]
    texts = [f"{_shortened(title)} ({count:,})" for _, title, count in entries]
    legend = axes.legend(dots, texts, loc="upper left", frameon=False, borderaxespad=0, fontsize=9, labelcolor=_INK)
    legend.set_title(f"{projection.colouring.name} (rows)")
    legend.get_title().set(color=_PALE, fontsize=9)
    legend.set_alignment("left")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a video may be named a$b
    axes.text(0, 0.02, "large dots: medians", transform=axes.transAxes, fontsize=8, color=_PALE)


def _shortened(title: str) -> str:
    """A name that fits beside the picture."""
    return title if len(title) <= _MAX_TITLE else f"{title[: _MAX_TITLE - 1]}…"


def _draw_scale(figure: Figure, axes: Axes, projection: Projection) -> None:
    scale = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), _DIVERGING), ax=axes, location="left", fraction=0.5, aspect=14
    )
    scale.ax.set_title(projection.colouring.name, loc="left", fontsize=9, color=_PALE)
    scale.ax.yaxis.set_ticks_position("right")
    scale.set_ticks([-1, -0.5, 0, 0.5, 1], labels=["-1", "-0.5", "0", "0.5", "1"])
    scale.ax.tick_params(labelsize=9, length=0, colors=_INK)
    scale.outline.set_visible(False)


def _draw_bars(axes: Axes, projection: Projection) -> None:
    shares = projection.explained[:_N_BARS]
    numbers = np.arange(1, len(shares) + 1)
    axes.bar(numbers, 100 * shares, color=[_INK, _INK, *[_OFF] * (len(shares) - 2)], width=0.72)
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=7.5, colors=_PALE, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title("% of variance", loc="left", fontsize=9, color=_PALE)
    axes.set_xlabel("component", fontsize=9, color=_PALE)


def _title(projection: Projection) -> str:
    n_rows, of = len(projection.rows), projection.n_frames
    return f"{projection.encoder}, coloured by {projection.colouring.name}: {n_rows:,} of {of:,} rows"
