"""What an encoder's embeddings look like in numbers: norms, dimensions, NaN, and rows that hardly differ.

One pass over what is committed, a few MB at a time, so memory does not grow with the table. A row of tokens is
n_tokens vectors: norms and dimensions are of vectors, repetitions of whole rows. Rows that hold a value that is not
finite count as such and enter nothing else.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from featurestore.embedding import Embedding
from featurestore.layout import FloatArray

_BLOCK_BYTES: Final = 2 << 20  # stored bytes looked at together; four to six times as many in memory
_REPEAT: Final = 1e-3  # of a row's norm: twice what rounding to float16 moves a value by
_LEVELS: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
_MANTISSA_BITS: Final = 12  # of a norm, kept for the quantiles: bins 0.02 % wide
_DROPPED_BITS: Final = 52 - _MANTISSA_BITS

WideArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class NormSummary:
    """L2 norms of vectors; quantiles are exact to 0.02 %, the others to rounding."""

    mean: float
    minimum: float
    q05: float
    q25: float
    median: float
    q75: float
    q95: float
    maximum: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DimensionSummary:
    """How the dimensions differ: of each, mean and standard deviation (ddof=0) over all vectors; here their range."""

    n_constant: int  # dimensions of one and the same value in every vector: dead
    mean_low: float
    mean_high: float
    std_low: float
    std_high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingSummary:
    """One encoder's committed rows in numbers.

    Attributes
    ----------
    n_frames, rows_done, n_failed
        Rows of the table, those that are committed, and those of them whose frame could not be embedded.
    nan_share
        Share of NaN among all committed values; None without any.
    n_unexplained
        Committed rows that hold NaN or infinity although no failure is listed for them: 0 in a sound store.
    n_vectors
        Vectors that norms and dimensions are of: finite rows, times tokens.
    norms, dimensions
        None without a vector.
    repeated_share
        Share of finite rows that lie within 0.1 % of their norm of the row before them in the table: video that
        stands still, frames that were written twice, or an encoder that sees nothing. None without such a pair.
    """

    n_frames: int
    rows_done: int
    n_failed: int
    nan_share: float | None
    n_unexplained: int
    n_vectors: int
    norms: NormSummary | None
    dimensions: DimensionSummary | None
    repeated_share: float | None

    def as_dict(self) -> dict[str, object]:
        """The summary as JSON values."""
        return asdict(self)


def summarise(embedding: Embedding, *, on_progress: Callable[[int, int], None] | None = None) -> EmbeddingSummary:
    """Read an encoder's committed rows once and describe them.

    Parameters
    ----------
    embedding
        Complete or not; vectors or tokens.
    on_progress
        Called with the rows that were read so far and all committed ones.

    Raises
    ------
    StoreError
        If a chunk file is missing or too short.
    """
    committed = embedding.committed()
    failures = embedding.failures()
    failed = np.zeros(embedding.n_frames, dtype=np.bool_)
    failed[list(failures)] = True
    n_done, n_read = int(committed.sum()), 0
    tally = _Tally(embedding.row_shape)
    for start, stop in _blocks(embedding, committed):
        tally.add(start, widened(embedding.read(start, stop)), failed[start:stop])
        n_read += stop - start
        if on_progress is not None:
            on_progress(n_read, n_done)
    values = n_done * int(np.prod(embedding.row_shape))
    return EmbeddingSummary(
        n_frames=embedding.n_frames,
        rows_done=n_done,
        n_failed=len(failures),
        nan_share=tally.n_nan / values if values else None,
        n_unexplained=tally.n_unexplained,
        n_vectors=tally.n_vectors,
        norms=tally.norms(),
        dimensions=tally.dimensions(),
        repeated_share=tally.n_repeated / tally.n_pairs if tally.n_pairs else None,
    )


def widened(rows: FloatArray) -> WideArray:
    """Rows in a type in which their squares can be summed: float16 as float32, float32 as float64; a copy."""
    if rows.dtype.itemsize == 4:
        return rows.astype(np.float64)
    # Every float16 looked up by its bits: numpy converts them one by one, at a tenth of the speed.
    found: npt.NDArray[np.float32] = np.take(_float16_values(), rows.view("<u2"), mode="clip")
    return found


_TABLE: list[npt.NDArray[np.float32]] = []


def _float16_values() -> npt.NDArray[np.float32]:
    """The value of every bit pattern of a float16, shape (65536,); made once."""
    if not _TABLE:
        _TABLE.append(np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32))
    return _TABLE[0]


def _blocks(embedding: Embedding, committed: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Committed rows [start, stop) in blocks that leave no chunk; a chunk's committed rows are its first ones."""
    block_rows = max(1, _BLOCK_BYTES // embedding.layout.row_bytes)
    for chunk in range(embedding.layout.n_chunks):
        start, stop = embedding.layout.span(chunk)
        end = start + int(committed[start:stop].sum())
        for at in range(start, end, block_rows):
            yield at, min(at + block_rows, end)


class _Tally:
    """What has been counted so far; every figure can be added to.

    Parameters
    ----------
    row_shape
        (dim,) or (n_tokens, dim).
    """

    def __init__(self, row_shape: tuple[int, ...]) -> None:
        dim = row_shape[-1]
        self._dim = dim
        self.n_nan = 0
        self.n_unexplained = 0
        self.n_vectors = 0
        self.n_pairs = 0
        self.n_repeated = 0
        self._norm_sum, self._norm_low, self._norm_high = 0.0, np.inf, 0.0
        self._norm_bins: dict[int, int] = {}  # leading bits of a norm -> vectors
        self._mean = np.zeros(dim)
        self._squares = np.zeros(dim)  # sum of squared distances from the mean
        self._low, self._high = np.full(dim, np.inf), np.full(dim, -np.inf)
        self._last: tuple[int, WideArray] | None = None  # the last finite row and its number

    def add(self, start: int, rows: WideArray, failed: npt.NDArray[np.bool_]) -> None:
        """Count table rows [start, start + n), shape (n, *row_shape); `failed`, shape (n,), says which hold NaN."""
        flat = rows.reshape(len(rows), -1)  # (n, n_tokens * dim)
        squares = np.einsum("ij,ij->i", flat, flat)  # (n,); not finite exactly where a value is not
        finite = np.isfinite(squares)
        if not finite.all():
            self.n_nan += int(np.isnan(flat[~finite]).sum())
        self.n_unexplained += int((~finite & ~failed).sum())
        sound = finite & ~failed
        numbers = np.flatnonzero(sound)
        kept = flat if sound.all() else flat[sound]
        if len(kept):
            self._add_repeats(numbers + start, kept, squares[numbers])
            vectors = kept.reshape(-1, self._dim)  # (n * n_tokens, dim)
            self._add_norms(np.sqrt(np.einsum("ij,ij->i", vectors, vectors).astype(np.float64)))
            self._add_dimensions(vectors)

    def _add_repeats(self, numbers: npt.NDArray[np.int64], rows: WideArray, squares: WideArray) -> None:
        if self._last is not None and self._last[0] + 1 == numbers[0]:
            distance = rows[0] - self._last[1]
            self.n_pairs += 1
            self.n_repeated += int(float(distance @ distance) <= _REPEAT**2 * float(squares[0]))
        follows = np.diff(numbers) == 1
        steps = np.diff(rows, axis=0)
        near = np.einsum("ij,ij->i", steps, steps) <= _REPEAT**2 * squares[1:]
        self.n_pairs += int(follows.sum())
        self.n_repeated += int((near & follows).sum())
        self._last = int(numbers[-1]), rows[-1].copy()

    def _add_norms(self, norms: npt.NDArray[np.float64]) -> None:
        self._norm_sum += float(norms.sum())
        self._norm_low = min(self._norm_low, float(norms.min()))
        self._norm_high = max(self._norm_high, float(norms.max()))
        # Positive floats are in the order of their bits, so the leading ones are bins of equal relative width.
        bins, counts = np.unique(norms.view(np.int64) >> _DROPPED_BITS, return_counts=True)
        for number, count in zip(bins.tolist(), counts.tolist(), strict=True):
            self._norm_bins[number] = self._norm_bins.get(number, 0) + count

    def _add_dimensions(self, vectors: WideArray) -> None:
        n, mean = len(vectors), vectors.mean(axis=0, dtype=np.float64)  # (dim,)
        centred = vectors - mean.astype(vectors.dtype)
        shift = mean - self._mean
        # Two groups' means and squares become one's (Chan, Golub & LeVeque, 1983): no large sums to cancel.
        total = self.n_vectors + n
        self._squares += np.einsum("ij,ij->j", centred, centred) + shift**2 * (self.n_vectors * n / total)
        self._mean += shift * (n / total)
        self._low = np.minimum(self._low, vectors.min(axis=0))
        self._high = np.maximum(self._high, vectors.max(axis=0))
        self.n_vectors = total

    def norms(self) -> NormSummary | None:
        """The norms, or None without a vector."""
        if not self.n_vectors:
            return None
        bins = np.array(sorted(self._norm_bins), dtype=np.int64)
        upto = np.cumsum([self._norm_bins[number] for number in bins.tolist()])
        at = np.searchsorted(upto, np.array(_LEVELS) * self.n_vectors)
        middles = ((bins[at] << _DROPPED_BITS) + (1 << (_DROPPED_BITS - 1))).view(np.float64)
        q05, q25, median, q75, q95 = np.clip(middles, self._norm_low, self._norm_high).tolist()
        mean = self._norm_sum / self.n_vectors
        low, high = self._norm_low, self._norm_high
        return NormSummary(mean=mean, minimum=low, q05=q05, q25=q25, median=median, q75=q75, q95=q95, maximum=high)

    def dimensions(self) -> DimensionSummary | None:
        """The dimensions, or None without a vector."""
        if not self.n_vectors:
            return None
        constant = self._low == self._high
        std = np.where(constant, 0.0, np.sqrt(self._squares / self.n_vectors))
        return DimensionSummary(
            n_constant=int(constant.sum()),
            mean_low=float(self._mean.min()),
            mean_high=float(self._mean.max()),
            std_low=float(std.min()),
            std_high=float(std.max()),
        )
