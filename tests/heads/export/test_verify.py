"""What counts as a difference between a graph and its run."""

import numpy as np
import pytest
from numpy.typing import NDArray

from heads.export.verify import difference
from heads.scoring.predictions import Predictions

Outputs = dict[str, NDArray[np.generic]]


def both() -> tuple[Predictions, Outputs]:
    """Three rows alike, the last of them without a prediction."""
    drawn = np.random.default_rng(0)
    expected = Predictions(
        rows=np.arange(3),
        valence=np.array([0.1, -0.4, np.nan]),
        expression=np.concatenate([drawn.dirichlet(np.ones(8), size=2), np.full((1, 8), np.nan)]),
        action_units=np.concatenate([drawn.uniform(size=(2, 12)), np.full((1, 12), np.nan)]),
        thresholds=np.linspace(0.2, 0.8, 12),
    )
    assert expected.valence is not None
    assert expected.expression is not None
    assert expected.action_units is not None
    found: Outputs = {
        "valence": expected.valence.astype(np.float32),
        "expression_probabilities": expected.expression.astype(np.float32),
        "action_unit_probabilities": expected.action_units.astype(np.float32),
        "expression": expected.expression_classes(),
        "action_units": expected.active_units(),
    }
    return expected, found


def test_rounding_is_small() -> None:
    assert 0 < difference(*both()) < 1e-7


def test_the_largest_difference_counts() -> None:
    expected, found = both()
    found["valence"] = found["valence"] + np.float32([0, 0.25, 0])
    found["action_unit_probabilities"] = found["action_unit_probabilities"] - np.float32(0.125)
    assert difference(expected, found) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("expression", 1, 9),
        ("expression", 2, 0),
        ("action_units", (0, 3), None),
        ("action_units", (2, 0), True),
        ("valence", 2, 0.0),
        ("valence", 0, np.nan),
    ],
)
def test_another_class_unit_or_missing_row_is_no_rounding(name: str, place: object, value: object) -> None:
    expected, found = both()
    changed = found[name].copy()
    changed[place] = ~changed[place] if value is None else value  # type: ignore[index]
    assert difference(expected, found | {name: changed}) == np.inf


def test_a_tie_may_fall_either_way() -> None:
    probabilities = np.array([[0.3, 0.30001, *[0.39999 / 6] * 6]])
    units = np.full((1, 12), 0.50001)
    expected = Predictions(rows=np.arange(1), expression=probabilities, action_units=units)
    found: Outputs = {
        "expression_probabilities": probabilities,
        "action_unit_probabilities": units,
        "expression": np.array([0]),
        "action_units": np.zeros((1, 12), dtype=np.bool_),
    }
    assert difference(expected, found) < 1e-9
