"""The graph of a run or a system: one video's embeddings in, what is said of each of its rows out.

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
from pydantic import JsonValue

from featurestore.errors import ConfigError
from featurestore.labels import ACTION_UNITS, EXPRESSIONS

from .answers import FRAME, Answer, answers, read_video
from .graph import OPSET, TREES_DOMAIN, TREES_OPSET, Graph
from .postprocess import postprocessed, unit_thresholds
from .subject import Subject

if TYPE_CHECKING:
    import onnx

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
    """A run or a system as an ONNX model.

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


def video_graph(subject: Subject) -> VideoGraph:
    """Build the graph of a run or a system.

    Raises
    ------
    ConfigError
        If an encoder's name is taken by an input or output of the graph, or a light head holds something that has no
        counterpart in ONNX.
    """
    _check_names(subject)
    graph = Graph()
    video = read_video(graph, subject.shapes)
    said = answers(graph, subject, video)
    said = postprocessed(graph, said, subject.calibration, frame=FRAME, n_rows=video.n_rows)
    _put_out(graph, said, unit_thresholds(subject.calibration))
    return _assembled(graph, subject)


def _check_names(subject: Subject) -> None:
    taken = {FRAME, *(name for task in subject.joint for name in OUTPUTS[task])}
    for name in subject.encoders:
        if name in taken:
            raise ConfigError(
                f"In an ONNX file encoders are inputs by their names, but {name!r} is another input or output of it "
                f"(run: {subject.name}). Extract the encoder under another name, and fit the head on that."
            )


def _put_out(graph: Graph, said: Mapping[str, Answer], thresholds: Sequence[float]) -> None:
    nothing = graph.constant(float("nan"))
    for task, (table, known) in said.items():
        wide = graph.widened(known, 1)
        match task:
            case "expr":
                best = graph.node("ArgMax", table, attributes={"axis": 1, "keepdims": 0})
                graph.node("Where", known, best, graph.constant(-1), output="expression")
                # One name more than there are classes: -1 is the last one's place.
                graph.node("Gather", graph.texts([*EXPRESSIONS, ""]), "expression", output="expression_label")
                graph.node("Where", wide, table, nothing, output="expression_probabilities")
            case "au":
                active = graph.node("Greater", table, graph.constant(np.array(thresholds)[None]))
                graph.node("And", active, wide, output="action_units")
                graph.node("Where", wide, table, nothing, output="action_unit_probabilities")
                graph.node("Identity", graph.texts(AU_NAMES), output="action_unit_names")
            case _:
                flat = graph.node("Squeeze", table, graph.constant([1]))
                graph.node("Where", known, flat, nothing, output=OUTPUTS[task][0])


def _assembled(graph: Graph, subject: Subject) -> VideoGraph:
    from onnx import TensorProto, helper

    kinds = {
        "expression": TensorProto.INT64,
        "expression_label": TensorProto.STRING,
        "action_units": TensorProto.BOOL,
        "action_unit_names": TensorProto.STRING,
    }
    inputs: dict[str, tuple[int | str, ...]] = {name: (N_ROWS, *shape) for name, shape in subject.shapes.items()}
    inputs[FRAME] = (N_ROWS,)
    outputs = {name: _shape(name) for task, names in OUTPUTS.items() if task in subject.joint for name in names}
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
    helper.set_model_props(model, _facts(subject))
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


def _facts(subject: Subject) -> dict[str, str]:
    """What the file's metadata says; all but the name as JSON."""
    encoders: dict[str, JsonValue] = {
        name: {"shape": list(subject.shapes[name]), "fingerprint": fingerprint}
        for name, fingerprint in subject.encoders.items()
    }
    calibration = subject.calibration
    facts: dict[str, JsonValue] = {
        "tasks": list(subject.joint),
        "expressions": list(EXPRESSIONS),
        "action_units": list(AU_NAMES),
        "thresholds": list(unit_thresholds(calibration)),
        "calibration": None if calibration is None else calibration.to_dict(),
        "encoders": encoders,
        "heads": {name: run.head.to_dict() for name, run in subject.members.items()},
        "weights": {task: dict(weights) for task, weights in subject.weights.items()},
    }
    return {"abaw.run": subject.name} | {f"abaw.{name}": json.dumps(value) for name, value in facts.items()}
