"""Rows as they are stored: cast to the store's precision, with every value accounted for.

NaN means one thing in a store, a frame that failed, so it stands exactly where a failure is given. A finite
value that float16 turns into infinity is an error, not a clipped number.
"""

from collections.abc import Collection
from typing import Final

import numpy as np
import numpy.typing as npt

from .errors import PrecisionError, StoreError
from .layout import EmbeddingDType, FloatArray

_EXPONENT: Final = {2: 0x7C00, 4: 0x7F800000}  # all ones: infinity or NaN


def stored_rows(
    rows: npt.NDArray[np.floating], dtype: EmbeddingDType, *, start: int, failed: Collection[int], encoder: str
) -> FloatArray:
    """`rows` in the store's dtype, C-contiguous, with NaN in the failed ones whatever they held.

    Parameters
    ----------
    rows : shape (n_rows, *row_shape)
        Embeddings of table rows [start, start + n_rows).
    dtype
        float16 or float32, little-endian.
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
        If a row holds infinity, or a value that becomes infinity in `dtype`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        stored: FloatArray = np.array(rows, dtype=dtype, order="C")
    if failed:
        stored[np.fromiter(failed, np.int64, len(failed)) - start] = np.nan
    # On the bits, because isfinite of float16 is computed by way of float32.
    exponent = _EXPONENT[dtype.itemsize]
    bits = stored.reshape(len(stored), -1).view(f"<u{dtype.itemsize}")
    special = ((bits & exponent) == exponent).any(axis=1)  # (n_rows,)
    for row in (np.flatnonzero(special) + start).tolist():
        if row not in failed:
            raise _refusal(rows[row - start], stored[row - start], row=row, encoder=encoder)
    return stored


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
