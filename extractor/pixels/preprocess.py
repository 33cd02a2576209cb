"""Decoded frames to a model's input, in batches, on the device.

Resizing and normalising are done where the model runs, and as timm's evaluation transform does it, that is, as Pillow
resizes: antialiased, first across and then down, and cut off at black and white after each of the two, which matters
where an edge is so hard that bicubic overshoots. On an x86 CPU torch resizes whole bytes by Pillow's own arithmetic: it
is five times as fast as in float32, and of hundred values at most one is off, by a grey level or two. Elsewhere it is
done in float32, without Pillow's rounding to whole grey levels.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from extractor.encoders.spec import EncoderSpec

from .reader import DecodedFrames


class Uploader:
    """Puts decoded frames on a device, still as uint8; once for all encoders.

    On a GPU the copy runs in a stream of its own, while the models still work on the frames before.

    Parameters
    ----------
    device
        Where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, frames: DecodedFrames) -> list[tuple[Tensor, Tensor]]:
        """The frames' groups, (positions, pixels), with the pixels on the device."""
        if self._stream is None:
            return [(positions, pixels.to(self._device)) for positions, pixels in frames.groups]
        models = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            groups = [
                # What the reader has pinned already stays where it is.
                (positions, pixels.pin_memory().to(self._device, non_blocking=True))
                for positions, pixels in frames.groups
            ]
        models.wait_stream(self._stream)
        for _, pixels in groups:
            pixels.record_stream(models)  # its memory is not given away before the models have read it
        return groups


def upload(frames: DecodedFrames, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """As an `Uploader`, for frames that come one at a time."""
    return Uploader(device)(frames)


def model_input(groups: Sequence[tuple[Tensor, Tensor]], spec: EncoderSpec, *, n: int, device: torch.device) -> Tensor:
    """One batch, resized and normalised: `normalise` of `assemble`, with one pass over the pixels less.

    Parameters
    ----------
    groups, spec, n, device
        As for `assemble`.

    Returns
    -------
    shape (n, 3, input_px, input_px), float32; positions in no group are black.
    """
    side = spec.input_px
    if _is_whole(groups, n):
        return _normalise_(_as_float(_resized(groups[0][1], side, spec.interpolation)), spec)
    return _normalise_(assemble(groups, spec, n=n, device=device), spec)


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
    if _is_whole(groups, n):
        return resize(groups[0][1], side, spec.interpolation)
    images = torch.zeros(n, 3, side, side, device=device)
    for positions, pixels in groups:
        images[positions.to(device)] = resize(pixels, side, spec.interpolation)
    return images


def resizing_on(device: torch.device) -> str:
    """The arithmetic of resizing there: ``bytes`` or ``float32``; the two differ by rounding."""
    return "bytes" if _resizes_bytes(device) else "float32"


def resize(pixels: Tensor, side: int, interpolation: str) -> Tensor:
    """Resize (k, 3, height, width) in [0, 255] to a square of `side` pixels, as float32; uint8 is the faster."""
    return _as_float(_resized(pixels, side, interpolation))


def normalise(images: Tensor, spec: EncoderSpec) -> Tensor:
    """Take (k, 3, side, side) in [0, 255] to zero mean and unit variance by the spec's constants."""
    scale, shift = _constants(spec.mean, spec.std, images.device)
    return torch.addcmul(shift, images, scale)


def _normalise_(images: Tensor, spec: EncoderSpec) -> Tensor:
    """The same in place."""
    scale, shift = _constants(spec.mean, spec.std, images.device)
    return images.mul_(scale).add_(shift)


def _is_whole(groups: Sequence[tuple[Tensor, Tensor]], n: int) -> bool:
    """Whether one group is the batch, in its order."""
    return len(groups) == 1 and len(groups[0][0]) == n


def _as_float(images: Tensor) -> Tensor:
    return images.to(torch.float32, memory_format=torch.contiguous_format)


def _resized(pixels: Tensor, side: int, interpolation: str) -> Tensor:
    """Resized in [0, 255]; uint8 where that is exact and fast, else float32."""
    height, width = pixels.shape[-2:]
    if (height, width) == (side, side):
        return pixels
    if pixels.dtype == torch.uint8 and _resizes_bytes(pixels.device):
        return functional.interpolate(pixels, size=(side, side), mode=interpolation, antialias=True)
    images = _as_float(pixels)
    for size in ((height, side), (side, side)):
        if images.shape[-2:] != size:
            images = functional.interpolate(images, size=size, mode=interpolation, antialias=True).clamp_(0, 255)
    return images


def _resizes_bytes(device: torch.device) -> bool:
    """Whether torch has a fast kernel for bytes there; on a CPU without AVX2 they take four times float32's time."""
    return device.type == "cpu" and "AVX" in torch.backends.cpu.get_cpu_capability()


@cache
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and summand for pixels in [0, 255], (1, 3, 1, 1); made once a device: each copy waits for it."""
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    scale = [1 / (255 * s) for s in std]
    return tuple(torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (scale, shift))  # type: ignore[return-value]
