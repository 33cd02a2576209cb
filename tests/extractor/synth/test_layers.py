import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractor.synth.layers import CROP_PX, EYES_AT, SCALE, Pose, band, curve, soft_mask, spline_matrix


@given(n_controls=st.integers(3, 9), per_span=st.integers(2, 7), closed=st.booleans())
def test_a_curve_passes_through_its_controls(n_controls: int, per_span: int, closed: bool) -> None:
    controls = np.random.default_rng(n_controls).normal(0, 10, (2, n_controls, 3)).astype(np.float32)
    points = curve(controls, per_span=per_span, closed=closed)
    np.testing.assert_allclose(points[:, ::per_span], controls, atol=1e-4)
    np.testing.assert_allclose(spline_matrix(n_controls, per_span, closed).sum(1), 1, atol=1e-6)


def test_a_straight_head_is_drawn_where_it_is() -> None:
    still = np.zeros(1, np.float32)
    pose = Pose(yaw=still, pitch=still, roll=still, shift=np.zeros((1, 2), np.float32), scale=still + 1)
    points = pose.project(np.array([[[0, 0, 30], [10, -5, 0]]], np.float32))
    expected = np.array([EYES_AT, (EYES_AT[0] + 10, EYES_AT[1] - 5)]) * SCALE
    np.testing.assert_allclose(points[0], expected)
    assert (points < CROP_PX * SCALE).all()


def test_a_band_is_as_wide_as_asked() -> None:
    line = np.zeros((1, 5, 3), np.float32)
    line[0, :, 0] = np.arange(5)
    outline = band(line, np.full(5, 2.0, np.float32))
    assert outline.shape == (1, 10, 3)
    np.testing.assert_allclose(np.abs(outline[0, :, 1]), 1)


@pytest.mark.parametrize("alpha", [0, 90, 252])
def test_a_spot_fades_from_its_middle(alpha: int) -> None:
    mask = np.asarray(soft_mask((9, 5), alpha))
    assert mask.shape == (11, 19)
    assert mask[5, 9] == mask.max() == alpha
    assert mask[0, 0] == 0
    assert (np.diff(mask[5, :10].astype(int)) >= 0).all()
