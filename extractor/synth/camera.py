"""From layers to photographs: background, light, blur, noise."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from .identity import Identity, Scene
from .layers import CROP_PX, EYES_AT, SCALE, FloatArray, Layer, Pose, draw_layers

_CANVAS_PX: Final = CROP_PX * SCALE
_MARGIN_PX: Final = 30  # of the background, on the canvas, for its drift
_BANK_PX: Final = CROP_PX + 64


def draw_scene(rng: np.random.Generator) -> Scene:
    """A room, a light and a camera at random."""
    side = rng.choice((-1, 1))
    light = np.array([side * rng.uniform(0.25, 0.9), -rng.uniform(0.2, 0.8), 1.0])
    warmth = rng.normal(0, 0.035)
    sharp = rng.random() < 0.6
    return Scene(
        background=_draw_background(rng),
        light=(light / np.linalg.norm(light)).astype(np.float32),
        contrast=float(rng.uniform(0.2, 0.62)),
        tint=np.array([1 + warmth, 1.0, 1 - warmth], np.float32) * np.float32(rng.uniform(0.88, 1.1)),
        noise=float(rng.uniform(1.5, 5.5)),
        blur_px=0.0 if sharp else float(rng.uniform(0.35, 0.85)),
    )


def _draw_background(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A blurred room: a few large soft patches, with a straight edge or two."""
    size = _CANVAS_PX + 2 * _MARGIN_PX
    base = rng.uniform(40, 200)
    coarse = np.clip(base + rng.normal(0, 26, (5, 5, 1)) + rng.normal(0, 12, (5, 5, 3)) + rng.normal(0, 14, 3), 8, 246)
    room = Image.fromarray(coarse.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    for _ in range(int(rng.integers(1, 4))):
        left, top = rng.uniform(0, size * 0.8, 2).astype(int).tolist()
        width, height = rng.uniform(size * 0.1, size * 0.5, 2).astype(int).tolist()
        tone = tuple(np.clip(base + rng.normal(0, 40, 3), 10, 245).astype(int).tolist())
        box = (left, top, left + width, top + height)
        room.paste(Image.blend(room.crop(box), Image.new("RGB", (width, height), tone), 0.7), box)
    return np.asarray(room.filter(ImageFilter.GaussianBlur(float(rng.uniform(5, 16)))))


def photograph(
    rng: np.random.Generator, scene: Scene, person: Identity, layers: list[Layer], pose: Pose
) -> Iterator[NDArray[np.uint8]]:
    """Take the frames of a video, in order.

    Yields
    ------
    shape (112, 112, 3), uint8, RGB
    """
    n_frames = len(pose.yaw)
    room = Image.fromarray(scene.background)
    light = _light_map(scene)
    bank = scene.noise * rng.standard_normal((_BANK_PX, _BANK_PX, 3), dtype=np.float32)
    bank = 0.8 * bank + 0.35 * np.roll(bank, 1, axis=1)  # a sensor's noise is not quite white after demosaicing
    at = rng.integers(0, _BANK_PX - CROP_PX, (n_frames, 2)).tolist()
    exposure = 1 + 0.03 * np.sin(np.arange(n_frames) * rng.uniform(0.01, 0.05) + rng.uniform(0, 6))
    drift = np.clip(-pose.shift - np.stack([pose.yaw, pose.pitch], -1) * 20, -9, 9) * SCALE + _MARGIN_PX
    smear = rng.random(n_frames) < 0.04
    smear_px = rng.integers(1, 3, n_frames)
    for frame in range(n_frames):
        x, y = drift[frame].astype(int).tolist()
        canvas = room.crop((x, y, x + _CANVAS_PX, y + _CANVAS_PX))
        draw_layers(canvas, layers, frame)
        image = canvas.reduce(SCALE)
        if scene.blur_px:
            image = image.filter(ImageFilter.BoxBlur(scene.blur_px))
        if smear[frame]:
            image = ImageChops.blend(image, ImageChops.offset(image, int(smear_px[frame]), 0), 0.5)
        u, v = at[frame]
        lit = np.asarray(image) * (light * np.float32(exposure[frame]))
        lit += bank[u : u + CROP_PX, v : v + CROP_PX]
        yield np.clip(lit, 0, 255).astype(np.uint8)


def _light_map(scene: Scene) -> FloatArray:
    """Gain of each pixel, (112, 112, 3): a head is lit as the ellipsoid it nearly is, what is behind it evenly."""
    y, x = np.mgrid[:CROP_PX, :CROP_PX].astype(np.float32)
    u, v = (x - EYES_AT[0]) / 41, (y - EYES_AT[1] - 3) / 60
    radius = np.hypot(u, v)
    # Beyond its edge the light of the edge goes on, and evens out: no halo where the head is not quite an ellipsoid.
    u, v = u / np.maximum(radius, 1), v / np.maximum(radius, 1)
    depth = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
    facing = (u * scene.light[0] + v * scene.light[1] + depth * scene.light[2]).clip(0)
    lambert = 1 + scene.contrast * (facing - 0.8)
    weight = np.exp(-((2.2 * np.maximum(radius - 1, 0)) ** 2))
    gain: FloatArray = ((1 + weight * (lambert - 1))[..., None] * scene.tint).astype(np.float32)
    return gain
