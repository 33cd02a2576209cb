"""The graph of a run: one video's embeddings in, what the run says of each of its rows out.

Inputs: one an encoder, by its name, float32 (n_rows, D) or (n_rows, T, D), rows in the order of time, NaN where a frame
could not be embedded; and ``frame``, int64 (n_rows,), the source's frame numbers, ascending. The number of rows is
open; there is at least one.

Outputs, of the joined tasks: ``valence`` and ``arousal`` (n_rows,), ``expression`` (its class, int64), its name
``expression_label``, ``expression_probabilities`` (n_rows, 8), ``action_units`` (n_rows, 12) active or not,
``action_unit_probabilities`` (n_rows, 12), and their names ``action_unit_names`` (12,). A row that an encoder has not
embedded has no prediction: NaN, class -1 with an empty name, no unit active.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np

from featurestore.errors import ConfigError
from featurestore.labels import ACTION_UNITS, EXPRESSIONS
from heads.calibration.calibration import Calibration
from heads.light.config import LightConfig
from heads.light.model import LightModel
from heads.runs.run import Run
from heads.tasks import TASKS

from .graph import OPSET, TREES_DOMAIN, TREES_OPSET, Graph
from .light import light_columns
from .network import traced_columns
from .postprocess import postprocessed, unit_thresholds
from .windows import averaged, gaps_of, make_windows

if TYPE_CHECKING:
    import onnx

FRAME: Final = "frame"
N_ROWS: Final = "n_rows"
AU_NAMES: Final = tuple(f"AU{number}" for number in ACTION_UNITS)
OUTPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "v": ("valence",),
    "a": ("arousal",),
    "expr": ("expression", "expression_label", "expression_probabilities"),
    "au": ("action_units", "action_unit_probabilities", "action_unit_names"),
}
"""Task -> outputs, in the order of the graph."""

_IR_VERSION: Final = 9  # of the files that opset 18 came with or shortly after; newer ones older readers refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoGraph:
    """A run as an ONNX model.

    Attributes
    ----------
    model
        The protobuf.
    inputs, outputs
        Name -> shape, with ``"n_rows"`` for the open one.
    """

    model: "onnx.ModelProto"
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]


def video_graph(run: Run, *, raw: bool = False) -> VideoGraph:
    """Build the graph of a run.

    Parameters
    ----------
    run
        Of any head.
    raw
        Without the run's post-processing.

    Raises
    ------
    ConfigError
        If an encoder's name is taken by an input or output of the graph, or a light head holds something that has no
        counterpart in ONNX.
    """
    _check_names(run.head.encoders, run.head.joint)
    calibration = None if raw else run.calibration
    graph = Graph()
    names = run.head.encoders
    n_rows = graph.length(names[0])
    filled, usable = _without_gaps(graph, names, run.record.shapes)
    if isinstance(run.model, LightModel):
        columns = light_columns(graph, run.model, filled, usable=usable, n_rows=n_rows)
    else:
        columns = _windowed(graph, run, filled, n_rows=n_rows)
    tables = postprocessed(
        graph, _split(graph, columns, run.head.joint), calibration, usable=usable, frame=FRAME, n_rows=n_rows
    )
    _put_out(graph, tables, unit_thresholds(calibration), usable=usable)
    return _assembled(graph, run, calibration)


def _check_names(encoders: Sequence[str], joint: Sequence[str]) -> None:
    taken = {FRAME, *(name for task in joint for name in OUTPUTS[task])}
    for name in encoders:
        if name in taken or name.startswith(("abaw/", "head/")):
            raise ConfigError(
                f"In an ONNX file encoders are inputs by their names, but {name!r} already names something else in it "
                f"({', '.join(sorted(taken))}). Extract the encoder under another name, and fit the head on that."
            )


def _without_gaps(graph: Graph, names: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> tuple[list[str], str]:
    """The embeddings with 0 in rows that hold a NaN, and which rows every encoder has embedded, bool (n_rows,)."""
    filled, usable, zero = [], "", graph.constant(0.0)
    for name in names:
        n_axes = len(shapes[name])
        missing = graph.cast(graph.node("IsNaN", name), "float")
        axes = graph.constant(list(range(1, 1 + n_axes)))
        known = graph.node("Equal", graph.node("ReduceMax", missing, axes, attributes={"keepdims": 0}), zero)
        usable = graph.node("And", usable, known) if usable else known
        for axis in range(n_axes):
            known = graph.widened(known, axis + 1)
        filled.append(graph.node("Where", known, name, zero))
    return filled, usable


def _windowed(graph: Graph, run: Run, filled: Sequence[str], *, n_rows: str) -> str:
    """What a neural head says of each row, (n_rows, n_columns)."""
    if isinstance(run.model, LightModel) or isinstance(run.head, LightConfig):
        raise ConfigError("A neural head was expected, got a light one. Export it as what it is.")
    head = run.head
    windows = make_windows(graph, head, n_rows=n_rows, frame=FRAME)
    inputs = [graph.node("Gather", tensor, windows.rows) for tensor in filled]
    gaps = graph.node("Gather", gaps_of(graph, FRAME), windows.rows) if head.gap_input else ""
    shapes = [tuple(run.record.shapes[name]) for name in head.encoders]
    columns = traced_columns(graph, run.model, shapes, windows=inputs, mask=windows.mask, gaps=gaps)
    width = sum(TASKS[task].n_outputs for task in head.joint)
    return averaged(graph, columns, windows, n_rows=n_rows, width=width)


def _split(graph: Graph, columns: str, joint: Sequence[str]) -> dict[str, str]:
    """Task -> its columns, (n_rows, n_outputs)."""
    tables, start = {}, 0
    for task in joint:
        stop = start + TASKS[task].n_outputs
        tables[task] = graph.part(columns, start, stop, axis=1)
        start = stop
    return tables


def _put_out(graph: Graph, tables: Mapping[str, str], thresholds: Sequence[float], *, usable: str) -> None:
    nothing = graph.constant(float("nan"))
    known = graph.widened(usable, 1)
    for task, table in tables.items():
        if task in ("v", "a"):
            flat = graph.node("Squeeze", table, graph.constant([1]))
            graph.node("Where", usable, flat, nothing, output=OUTPUTS[task][0])
    if "expr" in tables:
        best = graph.node("ArgMax", tables["expr"], attributes={"axis": 1, "keepdims": 0})
        graph.node("Where", usable, best, graph.constant(-1), output="expression")
        # One name more than there are classes: -1 is the last one's place.
        graph.node("Gather", graph.texts([*EXPRESSIONS, ""]), "expression", output="expression_label")
        graph.node("Where", known, tables["expr"], nothing, output="expression_probabilities")
    if "au" in tables:
        active = graph.node("Greater", tables["au"], graph.constant(np.array(thresholds)[None]))
        graph.node("And", active, known, output="action_units")
        graph.node("Where", known, tables["au"], nothing, output="action_unit_probabilities")
        graph.node("Identity", graph.texts(AU_NAMES), output="action_unit_names")


def _assembled(graph: Graph, run: Run, calibration: Calibration | None) -> VideoGraph:
    from onnx import TensorProto, helper

    kinds = {
        "expression": TensorProto.INT64,
        "expression_label": TensorProto.STRING,
        "action_units": TensorProto.BOOL,
        "action_unit_names": TensorProto.STRING,
    }
    inputs: dict[str, tuple[int | str, ...]] = {name: (N_ROWS, *run.record.shapes[name]) for name in run.head.encoders}
    inputs[FRAME] = (N_ROWS,)
    outputs = {name: _shape(name) for task, names in OUTPUTS.items() if task in run.head.joint for name in names}
    made = helper.make_graph(
        graph.nodes,
        "video",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name == FRAME else TensorProto.FLOAT, shape)
            for name, shape in inputs.items()
        ],
        [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
            for name, shape in outputs.items()
        ],
        initializer=graph.initializers,
    )
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(TREES_DOMAIN, TREES_OPSET)],
        ir_version=_IR_VERSION,
        producer_name="abaw",
        producer_version=version("abaw"),
        doc_string=__doc__,
    )
    helper.set_model_props(model, _facts(run, calibration))
    return VideoGraph(model=model, inputs=inputs, outputs=outputs)


def _shape(output: str) -> tuple[int | str, ...]:
    match output:
        case "expression_probabilities":
            return (N_ROWS, len(EXPRESSIONS))
        case "action_units" | "action_unit_probabilities":
            return (N_ROWS, len(ACTION_UNITS))
        case "action_unit_names":
            return (len(ACTION_UNITS),)
        case _:
            return (N_ROWS,)


def _facts(run: Run, calibration: Calibration | None) -> dict[str, str]:
    """What the file's metadata says; all but texts as JSON."""
    record = run.record
    encoders = {
        name: {"shape": list(record.shapes[name]), "fingerprint": record.encoders[name]} for name in run.head.encoders
    }
    facts = {
        "tasks": list(run.head.joint),
        "expressions": list(EXPRESSIONS),
        "action_units": list(AU_NAMES),
        "thresholds": list(unit_thresholds(calibration)),
        "calibration": None if calibration is None else calibration.to_dict(),
        "encoders": encoders,
        "head": run.head.to_dict(),
    }
    return {"abaw.run": run.name} | {f"abaw.{name}": json.dumps(value) for name, value in facts.items()}
