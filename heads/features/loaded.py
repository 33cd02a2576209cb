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

    def windows(self, names: Sequence[str], rows: IntArray, *, batch_windows: int, seed: int) -> WindowReader:
        """A reader of some windows (see `Embeddings.windows`)."""
        return _LoadedWindows([self._tensors[name] for name in names], rows, batch_windows, seed)


class _LoadedWindows:
    def __init__(self, tensors: Sequence[Tensor], rows: IntArray, batch_windows: int, seed: int) -> None:
        self._tensors, self._batch_windows = tensors, batch_windows
        self._device = tensors[0].device
        self._rows = torch.from_numpy(rows).to(self._device)  # (n_windows, S)
        self._order = torch.Generator().manual_seed(seed)

    def epoch(self) -> Iterator[Batch]:
        order = torch.randperm(len(self._rows), generator=self._order).to(self._device)
        return self._batches(torch.split(order, self._batch_windows))

    def in_order(self) -> Iterator[Batch]:
        order = torch.arange(len(self._rows), device=self._device)
        return self._batches(torch.split(order, self._batch_windows))

    def chosen(self, batches: Iterable[IntArray]) -> Iterator[Batch]:
        return self._batches(torch.from_numpy(each).to(self._device) for each in batches)

    def _batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        for picked in batches:
            rows = self._rows[picked]
            yield Batch(picked, rows, [gather(tensor, rows) for tensor in self._tensors])


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
