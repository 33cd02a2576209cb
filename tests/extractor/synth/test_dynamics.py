import numpy as np
import pytest

from extractor.synth.dynamics import FPS, move_face
from featurestore.labels import ACTION_UNITS


@pytest.mark.parametrize("kind", ["Neutral", "Other", "Happiness", "Surprise"])
def test_units_stay_in_range_and_move_smoothly(kind: str) -> None:
    state = move_face(np.random.default_rng(0), 40 * FPS, [kind] * 6)
    assert state.units.shape == (40 * FPS, 12)
    assert state.units.min() >= 0
    assert state.units.max() <= 1
    assert np.abs(np.diff(state.units, axis=0)).max() < 0.25


def test_episodes_move_the_units_of_their_prototype() -> None:
    smile = move_face(np.random.default_rng(1), 60 * FPS, ["Happiness"] * 8)
    rest = move_face(np.random.default_rng(1), 60 * FPS, ["Neutral"] * 8)
    for number in (6, 12):
        assert smile.au(number).mean() > rest.au(number).mean() + 0.3
    assert smile.au(15).mean() < 0.15


def test_the_jaw_does_not_drop_between_closed_lips() -> None:
    state = move_face(np.random.default_rng(2), 60 * FPS, ["Surprise"] * 8)
    assert (state.au(25) >= state.au(26) - 1e-6).all()


def test_the_head_stays_near_where_alignment_put_it() -> None:
    state = move_face(np.random.default_rng(3), 120 * FPS, ["Neutral"] * 4)
    assert np.abs(state.pose.shift).max() < 6
    assert np.abs(state.pose.yaw).max() < 0.9
    assert np.abs(np.diff(state.pose.yaw)).max() < 0.05


def test_truth_is_the_twelve_units_then_the_pose() -> None:
    state = move_face(np.random.default_rng(4), 5 * FPS, ["Anger"])
    rows = np.array([3, 8, 90])
    truth = state.take(rows).truth()
    np.testing.assert_array_equal(truth[:, : len(ACTION_UNITS)], state.units[rows])
    np.testing.assert_array_equal(truth[:, 12], state.pose.yaw[rows])
