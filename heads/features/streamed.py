"""Embeddings that do not fit on the device: windows are streamed from the store within a budget of memory.

Batches are cast and moved to the device as they come. The order of an epoch is that of `featurestore.stream`: it is
shuffled, but another one than that of loaded embeddings, so the two fit the same head to other bits, and to scores
within the noise of the seed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from featurestore.embedding import Embedding
from featurestore.errors import ConfigError
from featurestore.stream import WindowBatch, WindowStream
from heads.arrays import BoolArray, IntArray

from .batches import Batch, WindowReader


class StreamedEmbeddings:
    """Embeddings in the store.

    Parameters
    ----------
    embeddings
        Encoder -> its embeddings, complete.
    usable
        Encoder -> which rows were embedded, shape (n_frames,).
    device
        Where batches go.
    memory_bytes
        What buffers and batches may take; on the host.
    """

    def __init__(
        self,
        embeddings: Mapping[str, Embedding],
        usable: Mapping[str, BoolArray],
        *,
        device: torch.device,
        memory_bytes: int,
    ) -> None:
        self._embeddings, self._usable = dict(embeddings), dict(usable)
        self._device, self._memory_bytes = device, memory_bytes

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders."""
        return tuple(self._embeddings)

    def shape(self, name: str) -> tuple[int, ...]:
        """(D,) of an encoder, or (T, D) if it holds tokens."""
        return self._embeddings[name].row_shape

    def windows(
        self,
        names: Sequence[str],
        rows: IntArray,
        *,
        batch_windows: int,
        seed: int,
        lengths: IntArray | None = None,
    ) -> WindowReader:
        """A reader of some windows (see `Embeddings.windows`); its batches are as long as the longest window.

        Raises
        ------
        ConfigError
            From its `epoch` and `in_order`, if the budget is too small, with the smallest possible.
        """
        embeddings = {name: self._embeddings[name] for name in names}
        # On a CPU what batches are cast to is memory of the host, too.
        cast_bytes = 4 * sum(prod(each.row_shape) for each in embeddings.values()) if self._device.type == "cpu" else 0
        stream = WindowStream(
            embeddings,
            rows,
            batch_windows=batch_windows,
            memory_bytes=self._memory_bytes,
            seed=seed,
            spare_row_bytes=cast_bytes,
        )
        failed = {name: torch.from_numpy(~self._usable[name]) for name in names if not self._usable[name].all()}
        return _StreamedWindows(stream, rows, failed, self._device)


class _StreamedWindows:
    def __init__(
        self, stream: WindowStream, rows: IntArray, failed: Mapping[str, Tensor], device: torch.device
    ) -> None:
        self._stream, self._device, self._failed = stream, device, failed
        self._rows = torch.from_numpy(rows)  # (n_windows, S), on the host
        self._epoch = 0

    def epoch(self) -> Iterator[Batch]:
        self._epoch += 1
        return self._placed(self._stream.epoch(self._epoch))

    def in_order(self) -> Iterator[Batch]:
        return self._placed(self._stream.in_order())

    def chosen(self, batches: Iterable[IntArray]) -> Iterator[Batch]:
        raise ConfigError(
            "A stateful head reads the videos' segments in their order, but these embeddings are streamed, which "
            "shuffles what it reads. Give them room with --memory, or leave out the state."
        )

    def _placed(self, batches: Iterator[WindowBatch]) -> Iterator[Batch]:
        inputs: list[Tensor] = []
        for batch in batches:
            picked = torch.from_numpy(batch.numbers)
            rows = self._rows[picked]  # (B, S)
            held = {name: torch.from_numpy(vectors) for name, vectors in batch.rows.items()}  # each (B, S, D)
            for name, failed in self._failed.items():
                held[name][failed[rows]] = 0  # was NaN
            # The first batch is the largest. Made anew for each, their memory would not come back in one piece.
            inputs = inputs or [torch.empty(each.shape, device=self._device) for each in held.values()]
            filled = [
                space[: len(rows)].copy_(vectors.to(self._device))
                for space, vectors in zip(inputs, held.values(), strict=True)
            ]
            yield Batch(picked.to(self._device), rows.to(self._device), filled)
