"""The head that carries the moving face: outline, ears, neck, nose and cheeks. AU6, AU10, AU12, AU26.

Coordinates are face coordinates: pixels of the crop from between the eyes, x right, y down, z to the camera.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from .hair import CROWN
from .identity import Colour, Identity, mix, shade
from .layers import FloatArray, Layer, Pen, Point, curve, ellipse
from .mouth import JAW_DROP_PX
from .state import FaceState

# Right half of the outline, from the top of the skull to the chin: x, y, z.
_SKULL: Final = (
    *((0.0, -42.0, -8.0), (16.0, -40.0, -10.0), (29.0, -31.0, -14.0)),
    *((36.0, -17.0, -18.0), (38.0, 0.0, -20.0)),
)
_JAW: Final = (
    *((36.2, 17.0, -18.0), (31.2, 32.0, -14.0), (22.8, 44.5, -6.0)),
    *((11.5, 52.5, 0.0), (0.0, 55.0, 2.0)),
)
_MANE: Final = ((0.0, -49.0), (24.0, -47.0), (42.0, -30.0), (48.0, 0.0), (49.0, 30.0), (46.0, 58.0), (52.0, 80.0))
_NECK: Final = ((0.0, 30.0), (22.0, 34.0), (21.0, 56.0), (23.0, 80.0))
_SHOULDERS: Final = ((0.0, 68.0), (16.0, 70.0), (24.0, 68.0), (44.0, 74.0), (70.0, 82.0), (70.0, 116.0))
# Crow's feet: how far each rises and reaches from the corner of the eye.
_FEET: Final = ((-3.6, 5.0), (0.4, 6.2), (4.4, 5.2))


def outline_controls(pen: Pen, person: Identity, state: FaceState) -> FloatArray:
    """Controls of the head's closed outline, clockwise from the top: (n_frames, 18, 3)."""
    drop = state.au(26)
    right: list[Point] = [(x * person.face_width, y, z) for x, y, z in _SKULL]
    for x, y, z in _JAW:
        low = (y - 10) / 45.0
        width = person.face_width * (1 + (person.jaw_width - 1) * min(1.0, 1.6 * low))
        right.append((x * width * (1 - 0.03 * drop), y + person.chin * low + JAW_DROP_PX * drop * low**1.4, z))
    left = [(-x, y, z) for x, y, z in right[-2:0:-1]]
    return pen.points([*right, *left])


def back_layers(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """Hair behind the head, neck, top, ears, and the head itself."""
    layers: list[Layer] = []
    behind = shade(person.hair, 0.7)
    if person.hair_style == "long":
        layers.append(_mirrored(pen, _MANE, behind, depth=-26))
    elif person.hair_style == "bun":
        layers.append(pen.fill(pen.points(ellipse((0, -52, -30), (14, 11))), behind))
    if person.hair_style != "bald":
        cap = curve(pen.points([(x * person.face_width, y, -12) for x, y in CROWN]), per_span=3)
        layers.append(pen.fill(cap, behind))
    layers.append(_mirrored(pen, _NECK, shade(person.skin, 0.72), depth=-14))
    layers.append(_mirrored(pen, _SHOULDERS, person.top, depth=-22))
    for side in (-1, 1):
        layers += _ear(pen, person, side)
    layers.append(pen.fill(curve(outline_controls(pen, person, state), per_span=4, closed=True), person.skin))
    # The sides of the head turn away from the camera.
    for side in (-1, 1):
        layers.append(pen.spot((side * 36, -12, -14), (9, 26), shade(person.skin, 0.62), 0.5))
        layers.append(pen.spot((side * 33, 24, -10), (9, 22), shade(person.skin, 0.62), 0.5))
    layers.append(pen.spot((0, -24, 4), (20, 12), shade(person.skin, 1.14), 0.5))
    return layers


def cheek_layers(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """Cheeks, folds from nose to mouth, crow's feet: AU6, AU10, AU12."""
    cheek, raise10, smile = state.au(6), state.au(10), state.au(12)
    dark, light = shade(person.skin, 0.6), shade(person.skin, 1.2)
    blush = mix(person.skin, (206, 92, 84), 0.35)
    lift = 4.0 * cheek + 1.6 * smile
    layers: list[Layer] = []
    for side in (-1, 1):
        layers.append(pen.spot((side * 21, 19 - lift, 4), (11, 9), blush, 0.4))
        layers.append(pen.spot((side * 20.5, 14.5 - lift, 6), (9.5, 6), light, 0.28 + 0.6 * cheek + 0.15 * smile))
        hollow = 0.08 + 0.4 * cheek + 0.24 * smile
        layers.append(pen.spot((side * 23, 24.5 - 0.6 * lift, 2), (11, 4.5), dark, hollow))
        layers += _nasolabial(pen, person, state, side)
        for rise, reach in _FEET:
            middle, end = 26.0 + 0.55 * reach, 26.0 + reach
            foot = [(side * 26.0, 0.35 * rise, -2), (side * middle, 0.75 * rise, -5), (side * end, rise, -9)]
            strength = 0.1 * person.age + 0.8 * cheek
            layers.append(pen.line(curve(pen.points(foot)), shade(person.skin, 0.5), width=1.15, alpha=strength))
        sneer: list[Point] = [(side * 5.5, 5, 7), (side * 7.4, 9.5, 7)]
        sneer.append((side * 9 * person.nose_width, 15.5 - 1.5 * raise10, 6))
        layers.append(pen.line(curve(pen.points(sneer)), dark, width=1.5, alpha=0.7 * raise10))
    return layers


def nose_layers(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """The nose; AU10 lifts and widens its wings."""
    raise10 = state.au(10)
    dark, light = shade(person.skin, 0.64), shade(person.skin, 1.18)
    tip, wide = 18.5 * person.nose_length, person.nose_width
    layers: list[Layer] = [pen.spot((0, 5, 11), (3.2, 13), light, 0.5)]
    for side in (-1, 1):
        bulb = (side * 6.4 * wide, tip + 0.5 - 1.4 * raise10, 9)
        layers.append(pen.spot((side * 5.6, 4, 7), (3.4, 13), dark, 0.38))
        layers.append(pen.spot(bulb, (3.6, 4.2), shade(person.skin, 0.86), 0.7))
    layers.append(pen.spot((0, tip - 1.5, 15), (5, 5), light, 0.7))
    for side in (-1, 1):
        x, y = side * (8.0 * wide + 0.7 * raise10), tip + 1.0 - 1.6 * raise10
        wing: list[Point] = [(x - side * 1.6, y - 4.2, 8), (x + side * 0.4, y - 1.2, 8)]
        wing += [(x - side * 0.6, y + 1.9, 8), (x - side * 3.4, y + 2.0, 9)]
        layers.append(pen.line(curve(pen.points(wing)), shade(person.skin, 0.5), width=1.3, alpha=0.75))
        nostril = ellipse((side * 3.9 * wide, y + 1.9, 11), (1.9, 0.95))
        layers.append(pen.fill(pen.points(nostril), shade(person.skin, 0.28), 0.9))
    layers.append(pen.spot((0, tip + 5.0, 9), (7, 2.6), dark, 0.5))
    return layers


def _ear(pen: Pen, person: Identity, side: int) -> list[Layer]:
    x = side * 39.0 * person.face_width
    layers: list[Layer] = [
        pen.fill(pen.points(ellipse((x, 5, -24), (4.6, 10.5))), shade(person.skin, 0.9)),
        pen.fill(pen.points(ellipse((x, 5, -23), (2.4, 6.5))), shade(person.skin, 0.7)),
    ]
    if person.earrings:
        layers.append(pen.fill(pen.points(ellipse((x, 17.5, -23), (1.8, 1.8))), (222, 190, 110)))
    return layers


def _nasolabial(pen: Pen, person: Identity, state: FaceState, side: int) -> list[Layer]:
    """The fold from a wing of the nose to beside the mouth."""
    cheek, raise10, smile, drop = state.au(6), state.au(10), state.au(12), state.au(26)
    start = 17.5 * person.nose_length - 2.6 * raise10
    width = 9.4 * person.nose_width + 0.6 * raise10
    fold: list[Point] = [
        (side * width, start, 6),
        (side * (width + 3.4 + 2.2 * smile + 1.6 * raise10), start + 4.2 - 1.0 * raise10, 6),
        (side * (14.8 + 4.6 * smile + 1.0 * raise10 - drop), start + 10.0 - 0.5 * smile, 4),
        (side * (16.6 + 3.6 * smile - 1.2 * drop), start + 17.0 - 2.4 * smile + 3 * drop, 2),
    ]
    strength = 0.08 + 0.22 * person.age + 0.5 * smile + 0.6 * raise10 + 0.15 * cheek
    inside = (side * (14.5 + 3.5 * smile + raise10), start + 6 - 1.5 * smile, 5)
    depth = 1.0 + 0.7 * np.maximum(raise10, smile)
    return [
        pen.spot(inside, (5.5, 7.5), shade(person.skin, 0.66), 0.55 * strength),
        pen.line(curve(pen.points(fold)), shade(person.skin, 0.5), width=depth, alpha=strength),
    ]


def _mirrored(pen: Pen, right: Sequence[tuple[float, float]], colour: Colour, *, depth: float) -> Layer:
    """A shape with a right and a left half, closed at the bottom."""
    left = [(-x, y) for x, y in reversed(right) if x != 0]
    points = pen.points([(x, y, depth) for x, y in [*left, *right]])
    return pen.fill(curve(points, per_span=3), colour)
