"""Embeddings that are whole and in place on the device: a batch is one gather, with no loader in between.

They stay in the store's own precision (float16): 141,431 rows of 768 are 217 MB an encoder, and a batch is cast
after it has been gathered.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from featurestore.embedding import Embedding
from heads.arrays import BoolArray, IntArray

from .batches import Batch, WindowReader

_BLOCK_ROWS: Final = 8192
_MOSTLY: Final = 0.75
"""Windows of which no more than this share is rows, not padding, are read beside others of about their length."""
_POOL_BATCHES: Final = 16
"""So many batches, drawn at random, are sorted by length at a time: what stands together is still left to chance."""


class LoadedEmbeddings:
    """Embeddings as tensors.

    Parameters
    ----------
    tensors
        Encoder -> shape (n_frames, D) or (n_frames, T, D), float16 or float32, finite, all on one device.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    @classmethod
    def read(
        cls, embeddings: Mapping[str, Embedding], device: torch.device
    ) -> tuple["LoadedEmbeddings", dict[str, BoolArray]]:
        """Read complete encoders; and which rows of each were embedded, shape (n_frames,), the others being 0."""
        tensors: dict[str, Tensor] = {}
        usable: dict[str, BoolArray] = {}
        for name, embedding in embeddings.items():
            tensor = _placed(embedding, device)
            known = ~_has_nan(tensor)
            known[list(embedding.failures())] = False
            tensor[(~known).to(device)] = 0
            tensors[name], usable[name] = tensor, known.numpy()
        return cls(tensors), usable

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders."""
        return tuple(self._tensors)

    def __getitem__(self, name: str) -> Tensor:
        """The rows of an encoder, shape (n_frames, ...)."""
        return self._tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """(D,) of an encoder, or (T, D) if it holds tokens."""
        return tuple(self._tensors[name].shape[1:])

    def windows(
        self,
        names: Sequence[str],
        rows: IntArray,
        *,
        batch_windows: int,
        seed: int,
        lengths: IntArray | None = None,
    ) -> WindowReader:
        """A reader of some windows (see `Embeddings.windows`)."""
        if lengths is not None and lengths.sum() > _MOSTLY * rows.size:
            lengths = None
        return _LoadedWindows([self._tensors[name] for name in names], rows, batch_windows, seed, lengths)


class _LoadedWindows:
    def __init__(
        self,
        tensors: Sequence[Tensor],
        rows: IntArray,
        batch_windows: int,
        seed: int,
        lengths: IntArray | None,
    ) -> None:
        self._tensors, self._batch_windows = tensors, batch_windows
        self._device = tensors[0].device
        self._rows = torch.from_numpy(rows).to(self._device)  # (n_windows, S)
        self._lengths = None if lengths is None else torch.from_numpy(lengths)  # (n_windows,), on the host
        self._order = torch.Generator().manual_seed(seed)

    def epoch(self) -> Iterator[Batch]:
        order = torch.randperm(len(self._rows), generator=self._order)
        return self._batches(order if self._lengths is None else self._beside_alike(order, self._lengths))

    def in_order(self) -> Iterator[Batch]:
        return self._batches(torch.arange(len(self._rows)))

    def chosen(self, batches: Iterable[IntArray]) -> Iterator[Batch]:
        for each in batches:
            yield self._batch(torch.from_numpy(each).to(self._device), self._rows.shape[1])

    def _beside_alike(self, order: Tensor, lengths: Tensor) -> Tensor:
        """The same windows, those of one batch about as long as each other; the last batch is still the smaller one."""
        size = self._batch_windows
        pools = torch.split(order, _POOL_BATCHES * size)
        sorted_ = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in pools])
        full = sorted_[: len(order) // size * size].reshape(-1, size)
        shuffled = full[torch.randperm(len(full), generator=self._order)].flatten()
        return torch.cat([shuffled, sorted_[len(shuffled) :]])

    def _batches(self, order: Tensor) -> Iterator[Batch]:
        """Windows as they stand in an order on the host, each batch as long as it must be."""
        size, longest = self._batch_windows, self._rows.shape[1]
        lengths = [longest] * -(-len(order) // size)
        if self._lengths is not None:
            lengths = [int(each.max()) for each in torch.split(self._lengths[order], size)]
        for picked, length in zip(torch.split(order.to(self._device), size), lengths, strict=True):
            yield self._batch(picked, length)

    def _batch(self, picked: Tensor, length: int) -> Batch:
        rows = self._rows[picked, :length]
        return Batch(picked, rows, [gather(tensor, rows) for tensor in self._tensors])


def gather(tensor: Tensor, rows: Tensor) -> Tensor:
    """Embeddings of a batch of windows.

    Parameters
    ----------
    tensor : shape (n_frames, ...), float16 or float32
    rows : shape (B, S), int64, on the same device

    Returns
    -------
    shape (B, S, ...), float32.
    """
    return tensor.index_select(0, rows.flatten()).float().reshape(*rows.shape, *tensor.shape[1:])


def _placed(embedding: Embedding, device: torch.device) -> Tensor:
    """All rows on the device, shape (n_frames, ...), in the store's precision."""
    if device.type == "cpu":
        return torch.from_numpy(embedding.load())
    # Block by block: what fits on the device need not fit beside it on the host.
    dtype = torch.float16 if embedding.dtype.itemsize == 2 else torch.float32
    tensor = torch.empty(embedding.n_frames, *embedding.row_shape, dtype=dtype, device=device)
    for start in range(0, embedding.n_frames, embedding.chunk_rows):
        stop = min(start + embedding.chunk_rows, embedding.n_frames)
        block = torch.empty(stop - start, *embedding.row_shape, dtype=dtype)
        embedding.read_into(start, stop, block.numpy())
        tensor[start:stop] = block.to(device)
    return tensor


def _has_nan(tensor: Tensor) -> Tensor:
    """Which rows hold a NaN, shape (n,), on the host; in blocks, since the mask of all would be half as large."""
    return torch.cat([torch.isnan(block).flatten(1).any(dim=1).cpu() for block in torch.split(tensor, _BLOCK_ROWS)])
