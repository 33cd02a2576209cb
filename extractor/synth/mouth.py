"""The lower face: lips, teeth and jaw. AU10, AU12, AU15, AU23, AU24, AU25, AU26.

Coordinates are face coordinates: pixels of the crop from between the eyes, x right, y down, z to the camera.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from .identity import Colour, Identity, mix, shade
from .layers import FloatArray, Layer, Pen, Point, curve
from .state import FaceState

MOUTH_Y: Final = 33.5
JAW_DROP_PX: Final = 7.5
_TEETH: Final[Colour] = (232, 226, 214)
_INSIDE: Final[Colour] = (62, 22, 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lips:
    """Control points of the four edges of the lips, each (n_frames, 7, 3), from left corner to right corner."""

    upper_outer: FloatArray
    upper_inner: FloatArray
    lower_inner: FloatArray
    lower_outer: FloatArray
    gap: FloatArray  # (n_frames,) px between the lips
    corner: FloatArray  # (n_frames, 2) x and y of the right corner


def shape_lips(pen: Pen, person: Identity, state: FaceState) -> Lips:
    """Where the lips are."""
    raise10, smile, frown = state.au(10), state.au(12), state.au(15)
    tight, press, part, drop = state.au(23), state.au(24), state.au(25), state.au(26)
    middle = MOUTH_Y + person.mouth_height
    width = (
        12.6 * person.mouth_width + 4.6 * smile - 0.6 * frown - 3.8 * tight - 0.4 * press - 1.3 * drop + 0.4 * raise10
    )
    thin = (1 - 0.45 * tight) * (1 - 0.72 * press) * (1 - 0.22 * smile)
    upper_lip = 3.9 * person.lip_thickness * thin * (1 - 0.12 * raise10)
    lower_lip = 5.0 * person.lip_thickness * thin
    gap = 4.2 * part + JAW_DROP_PX * drop + 1.6 * raise10 * (0.25 + part)
    corner_y = middle - 6.0 * smile + 5.6 * frown - 1.4 * raise10 * (1 - frown) + 0.42 * JAW_DROP_PX * drop
    seam = middle + 0.4 + 0.6 * smile - 0.8 * frown + 0.6 * press
    top = seam - 0.95 * part - 3.2 * raise10
    bottom = top + gap
    # Inner edge, from the middle to the corner: where along, how far from the middle's height to the corner's.
    along, towards = (0.0, 0.36, 0.7, 1.0), (0.0, 0.1, 0.42, 1.0)
    raised = (0.0, 2.6, 1.5, 0.0)  # px; AU10 lifts beside the middle most
    bow = (0.82, 1.0, 0.72, 0.0)  # thickness of the upper lip; Cupid's bow dips in the middle
    full = (1.0, 0.95, 0.66, 0.0)

    def edge(centre: FloatArray, thickness: FloatArray | float, profile: tuple[float, ...], lift: float) -> FloatArray:
        controls: list[Point] = []
        for index in (-3, -2, -1, 0, 1, 2, 3):
            i = abs(index)
            y = centre + (corner_y - centre) * towards[i] + thickness * profile[i] - lift * raised[i] * raise10
            controls.append((np.sign(index) * width * along[i], y, 8 - 6 * along[i] ** 2))
        return pen.points(controls)

    return Lips(
        upper_outer=edge(top, -upper_lip, bow, 1),
        upper_inner=edge(top, 0.0, bow, 0.5),
        lower_inner=edge(bottom, 0.0, full, 0),
        lower_outer=edge(bottom, lower_lip, full, 0),
        gap=gap,
        corner=np.stack([width, corner_y], -1).astype(np.float32),
    )


def mouth_layers(pen: Pen, person: Identity, state: FaceState) -> list[Layer]:
    """Lips, what shows between them, and the shading around them."""
    lips = shape_lips(pen, person, state)
    upper_outer, upper_inner = curve(lips.upper_outer, per_span=4), curve(lips.upper_inner, per_span=4)
    lower_inner, lower_outer = curve(lips.lower_inner, per_span=4), curve(lips.lower_outer, per_span=4)
    # Lips cannot cross: closed, both edges are one line.
    lower_inner[..., 1] = np.maximum(lower_inner[..., 1], upper_inner[..., 1])
    layers = _around(pen, person, state, lips)
    layers.append(pen.fill(_between(lower_inner, lower_outer), person.lips))
    layers.append(pen.fill(_between(upper_outer, upper_inner), shade(person.lips, 0.84)))
    layers += _inside(pen, upper_inner, lower_inner, lips.gap)
    seam = shade(person.lips, 0.42)
    layers.append(pen.line(upper_inner, seam, width=1.0 + 0.5 * state.au(24), power=0.3, alpha=0.9))
    shine_y = lips.lower_outer[:, 3, 1] * 0.55 + lips.lower_inner[:, 3, 1] * 0.45
    shine = 0.5 * (1 - 0.8 * np.maximum(state.au(24), state.au(23)))
    layers.append(pen.spot((0, shine_y, 9), (6, 1.8), mix(person.lips, (255, 240, 236), 0.5), shine))
    layers += _tightness(pen, person, state, lips)
    return layers


def _between(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.concatenate([first, second[:, ::-1]], axis=1)


def _inside(pen: Pen, top: FloatArray, bottom: FloatArray, gap: FloatArray) -> list[Layer]:
    """The dark of the mouth, a tongue when it is wide open, and the upper teeth."""
    opening = bottom[..., 1] - top[..., 1]  # (n_frames, n)
    shown = np.where(gap > 0.5, 1.0, 0.0)
    tongue = bottom.copy()
    tongue[..., 1] -= np.clip(0.42 * (opening - 4.5), 0, None)
    teeth = top.copy()
    teeth[..., 1] += np.minimum(opening * 0.5, 3.2)
    inner = slice(3, -3)
    return [
        pen.fill(_between(top, bottom), _INSIDE, shown),
        pen.fill(_between(tongue, bottom), (166, 84, 84), np.where(gap > 6, 0.9, 0)),
        pen.fill(_between(top[:, inner], teeth[:, inner]), _TEETH, np.clip((gap - 1.4) / 1.4, 0, 1)),
    ]


def _around(pen: Pen, person: Identity, state: FaceState, lips: Lips) -> list[Layer]:
    """Skin about the mouth: philtrum, the shade under the lower lip, dimples, the chin."""
    dark, light = shade(person.skin, 0.66), shade(person.skin, 1.12)
    drop = JAW_DROP_PX * state.au(26)
    top = lips.upper_outer[:, 3, 1]
    layers: list[Layer] = [
        pen.spot((0, 49.5 + person.chin + drop, 6), (9, 6), light, 0.45),
        pen.spot((0, lips.lower_outer[:, 3, 1] + 3.0, 5), (10, 4), dark, 0.5 + 0.25 * state.au(15)),
    ]
    for side in (-1, 1):
        philtrum = curve(
            pen.points([(side * 1.8, 25.0, 10), (side * 2.2, top * 0.5 + 13, 9), (side * 2.4, top + 0.5, 9)])
        )
        layers.append(pen.line(philtrum, dark, width=0.9, alpha=0.25))
    return layers


def _tightness(pen: Pen, person: Identity, state: FaceState, lips: Lips) -> list[Layer]:
    """AU23 puckers the skin into short lines around the lips; AU24 bulges above and below and pits the corners."""
    tight, press = state.au(23), state.au(24)
    dark, light = shade(person.skin, 0.52), shade(person.skin, 1.16)
    upper, lower = lips.upper_outer[:, 3, 1], lips.lower_outer[:, 3, 1]
    layers: list[Layer] = []
    for x in (-6.5, -3.2, 0.0, 3.2, 6.5):
        lean = 0.12 * x
        above = pen.points([(x * 0.9, upper + 0.6, 9), (x * 0.9 + lean, upper - 3.2, 8)])
        below = pen.points([(x * 0.9, lower - 0.4, 8), (x * 0.9 + lean, lower + 3.0, 7)])
        layers += [pen.line(curve(line), dark, width=0.9, alpha=0.6 * tight) for line in (above, below)]
    layers.append(pen.spot((0, upper - 3.0, 8), (10, 3.2), light, 0.7 * press))
    layers.append(pen.spot((0, lower + 3.4, 7), (10, 3.6), light, 0.8 * press))
    for side in (-1, 1):
        at, y = side * (lips.corner[:, 0] + 0.4), lips.corner[:, 1]
        pit = np.maximum(press, np.maximum(0.75 * state.au(12), 0.6 * state.au(15)))
        layers.append(pen.spot((at, y, 2), (3.4, 3.2), shade(person.skin, 0.42), 0.3 + 0.6 * pit))
        droop = curve(pen.points([(at, y, 2), (at + side * 1.6, y + 3.0, 1), (at + side * 1.8, y + 7.0, 1)]))
        layers.append(pen.line(droop, dark, width=1.5, alpha=0.12 * person.age + 0.8 * state.au(15)))
    return layers
