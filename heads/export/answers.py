"""What a run or a system says of each row, before post-processing, as nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from heads.light.model import LightModel
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.runs.run import Run
from heads.tasks import TASKS

from .graph import Graph
from .light import light_columns
from .network import traced_columns
from .subject import Subject
from .windows import averaged, gaps_of, make_windows

FRAME: Final = "frame"
"""The input that holds frame numbers."""


class Answer(NamedTuple):
    """A task's predictions, as names of tensors.

    Attributes
    ----------
    table : shape (n_rows, n_outputs), float32
        Probabilities or values; numbers without a meaning where nothing is known.
    known : shape (n_rows,), bool
    """

    table: str
    known: str


@dataclass(frozen=True, slots=True)
class Video:
    """The embeddings of a video as heads read them.

    Attributes
    ----------
    n_rows
        How many rows there are, a scalar.
    filled : each shape (n_rows, D) or (n_rows, T, D)
        Encoder -> its embeddings with 0 in rows that hold a NaN.
    known : each shape (n_rows,), bool
        Encoder -> rows that hold none.
    """

    n_rows: str
    filled: Mapping[str, str]
    known: Mapping[str, str]

    def usable(self, graph: Graph, encoders: Sequence[str]) -> str:
        """Rows that every one of some encoders has embedded."""
        usable = self.known[encoders[0]]
        for name in encoders[1:]:
            usable = graph.node("And", usable, self.known[name])
        return usable


def read_video(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> Video:
    """Look at the inputs, one an encoder."""
    filled, known, zero = {}, {}, graph.constant(0.0)
    for name, shape in shapes.items():
        missing = graph.cast(graph.node("IsNaN", name), "float")
        axes = graph.constant(list(range(1, 1 + len(shape))))
        whole = graph.node("Equal", graph.node("ReduceMax", missing, axes, attributes={"keepdims": 0}), zero)
        known[name] = whole
        for axis in range(len(shape)):
            whole = graph.widened(whole, axis + 1)
        filled[name] = graph.node("Where", whole, name, zero)
    return Video(graph.length(next(iter(shapes))), filled, known)


def answers(graph: Graph, subject: Subject, video: Video) -> dict[str, Answer]:
    """Task -> what is said, blended where several members say it.

    Where a member knows nothing of a row, the others' weights make up for it.
    """
    said = {name: _run_answers(graph, run, video) for name, run in subject.members.items()}
    found = {}
    for task, weights in subject.weights.items():
        if len(weights) == 1:
            found[task] = said[next(iter(weights))][task]
            continue
        tables, totals, known = [], [], []
        for name, weight in weights.items():
            answer = said[name][task]
            share = graph.node("Mul", graph.cast(graph.widened(answer.known, 1), "float"), graph.constant(weight))
            tables.append(graph.node("Mul", answer.table, share))
            totals.append(share)
            known.append(answer.known)
        some = known[0]
        for each in known[1:]:
            some = graph.node("Or", some, each)
        total = graph.node("Max", graph.node("Sum", *totals), graph.constant(1e-30))
        found[task] = Answer(graph.node("Div", graph.node("Sum", *tables), total), some)
    return found


def _run_answers(graph: Graph, run: Run, video: Video) -> dict[str, Answer]:
    head, model = run.head, run.model
    usable = video.usable(graph, head.encoders)
    filled = [video.filled[name] for name in head.encoders]
    if isinstance(model, LightModel):
        columns = light_columns(graph, model, filled, usable=usable, n_rows=video.n_rows)
    else:
        columns = _windowed(graph, model, filled, run.record.shapes, n_rows=video.n_rows)
    found, start = {}, 0
    for task in head.joint:
        stop = start + TASKS[task].n_outputs
        found[task] = Answer(graph.part(columns, start, stop, axis=1), usable)
        start = stop
    return found


def _windowed(
    graph: Graph, model: HeadModel, filled: Sequence[str], shapes: Mapping[str, Sequence[int]], *, n_rows: str
) -> str:
    """What a neural head says of each row, (n_rows, n_columns)."""
    head: HeadConfig = model.config
    windows = make_windows(graph, head, n_rows=n_rows, frame=FRAME)
    inputs = [graph.node("Gather", tensor, windows.rows) for tensor in filled]
    gaps = graph.node("Gather", gaps_of(graph, FRAME), windows.rows) if head.gap_input else ""
    row_shapes = [tuple(shapes[name]) for name in head.encoders]
    columns = traced_columns(graph, model, row_shapes, windows=inputs, mask=windows.mask, gaps=gaps)
    width = sum(TASKS[task].n_outputs for task in head.joint)
    return averaged(graph, columns, windows, n_rows=n_rows, width=width)
