"""Windows inside the graph: what heads/features/windows.py and heads/fitting/predict.py do, for one video.

A head that looks at one row at a time, and one that carries its state from window to window, read the whole video at
once: to the first it is all the same, and to the second it is what it does. Every other head gets the windows that it
was fitted on, S and W in rows or in frames, tails padded, and what is said of a row several times is averaged.
"""

from typing import Final, NamedTuple

import numpy as np

from heads.modules.config import HeadConfig

from .graph import Graph

WHOLE: Final = "whole"
ROWS: Final = "rows"
FRAMES: Final = "frames"


class Windows(NamedTuple):
    """The windows of a video, as names of tensors.

    Attributes
    ----------
    rows : shape (B, S), int64
    mask : shape (B, S), bool
        False is padding.
    """

    rows: str
    mask: str


def reading(head: HeadConfig) -> str:
    """How a head reads a video: `WHOLE`, or by windows that count `ROWS` or `FRAMES`."""
    if head.temporal == "none" or head.stateful:
        return WHOLE
    return ROWS if head.span == "rows" else FRAMES


def make_windows(graph: Graph, head: HeadConfig, *, n_rows: str, frame: str) -> Windows:
    """The windows of a video.

    Parameters
    ----------
    graph
        Where the nodes go.
    head
        Its reading, S and W.
    n_rows, frame
        Number of rows (a scalar), and the source's frame number of each, ascending.
    """
    match reading(head):
        case "whole":
            rows = graph.widened(graph.range(n_rows), 0)
            return Windows(rows, graph.node("GreaterOrEqual", rows, graph.constant(0)))
        case "rows":
            return _row_windows(graph, n_rows, head.seq, head.step)
        case _:
            return _frame_windows(graph, frame, head.seq, head.step)


def averaged(graph: Graph, columns: str, windows: Windows, *, n_rows: str, width: int) -> str:
    """What is said of each row, averaged over the windows that it lies in.

    Parameters
    ----------
    graph
        Where the nodes go.
    columns : shape (B, S, width)
        What the head says of the rows of each window.
    windows
        Whose windows.
    n_rows
        Rows of the video.
    width
        How many columns.

    Returns
    -------
    shape (n_rows, width)
    """
    counted = graph.node("Reshape", windows.mask, graph.constant([-1]))
    places = graph.widened(graph.node("Compress", _flat(graph, windows.rows), counted, attributes={"axis": 0}), 1)
    said = graph.node("Reshape", columns, graph.constant([-1, width]))
    said = graph.node("Compress", said, counted, attributes={"axis": 0})  # (n_said, width), padding left out
    counts = graph.node("Expand", graph.constant(np.ones((1, 1))), graph.node("Shape", places))
    sums = _added_up(graph, places, said, n_rows=n_rows, width=width)
    return graph.node("Div", sums, _added_up(graph, places, counts, n_rows=n_rows, width=1))


def gaps_of(graph: Graph, frame: str) -> str:
    """Frames from the row before to each row, float32 (n_rows,); 0 for the first."""
    gaps = graph.node("Sub", graph.part(frame, 1, None), graph.part(frame, 0, -1))
    return graph.cast(graph.node("Concat", graph.constant([0]), gaps, attributes={"axis": 0}), "float")


def _row_windows(graph: Graph, n_rows: str, length: int, step: int) -> Windows:
    starts = graph.node("Mul", graph.range(_count(graph, n_rows, length, step)), graph.constant(step))
    places = graph.node("Add", graph.widened(starts, 1), graph.constant(np.arange(length)[None]))
    last = graph.node("Sub", n_rows, graph.constant(1))
    return Windows(graph.node("Min", places, last), graph.node("Less", places, n_rows))


def _frame_windows(graph: Graph, frame: str, length: int, step: int) -> Windows:
    first = graph.node("Gather", frame, graph.constant(0))
    since = graph.node("Sub", frame, first)  # (n_rows,), from 0
    span = graph.node("Add", graph.node("Gather", since, graph.constant(-1)), graph.constant(1))
    count = _count(graph, span, length, step)
    # Rows before each frame, counted once: windows then begin and end where a table says.
    size = graph.node("Add", graph.node("Mul", count, graph.constant(step)), graph.constant(length))
    nothing = graph.node("Expand", graph.constant([0]), graph.widened(size, 0))
    ones = graph.node("Expand", graph.constant([1]), graph.node("Shape", since))
    here = graph.node("ScatterND", nothing, graph.widened(since, 1), ones)
    before = graph.node("CumSum", here, graph.constant(0), attributes={"exclusive": 1})
    begins = graph.node("Mul", graph.range(count), graph.constant(step))
    lows = graph.node("Gather", before, begins)
    highs = graph.node("Gather", before, graph.node("Add", begins, graph.constant(length)))
    # A gap longer than W leaves windows that hold nothing, or nothing new.
    last = graph.node("Concat", graph.constant([-1]), graph.part(highs, 0, -1), attributes={"axis": 0})
    kept = graph.node("And", graph.node("Greater", highs, lows), graph.node("Greater", highs, last))
    lows, highs = (graph.node("Compress", each, kept, attributes={"axis": 0}) for each in (lows, highs))
    longest = graph.node("ReduceMax", graph.node("Sub", highs, lows), attributes={"keepdims": 0})
    places = graph.node("Add", graph.widened(lows, 1), graph.widened(graph.range(longest), 0))  # (B, S)
    ends = graph.widened(highs, 1)
    rows = graph.node("Min", places, graph.node("Sub", ends, graph.constant(1)))
    return Windows(rows, graph.node("Less", places, ends))


def _count(graph: Graph, extent: str, length: int, step: int) -> str:
    """1 + ceil((extent - S) / W), at least 1; ONNX divides integers towards 0."""
    beyond = graph.node("Add", extent, graph.constant(step - 1 - length))
    more = graph.node("Max", graph.node("Div", beyond, graph.constant(step)), graph.constant(0))
    return graph.node("Add", more, graph.constant(1))


def _flat(graph: Graph, tensor: str) -> str:
    return graph.node("Reshape", tensor, graph.constant([-1]))


def _added_up(graph: Graph, places: str, values: str, *, n_rows: str, width: int) -> str:
    shape = graph.node("Concat", graph.widened(n_rows, 0), graph.constant([width]), attributes={"axis": 0})
    nothing = graph.node("Expand", graph.constant(np.zeros((1, 1))), shape)
    return graph.node("ScatterND", nothing, places, values, attributes={"reduction": "add"})
