"""Frames from disk: JPEG or PNG files, or a pack of them, to uint8 tensors, in order, ahead of their use.

Threads read and decode, since both release the interpreter's lock; processes would have to hand the pixels over. What
is left under the lock bounds the frames a second, however many cores there are, so little is done for each frame: its
JPEG is decoded into its place in the batch. A frame that cannot be read is a failure with its reason, never a grey
image in its place; whoever asked decides what to do about it.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from time import perf_counter
from typing import Final

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from featurestore.errors import ConfigError, ImageError
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageSource

from .decode import decode_image, decode_jpeg, jpeg_shape
from .duplicates import Duplicates
from .stages import StageTimes

_BATCHES_AHEAD: Final = 3  # at the least
_MOST_BATCH_BYTES: Final = 1 << 30  # of pixels in one buffer; larger images are stacked one by one
_PIECE: Final = 32  # frames of a batch that one thread decodes in a go


@dataclass(frozen=True, slots=True)
class DecodedFrames:
    """One batch of decoded frames.

    Attributes
    ----------
    rows : shape (n,), int64
        Their numbers in the frame table.
    groups
        One (positions, pixels) for each image size that occurs: positions in `rows`, int64 (k,), ascending, and uint8
        pixels in [0, 255], (k, 3, height, width), channels last in memory.
    failures
        Position in `rows` to the reason; those positions are in no group.
    same_as
        Position in `rows` to an earlier one with the same file bytes, which itself is in a group; the later one is in
        none. Empty unless the reader was asked to find duplicates. Where the bytes cannot be decoded, each of their
        positions is a failure.
    """

    rows: NDArray[np.int64]
    groups: Sequence[tuple[Tensor, Tensor]]
    failures: Mapping[int, str]
    same_as: Mapping[int, int] = field(default_factory=dict)


class Paths:
    """The images' paths by row number.

    Parameters
    ----------
    frames
        The table, whose column is used as it is.
    """

    def __init__(self, frames: FrameTable) -> None:
        self._column: pl.Series = frames.data["path"]

    def __getitem__(self, row: int | np.int64) -> str:
        return str(self._column[int(row)])

    def take(self, rows: NDArray[np.int64]) -> list[str]:
        """Those of several rows."""
        paths: list[str] = self._column.gather(rows).to_list()
        return paths


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
    find_duplicates
        Decode files of the same bytes once a batch: `DecodedFrames.same_as`.
    pinned
        Decode into page-locked memory, from where a GPU fetches by itself.
    stages
        Where to add up the threads' time under ``read`` and ``decode`` (with the hashes of duplicates), and the
        caller's under ``wait``.

    Attributes
    ----------
    paths
        By row; looked up in the table, which needs a fraction of the memory of so many strings.
    failures
        Row number to reason, for every frame that could not be read so far.

    Raises
    ------
    MissingFileError
        If the folder or the pack is not there, or the folder holds none of a sample of the frames.
    StoreError
        If the pack is damaged, or of other frames.
    """

    def __init__(
        self,
        images: ImageSource,
        frames: FrameTable,
        *,
        n_workers: int = 1,
        find_duplicates: bool = False,
        pinned: bool = False,
        stages: StageTimes | None = None,
    ) -> None:
        images.check(frames)
        self.images = images
        self.paths = Paths(frames)
        self.failures: dict[int, str] = {}
        self._find_duplicates = find_duplicates
        self._pinned = pinned
        self._stages = stages or StageTimes()
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="decode")
        self._n_pieces_ahead = 2 * n_workers

    def batches(self, batches: Iterable[NDArray[np.int64]]) -> Iterator[DecodedFrames]:
        """Decode batch after batch, in order, keeping a few in the making.

        Parameters
        ----------
        batches
            Row numbers of each batch, shape (n,).
        """
        waiting: deque[tuple[_Batch, list[Future[None]]]] = deque()
        n_pieces = 0
        try:
            for rows in batches:
                waiting.append(self._begin(rows))
                n_pieces += len(waiting[-1][1])
                if len(waiting) > _BATCHES_AHEAD and n_pieces > self._n_pieces_ahead:
                    n_pieces -= len(waiting[0][1])
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())
        finally:
            for _, pieces in waiting:
                for piece in pieces:
                    piece.cancel()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, rows: NDArray[np.int64]) -> tuple["_Batch", list[Future[None]]]:
        batch = _Batch(rows, pinned=self._pinned, duplicates=Duplicates() if self._find_duplicates else None)
        paths = self.paths.take(rows)
        starts = range(0, len(rows), _PIECE)
        return batch, [self._pool.submit(self._decode, batch, at, paths[at : at + _PIECE]) for at in starts]

    def _decode(self, batch: "_Batch", start: int, paths: Sequence[str]) -> None:
        read_s, began = 0.0, perf_counter()
        for position, path in enumerate(paths, start):
            before = perf_counter()
            try:
                raw = self.images.read(path)
                read_s += perf_counter() - before
                batch.decode(position, raw)
            except ImageError as error:
                batch.failures[position] = str(error)
        self._stages.add("read", read_s)
        self._stages.add("decode", perf_counter() - began - read_s)

    def _finish(self, batch: "_Batch", pieces: Sequence[Future[None]]) -> DecodedFrames:
        with self._stages.timed("wait"):
            for piece in pieces:
                piece.result()
        frames = batch.decoded()
        self.failures.update({int(frames.rows[position]): why for position, why in frames.failures.items()})
        return frames


class _Batch:
    """A batch in the making: its images' places, filled by several threads at once.

    The first image's size is taken for the size of all, so that each can be decoded where it belongs; images of other
    sizes are kept aside.
    """

    def __init__(self, rows: NDArray[np.int64], *, pinned: bool, duplicates: Duplicates | None) -> None:
        self.failures: dict[int, str] = {}
        self._rows = rows
        self._pinned = pinned
        self._duplicates = duplicates
        self._lock = threading.Lock()
        self._shape: tuple[int, ...] | None = None
        self._pixels = torch.empty(0, dtype=torch.uint8)  # (n, height, width, 3)
        self._places: NDArray[np.uint8] = self._pixels.numpy()  # the same memory
        self._placed = np.zeros(len(rows), dtype=np.bool_)
        self._aside: dict[int, NDArray[np.uint8]] = {}

    def decode(self, position: int, raw: bytes) -> None:
        """Decode an image file into its place; ImageError if that cannot be done."""
        if self._duplicates is not None and not self._duplicates.claim(position, raw):
            return
        shape = jpeg_shape(raw)
        if shape is not None and self._fits(shape):
            decode_jpeg(raw, self._places[position])
        else:
            pixels = decode_image(raw)
            if not self._fits(pixels.shape):
                self._aside[position] = pixels
                return
            self._places[position] = pixels
        self._placed[position] = True

    def decoded(self) -> DecodedFrames:
        """The batch, when all of it is done."""
        failures = dict(sorted(self.failures.items()))
        same_as = self._settle_duplicates(failures)
        groups = []
        if self._placed.all():
            groups.append((torch.arange(len(self._rows)), self._pixels))
        elif self._placed.any():
            positions = torch.from_numpy(np.flatnonzero(self._placed))
            groups.append((positions, self._pixels[positions]))
        by_size: dict[tuple[int, ...], list[int]] = {}
        for position in sorted(self._aside):
            by_size.setdefault(self._aside[position].shape, []).append(position)
        for alike in by_size.values():
            stacked = np.stack([self._aside[position] for position in alike])
            groups.append((torch.tensor(alike), torch.from_numpy(stacked)))
        groups.sort(key=lambda group: int(group[0][0]))
        return DecodedFrames(
            self._rows, [(where, pixels.permute(0, 3, 1, 2)) for where, pixels in groups], failures, same_as
        )

    def _fits(self, shape: tuple[int, ...]) -> bool:
        if self._shape is None:
            if len(self._rows) * prod(shape) > _MOST_BATCH_BYTES:
                return False  # a giant among them must not give all of them its size
            with self._lock:
                if self._shape is None:
                    size = (len(self._rows), *shape)
                    self._pixels = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
                    self._places = self._pixels.numpy()
                    self._shape = shape  # last: whoever sees it finds the places
        return shape == self._shape

    def _settle_duplicates(self, failures: dict[int, str]) -> dict[int, int]:
        """Move each image to the first of its positions, wherever it was decoded; a failure is one at all of them."""
        same_as: dict[int, int] = {}
        for decoded, alike in self._duplicates.found().items() if self._duplicates is not None else ():
            if decoded in failures:
                failures.update(dict.fromkeys(alike, failures[decoded]))
                continue
            first = alike[0]
            if decoded in self._aside:
                self._aside[first] = self._aside.pop(decoded)
            elif decoded != first:
                self._places[first] = self._places[decoded]
                self._placed[[first, decoded]] = True, False
            same_as.update(dict.fromkeys(alike[1:], first))
        return dict(sorted(same_as.items()))


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
