"""How one encoder's embeddings are laid out in chunks: which rows are where, and how many bytes they take.

A chunk is whole rows, uncompressed, in C order and little-endian: its file is the raw rows. Every chunk file
has the full chunk's size, as Zarr's regular grid asks for; rows past the table's end, or not written yet,
hold NaN. Sizes are powers of two so that batches never straddle two chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, ShapeError

EmbeddingDType: TypeAlias = np.dtype[np.float16 | np.float32]
FloatArray: TypeAlias = npt.NDArray[np.float16 | np.float32]

CHUNK_BYTES: Final = 4 << 20
"""A chunk's size to aim at: large enough for one request to an object store, small enough to lose."""

MAX_CHUNK_BYTES: Final = 16 << 20
"""Of wide rows, such as tokens: every writer holds a chunk, and writes all of it for each partial commit."""

MIN_CHUNK_ROWS: Final = 256
MAX_CHUNK_ROWS: Final = 4096
COMMIT_BYTES: Final = 16
"""Of a chunk's record."""


def default_chunk_rows(row_bytes: int, batch_rows: int = 1) -> int:
    """Rows a chunk, a power of two: up to 4 MiB, and within [256, 4096].

    Where 256 rows are more than 16 MiB, as many as make that. At least a batch in any case: no batch straddles two
    chunks.
    """
    least = min(MIN_CHUNK_ROWS, _power_below(MAX_CHUNK_BYTES // row_bytes))
    return max(min(max(_power_below(CHUNK_BYTES // row_bytes), least), MAX_CHUNK_ROWS), batch_rows)


def _power_below(number: int) -> int:
    """The greatest power of two that is not above a number; 1 of 0."""
    return 1 << (max(number, 1).bit_length() - 1)


def storage_dtype(dtype: npt.DTypeLike) -> EmbeddingDType:
    """`dtype` as it is stored: little-endian float16 or float32; anything else is a ConfigError."""
    wanted = np.dtype(dtype)
    if wanted not in (np.dtype(np.float16), np.dtype(np.float32)):
        raise ConfigError(f"Embeddings are stored as float16 or float32, not {wanted}. Choose one of the two.")
    return np.dtype("<f2") if wanted.itemsize == 2 else np.dtype("<f4")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkLayout:
    """The shape of one encoder's array and of its chunks.

    Raises
    ------
    ShapeError
        If a row is empty or without a dimension.
    ConfigError
        If batch_rows is not a power of two, or chunk_rows is not a multiple of it.
    """

    n_frames: int
    row_shape: tuple[int, ...]  # (dim,) or (n_tokens, dim)
    dtype: EmbeddingDType  # little-endian float16 or float32
    chunk_rows: int
    batch_rows: int  # embeddings are computed in batches [i * batch_rows, (i + 1) * batch_rows)
    separator: str = "."  # between the parts of a chunk's key; "/" would make a folder a chunk

    def __post_init__(self) -> None:
        if not self.row_shape or min(self.row_shape) < 1:
            raise ShapeError(
                f"An embedding's row is (dim,) or (n_tokens, dim), each at least 1, not {self.row_shape}. "
                "Check the encoder's pooling."
            )
        if self.batch_rows < 1 or self.batch_rows & (self.batch_rows - 1):
            raise ConfigError(
                f"batch_rows is a power of two, so that no batch straddles two chunks, not {self.batch_rows}. "
                f"Take {_power_below(self.batch_rows)}."
            )
        if self.chunk_rows < 1 or self.chunk_rows % self.batch_rows:
            raise ConfigError(
                f"chunk_rows is a multiple of batch_rows ({self.batch_rows}), not {self.chunk_rows}. "
                "Leave chunk_rows out to have it chosen."
            )

    @property
    def n_chunks(self) -> int:
        """Chunks that hold the table's rows."""
        return -(-self.n_frames // self.chunk_rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.row_shape) * self.dtype.itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk file, the last one included."""
        return self.row_bytes * self.chunk_rows

    @property
    def disk_bytes(self) -> int:
        """Bytes of all chunks and their commits, once every row is there; a few kB of metadata come on top."""
        return self.n_chunks * (self.chunk_bytes + COMMIT_BYTES)

    def span(self, chunk: int) -> tuple[int, int]:
        """Table rows [start, stop) of a chunk."""
        start = chunk * self.chunk_rows
        return start, min(start + self.chunk_rows, self.n_frames)

    def key(self, chunk: int) -> str:
        """The chunk's key in the array, in Zarr v3's default encoding."""
        return self.separator.join(["c", str(chunk), *("0" for _ in self.row_shape)])

    def commit_key(self, chunk: int) -> str:
        """The key of the chunk's record in the array of commits."""
        return self.separator.join(["c", str(chunk), "0"])


def plan_layout(
    n_frames: int,
    row_shape: Sequence[int],
    *,
    dtype: npt.DTypeLike = np.float16,
    batch_rows: int = 1,
    chunk_rows: int | None = None,
) -> ChunkLayout:
    """The layout that a new encoder gets; its `disk_bytes` can be told before anything is computed.

    Parameters
    ----------
    n_frames
        Rows of the frame table.
    row_shape
        (dim,) or (n_tokens, dim).
    dtype
        float16 or float32.
    batch_rows
        Rows that are computed together, a power of two.
    chunk_rows
        Rows of a chunk; None for `default_chunk_rows`.

    Raises
    ------
    ShapeError, ConfigError
        As `ChunkLayout` and `storage_dtype`.
    """
    stored = storage_dtype(dtype)
    shape = tuple(int(length) for length in row_shape)
    chosen = default_chunk_rows(max(1, prod(shape)) * stored.itemsize, batch_rows) if chunk_rows is None else chunk_rows
    return ChunkLayout(n_frames=n_frames, row_shape=shape, dtype=stored, chunk_rows=chosen, batch_rows=batch_rows)
