"""Frames from disk: JPEG or PNG files, or a pack of them, to uint8 tensors, in order, ahead of their use.

Pillow's decoder releases the interpreter's lock, so threads decode in parallel. (torchvision's is faster, but
deprecated since torchvision 0.29.) A frame that cannot be read is a failure with its reason, never a grey image in
its place; whoever asked decides what to do about it.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from featurestore.errors import ConfigError, ImageError
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageSource

_BATCHES_AHEAD: Final = 3  # at the least


@dataclass(frozen=True, slots=True)
class DecodedFrames:
    """One batch of decoded frames.

    Attributes
    ----------
    rows : shape (n,), int64
        Their numbers in the frame table.
    groups
        One (positions, pixels) for each image size that occurs: positions in `rows`, int64 (k,), and uint8 pixels
        in [0, 255], (k, 3, height, width), channels last in memory.
    failures
        Position in `rows` to the reason; those positions are in no group.
    """

    rows: NDArray[np.int64]
    groups: Sequence[tuple[Tensor, Tensor]]
    failures: Mapping[int, str]


class FrameReader:
    """Decodes the frames of a table, several batches ahead, in a pool of threads.

    Parameters
    ----------
    images
        The folder or the pack that the frames' images are in.
    frames
        The table.
    n_workers
        Threads that read and decode.

    Attributes
    ----------
    paths
        One a row of the table.
    failures
        Row number to reason, for every frame that could not be read so far.

    Raises
    ------
    MissingFileError
        If the folder or the pack is not there, or the folder holds none of a sample of the frames.
    StoreError
        If the pack is damaged, or of other frames.
    """

    def __init__(self, images: ImageSource, frames: FrameTable, *, n_workers: int = 1) -> None:
        images.check(frames)
        self.images = images
        self.paths: list[str] = frames.data["path"].to_list()
        self.failures: dict[int, str] = {}
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="decode")
        self._n_ahead = max(_BATCHES_AHEAD, n_workers)

    def batches(self, batches: Iterable[NDArray[np.int64]]) -> Iterator[DecodedFrames]:
        """Decode batch after batch, in order, keeping a few in the making.

        Parameters
        ----------
        batches
            Row numbers of each batch, shape (n,).
        """
        waiting: deque[Future[DecodedFrames]] = deque()
        try:
            for rows in batches:
                waiting.append(self._pool.submit(self._decode, rows))
                if len(waiting) > self._n_ahead:
                    yield self._noted(waiting.popleft().result())
            while waiting:
                yield self._noted(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _noted(self, frames: DecodedFrames) -> DecodedFrames:
        self.failures.update({int(frames.rows[position]): why for position, why in frames.failures.items()})
        return frames

    def _decode(self, rows: NDArray[np.int64]) -> DecodedFrames:
        by_size: dict[tuple[int, ...], tuple[list[int], list[NDArray[np.uint8]]]] = {}
        failures: dict[int, str] = {}
        for position, row in enumerate(rows):
            try:
                pixels = decode_image(self.images.read(self.paths[row]))
            except ImageError as error:
                failures[position] = str(error)
                continue
            positions, images = by_size.setdefault(pixels.shape, ([], []))
            positions.append(position)
            images.append(pixels)
        groups = [
            (torch.tensor(positions), torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
            for positions, images in by_size.values()
        ]
        return DecodedFrames(rows, groups, failures)


def choose_workers(n_workers: int | None, device: torch.device) -> int:
    """Threads that decode: as asked; else one beside a model on the CPU, which needs the cores, up to 16 for a GPU.

    Raises
    ------
    ConfigError
        If fewer than one is asked for.
    """
    if n_workers is None:
        return 1 if device.type == "cpu" else min(16, os.cpu_count() or 1)
    if n_workers < 1:
        raise ConfigError(f"At least one thread must decode, but {n_workers} were asked for.")
    return n_workers


def decode_image(raw: bytes) -> NDArray[np.uint8]:
    """An image file's bytes as RGB, shape (height, width, 3), in [0, 255].

    Raises
    ------
    ImageError
        If they are truncated, or no image; the message is the reason alone, as it is kept with the frame.
    """
    try:
        with Image.open(BytesIO(raw)) as image:
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ImageError("cannot decode: not an image") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises
        raise ImageError(f"cannot decode: {error}") from error
