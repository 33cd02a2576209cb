"""Shuffled windows of embeddings that are larger than memory, chunk by chunk within a budget of bytes.

An epoch: windows are grouped by the chunk of their first row. The groups are drawn in a random order and dealt
into as few buffers as the budget allows, all about equally full. A buffer's rows are read once, its windows are
shuffled, and full batches are cut from it; what is left over begins the next buffer's first batch. So every window
comes exactly once an epoch, reads are of whole chunks, and with a budget that holds everything it is a uniform
shuffle. A smaller one mixes what it holds at a time: windows of a chunk stay within one buffer, but which chunks
share one is drawn anew each epoch.

While one buffer is used a thread reads the next, each in half the budget; not where half a budget would hold so few
chunks that mixing them suffers more than waiting costs.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import prod
from typing import Final, NamedTuple

import numpy as np

from .bytesize import format_bytes
from .embedding import Embedding
from .errors import ConfigError, ShapeError
from .layout import FloatArray
from .windowbuffer import IntArray, WindowBuffer, Windows, merged_runs

_MIN_CHUNKS_AHEAD: Final = 8  # a buffer of fewer chunks takes the whole budget, and nothing is read ahead
_BLOCK_BYTES: Final = 32 << 20  # read at once where the order is given: enough for a disk, soon there


class WindowBatch(NamedTuple):
    """Some windows.

    Attributes
    ----------
    numbers : shape (B,), int64
        Which ones.
    rows
        Encoder -> their embeddings, shape (B, S, *row_shape), in the store's dtype; failed frames hold NaN.
        The arrays are used again for the next batch: copy what is to be kept.
    """

    numbers: IntArray
    rows: dict[str, FloatArray]


class WindowStream:
    """Windows of one store's embeddings in batches, in memory that does not grow with the store.

    Parameters
    ----------
    embeddings
        Encoder -> embeddings, all of one store.
    rows : shape (n_windows, S), int64
        Table rows of each window; they should lie close together, may overlap other windows' and may repeat.
    batch_windows
        B, windows in a batch; an epoch's last one holds what is left.
    memory_bytes
        What buffers and batches may take together.
    seed
        Of the order.
    spare_row_bytes
        Part of the budget that the caller needs itself, for every row of a batch: for a copy in float32, say.

    Raises
    ------
    ConfigError
        If there is no encoder, or a number is out of range.
    ShapeError
        If `rows` is not such an array, or the encoders are of different tables.
    """

    def __init__(
        self,
        embeddings: Mapping[str, Embedding],
        rows: IntArray,
        *,
        batch_windows: int,
        memory_bytes: int,
        seed: int = 0,
        spare_row_bytes: int = 0,
    ) -> None:
        _check_numbers(batch_windows=batch_windows, memory_bytes=memory_bytes)
        _check_rows(embeddings, rows)
        self._embeddings, self._windows, self._seed = dict(embeddings), Windows.of(rows), seed
        self._batch_windows, self._memory_bytes = batch_windows, memory_bytes
        self._row_bytes: int = sum(prod(each.row_shape) * each.dtype.itemsize for each in embeddings.values())
        self._window_bytes = rows.shape[1] * (self._row_bytes + spare_row_bytes)  # of a batch
        self._groups = _by_chunk(self._windows, min(each.chunk_rows for each in embeddings.values()))
        self._group_rows = np.array([_n_rows(self._windows, group) for group in self._groups], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._windows)

    def epoch(self, number: int) -> Iterator[WindowBatch]:
        """Every window once, in an order that seed, number, windows and budget decide.

        Parameters
        ----------
        number
            Of the epoch, at least 0; each has its own order.

        Raises
        ------
        ConfigError
            If the budget is too small, with the smallest possible.
        MissingEmbeddingsError, StoreError
            On the way, if a row is not committed or its chunk is damaged.
        """
        room = self._room(self._batch_windows, at_least=int(self._group_rows.max(initial=0)))
        n_buffers = 1
        if self._group_rows.sum() > room and room // 2 >= _MIN_CHUNKS_AHEAD * self._group_rows.max():
            room, n_buffers = room // 2, 2
        rng = np.random.default_rng([self._seed, number])
        parts = _deal(rng.permutation(len(self._groups)), self._group_rows, room)
        plan = [rng.permutation(np.concatenate([self._groups[group] for group in part])) for part in parts]
        capacity = max((int(self._group_rows[part].sum()) for part in parts), default=0)
        return self._batches(plan, capacity, n_buffers, self._batch_windows)

    def in_order(self) -> Iterator[WindowBatch]:
        """Every window once, as they come; of a small budget in batches of fewer windows. Raises as `epoch` does."""
        longest = int((self._windows.stop - self._windows.first).max(initial=0))
        fitting = self._memory_bytes // 4 // self._window_bytes
        batch_windows = max(1, min(self._batch_windows, fitting))
        room = self._room(batch_windows, at_least=longest)
        n_buffers = 2 if room // 2 >= longest else 1
        room = max(longest, min(room // n_buffers, _BLOCK_BYTES // self._row_bytes))
        return self._batches(list(_pieces(self._windows, room)), room, n_buffers, batch_windows)

    def _room(self, batch_windows: int, *, at_least: int) -> int:
        """Rows that a budget without a batch holds, or an error if that is not so many."""
        batch = min(batch_windows, len(self)) * self._window_bytes
        room: int = (self._memory_bytes - batch) // self._row_bytes
        if room >= at_least:
            return room
        needed = format_bytes(batch + at_least * self._row_bytes)
        raise ConfigError(
            f"Streaming {', '.join(self._embeddings)} in batches of {batch_windows} windows of "
            f"{self._windows.rows.shape[1]} rows takes at least {needed} (a chunk's windows, and a batch), but "
            f"the budget is {format_bytes(self._memory_bytes)}. Give --memory {needed} or more, or smaller batches."
        )

    def _batches(
        self, plan: Sequence[IntArray], capacity: int, n_buffers: int, batch_windows: int
    ) -> Iterator[WindowBatch]:
        """Batches of the windows of `plan`, buffer after buffer, each full but for the last."""
        left = sum(map(len, plan))
        # One for all: arrays made anew for every batch would leave holes between them that nothing fits into.
        space = self._space(min(batch_windows, left))
        batch, filled = _first_of(space, left), 0
        for buffer in self._buffers(plan, capacity, n_buffers):
            done = 0
            while done < len(buffer.numbers):
                n = min(len(batch.numbers) - filled, len(buffer.numbers) - done)
                batch.numbers[filled : filled + n] = buffer.numbers[done : done + n]
                buffer.copy(done, done + n, {name: rows[filled : filled + n] for name, rows in batch.rows.items()})
                done, filled = done + n, filled + n
                if filled == len(batch.numbers):
                    yield batch
                    left -= filled
                    batch, filled = _first_of(space, left), 0

    def _buffers(self, plan: Sequence[IntArray], capacity: int, n_buffers: int) -> Iterator[WindowBuffer]:
        """One buffer after the other, filled; it is filled again once the next one is asked for."""
        buffers = [WindowBuffer(self._embeddings, self._windows, capacity) for _ in range(min(n_buffers, len(plan)))]
        waiting = iter(plan)
        with ThreadPoolExecutor(1, thread_name_prefix="abaw-stream") as reader:
            filling = deque(reader.submit(buffer.fill, next(waiting)) for buffer in buffers)
            while filling:
                buffer = filling.popleft().result()
                yield buffer
                filling.extend(reader.submit(buffer.fill, numbers) for numbers in islice(waiting, 1))

    def _space(self, n_windows: int) -> dict[str, FloatArray]:
        shape = (n_windows, self._windows.rows.shape[1])
        return {name: np.empty((*shape, *each.row_shape), dtype=each.dtype) for name, each in self._embeddings.items()}


def _first_of(space: Mapping[str, FloatArray], n_windows: int) -> WindowBatch:
    """A batch to be filled, of as many windows as are left and there is space for."""
    rows = {name: held[:n_windows] for name, held in space.items()}
    return WindowBatch(np.empty(min(map(len, rows.values())), dtype=np.int64), rows)


def _by_chunk(windows: Windows, chunk_rows: int) -> list[IntArray]:
    """Numbers of the windows that begin in the same chunk, of every chunk where one does."""
    if not len(windows):
        return []
    order = np.argsort(windows.first, kind="stable")
    chunk = windows.first[order] // chunk_rows
    return np.split(order, np.flatnonzero(np.diff(chunk)) + 1)


def _n_rows(windows: Windows, numbers: IntArray) -> int:
    """How many different rows some windows have together."""
    runs = merged_runs(windows.first[numbers], windows.stop[numbers])
    return int((runs[:, 1] - runs[:, 0]).sum())


def _deal(order: IntArray, group_rows: IntArray, room: int) -> list[IntArray]:
    """Groups in `order` in as few parts as there can be, of equally many groups and at most `room` rows each."""
    n_parts = max(1, -(-int(group_rows.sum()) // room)) if len(order) else 0
    while n_parts:
        parts = np.array_split(order, n_parts)
        if all(group_rows[part].sum() <= room for part in parts):
            return parts
        n_parts += 1
    return []


def _pieces(windows: Windows, room: int) -> Iterator[IntArray]:
    """Consecutive windows of at most `room` different rows together."""
    first, stop = windows.first, windows.stop
    lengths = stop - first
    added = lengths.copy()  # rows that a window adds to the one before it
    follows = first[1:] >= first[:-1]
    added[1:] = np.where(follows, np.maximum(0, stop[1:] - np.maximum(first[1:], stop[:-1])), lengths[1:])
    total = np.cumsum(added)
    begin = 0
    while begin < len(total):
        # A piece's first window is read whole.
        end = int(np.searchsorted(total, total[begin] - lengths[begin] + room, side="right"))
        yield np.arange(begin, end)
        begin = end


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} of a stream must be at least 1, got {value}.")


def _check_rows(embeddings: Mapping[str, Embedding], rows: IntArray) -> None:
    tables = {name: each.n_frames for name, each in embeddings.items()}
    if not tables:
        raise ConfigError("A stream reads at least one encoder, got none. Name one.")
    if len(set(tables.values())) > 1:
        raise ShapeError(f"Encoders of one stream are of one frame table, but they have these rows: {tables}.")
    if rows.ndim != 2 or not rows.shape[1] or rows.dtype != np.int64:
        raise ShapeError(f"Rows of windows have shape (n_windows, S) and type int64, got {rows.shape}, {rows.dtype}.")
    n_frames = min(tables.values())
    if len(rows) and not 0 <= rows.min() <= rows.max() < n_frames:
        raise ShapeError(
            f"Rows of windows lie within the table's {n_frames} frames, got {rows.min()} to {rows.max()}. "
            "Check that the windows and the embeddings are of one store."
        )
