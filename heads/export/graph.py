"""An ONNX graph under construction: nodes and constants, each named as it is made.

Every name begins with ``abaw/``, so that none meets the name of an input, which are encoders', or of an output.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

OPSET: Final = 18
"""The first with sums in ScatterND, which averages overlapping windows; onnxruntime reads it since 1.14."""
TREES_DOMAIN: Final = "ai.onnx.ml"
TREES_OPSET: Final = 3

Attribute = int | float | str | Sequence[int] | Sequence[float] | Sequence[str]
Values = NDArray[np.generic] | Sequence[int] | int | float


class Graph:
    """Nodes and constants, in the order in which they are made.

    Attributes
    ----------
    nodes, initializers
        As protobufs.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def constant(self, values: Values) -> str:
        """The name of a constant, int64 of integers and float32 of other numbers; equal ones are one."""
        from onnx import numpy_helper

        array = np.asarray(values)
        array = array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"abaw/constant_{len(self.initializers)}"
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def doubles(self, values: NDArray[np.float64]) -> str:
        """The name of a constant that stays float64."""
        from onnx import numpy_helper

        name = f"abaw/constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float64), name))
        return name

    def texts(self, values: Sequence[str]) -> str:
        """The name of a constant of texts, shape (n,)."""
        from onnx import numpy_helper

        name = f"abaw/constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(values, dtype=object), name))
        return name

    def node(
        self,
        operator: str,
        *inputs: str,
        attributes: Mapping[str, Attribute] | None = None,
        domain: str = "",
        output: str | None = None,
    ) -> str:
        """Add a node of one output, and return that output's name.

        Parameters
        ----------
        operator
            Of ONNX, such as ``"Gather"``.
        inputs
            Names of what it reads; ``""`` for an optional input that is left out.
        attributes
            Of the operator.
        domain
            Of the operator; ONNX's own by default.
        output
            A name for its output, such as that of the graph; a new one by default.
        """
        from onnx import helper

        name = f"abaw/{operator}_{len(self.nodes)}" if output is None else output
        made = helper.make_node(operator, list(inputs), [name], name=f"node_{len(self.nodes)}", domain=domain)
        for key, value in (attributes or {}).items():
            made.attribute.append(helper.make_attribute(key, value))
        self.nodes.append(made)
        return name

    def cast(self, tensor: str, kind: str) -> str:
        """A tensor as ``"int64"``, ``"float"``, ``"double"`` or ``"bool"``."""
        from onnx import TensorProto

        kinds = {"int64": TensorProto.INT64, "float": TensorProto.FLOAT}
        kinds |= {"double": TensorProto.DOUBLE, "bool": TensorProto.BOOL}
        return self.node("Cast", tensor, attributes={"to": int(kinds[kind])})

    def length(self, tensor: str) -> str:
        """Rows of a tensor, a scalar."""
        shape = self.node("Shape", tensor, attributes={"start": 0, "end": 1})
        return self.node("Squeeze", shape, self.constant([0]))

    def range(self, stop: str) -> str:
        """0 .. stop - 1, int64, of a scalar."""
        return self.node("Range", self.constant(0), stop, self.constant(1))

    def part(self, tensor: str, start: int, stop: int | None, *, axis: int = 0) -> str:
        """A slice along an axis."""
        end = np.iinfo(np.int64).max if stop is None else stop
        return self.node("Slice", tensor, self.constant([start]), self.constant([end]), self.constant([axis]))

    def widened(self, tensor: str, axis: int) -> str:
        """A tensor with an axis of 1 put in."""
        return self.node("Unsqueeze", tensor, self.constant([axis]))
