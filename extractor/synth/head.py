"""Everything of a head that is not the moving face: outline, ears, neck, hair, beard, glasses, nose and cheeks.

Coordinates are face coordinates: pixels of the crop from between the eyes, x right, y down, z to the camera.
"""

from typing import Final

import numpy as np

from .identity import Identity, mix, shade
from .layers import FloatArray, Layer, Pen, curve
from .mouth import JAW_DROP_PX
from .state import FaceState

_TURN: Final = np.linspace(0, 2 * np.pi, 28, endpoint=False, dtype=np.float32)
# Right half of the outline, from the top of the skull to the chin: x, y, z.
_SKULL: Final = (
    (0.0, -42.0, -8.0),
    (16.0, -40.0, -10.0),
    (29.0, -31.0, -14.0),
    (36.0, -17.0, -18.0),
    (38.0, 0.0, -20.0),
)
_JAW: Final = ((36.2, 17.0, -18.0), (31.2, 32.0, -14.0), (22.8, 44.5, -6.0), (11.5, 52.5, 0.0), (0.0, 55.0, 2.0))

_CROWN: Final = (
    *((-40.5, 2), (-41.5, -18), (-35, -37), (-19, -48.5), (0, -51)),
    *((19, -48.5), (35, -37), (41.5, -18), (40.5, 2)),
)


def outline_controls(pen: Pen, person: Identity, state: FaceState, *, grow: float = 1.0) -> FloatArray:
    """Controls of the head's closed outline, clockwise from the top: (n_frames, 18, 3)."""
    drop = JAW_DROP_PX * state.au(26)
    right: list[tuple[FloatArray | float, FloatArray | float, float]] = []
    for x, y, z in _SKULL:
        right.append((x * person.face_width * grow, y * grow, z))
    for x, y, z in _JAW:
        low = (y - 10) / 45.0
        width = person.face_width * (1 + (person.jaw_width - 1) * min(1.0, 1.6 * low)) * grow
        right.append((x * width * (1 - 0.03 * state.au(26)), (y + person.chin * low + drop * low**1.4), z))
    left = [(-np.asarray(x, np.float32), y, z) for x, y, z in right[-2:0:-1]]
    return pen.points([*right, *left])


def back_layers(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """Hair behind the head, neck, top, ears, and the head itself."""
    layers: list[Layer] = []
    hair_back = shade(person.hair, 0.7)
    if person.hair_style == "long":
        mane = [(0, -49), (24, -47), (42, -30), (48, 0), (49, 30), (46, 58), (52, 80)]
        layers.append(_mirrored(pen, mane, hair_back, depth=-26))
    elif person.hair_style == "bun":
        layers.append(pen.fill(pen.points([(14 * c, -52 + 11 * s, -30) for c, s in _circle()]), hair_back))
    if person.hair_style != "bald":
        cap = curve(pen.points([(x * person.face_width, y, -12) for x, y in _CROWN]), per_span=3)
        layers.append(pen.fill(cap, hair_back))
    shoulder = [(0, 52), (16, 54), (24, 62), (44, 68), (70, 76), (70, 110)]
    neck = [(0, 30), (22, 34), (21, 56), (23, 80)]
    layers.append(_mirrored(pen, neck, shade(person.skin, 0.72), depth=-14))
    layers.append(_mirrored(pen, [(x, y + 6 + (10 if x < 17 else 0)) for x, y in shoulder], person.top, depth=-22))
    for side in (-1, 1):
        x = side * 39.0 * person.face_width
        ear = pen.points([(x + 4.6 * c, 5 + 10.5 * s, -24) for c, s in _circle()])
        layers.append(pen.fill(ear, shade(person.skin, 0.9)))
        layers.append(
            pen.fill(pen.points([(x + 2.4 * c, 5 + 6.5 * s, -23) for c, s in _circle()]), shade(person.skin, 0.7))
        )
        if person.earrings:
            ring = pen.points([(x + 1.8 * c, 17.5 + 1.8 * s, -23) for c, s in _circle()])
            layers.append(pen.fill(ring, (222, 190, 110)))
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
    lift = 4.0 * cheek + 1.6 * smile
    layers: list[Layer] = []
    for side in (-1, 1):
        blush = mix(person.skin, (206, 92, 84), 0.35)
        layers.append(pen.spot((side * 21, 19 - lift, 4), (11, 9), blush, 0.4))
        layers.append(pen.spot((side * 20.5, 14.5 - lift, 6), (9.5, 6), light, 0.28 + 0.6 * cheek + 0.15 * smile))
        hollow = 0.1 + 0.5 * cheek + 0.3 * smile
        layers.append(pen.spot((side * 23, 24.5 - 0.6 * lift, 2), (11, 4.5), dark, hollow * 0.8))
        layers += _nasolabial(pen, person, state, side)
        for rise, reach in ((-3.6, 5.0), (0.4, 6.2), (4.4, 5.2)):
            foot = pen.points(
                [
                    (side * 26.0, 0.35 * rise, -2),
                    (side * (26.0 + 0.55 * reach), 0.75 * rise, -5),
                    (side * (26.0 + reach), rise, -9),
                ]
            )
            strength = 0.1 * person.age + 0.8 * cheek
            layers.append(pen.line(curve(foot), shade(person.skin, 0.5), width=1.15, alpha=strength))
        wing = side * (9 * person.nose_width)
        sneer = curve(pen.points([(side * 5.5, 5, 7), (side * 7.4, 9.5, 7), (wing, 15.5 - 1.5 * raise10, 6)]))
        layers.append(pen.line(sneer, dark, width=1.5, alpha=0.7 * raise10))
    return layers


def _nasolabial(pen: Pen, person: Identity, state: FaceState, side: int) -> list[Layer]:
    cheek, raise10, smile, drop = state.au(6), state.au(10), state.au(12), state.au(26)
    start_y = 17.5 * person.nose_length - 2.6 * raise10
    width = 9.4 * person.nose_width + 0.6 * raise10
    fold = curve(
        pen.points(
            [
                (side * width, start_y, 6),
                (side * (width + 3.4 + 2.2 * smile + 1.6 * raise10), start_y + 4.2 - 1.0 * raise10, 6),
                (side * (14.8 + 4.6 * smile + 1.0 * raise10 - drop), start_y + 10.0 - 0.5 * smile, 4),
                (side * (16.6 + 3.6 * smile - 1.2 * drop), start_y + 17.0 - 2.4 * smile + 3 * drop, 2),
            ]
        )
    )
    strength = 0.08 + 0.22 * person.age + 0.5 * smile + 0.6 * raise10 + 0.15 * cheek
    shade_y = start_y + 6 - 1.5 * smile
    return [
        pen.spot(
            (side * (14.5 + 3.5 * smile + raise10), shade_y, 5), (5.5, 7.5), shade(person.skin, 0.66), 0.55 * strength
        ),
        pen.line(fold, shade(person.skin, 0.5), width=1.0 + 0.7 * np.maximum(raise10, smile), alpha=strength),
    ]


def nose_layers(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """The nose; AU10 lifts and widens its wings."""
    raise10 = state.au(10)
    dark, light = shade(person.skin, 0.64), shade(person.skin, 1.18)
    tip = 18.5 * person.nose_length
    wide = person.nose_width
    layers: list[Layer] = [pen.spot((0, 5, 11), (3.2, 13), light, 0.5)]
    for side in (-1, 1):
        layers.append(pen.spot((side * 5.6, 4, 7), (3.4, 13), dark, 0.38))
        layers.append(
            pen.spot((side * 6.4 * wide, tip + 0.5 - 1.4 * raise10, 9), (3.6, 4.2), shade(person.skin, 0.86), 0.7)
        )
    layers.append(pen.spot((0, tip - 1.5, 15), (5, 5), light, 0.7))
    for side in (-1, 1):
        x, y = side * (8.0 * wide + 0.7 * raise10), tip + 1.0 - 1.6 * raise10
        wing = curve(
            pen.points(
                [
                    (x - side * 1.6, y - 4.2, 8),
                    (x + side * 0.4, y - 1.2, 8),
                    (x - side * 0.6, y + 1.9, 8),
                    (x - side * 3.4, y + 2.0, 9),
                ]
            )
        )
        layers.append(pen.line(wing, shade(person.skin, 0.5), width=1.3, alpha=0.75))
        nostril = [(side * 3.9 * wide + 1.9 * c, y + 1.9 + 0.95 * s, 11) for c, s in _circle()]
        layers.append(pen.fill(pen.points(nostril), shade(person.skin, 0.28), 0.9))
    layers.append(pen.spot((0, tip + 5.0, 9), (7, 2.6), dark, 0.5))
    return layers


def beard_layers(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """Beard and moustache, under the lips."""
    if person.beard == "none":
        return []
    if person.beard == "stubble":
        return _stubble(pen, person, state)
    opacity = 0.84
    colour = mix(person.hair, person.skin, 0.1)
    smile, drop, raise10 = state.au(12), state.au(26), state.au(10)
    layers: list[Layer] = []
    if person.beard != "moustache":
        outline = outline_controls(pen, person, state)[:, 5:14]  # ear to ear, along the chin
        cheeks = pen.points(
            [
                (-25, 28, 0),
                (-16 - 3 * smile, 33 - 2 * smile, 4),
                (0, 30, 8),
                (16 + 3 * smile, 33 - 2 * smile, 4),
                (25, 28, 0),
            ]
        )
        layers.append(
            pen.fill(np.concatenate([curve(outline, per_span=3), curve(cheeks, per_span=3)], axis=1), colour, opacity)
        )
    top = 25.0 - 2.2 * raise10
    hair = [
        (0.0, top, 10),
        (8, top + 0.8, 8),
        (14.5 + 3.4 * smile, top + 8 - 4 * smile + 2 * drop, 3),
        (8, top + 6.2, 8),
        (0, top + 5.2, 10),
    ]
    left = [(-np.asarray(x, np.float32), y, z) for x, y, z in hair[::-1][1:-1]]
    layers.append(pen.fill(curve(pen.points([*hair, *left]), per_span=3, closed=True), colour, opacity))
    return layers


def _stubble(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """A shadow of a beard, without an edge."""
    drop = JAW_DROP_PX * state.au(26)
    colour = mix(shade(person.skin, 0.55), shade(person.hair, 0.8), 0.4)
    places = ((0.0, 48.0, 13.0, 9.0, 1.0), (-14.0, 44.0, 12.0, 10.0, 0.7), (14.0, 44.0, 12.0, 10.0, 0.7))
    sides = ((-24.0, 33.0, 9.0, 13.0, 0.4), (24.0, 33.0, 9.0, 13.0, 0.4), (0.0, 27.5, 13.0, 5.0, 0.2))
    return [pen.spot((x, y + sunk * drop, 2), (wide, high), colour, 0.42) for x, y, wide, high, sunk in places + sides]


def hair_layers(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """Hair before the head."""
    style = person.hair_style
    if style == "bald":
        return [pen.spot((-8, -34, 4), (12, 6), shade(person.skin, 1.3), 0.5)]
    lines = {
        "short": [(36, -6), (35, -18), (30, -27), (16, -31), (0, -32), (-16, -31), (-30, -27), (-35, -18), (-36, -6)],
        "parted": [(36, 0), (35, -16), (31, -24), (18, -28), (-4, -32), (-16, -36), (-27, -27), (-35, -14), (-36, 0)],
        "fringe": [
            (36, 8),
            (34.5, -10),
            (30, -22),
            (16, -24),
            (0, -23.5),
            (-16, -24),
            (-30, -22),
            (-34.5, -10),
            (-36, 8),
        ],
        "long": [(36, 24), (33, -6), (29, -22), (14, -31), (0, -36), (-14, -31), (-29, -22), (-33, -6), (-36, 24)],
        "bun": [(36, -4), (35, -18), (29, -29), (15, -35), (0, -36.5), (-15, -35), (-29, -29), (-35, -18), (-36, -4)],
        "receding": [
            (37, -4),
            (37, -16),
            (35, -27),
            (22, -40),
            (0, -37),
            (-22, -40),
            (-35, -27),
            (-37, -16),
            (-37, -4),
        ],
    }
    outer = curve(pen.points([(x * person.face_width, y, -10) for x, y in _CROWN]), per_span=4)
    inner = curve(
        pen.points([(x * person.face_width, y, -2 if abs(x) < 30 else -14) for x, y in lines[style]]), per_span=4
    )
    layers: list[Layer] = [pen.fill(np.concatenate([outer, inner], axis=1), person.hair)]
    gloss = curve(pen.points([(-24, -39, -8), (-10, -43.5, -6), (6, -43.5, -6), (20, -40, -8)]))
    layers.append(pen.line(gloss, shade(person.hair, 1.5), width=3.4, alpha=0.35))
    for x in (-22, -12, -3, 7, 16, 25):
        strand = curve(pen.points([(x * 0.8, -48, -8), (x, -40, -5), (x * 1.1, -33, -2)]))
        layers.append(pen.line(strand, shade(person.hair, 0.65), width=1.2, alpha=0.4))
    return layers


def glasses_layers(pen: Pen, person: Identity) -> list[Layer]:
    """Thin rims around the eyes, below the brows."""
    if not person.glasses:
        return []
    rim: list[Layer] = []
    for side in (-1, 1):
        outer = [(side * 17.4 + 12.4 * c, 1.6 + 9.6 * s, 9) for c, s in _circle()]
        hole = [(side * 17.4 + 11.5 * c, 1.6 + 8.7 * s, 9) for c, s in _circle()]
        ring = pen.points([*outer, outer[0], hole[0], *hole[:0:-1], hole[0], outer[0]])
        rim.append(pen.fill(ring, (34, 32, 36), 0.9))
        temple = curve(pen.points([(side * 29.6, 0, 8), (side * 34, 0.5, -8), (side * 38, 1, -22)]))
        rim.append(pen.line(temple, (34, 32, 36), width=1.2, power=0.1))
    bridge = curve(pen.points([(-5.2, 0.5, 10), (0, -1.2, 12), (5.2, 0.5, 10)]))
    return [*rim, pen.line(bridge, (34, 32, 36), width=1.2, power=0.1)]


def _circle() -> list[tuple[float, float]]:
    return [(float(np.cos(angle)), float(np.sin(angle))) for angle in _TURN]


def _mirrored(pen: Pen, right: list[tuple[float, float]], colour: tuple[int, int, int], *, depth: float) -> Layer:
    """A shape with a right and a left half, closed at the bottom."""
    left = [(-x, y) for x, y in right[::-1] if x != 0]
    points = pen.points([(x, y, depth) for x, y in [*left, *right]])
    return pen.fill(curve(points, per_span=3), colour)
