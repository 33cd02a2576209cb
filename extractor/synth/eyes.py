"""Eyes, brows, and the forehead above them: AU1, AU2, AU4, AU6, AU7.

Coordinates are face coordinates: pixels of the crop from between the eyes, x right, y down, z to the camera.
"""

from typing import Final

import numpy as np

from .identity import Colour, Identity, mix, shade
from .layers import FloatArray, Layer, Pen, curve
from .state import FaceState

_EYE_X: Final = 17.2
_EYE_HALF_WIDTH: Final = 7.6
_WHITE: Final[Colour] = (236, 232, 228)
_ALONG: Final = np.linspace(-1, 1, 15, dtype=np.float32)
_AROUND: Final = np.linspace(0, 2 * np.pi, 20, endpoint=False, dtype=np.float32)


def eye_layers(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """Both eyes with their lids."""
    return [layer for side in (-1, 1) for layer in _eye(pen, person, state, side)]


def brow_layers(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """Both brows."""
    return [_brow(pen, person, state, side) for side in (-1, 1)]


def forehead_layers(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """What the brows do to the skin: lines across for AU1 and AU2, between the brows for AU4."""
    inner, outer, lower = state.au(1), state.au(2), state.au(4)
    dark, light = shade(person.skin, 0.62), shade(person.skin, 1.14)
    lift = 2.2 * np.maximum(inner, outer)
    layers: list[Layer] = []
    for height in (-18.5, -22.0, -25.5):
        y = height - person.brow_height - lift
        middle = pen.points([(-9, y + 0.8, 6), (-4, y - 0.4, 7), (0, y + 0.3, 7), (4, y - 0.4, 7), (9, y + 0.8, 6)])
        strength = (0.25 + 0.75 * person.age) * 0.12 + 0.62 * inner
        layers.append(pen.line(curve(middle), dark, width=1.15, alpha=strength))
        for side in (-1, 1):
            arch = [(8, 0.6, 6), (15, -1.2, 4), (22, -0.6, 1), (27, 2.0, -3)]
            wing = curve(pen.points([(side * x, y + dy, z) for x, dy, z in arch]))
            layers.append(pen.line(wing, dark, width=1.1, alpha=0.08 * person.age + 0.6 * outer))
    knit = lower * (1 - 0.35 * inner)
    layers.append(pen.spot((0, -9.5 - person.brow_height, 6), (8, 8), shade(person.skin, 0.55), 0.5 * lower))
    for side in (-1, 1):
        furrow = [(side * 2.6, -15.5, 6), (side * 2.2, -11.5, 7), (side * 3.0, -6.5, 7)]
        line = curve(pen.points([(x, y - person.brow_height, z) for x, y, z in furrow]))
        layers.append(pen.line(line, shade(person.skin, 0.48), width=1.5, alpha=0.08 * person.age + 0.85 * knit))
        # AU1 with AU4 pulls the skin above the inner brow into a bulge.
        both = np.minimum(inner, lower)
        layers.append(pen.spot((side * 6.5, -18 - person.brow_height, 6), (6, 4), light, 0.5 * both))
    return layers


def shape_brow(pen: Pen, person: Identity, state: FaceState, *, side: int) -> FloatArray:
    """Middle line of a brow, from its inner to its outer end: four control points, (n_frames, 4, 3).

    Parameters
    ----------
    side
        -1 the left of the image, 1 the right.
    """
    inner, outer, lower = state.au(1), state.au(2), state.au(4)
    # Fully raised, AU1 wins over AU4 at the inner end: the oblique brows of sadness.
    down = lower * (1 - 0.75 * inner)
    rise = person.brow_height
    root = -11.0 - rise - 6.0 * inner - 0.8 * outer + 5.2 * down
    waist = -13.4 - rise - 3.6 * inner - 3.4 * outer + 4.6 * down + 0.8 * lower * inner
    peak = -14.0 - rise - 1.0 * (person.brow_arch - 1) - 0.9 * inner - 6.2 * outer + 3.4 * down
    tail = -10.0 - rise - 0.2 * inner - 5.2 * outer + 1.6 * down + 0.8 * inner
    pull = 3.2 * lower
    return pen.points(
        [
            (side * (7.6 - pull), root, 6),
            (side * (13.0 - 0.8 * pull), waist, 5),
            (side * (20.5 - 0.4 * pull), peak, 2),
            (side * (27.6 - 0.2 * pull), tail, -4),
        ]
    )


def lid_heights(person: Identity, state: FaceState) -> tuple[FloatArray, FloatArray]:
    """How far the upper lid is above, and the lower lid below, the corners of the eye: two of (n_frames,), in px."""
    tight, cheek = state.au(7), state.au(6)
    # AU5 is not among the twelve: eyes widen a little with a full brow raise, as they do in surprise.
    wide = np.minimum(state.au(1), state.au(2))
    upper = person.eye_size * 4.2 * (1 + 0.24 * wide) * (1 - 0.42 * tight - 0.08 * cheek)
    lower = person.eye_size * 2.9 * (1 + 0.1 * wide) * (1 - 0.84 * tight) * (1 - 0.35 * cheek)
    return upper * (1 - state.blink) - 0.8 * lower * state.blink, lower


def _brow(pen: Pen, person: Identity, state: FaceState, side: int) -> Layer:
    line = curve(shape_brow(pen, person, state, side=side), per_span=6)
    profile = np.interp(np.linspace(0, 1, line.shape[1]), (0, 0.15, 0.55, 1), (2.4, 3.3, 2.7, 0.7))
    outline = _brow_band(line, (profile * person.brow_thickness).astype(np.float32))
    return pen.fill(outline, person.brow, 0.9)


def _brow_band(line: FloatArray, thickness: FloatArray) -> FloatArray:
    offset = np.zeros_like(line)
    offset[..., 1] = thickness / 2
    return np.concatenate([line - offset, (line + offset)[:, ::-1]], axis=1)


def _eye(pen: Pen, person: Identity, state: FaceState, side: int) -> list[Layer]:
    """One eye: its lids are two arcs over the half width, so that the iris can be cut to them in closed form."""
    tight, cheek = state.au(7), state.au(6)
    upper, lower = lid_heights(person, state)
    half = person.eye_size * _EYE_HALF_WIDTH
    centre = side * _EYE_X * person.eye_spacing

    def lid(height: FloatArray, across: FloatArray, grow: float = 1.0) -> FloatArray:
        """Points of a lid: `height` (n_frames,) above (negative: below) the corners, at `across` in -1..1."""
        across = np.broadcast_to(across, (pen.n_frames, across.shape[-1]))
        arc = (1 - across**2) ** 0.8
        x = centre + half * grow * across
        y = -height[:, None] * arc - side * person.eye_tilt * across * 0.5
        z = 2.5 - 3.5 * np.maximum(side * across, 0) ** 2
        return np.stack([x, y, z], -1).astype(np.float32)

    top, bottom = lid(upper, _ALONG), lid(-lower, _ALONG)
    white = np.concatenate([top, bottom[:, ::-1]], axis=1)
    skin_dark, socket = shade(person.skin, 0.55), shade(person.skin, 0.74)
    layers: list[Layer] = [
        pen.spot((centre, -3.5, 1), (12.5, 8.5), socket, 0.5),
        # A tightened or raised lower lid is a fold of skin with a lit edge and a shade below.
        pen.spot((centre, 6.6 - 1.2 * tight, 2), (9.5, 4), socket, 0.3 * person.age + 0.45 * tight + 0.35 * cheek),
        pen.fill(white, _WHITE),
    ]
    layers += _iris(pen, person, state, centre, (upper, lower, half, side))
    crease = lid(upper + 2.6 - 1.1 * tight, _ALONG, 1.05)
    layers.append(pen.fill(np.concatenate([crease, top[:, ::-1]], axis=1), shade(person.skin, 0.8), 0.75))
    layers.append(pen.line(crease, skin_dark, width=0.9 + 0.6 * tight, alpha=0.65))
    layers.append(pen.line(top, (30, 22, 22), width=1.7, power=0.45))
    layers.append(pen.line(bottom, shade(person.skin, 0.5), width=1.0 + 0.5 * tight, alpha=0.6 + 0.3 * tight))
    pouch = lid(-(lower + 2.6 - 0.6 * cheek), _ALONG[2:-2])
    layers.append(pen.line(pouch, skin_dark, width=1.2, alpha=0.1 * person.age + 0.65 * np.maximum(tight, 0.8 * cheek)))
    return layers


def _iris(
    pen: Pen,
    person: Identity,
    state: FaceState,
    centre: float,
    lids: tuple[FloatArray, FloatArray, float, int],
) -> list[Layer]:
    """Iris, pupil and a highlight, cut to the opening between the lids."""
    upper, lower, half, side = lids
    middle_x = 2.6 * state.gaze[:, 0]
    middle_y = -0.7 + 1.4 * state.gaze[:, 1]

    def disc(radius: float, dx: float = 0.0, dy: float = 0.0) -> FloatArray:
        x = middle_x[:, None] + dx + radius * np.cos(_AROUND)
        y = middle_y[:, None] + dy + radius * np.sin(_AROUND)
        across = np.clip(x / half, -1, 1)
        arc = (1 - across**2) ** 0.8
        tilt = -side * person.eye_tilt * across * 0.5
        y = np.clip(y, np.minimum(-upper, lower)[:, None] * arc + tilt, lower[:, None] * arc + tilt)
        return np.stack([centre + x, y, np.full_like(x, 3)], -1).astype(np.float32)

    radius = 3.7 * person.eye_size**0.5
    glint = 1 - state.blink
    return [
        pen.fill(disc(radius), shade(person.iris, 0.55)),
        pen.fill(disc(radius * 0.8), person.iris),
        pen.fill(disc(radius * 0.45), (14, 12, 12)),
        pen.fill(disc(0.9, -1.2, -1.2), mix(_WHITE, (255, 255, 255), 0.8), np.where(glint > 0.5, 0.95, 0)),
    ]
