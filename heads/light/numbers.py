"""What every light head comes down to: arrays that turn a row of inputs into outputs.

Outputs are logits of action units and expressions, and values of valence and arousal. Estimators are fitted and then
read out into these (layers.py, trees.py), which are saved as arrays and texts, never pickled.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import numpy as np

from heads.arrays import Float64Array, FloatArray, IntArray

ABSENT_LOGIT: Final = -100.0
"""Of a class that the train rows do not hold: a probability of e^-100, and a finite number in every file."""


Array = Float64Array | IntArray


class Numbers(Protocol):
    """A fitted model of one task."""

    @property
    def n_inputs(self) -> int | None:
        """Columns of its inputs; None if it looks at none of them."""
        ...

    @property
    def n_outputs(self) -> int:
        """Columns of its outputs."""
        ...

    def outputs(self, X: FloatArray) -> Float64Array:
        """Inputs (n, n_columns) -> outputs (n, n_outputs)."""
        ...

    def n_parameters(self) -> int:
        """Coefficients, or leaves of all trees."""
        ...

    def spread(self, classes: IntArray, n_classes: int) -> "Numbers":
        """Logits of some classes as logits of all: the others never come.

        Parameters
        ----------
        classes : shape (n_outputs,)
            Which of 0 .. n_classes - 1 each output is of.
        n_classes
            How many there are.
        """
        ...

    def arrays(self) -> Mapping[str, Array]:
        """What is saved as arrays, by name."""
        ...


def constant_logit(positive: FloatArray | IntArray, negative: FloatArray | IntArray) -> Float64Array:
    """Logits of units of which nothing but counts of labels is known; half a row is added to each count."""
    logits: Float64Array = np.log((positive + 0.5) / (negative + 0.5))
    return logits


def sigmoid(logits: Float64Array) -> Float64Array:
    """1 / (1 + exp(-x)), which does not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def softmax(logits: Float64Array) -> Float64Array:
    """Probabilities along the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    made: Float64Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return made
