"""What the rows around a row are like: mean, spread, extremes of the window about it, and how far it lies from them.

Windows are counted in rows and end where their segment (a run of rows of one video and one split) ends. They look both
ways. Rows without an embedding are no part of any window.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from heads.arrays import BoolArray, Float64Array, IntArray

STATISTICS: Final = ("mean", "std", "min", "max", "difference")

_NO_SPREAD: Final = 1e-12  # of the segment's variance: what sums of 4,000 squares leave where there is none


def window_statistics(values: Float64Array, usable: BoolArray, half_widths: Sequence[int]) -> NDArray[np.float32]:
    """Statistics of the windows around every row of ONE segment.

    Parameters
    ----------
    values : shape (n, k)
        The segment's rows; those that are not usable are not looked at.
    usable : shape (n,), bool
    half_widths
        For each h, the window of row i is the usable rows of i - h .. i + h, as far as there are any.

    Returns
    -------
    shape (n, 5 * k * len(half_widths)), float32
        For each half width the k columns of each of `STATISTICS`; standard deviations with ddof=0, the difference is
        the row less its window's mean. Rows that are not usable hold numbers without a meaning.
    """
    known = np.where(usable[:, None], values, 0)
    center = known.sum(axis=0) / max(1, int(usable.sum()))
    # Sums of what is left after the segment's mean hardly cancel.
    known = np.where(usable[:, None], values - center, 0)
    sums, squares = _running(known), _running(known**2)
    counts = np.concatenate([[0], np.cumsum(usable)])
    variance = squares[-1] / max(1, counts[-1])
    pieces: list[Float64Array] = []
    for half in half_widths:
        first, stop = _bounds(len(values), half)
        n = np.maximum(1, counts[stop] - counts[first])[:, None]
        mean = (sums[stop] - sums[first]) / n
        spread = (squares[stop] - squares[first]) / n - mean**2
        spread[spread < _NO_SPREAD * variance] = 0
        least, greatest = _extremes(known, usable, half)
        pieces += [mean + center, np.sqrt(spread), least + center, greatest + center, known - mean]
    return np.concatenate(pieces, axis=1, dtype=np.float32, casting="same_kind")


def _running(values: Float64Array) -> Float64Array:
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])


def _bounds(n: int, half: int) -> tuple[IntArray, IntArray]:
    rows = np.arange(n)
    return np.maximum(rows - half, 0), np.minimum(rows + half + 1, n)


def _extremes(values: Float64Array, usable: BoolArray, half: int) -> tuple[Float64Array, Float64Array]:
    """Least and greatest value of each window; 0 where it has none."""
    # What stands outside a segment, or is not usable, is -inf to a maximum.
    both = torch.from_numpy(np.concatenate([-values, values], axis=1).T.copy())  # (2 k, n)
    both[:, torch.from_numpy(~usable)] = -torch.inf
    pooled = functional.max_pool1d(both[None], 2 * half + 1, stride=1, padding=half)[0].T.numpy()
    pooled = np.where(np.isfinite(pooled), pooled, 0)
    k = values.shape[1]
    return -pooled[:, :k], pooled[:, k:]
