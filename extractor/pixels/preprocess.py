"""Decoded frames to a model's input, in batches, on the device.

Resizing and normalising are done where the model runs. The resampling is antialiased like Pillow's, which timm's
evaluation transform uses; the two differ by Pillow's rounding to whole grey levels.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from extractor.encoders.spec import EncoderSpec

from .reader import DecodedFrames


def upload(frames: DecodedFrames, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Put the decoded groups on the device, still as uint8; done once for all encoders."""
    pinned = device.type == "cuda"
    return [
        (positions, (pixels.pin_memory() if pinned else pixels).to(device, non_blocking=True))
        for positions, pixels in frames.groups
    ]


def assemble(groups: Sequence[tuple[Tensor, Tensor]], spec: EncoderSpec, *, n: int, device: torch.device) -> Tensor:
    """One batch of images of the model's size.

    Parameters
    ----------
    groups
        (positions, uint8 pixels (k, 3, height, width)) from `upload`.
    spec
        Gives size and interpolation.
    n
        Batch size; positions in no group are black, for the caller to mask.
    device
        Where the pixels lie.

    Returns
    -------
    shape (n, 3, input_px, input_px), float32 in [0, 255]
    """
    side = spec.input_px
    if len(groups) == 1 and len(groups[0][0]) == n:
        return resize(groups[0][1], side, spec.interpolation)
    images = torch.zeros(n, 3, side, side, device=device)
    for positions, pixels in groups:
        images[positions.to(device)] = resize(pixels, side, spec.interpolation)
    return images


def resize(pixels: Tensor, side: int, interpolation: str) -> Tensor:
    """Resize (k, 3, height, width) in [0, 255] to a square of `side` pixels, as float32."""
    images = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    if images.shape[-2:] == (side, side):
        return images
    images = functional.interpolate(images, size=(side, side), mode=interpolation, antialias=True, align_corners=False)
    return images.clamp_(0, 255)  # bicubic overshoots


def normalise(images: Tensor, spec: EncoderSpec) -> Tensor:
    """Take (k, 3, side, side) in [0, 255] to zero mean and unit variance by the spec's constants."""
    mean, std = _constants(spec.mean, spec.std, images.device)
    return (images - mean) / std


@cache
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """For pixels in [0, 255], shape (1, 3, 1, 1); made once a device, since each copy there would wait for it."""
    return tuple(torch.tensor(values, device=device).mul(255).view(1, 3, 1, 1) for values in (mean, std))  # type: ignore[return-value]
