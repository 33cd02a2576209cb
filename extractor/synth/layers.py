"""A face as a stack of layers, each of them for all frames of a video at once.

Geometry is computed for a whole video in a few numpy calls; per frame there is left only what Pillow does: fill a
polygon, or paste a soft spot. Layers are drawn at `SCALE` times the size of the crop and reduced, which smooths their
edges.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .identity import Colour

FloatArray = NDArray[np.floating]
Coordinate = float | FloatArray
Point = tuple[Coordinate, Coordinate, Coordinate]

CROP_PX: Final = 112
SCALE: Final = 3
EYES_AT: Final = (56.0, 47.0)
"""Where the point between the eyes falls in the crop; the origin of face coordinates."""

_FAINTEST: Final = 5
_ALPHA_STEP: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """A filled polygon in every frame.

    Attributes
    ----------
    points : shape (n_frames, n_points, 2), float32
        In pixels of the canvas.
    alpha : shape (n_frames,), uint8
        None if it is opaque in every frame.
    """

    points: FloatArray
    colour: Colour
    alpha: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A soft spot of light or shade in every frame; `radius` is where it has faded out, in canvas pixels."""

    centre: NDArray[np.int32]  # (n_frames, 2)
    radius: tuple[int, int]
    colour: Colour
    alpha: NDArray[np.uint8]  # (n_frames,)


Layer = Fill | Spot


def draw_layers(canvas: Image.Image, layers: list[Layer], frame: int) -> None:
    """Draw one frame of every layer, in order."""
    solid = ImageDraw.Draw(canvas)
    blended = ImageDraw.Draw(canvas, "RGBA")
    for layer in layers:
        alpha = 255 if layer.alpha is None else int(layer.alpha[frame])
        if alpha < _FAINTEST:
            continue
        if isinstance(layer, Spot):
            x, y = layer.centre[frame].tolist()
            mask = soft_mask(layer.radius, alpha // _ALPHA_STEP * _ALPHA_STEP)
            canvas.paste(layer.colour, (x - layer.radius[0], y - layer.radius[1]), mask)
        elif alpha == 255:
            solid.polygon(layer.points[frame].ravel().tolist(), fill=layer.colour)
        else:
            blended.polygon(layer.points[frame].ravel().tolist(), fill=(*layer.colour, alpha))


@functools.lru_cache(maxsize=2048)
def soft_mask(radius: tuple[int, int], alpha: int) -> Image.Image:
    """A spot that is `alpha` in its middle and fades to nothing at `radius`."""
    y, x = np.mgrid[-radius[1] : radius[1] + 1, -radius[0] : radius[0] + 1]
    inside = np.clip(1 - (x / (radius[0] + 0.5)) ** 2 - (y / (radius[1] + 0.5)) ** 2, 0, 1)
    return Image.fromarray(np.round(alpha * inside**1.5).astype(np.uint8))


def to_alpha(strength: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Opacity in 0..1 as 0..255."""
    opacity: NDArray[np.uint8] = np.round(np.clip(strength, 0, 1) * 255).astype(np.uint8)
    return opacity


_CIRCLE: Final = [
    (float(np.cos(angle)), float(np.sin(angle))) for angle in np.linspace(0, 2 * np.pi, 28, endpoint=False)
]


@functools.lru_cache(maxsize=256)
def spline_matrix(n_controls: int, per_span: int, closed: bool) -> FloatArray:
    """Weights that take control points to a smooth curve through them (Catmull-Rom).

    Returns
    -------
    shape (n_points, n_controls), float32
    """
    spans = n_controls if closed else n_controls - 1
    t = np.arange(per_span) / per_span
    # (per_span, 4): the weights of the controls before, at, after and after that
    weights = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], 1) / 2
    matrix = np.zeros((spans * per_span + (not closed), n_controls), np.float32)
    for span in range(spans):
        for offset in range(4):
            control = span + offset - 1
            control = control % n_controls if closed else min(max(control, 0), n_controls - 1)
            matrix[span * per_span : (span + 1) * per_span, control] += weights[:, offset]
    if not closed:
        matrix[-1, -1] = 1
    return matrix


def curve(controls: FloatArray, *, per_span: int = 5, closed: bool = False) -> FloatArray:
    """A smooth curve through control points: (n_frames, n_controls, d) -> (n_frames, n_points, d)."""
    matrix = spline_matrix(controls.shape[1], per_span, closed)
    points: FloatArray = np.einsum("pc,fcd->fpd", matrix, controls, optimize=True)
    return points


def ellipse(centre: Point, radius: tuple[float, float]) -> list[Point]:
    """Points of an ellipse that faces the camera."""
    x, y, z = centre
    return [(x + radius[0] * cos, y + radius[1] * sin, z) for cos, sin in _CIRCLE]


def band(line: FloatArray, thickness: FloatArray) -> FloatArray:
    """The outline of a line that is `thickness` wide.

    Parameters
    ----------
    line : shape (n_frames, n_points, 3)
    thickness : shape (n_points,) or (n_frames, n_points)

    Returns
    -------
    shape (n_frames, 2 * n_points, 3)
    """
    along = np.gradient(line[..., :2], axis=1)
    across = np.stack([-along[..., 1], along[..., 0]], -1)
    across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-6)
    offset = np.zeros_like(line)
    offset[..., :2] = across * np.asarray(thickness, np.float32)[..., None] / 2
    return np.concatenate([line + offset, (line - offset)[:, ::-1]], axis=1)


def taper(n_points: int, *, power: float = 0.7) -> FloatArray:
    """Thickness along a line that is 1 in its middle and goes to nothing at both ends."""
    return (np.sin(np.linspace(0, np.pi, n_points)) ** power).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How the head is held in every frame, angles in radians; all of shape (n_frames,).

    Attributes
    ----------
    yaw, pitch, roll
        Positive: towards the right of the image, downwards, clockwise.
    shift : shape (n_frames, 2)
        What is left of the head's movement after alignment, in crop pixels.
    scale
        Size against the mean.
    """

    yaw: FloatArray
    pitch: FloatArray
    roll: FloatArray
    shift: FloatArray
    scale: FloatArray

    def project(self, points: FloatArray) -> FloatArray:
        """From face coordinates to the canvas.

        Parameters
        ----------
        points : shape (n_frames, n_points, 3)
            In crop pixels from between the eyes.

        Returns
        -------
        shape (n_frames, n_points, 2), whole canvas pixels
        """
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        cos, sin = np.cos, np.sin
        yaw, pitch, roll = self.yaw[:, None], self.pitch[:, None], self.roll[:, None]
        turned = x * cos(yaw) + z * sin(yaw)
        depth = z * cos(yaw) - x * sin(yaw)
        nodded = y * cos(pitch) + depth * sin(pitch)
        scale = self.scale[:, None]
        across = scale * (turned * cos(roll) - nodded * sin(roll)) + self.shift[:, None, 0] + EYES_AT[0]
        down = scale * (turned * sin(roll) + nodded * cos(roll)) + self.shift[:, None, 1] + EYES_AT[1]
        return np.round(np.stack([across, down], -1) * SCALE).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pen:
    """Makes layers out of face coordinates, under one pose."""

    pose: Pose

    @property
    def n_frames(self) -> int:
        """How many frames it draws."""
        return len(self.pose.yaw)

    def points(self, coordinates: Sequence[Point]) -> FloatArray:
        """Control points, each coordinate a number or one a frame: (n_frames, n_points, 3)."""
        out = np.empty((self.n_frames, len(coordinates), 3), np.float32)
        for index, point in enumerate(coordinates):
            for axis, value in enumerate(point):
                out[:, index, axis] = value
        return out

    def fill(self, outline: FloatArray, colour: Colour, alpha: float | FloatArray | None = None) -> Fill:
        """A polygon; `alpha` in 0..1."""
        faded = None if alpha is None else to_alpha(np.broadcast_to(np.asarray(alpha, np.float32), (self.n_frames,)))
        return Fill(points=self.pose.project(outline), colour=colour, alpha=faded)

    def line(
        self,
        line: FloatArray,
        colour: Colour,
        *,
        width: float | FloatArray,
        alpha: float | FloatArray | None = None,
        power: float = 0.7,
    ) -> Fill:
        """A line that tapers at both ends; `width` in crop pixels, a number or one a frame."""
        widths = np.asarray(width, np.float32)[..., None] * taper(line.shape[1], power=power)
        return self.fill(band(line, widths), colour, alpha)

    def spot(
        self,
        centre: Point,
        radius: tuple[float, float],
        colour: Colour,
        alpha: float | FloatArray,
    ) -> Spot:
        """A soft spot; `radius` in crop pixels."""
        at = self.pose.project(self.points([centre]))[:, 0].astype(np.int32)
        size = (max(1, round(radius[0] * SCALE)), max(1, round(radius[1] * SCALE)))
        faded = to_alpha(np.broadcast_to(np.asarray(alpha, np.float32), (self.n_frames,)))
        return Spot(centre=at, radius=size, colour=colour, alpha=faded)
