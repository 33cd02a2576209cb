"""Linear layers with ReLUs in between, as arrays: linear models of any kind, and small networks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featurestore.errors import ShapeError
from heads.arrays import Float64Array, FloatArray, IntArray

from .numbers import ABSENT_LOGIT, Array


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """x -> W_n relu(... relu(W_1 x + b_1) ...) + b_n.

    Attributes
    ----------
    weights : each shape (n_out, n_in), float64
        The first layer's first; one layer is a linear model.
    biases : each shape (n_out,), float64
    """

    weights: tuple[Float64Array, ...]
    biases: tuple[Float64Array, ...]

    @classmethod
    def linear(cls, weight: FloatArray, bias: FloatArray) -> "Layers":
        """One layer, of coefficients (n_out, n_in) and intercepts (n_out,)."""
        return cls((np.asarray(weight, dtype=np.float64),), (np.asarray(bias, dtype=np.float64),))

    @property
    def n_inputs(self) -> int:
        """Columns of its inputs."""
        return int(self.weights[0].shape[1])

    @property
    def n_outputs(self) -> int:
        """Columns of its outputs."""
        return len(self.biases[-1])

    def outputs(self, X: FloatArray) -> Float64Array:
        """Inputs (n, n_columns) -> outputs (n, n_outputs).

        In float64: a row's outputs then do not depend on the rows beside it, as far as anybody could tell.
        """
        values = np.asarray(X, dtype=np.float64)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = (np.maximum(values, 0) if number else values) @ weight.T + bias
        return values

    def n_parameters(self) -> int:
        """Coefficients and intercepts."""
        return sum(array.size for array in (*self.weights, *self.biases))

    def scaled(self, factor: float, shift: float) -> "Layers":
        """The same with outputs times a factor plus a shift."""
        return Layers(
            (*self.weights[:-1], self.weights[-1] * factor), (*self.biases[:-1], self.biases[-1] * factor + shift)
        )

    def constant(self, outputs: Mapping[int, float]) -> "Layers":
        """The same with some outputs that are what they are told to be, whatever the inputs."""
        weight, bias = self.weights[-1].copy(), self.biases[-1].copy()
        for number, value in outputs.items():
            weight[number], bias[number] = 0, value
        return Layers((*self.weights[:-1], weight), (*self.biases[:-1], bias))

    def spread(self, classes: IntArray, n_classes: int) -> "Layers":
        """Logits of some classes as logits of all (see `Numbers.spread`)."""
        weight = np.zeros((n_classes, self.weights[-1].shape[1]))
        bias = np.full(n_classes, ABSENT_LOGIT)
        weight[classes], bias[classes] = self.weights[-1], self.biases[-1]
        return Layers((*self.weights[:-1], weight), (*self.biases[:-1], bias))

    def arrays(self) -> Mapping[str, Array]:
        """Name -> array: ``weight.0``, ``bias.0`` and so on."""
        pairs = enumerate(zip(self.weights, self.biases, strict=True))
        return {f"{kind}.{i}": array for i, pair in pairs for kind, array in zip(("weight", "bias"), pair, strict=True)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> "Layers":
        """The inverse of `arrays`; KeyError if one is missing, ShapeError if they do not follow on each other."""
        n_layers = max(1, sum(name.startswith("weight.") for name in arrays))
        weights = tuple(arrays[f"weight.{i}"].astype(np.float64) for i in range(n_layers))
        biases = tuple(arrays[f"bias.{i}"].astype(np.float64) for i in range(n_layers))
        widths = [weights[0].shape[-1], *(len(bias) for bias in biases)]
        if [each.shape for each in weights] != list(zip(widths[1:], widths[:-1], strict=True)):
            raise ShapeError(f"layers of shapes {[each.shape for each in weights]} do not follow on each other")
        return cls(weights, biases)
