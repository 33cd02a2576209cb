"""Layers by gradient descent: what the inputs' mean has to do with them."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heads.light.config import LightConfig
from heads.light.descent import descend_classes, descend_units

N_ROWS, N_COLUMNS = 60, 12
LEARNED = np.arange(10, 50)


@pytest.fixture
def inputs() -> NDArray[np.float32]:
    # Eighths: a shift by 4 is exact in float32.
    values = np.random.default_rng(0).integers(-16, 17, (N_ROWS, N_COLUMNS)) / 8
    return values.astype(np.float32)


@pytest.mark.parametrize("kind", ["units", "classes"])
def test_one_layer_does_not_depend_on_where_the_inputs_lie(inputs: NDArray[np.float32], kind: str) -> None:
    config = LightConfig(estimator="linear", epochs=30, early_stopping_rounds=0)
    units = (np.random.default_rng(1).random((40, 3)) < 0.2).astype(np.float64)
    groups = np.repeat(np.arange(8), 5)

    def outputs(X: NDArray[np.float32]) -> NDArray[np.float64]:
        if kind == "units":
            fitted = descend_units(torch.from_numpy(X), LEARNED, units, np.ones((40, 3)), groups, config)
        else:
            classes = np.arange(40) % 4
            fitted = descend_classes(torch.from_numpy(X), LEARNED, classes, np.ones(40), groups, config)
        return fitted.layers.outputs(X)

    expected = outputs(inputs)
    found = outputs(inputs + 4)
    assert expected.std() > 0.1
    assert found == pytest.approx(expected, abs=1e-4)
