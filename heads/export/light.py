"""Light heads as nodes: linear layers as products, LightGBM's trees as a tree ensemble.

Inputs are float32, so a tree's threshold, which LightGBM holds in float64, is rounded down to float32: no input falls
on the other side of it. Linear layers are computed in float64, as the run does.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydantic import JsonValue

from featurestore.errors import ConfigError
from heads.light.layers import Layers
from heads.light.model import LightModel
from heads.light.numbers import Numbers
from heads.light.statistics import STATISTICS
from heads.light.trees import Trees

from .graph import TREES_DOMAIN, Graph

_FAR: Final = np.float32(3e38)  # what stands for infinity where a window has no row


def light_columns(graph: Graph, model: LightModel, filled: Sequence[str], *, usable: str, n_rows: str) -> str:
    """Put a light head's nodes into a graph.

    Parameters
    ----------
    graph
        Where they go.
    model
        The head.
    filled : each shape (n_rows, D)
        Names of the encoders' embeddings, the base first, finite.
    usable : shape (n_rows,), bool
        Rows that are part of windows.
    n_rows
        Their number.

    Returns
    -------
    Name of a tensor (n_rows, n_columns): probabilities and values, tasks side by side in their order.

    Raises
    ------
    ConfigError
        If a tree splits by something other than ``<=``.
    """
    X = _inputs(graph, model, filled, usable=usable, n_rows=n_rows)
    tables = [_squashed(graph, task, _outputs(graph, numbers, X)) for task, numbers in model.numbers.items()]
    return graph.node("Concat", *tables, attributes={"axis": 1})


def _inputs(graph: Graph, model: LightModel, filled: Sequence[str], *, usable: str, n_rows: str) -> str:
    """The design: chosen columns, statistics of windows, normalised; float32 (n_rows, n_columns)."""
    design, config = model.design, model.config
    chosen = [
        graph.part(tensor, *config.columns.get(name, (0, None)), axis=1)
        for name, tensor in zip(config.encoders, filled, strict=True)
    ]
    read = graph.node("Concat", *chosen, attributes={"axis": 1})
    X = read
    if config.statistics:
        values = graph.cast(read, "double")
        if design.components is not None and design.offset is not None:
            values = graph.node("MatMul", values, graph.doubles(design.components.T))
            values = graph.node("Sub", values, graph.doubles(design.offset))
        around = [
            each
            for half in config.statistics
            for each in _statistics(graph, values, half, usable=usable, n_rows=n_rows)
        ]
        X = graph.node("Concat", read, *(graph.cast(each, "float") for each in around), attributes={"axis": 1})
    if design.mean.any() or (design.scale != 1).any():
        centred = graph.node("Sub", graph.cast(X, "double"), graph.doubles(design.mean))
        X = graph.cast(graph.node("Div", centred, graph.doubles(design.scale)), "float")
    return X


def _statistics(graph: Graph, values: str, half: int, *, usable: str, n_rows: str) -> list[str]:
    """`STATISTICS` of the windows of `half` rows to either side, each float64 (n_rows, k)."""
    rows = graph.widened(graph.range(n_rows), 1)
    wanted = graph.node("Add", rows, graph.constant(np.arange(-half, half + 1)[None]))
    last = graph.node("Sub", n_rows, graph.constant(1))
    near = graph.node("Max", graph.node("Min", wanted, last), graph.constant(0))  # (n_rows, 2 half + 1)
    known = graph.node("And", graph.node("Equal", near, wanted), graph.node("Gather", usable, near))
    known = graph.widened(known, 2)
    around = graph.node("Gather", values, near)  # (n_rows, 2 half + 1, k)
    weight = graph.cast(known, "double")
    axis = graph.constant([1])
    count = graph.node("ReduceSum", weight, axis, attributes={"keepdims": 1})
    count = graph.node("Max", count, graph.doubles(np.ones(())))
    mean = graph.node("ReduceSum", graph.node("Mul", around, weight), axis, attributes={"keepdims": 1})
    mean = graph.node("Div", mean, count)
    apart = graph.node("Mul", graph.node("Sub", around, mean), weight)
    squares = graph.node("ReduceSum", graph.node("Mul", apart, apart), axis, attributes={"keepdims": 1})
    far = graph.doubles(np.array(float(_FAR)))
    least = graph.node("Where", known, around, far)
    greatest = graph.node("Where", known, around, graph.node("Neg", far))
    flat_mean = graph.node("Squeeze", mean, axis)
    found = {
        "mean": flat_mean,
        "std": graph.node("Squeeze", graph.node("Sqrt", graph.node("Div", squares, count)), axis),
        "min": graph.node("ReduceMin", least, axis, attributes={"keepdims": 0}),
        "max": graph.node("ReduceMax", greatest, axis, attributes={"keepdims": 0}),
        "difference": graph.node("Sub", values, flat_mean),
    }
    return [found[name] for name in STATISTICS]


def _outputs(graph: Graph, numbers: Numbers, X: str) -> str:
    """Logits or values, float64 (n_rows, n_outputs)."""
    if isinstance(numbers, Layers):
        return _layers(graph, numbers, X)
    if isinstance(numbers, Trees):
        return _trees(graph, numbers, X)
    raise ConfigError(f"Layers and trees can be exported, got {type(numbers).__name__}. Fit another light head.")


def _layers(graph: Graph, layers: Layers, X: str) -> str:
    values = graph.cast(X, "double")
    for number, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        read = graph.node("Max", values, graph.doubles(np.zeros(()))) if number else values
        values = graph.node("Add", graph.node("MatMul", read, graph.doubles(weight.T)), graph.doubles(bias))
    return values


def _trees(graph: Graph, trees: Trees, X: str) -> str:
    forest = Forest(trees.n_outputs)
    for booster, columns in zip(trees.boosters, trees.columns, strict=True):
        dumped: JsonValue = booster.dump_model()
        forest.add(dumped, columns.tolist())
    if not forest.n_trees:
        rows = graph.node("Shape", X, attributes={"start": 0, "end": 1})
        shape = graph.node("Concat", rows, graph.constant([trees.n_outputs]), attributes={"axis": 0})
        return graph.node("Expand", graph.doubles(trees.bias[None]), shape)
    return graph.node("Add", graph.cast(forest.node(graph, X), "double"), graph.doubles(trees.bias))


class Forest:
    """Trees as ONNX's TreeEnsembleRegressor wants them: a row of each attribute a node of a tree.

    Parameters
    ----------
    n_outputs
        Columns of its sums.
    """

    def __init__(self, n_outputs: int) -> None:
        self.n_outputs, self.n_trees = n_outputs, 0
        self._modes: list[str] = []
        self._numbers: dict[str, list[int]] = {
            name: [] for name in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")
        }
        self._values: list[float] = []
        self._leaves: dict[str, list[int]] = {name: [] for name in ("treeids", "nodeids", "ids")}
        self._weights: list[float] = []

    def add(self, dumped: JsonValue, columns: Sequence[int]) -> None:
        """Add a model.

        Parameters
        ----------
        dumped
            What `Booster.dump_model` gives.
        columns
            Which outputs it adds to, one a class.

        Raises
        ------
        ConfigError
            If a tree splits by something other than ``<=``, such as categories.
        """
        for number, info in enumerate(_list(_dict(dumped)["tree_info"])):
            self._grow(_dict(_dict(info)["tree_structure"]), columns[number % len(columns)])
            self.n_trees += 1

    def node(self, graph: Graph, X: str) -> str:
        """Put the ensemble into a graph; float32 (n_rows, n_outputs)."""
        return graph.node(
            "TreeEnsembleRegressor",
            X,
            domain=TREES_DOMAIN,
            attributes={
                "n_targets": self.n_outputs,
                "aggregate_function": "SUM",
                "post_transform": "NONE",
                "nodes_modes": self._modes,
                "nodes_values": self._values,
                **{f"nodes_{name}": numbers for name, numbers in self._numbers.items()},
                **{f"target_{name}": numbers for name, numbers in self._leaves.items()},
                "target_weights": self._weights,
            },
        )

    def _grow(self, root: dict[str, JsonValue], output: int) -> None:
        """One tree, its nodes numbered as they are met; without recursion, for a chain of leaves may be deep."""
        waiting: list[tuple[dict[str, JsonValue], int]] = [(root, 0)]
        n_nodes = 1
        while waiting:
            node, number = waiting.pop()
            is_leaf = "split_feature" not in node
            if is_leaf:
                self._leaves["treeids"].append(self.n_trees)
                self._leaves["nodeids"].append(number)
                self._leaves["ids"].append(output)
                self._weights.append(_float(node["leaf_value"]))
            elif node["decision_type"] != "<=":
                raise ConfigError(
                    f"Trees that split by <= can be exported, this one splits by {node['decision_type']!r}. "
                    "Fit it on numbers, not on categories."
                )
            else:
                waiting += [(_dict(node["left_child"]), n_nodes), (_dict(node["right_child"]), n_nodes + 1)]
            below = (0, 0) if is_leaf else (n_nodes, n_nodes + 1)
            n_nodes += 0 if is_leaf else 2
            self._modes.append("LEAF" if is_leaf else "BRANCH_LEQ")
            self._values.append(0.0 if is_leaf else float(rounded_down(_float(node["threshold"]))))
            row = (self.n_trees, number, 0 if is_leaf else int(_float(node["split_feature"])), *below)
            for values, value in zip(self._numbers.values(), row, strict=True):
                values.append(value)


def rounded_down(threshold: float) -> np.float32:
    """The largest float32 that is no larger than a threshold: x <= it exactly where x <= the threshold, x float32."""
    nearest = np.float32(threshold)
    return np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > threshold else nearest


def _squashed(graph: Graph, task: str, outputs: str) -> str:
    """Probabilities or values, float32 (n_rows, n_outputs)."""
    match task:
        case "au":
            made = graph.node("Sigmoid", outputs)
        case "expr":
            made = graph.node("Softmax", outputs, attributes={"axis": 1})
        case _:
            least, most = (graph.doubles(np.array(bound)) for bound in (-1.0, 1.0))
            made = graph.node("Max", graph.node("Min", outputs, most), least)
    return graph.cast(made, "float")


def _dict(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise ConfigError(f"LightGBM's dump of a model has an object here, got {type(value).__name__}.")
    return value


def _list(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise ConfigError(f"LightGBM's dump of a model has a list here, got {type(value).__name__}.")
    return value


def _float(value: JsonValue) -> float:
    if not isinstance(value, int | float):
        raise ConfigError(f"LightGBM's dump of a model has a number here, got {value!r}.")
    return float(value)
