from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extractor.synth.camera import draw_scene, photograph
from extractor.synth.eyes import lid_heights, shape_brow
from extractor.synth.face import face_layers
from extractor.synth.head import outline_controls
from extractor.synth.identity import draw_identity
from extractor.synth.layers import CROP_PX, EYES_AT, SCALE, Pen, draw_layers
from extractor.synth.mouth import Lips, shape_lips
from extractor.synth.state import FaceState
from featurestore.labels import ACTION_UNITS

StateOf = Callable[[list[dict[int, float]]], FaceState]
PERSON = draw_identity(np.random.default_rng(5))
UPPER_FACE = (1, 2, 4, 7)


def pictures(state: FaceState, seed: int = 5) -> NDArray[np.float64]:
    """Pictures without sensor noise: (n_frames, 112, 112, 3)."""
    rng = np.random.default_rng(seed)
    person, scene = draw_identity(rng), draw_scene(rng)
    still = np.random.default_rng(0)
    frames = np.stack(list(photograph(still, scene, person, face_layers(person, state), state.pose)))
    return frames.astype(np.float64)


def lips(state: FaceState) -> Lips:
    return shape_lips(Pen(pose=state.pose), PERSON, state)


@pytest.mark.parametrize("number", ACTION_UNITS)
def test_each_unit_shows_the_more_the_stronger_it_is_and_where_it_acts(state_of: StateOf, number: int) -> None:
    state = state_of([{}, {number: 0.25}, {number: 0.6}, {number: 1.0}])
    layers = face_layers(PERSON, state)
    drawn = []
    for frame in range(4):
        canvas = Image.new("RGB", (CROP_PX * SCALE,) * 2, (90, 90, 90))
        draw_layers(canvas, layers, frame)
        drawn.append(np.asarray(canvas.reduce(SCALE), np.float64))
    change = [np.abs(image - drawn[0]).mean(-1) for image in drawn[1:]]
    faint, middle, full = (float(np.square(image).mean()) for image in change)
    assert 0 < faint < middle < full
    # A few pixels at least change a lot, and most of the change is on the unit's half of the face.
    assert np.sort(change[2].ravel())[-40:].min() > 20
    border = round(EYES_AT[1] + 9)
    upper = np.square(change[2][:border]).sum() / np.square(change[2]).sum()
    if number in UPPER_FACE:
        assert upper > 0.9
    elif number != 6:
        assert upper < 0.1


def test_brows_go_up_inside_with_au1_outside_with_au2_down_and_together_with_au4(state_of: StateOf) -> None:
    state = state_of([{}, {1: 1.0}, {2: 1.0}, {4: 1.0}])
    for side in (-1, 1):
        brow = shape_brow(Pen(pose=state.pose), PERSON, state, side=side)
        inner_y, outer_y = brow[:, 0, 1] - brow[0, 0, 1], brow[:, 3, 1] - brow[0, 3, 1]
        assert inner_y[1] < -4
        assert abs(outer_y[1]) < 1
        assert outer_y[2] < -4
        assert abs(inner_y[2]) < 1.5
        assert inner_y[3] > 4
        assert abs(brow[3, 0, 0]) < abs(brow[0, 0, 0]) - 2


def test_lids_tighten_with_au7_and_a_little_with_au6(state_of: StateOf) -> None:
    upper, lower = lid_heights(PERSON, state_of([{}, {7: 1.0}, {6: 1.0}]))
    opening = upper + lower
    assert opening[1] < 0.6 * opening[0]
    assert 0.6 * opening[0] < opening[2] < 0.95 * opening[0]


def test_corners_go_up_with_au12_and_down_with_au15(state_of: StateOf) -> None:
    corner = lips(state_of([{}, {12: 1.0}, {15: 1.0}])).corner
    assert corner[1, 1] < corner[0, 1] - 4
    assert corner[1, 0] > corner[0, 0] + 3
    assert corner[2, 1] > corner[0, 1] + 4


def test_lips_part_with_au25_and_the_jaw_drops_with_au26(state_of: StateOf) -> None:
    state = state_of([{}, {25: 1.0}, {25: 1.0, 26: 1.0}])
    gap = lips(state).gap
    assert gap[0] == 0
    assert gap[1] > 3
    assert gap[2] > gap[1] + 5
    chin = outline_controls(Pen(pose=state.pose), PERSON, state)[:, :, 1].max(1)
    assert chin[1] == chin[0]
    assert chin[2] > chin[0] + 6


def test_upper_lip_goes_up_with_au10(state_of: StateOf) -> None:
    edges = lips(state_of([{}, {10: 1.0}]))
    assert edges.upper_outer[1, 3, 1] < edges.upper_outer[0, 3, 1] - 1.5
    assert edges.lower_outer[1, 3, 1] > edges.upper_outer[1, 3, 1]


def test_lips_are_narrow_with_au23_and_thin_with_au24(state_of: StateOf) -> None:
    edges = lips(state_of([{}, {23: 1.0}, {24: 1.0}]))
    width = edges.corner[:, 0]
    height = edges.lower_outer[:, 3, 1] - edges.upper_outer[:, 3, 1]
    assert width[1] < width[0] - 2
    assert abs(width[2] - width[0]) < 1
    assert height[2] < 0.4 * height[0]
    assert height[2] < height[1] < height[0]


def test_pictures_are_the_size_of_a_crop_and_people_differ(state_of: StateOf) -> None:
    state = state_of([{}])
    first, second = pictures(state, 1)[0], pictures(state, 2)[0]
    assert first.shape == (CROP_PX, CROP_PX, 3)
    assert np.abs(first - second).mean() > 10


def test_a_turned_head_moves_the_nose_more_than_the_eyes(state_of: StateOf) -> None:
    pose = replace(state_of([{}]).pose, yaw=np.array([0.25], np.float32))
    pen = Pen(pose=pose)
    eyes, nose = pen.pose.project(pen.points([(0, 0, 0), (0, 18, 15)]))[0, :, 0]
    assert nose > eyes + 6
