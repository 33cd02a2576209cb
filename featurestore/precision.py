"""Rows as they are stored: cast to the store's precision, with every value accounted for.

NaN means one thing in a store, a frame that failed, so it stands exactly where a failure is given. A finite
value that float16 turns into infinity is an error, not a clipped number.
"""

from collections.abc import Collection
from typing import Final

import numpy as np
import numpy.typing as npt

from .errors import PrecisionError, StoreError
from .layout import FloatArray

_SMALLEST_SPECIAL: Final = {2: 0x7C00, 4: 0x7F800000}  # bits of infinity; those of every NaN are greater
_SIGN: Final = {2: 0x8000, 4: 0x80000000}
_BLOCK_VALUES: Final = 1 << 17  # looked at twice while they are in the cache


def store_rows(
    rows: npt.NDArray[np.floating], out: FloatArray, *, start: int, failed: Collection[int], encoder: str
) -> None:
    """Put `rows` into `out` in the store's dtype, with NaN in the failed ones whatever they held.

    Parameters
    ----------
    rows : shape (n_rows, *row_shape)
        Embeddings of table rows [start, start + n_rows).
    out : shape (n_rows, *row_shape), float16 or float32, little-endian, C-contiguous
        Where they go; what it holds after an error is not to be used.
    start
        Table row of the first.
    failed
        Table rows, all of them among these, that could not be embedded.
    encoder
        Its name, for the errors.

    Raises
    ------
    StoreError
        If a row that did not fail holds NaN.
    PrecisionError
        If a row holds infinity, or a value that becomes infinity in `out`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(out, rows, casting="same_kind")
    if failed:
        out[np.fromiter(failed, np.int64, len(failed)) - start] = np.nan
    if not _has_special(out):
        return
    special = ~np.isfinite(out.reshape(len(out), -1)).all(axis=1)  # (n_rows,)
    for row in (np.flatnonzero(special) + start).tolist():
        if row not in failed:
            raise _refusal(rows[row - start], out[row - start], row=row, encoder=encoder)


def _has_special(values: FloatArray) -> bool:
    """Whether an infinity or NaN is among them: two maxima over the bits, without a temporary array.

    Read as signed integers, the negative values are below the positive ones, whose specials are the greatest; read as
    unsigned ones it is the other way round. `isfinite` of float16 goes by way of float32, at a tenth of the speed.
    """
    itemsize = values.dtype.itemsize
    bits = values.reshape(-1).view(f"<i{itemsize}")
    special, sign = _SMALLEST_SPECIAL[itemsize], _SIGN[itemsize]
    for first in range(0, len(bits), _BLOCK_VALUES):
        block = bits[first : first + _BLOCK_VALUES]
        if block.max() >= special or block.view(f"<u{itemsize}").max() >= special + sign:
            return True
    return False


def _refusal(
    given: npt.NDArray[np.floating], stored: FloatArray, *, row: int, encoder: str
) -> StoreError | PrecisionError:
    if np.isnan(stored).any():
        return StoreError(
            f"Encoder {encoder!r} gave NaN for table row {row}, whose frame could be read. The encoder is broken, "
            "or its precision too low: check its weights, or run it in float32. Nothing of this batch was stored."
        )
    worst = given[~np.isfinite(stored)][0]
    return PrecisionError(
        f"Embeddings of encoder {encoder!r} must fit {stored.dtype.name} (at most "
        f"{float(np.finfo(stored.dtype).max):.6g}); table row {row} holds {float(worst):.6g}. "
        "Store this encoder as float32. Nothing of this batch was stored."
    )
