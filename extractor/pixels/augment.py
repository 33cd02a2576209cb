"""Training augmentation, drawn once for a clip.

Drawing it anew for every frame would jitter time: a head that moves smoothly would jump. All geometry (flip, resized
crop, rotation, affine) is one sampling grid per frame; colour jitter follows. Strengths are the ABAW7 winner's:
flip .5, crop .8 to 1, rotation 10 degrees, affine (10 degrees, shift .1, scale .9 to 1.1), jitter (.2 .2 .2, hue .1).
No action unit of the twelve has a side, so a mirrored face keeps its labels.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Strengths of the augmentation; zero (and crop 1) switches a part off.

    Attributes
    ----------
    flip
        Probability of a mirrored clip.
    crop
        Smallest share of the area that a resized crop keeps.
    rotation_deg, shift, scale
        Largest rotation (drawn twice and added, as rotation and affine), shift as a share of the side, and
        relative change of size.
    jitter
        Largest relative change of brightness, contrast and saturation.
    hue
        Largest turn of the hue, as a share of a full circle.
    """

    flip: float = 0.5
    crop: float = 0.8
    rotation_deg: float = 10.0
    shift: float = 0.1
    scale: float = 0.1
    jitter: float = 0.2
    hue: float = 0.1


GENTLE = Augmentation(crop=1.0, rotation_deg=0.0, shift=0.0, scale=0.0, jitter=0.1, hue=0.0)
"""Flip and a little colour: for aligned crops, where a few pixels of geometry are the signal."""

NONE = Augmentation(flip=0.0, crop=1.0, rotation_deg=0.0, shift=0.0, scale=0.0, jitter=0.0, hue=0.0)

AUGMENTATIONS: Final = {"full": Augmentation(), "gentle": GENTLE, "none": NONE}
"""By name, as on the command line."""


def augment_clips(images: Tensor, strength: Augmentation, *, clip_length: int) -> Tensor:
    """Augment images, with one draw for each clip, from torch's global generator.

    Parameters
    ----------
    images : shape (n_clips * clip_length, 3, side, side), in [0, 255]
    strength
        How much.
    clip_length
        Consecutive images that share a draw.

    Returns
    -------
    The same shape, in [0, 255]; what a shift uncovers repeats the border.
    """
    n_clips = images.shape[0] // clip_length
    matrix = _geometry(n_clips, strength).repeat_interleave(clip_length, dim=0).to(images.device)
    with torch.autocast(images.device.type, enabled=False):  # a grid in bfloat16 is off by most of a pixel
        grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
        moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return _jitter_colours(moved, strength, n_clips, clip_length)


def _uniform(n: int, low: float, high: float) -> Tensor:
    return torch.empty(n).uniform_(low, high)


def _geometry(n: int, strength: Augmentation) -> Tensor:
    """Output-to-input maps in normalised coordinates, (n, 2, 3)."""
    turn = math.radians(strength.rotation_deg)
    angle = _uniform(n, -turn, turn) + _uniform(n, -turn, turn)  # the rotation's and the affine's
    zoom = torch.sqrt(_uniform(n, strength.crop, 1.0)) * _uniform(n, 1 - strength.scale, 1 + strength.scale)
    mirror = torch.where(torch.rand(n) < strength.flip, -1.0, 1.0)
    slack = 2 * strength.shift + (1 - zoom).clamp(min=0)  # a crop may lie anywhere in the image
    shift_x, shift_y = _uniform(n, -1, 1) * slack, _uniform(n, -1, 1) * slack
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [cosine * mirror, -sine, shift_x, sine * mirror, cosine, shift_y]
    return torch.stack(rows, dim=1).view(n, 2, 3)


def _jitter_colours(images: Tensor, strength: Augmentation, n_clips: int, clip_length: int) -> Tensor:
    def draw(width: float) -> Tensor:
        values = _uniform(n_clips, -width, width).repeat_interleave(clip_length)
        return values.view(-1, 1, 1, 1).to(images.device)

    if strength.jitter > 0:
        images = images * (1 + draw(strength.jitter))  # brightness
        level = images.mean(dim=(1, 2, 3), keepdim=True)
        images = level + (images - level) * (1 + draw(strength.jitter))  # contrast
        grey = images.mean(dim=1, keepdim=True)
        images = grey + (images - grey) * (1 + draw(strength.jitter))  # saturation
    if strength.hue > 0:
        images = _turn_hue(images, draw(2 * math.pi * strength.hue))
    return images.clamp(0, 255)


def _turn_hue(images: Tensor, angle: Tensor) -> Tensor:
    """Rotate colours about the grey axis, which keeps a pixel's mean over RGB."""
    cosine, sine = torch.cos(angle), torch.sin(angle)
    red, green, blue = images.unbind(dim=1)
    colour = images - images.mean(dim=1, keepdim=True)
    across = torch.stack([blue - green, red - blue, green - red], dim=1) / math.sqrt(3)
    return images - colour + colour * cosine + across * sine
