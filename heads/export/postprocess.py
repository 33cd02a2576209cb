"""Post-processing inside the graph: what `Calibration.apply` does, for the rows of one video."""

from collections.abc import Mapping

import numpy as np

from featurestore.labels import ACTION_UNITS
from heads.calibration.calibration import LEAST_PROBABILITY, Calibration
from heads.calibration.smoothing import Smoothing
from heads.scoring.predictions import AU_THRESHOLD

from .answers import Answer
from .graph import Graph


def unit_thresholds(calibration: Calibration | None) -> tuple[float, ...]:
    """Above what probability each action unit is active, 12 numbers."""
    if calibration is None or calibration.thresholds is None:
        return (AU_THRESHOLD,) * len(ACTION_UNITS)
    return tuple(calibration.thresholds)


def postprocessed(
    graph: Graph, said: Mapping[str, Answer], calibration: Calibration | None, *, frame: str, n_rows: str
) -> dict[str, Answer]:
    """Put smoothing, class bias and rescaling into a graph.

    Parameters
    ----------
    graph
        Where the nodes go.
    said
        Task -> what is to be processed.
    calibration
        The fitted numbers; None changes nothing.
    frame, n_rows
        Frame numbers of the rows and how many there are.
    """
    made = dict(said)
    if calibration is None:
        return made
    for task, smoothing in calibration.smoothing.items():
        if task in made:
            table = _smoothed(graph, made[task], smoothing, frame=frame, n_rows=n_rows)
            made[task] = made[task]._replace(table=table)
    if calibration.class_bias is not None and "expr" in made:
        table = _shifted(graph, made["expr"].table, np.array(calibration.class_bias))
        made["expr"] = made["expr"]._replace(table=table)
    for task, affine in calibration.rescale.items():
        if task in made:
            scaled = graph.node("Mul", made[task].table, graph.constant(affine.scale))
            table = _cut(graph, graph.node("Add", scaled, graph.constant(affine.offset)))
            made[task] = made[task]._replace(table=table)
    return made


def _smoothed(graph: Graph, answer: Answer, smoothing: Smoothing, *, frame: str, n_rows: str) -> str:
    """A weighted mean of each row and its neighbours, (n_rows, k)."""
    reach = smoothing.reach
    rows = graph.widened(graph.range(n_rows), 1)
    wanted = graph.node("Add", rows, graph.constant(np.arange(-reach, reach + 1)[None]))  # (n_rows, 2 reach + 1)
    last = graph.node("Sub", n_rows, graph.constant(1))
    near = graph.node("Max", graph.node("Min", wanted, last), graph.constant(0))
    known = graph.node("And", graph.node("Equal", near, wanted), graph.node("Gather", answer.known, near))
    weight = graph.cast(known, "float")
    if smoothing.kind != "box":
        apart = graph.node("Sub", graph.node("Gather", frame, near), graph.widened(frame, 1))
        apart = graph.cast(apart, "float")
        scale = 2 * smoothing.width**2 if smoothing.kind == "gaussian" else smoothing.width
        spread = graph.node("Div", graph.node("Mul", apart, apart), graph.constant(-scale))
        weight = graph.node("Mul", weight, graph.node("Exp", spread))
    values = graph.node("Gather", answer.table, near)  # (n_rows, 2 reach + 1, k)
    sums = graph.node("Squeeze", graph.node("MatMul", graph.widened(weight, 1), values), graph.constant([1]))
    total = graph.node("ReduceSum", weight, graph.constant([1]), attributes={"keepdims": 1})
    # Where a row and all around it are missing nothing is known, and nothing is said in the end.
    return _cut(graph, graph.node("Div", sums, graph.node("Max", total, graph.constant(1e-30))))


def _shifted(graph: Graph, probabilities: str, bias: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    weighted = graph.node("Max", probabilities, graph.constant(LEAST_PROBABILITY))
    weighted = graph.node("Mul", weighted, graph.constant(np.exp(bias)[None]))
    total = graph.node("ReduceSum", weighted, graph.constant([1]), attributes={"keepdims": 1})
    return graph.node("Div", weighted, total)


def _cut(graph: Graph, values: str) -> str:
    return graph.node("Clip", values, graph.constant(-1.0), graph.constant(1.0))
