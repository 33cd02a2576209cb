"""Post-processing inside the graph: what `Calibration.apply` does, for the rows of one video."""

from collections.abc import Mapping

import numpy as np

from featurestore.labels import ACTION_UNITS
from heads.calibration.calibration import LEAST_PROBABILITY, Calibration
from heads.calibration.smoothing import Smoothing
from heads.scoring.predictions import AU_THRESHOLD

from .graph import Graph


def unit_thresholds(calibration: Calibration | None) -> tuple[float, ...]:
    """Above what probability each action unit is active, 12 numbers."""
    if calibration is None or calibration.thresholds is None:
        return (AU_THRESHOLD,) * len(ACTION_UNITS)
    return tuple(calibration.thresholds)


def postprocessed(
    graph: Graph, tables: Mapping[str, str], calibration: Calibration | None, *, usable: str, frame: str, n_rows: str
) -> dict[str, str]:
    """Put smoothing, class bias and rescaling into a graph.

    Parameters
    ----------
    graph
        Where the nodes go.
    tables : each shape (n_rows, n_outputs)
        Task -> name of its probabilities or values, finite.
    calibration
        The fitted numbers; None changes nothing.
    usable : shape (n_rows,), bool
        Rows that weigh something in their neighbours.
    frame, n_rows
        Frame numbers and their number.

    Returns
    -------
    Task -> name of the processed table. Rows that are not usable hold numbers without a meaning.
    """
    made = dict(tables)
    if calibration is None:
        return made
    for task, smoothing in calibration.smoothing.items():
        if task in made:
            made[task] = _smoothed(graph, made[task], smoothing, usable=usable, frame=frame, n_rows=n_rows)
    if calibration.class_bias is not None and "expr" in made:
        made["expr"] = _shifted(graph, made["expr"], np.array(calibration.class_bias))
    for task, affine in calibration.rescale.items():
        if task in made:
            scaled = graph.node("Mul", made[task], graph.constant(affine.scale))
            made[task] = _cut(graph, graph.node("Add", scaled, graph.constant(affine.offset)))
    return made


def _smoothed(graph: Graph, table: str, smoothing: Smoothing, *, usable: str, frame: str, n_rows: str) -> str:
    """A weighted mean of each row and its neighbours, (n_rows, k)."""
    reach = smoothing.reach
    rows = graph.widened(graph.range(n_rows), 1)
    wanted = graph.node("Add", rows, graph.constant(np.arange(-reach, reach + 1)[None]))  # (n_rows, 2 reach + 1)
    last = graph.node("Sub", n_rows, graph.constant(1))
    near = graph.node("Max", graph.node("Min", wanted, last), graph.constant(0))
    known = graph.node("And", graph.node("Equal", near, wanted), graph.node("Gather", usable, near))
    weight = graph.cast(known, "float")
    if smoothing.kind != "box":
        apart = graph.node("Sub", graph.node("Gather", frame, near), graph.widened(frame, 1))
        apart = graph.cast(apart, "float")
        scale = 2 * smoothing.width**2 if smoothing.kind == "gaussian" else smoothing.width
        spread = graph.node("Div", graph.node("Mul", apart, apart), graph.constant(-scale))
        weight = graph.node("Mul", weight, graph.node("Exp", spread))
    values = graph.node("Gather", table, near)  # (n_rows, 2 reach + 1, k)
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
