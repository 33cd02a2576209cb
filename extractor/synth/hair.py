"""Hair, beard and glasses: what lies over a face and moves with it, but says nothing.

Coordinates are face coordinates: pixels of the crop from between the eyes, x right, y down, z to the camera.
"""

from typing import Final

import numpy as np

from .identity import Colour, Identity, mix, shade
from .layers import FloatArray, Layer, Pen, Point, curve, ellipse
from .mouth import JAW_DROP_PX
from .state import FaceState

_Line = tuple[tuple[float, float], ...]

CROWN: Final[_Line] = (
    *((-40.5, 2.0), (-41.5, -18.0), (-35.0, -37.0), (-19.0, -48.5), (0.0, -51.0)),
    *((19.0, -48.5), (35.0, -37.0), (41.5, -18.0), (40.5, 2.0)),
)
"""The outside of the hair, from ear to ear."""

# Where the hair ends on the face, from ear to ear, by style.
_HAIRLINES: Final[dict[str, _Line]] = {
    "short": ((36, -6), (35, -18), (30, -27), (16, -31), (0, -32), (-16, -31), (-30, -27), (-35, -18), (-36, -6)),
    "parted": ((36, 0), (35, -16), (31, -24), (18, -28), (-4, -32), (-16, -36), (-27, -27), (-35, -14), (-36, 0)),
    "fringe": ((36, 8), (34, -10), (30, -22), (16, -24), (0, -23), (-16, -24), (-30, -22), (-34, -10), (-36, 8)),
    "long": ((36, 24), (33, -6), (29, -22), (14, -31), (0, -36), (-14, -31), (-29, -22), (-33, -6), (-36, 24)),
    "bun": ((36, -4), (35, -18), (29, -29), (15, -35), (0, -36), (-15, -35), (-29, -29), (-35, -18), (-36, -4)),
    "receding": ((37, -4), (37, -16), (35, -27), (22, -40), (0, -37), (-22, -40), (-35, -27), (-37, -16), (-37, -4)),
}
_STUBBLE: Final = (
    *((0.0, 48.0, 13.0, 9.0, 1.0), (-14.0, 44.0, 12.0, 10.0, 0.7), (14.0, 44.0, 12.0, 10.0, 0.7)),
    *((-24.0, 33.0, 9.0, 13.0, 0.4), (24.0, 33.0, 9.0, 13.0, 0.4), (0.0, 27.5, 13.0, 5.0, 0.2)),
)
_RIM: Final[Colour] = (34, 32, 36)


def hair_layers(pen: Pen, person: Identity) -> list[Layer]:
    """Hair before the head."""
    if person.hair_style == "bald":
        return [pen.spot((-8, -34, 4), (12, 6), shade(person.skin, 1.3), 0.5)]
    hairline = _HAIRLINES[person.hair_style]
    outer = curve(pen.points([(x * person.face_width, y, -10) for x, y in CROWN]), per_span=4)
    # At the temples the hairline lies farther back.
    ends = [(x * person.face_width, y, -2 if abs(x) < 30 else -14) for x, y in hairline]
    layers: list[Layer] = [pen.fill(np.concatenate([outer, curve(pen.points(ends), per_span=4)], axis=1), person.hair)]
    gloss = curve(pen.points([(-24, -39, -8), (-10, -43.5, -6), (6, -43.5, -6), (20, -40, -8)]))
    layers.append(pen.line(gloss, shade(person.hair, 1.5), width=3.4, alpha=0.35))
    for x in (-22, -12, -3, 7, 16, 25):
        strand = curve(pen.points([(x * 0.8, -48, -8), (x, -40, -5), (x * 1.1, -35, -2)]))
        layers.append(pen.line(strand, shade(person.hair, 0.65), width=1.2, alpha=0.4))
    return layers


def beard_layers(pen: Pen, person: Identity, state: FaceState, jaw: FloatArray) -> list[Layer]:
    """Beard and moustache, under the lips.

    Parameters
    ----------
    jaw : shape (n_frames, n_controls, 3)
        The outline of the head from one side of the jaw to the other.
    """
    if person.beard == "none":
        return []
    if person.beard == "stubble":
        return _stubble(pen, person, state)
    colour = mix(person.hair, person.skin, 0.1)
    smile, drop, raise10 = state.au(12), state.au(26), state.au(10)
    layers: list[Layer] = []
    if person.beard == "full":
        cheek: Point = (16 + 3 * smile, 33 - 2 * smile, 4)
        edge: list[Point] = [(-25, 28, 0), (-cheek[0], *cheek[1:]), (0, 30, 8), cheek, (25, 28, 0)]
        outline = np.concatenate([curve(jaw, per_span=3), curve(pen.points(edge), per_span=3)], axis=1)
        layers.append(pen.fill(outline, colour, 0.84))
    top = 25.6 + person.mouth_height - 2.0 * raise10
    tip: Point = (13.0 + 3.4 * smile, top + 6.5 - 4 * smile + 2 * drop, 3)
    right: list[Point] = [(0.0, top + 0.6, 10), (6, top + 0.4, 9), tip, (6, top + 4.0, 9), (0, top + 3.6, 10)]
    left = [(-x, y, z) for x, y, z in right[-2:0:-1]]
    layers.append(pen.fill(curve(pen.points([*right, *left]), per_span=3, closed=True), colour, 0.84))
    return layers


def glasses_layers(pen: Pen, person: Identity) -> list[Layer]:
    """Thin rims around the eyes, below the brows."""
    if not person.glasses:
        return []
    layers: list[Layer] = []
    for side in (-1, 1):
        outer = ellipse((side * 17.4, 1.6, 9), (12.4, 9.6))
        hole = ellipse((side * 17.4, 1.6, 9), (11.5, 8.7))
        # One polygon: around the rim, and back around its hole.
        layers.append(pen.fill(pen.points([*outer, outer[0], hole[0], *hole[::-1], outer[0]]), _RIM, 0.9))
        temple = curve(pen.points([(side * 29.6, 0, 8), (side * 34, 0.5, -8), (side * 38, 1, -22)]))
        layers.append(pen.line(temple, _RIM, width=1.2, power=0.1))
    bridge = curve(pen.points([(-5.2, 0.5, 10), (0, -1.2, 12), (5.2, 0.5, 10)]))
    return [*layers, pen.line(bridge, _RIM, width=1.2, power=0.1)]


def _stubble(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """A shadow of a beard, without an edge."""
    drop = JAW_DROP_PX * state.au(26)
    colour = mix(shade(person.skin, 0.55), shade(person.hair, 0.8), 0.4)
    return [pen.spot((x, y + sunk * drop, 2), (wide, high), colour, 0.42) for x, y, wide, high, sunk in _STUBBLE]
