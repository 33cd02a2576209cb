import re
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import PrecisionError, StoreError
from featurestore.layout import EmbeddingDType, FloatArray
from featurestore.precision import store_rows

HALF, SINGLE = np.dtype("<f2"), np.dtype("<f4")


def stored_rows(
    rows: npt.NDArray[np.floating], dtype: EmbeddingDType, *, start: int, failed: Collection[int], encoder: str
) -> FloatArray:
    out: FloatArray = np.empty(rows.shape, dtype=dtype)
    store_rows(rows, out, start=start, failed=failed, encoder=encoder)
    return out


def test_casts_and_masks() -> None:
    rows = np.array([[1.0, 2.0], [np.inf, np.nan], [65504.0, -3.0]], dtype=np.float32)
    stored = stored_rows(rows, HALF, start=10, failed={11}, encoder="au")
    assert stored.dtype == HALF
    np.testing.assert_array_equal(stored, [[1.0, 2.0], [np.nan, np.nan], [65504.0, -3.0]])
    assert stored[1].view("<u2").tolist() == [0x7E00, 0x7E00]  # one NaN, so that equal stores are equal in bytes
    assert rows[1, 0] == np.inf  # the caller's rows are not touched


@given(st.integers(0, 0xFFFF), st.integers(0, 299_999))
@settings(max_examples=60)
def test_every_special_value_is_found_wherever_it_stands(bits: int, position: int) -> None:
    rows = np.full((3, 100_000), -1.5, dtype=HALF)
    rows.reshape(-1).view("<u2")[position] = bits
    if np.isfinite(rows).all():
        assert stored_rows(rows, HALF, start=0, failed=(), encoder="au").tobytes() == rows.tobytes()
        return
    with pytest.raises((PrecisionError, StoreError), match=f"table row {position // 100_000}"):
        stored_rows(rows, HALF, start=0, failed=(), encoder="au")


@pytest.mark.parametrize("value", [65520.0, -1e30])
def test_overflow_names_encoder_row_and_value(value: float) -> None:
    rows = np.ones((3, 2, 2), dtype=np.float32)
    rows[1, 1, 0] = value
    with pytest.raises(PrecisionError, match=rf"'au'.*65504.*row 41 holds {re.escape(f'{value:.6g}')}.*float32"):
        stored_rows(rows, HALF, start=40, failed=(), encoder="au")
    np.testing.assert_array_equal(stored_rows(rows, SINGLE, start=40, failed=(), encoder="au"), rows)


@pytest.mark.parametrize("dtype", [HALF, SINGLE])
def test_infinity_and_nan_are_refused_in_any_precision(dtype: np.dtype[np.float16 | np.float32]) -> None:
    rows = np.ones((3, 2), dtype=dtype)
    rows[2, 1] = np.inf
    with pytest.raises(PrecisionError, match="row 2 holds inf"):
        stored_rows(rows, dtype, start=0, failed=(), encoder="au")
    rows[2, 1] = np.nan
    with pytest.raises(StoreError, match="'au' gave NaN for table row 2"):
        stored_rows(rows, dtype, start=0, failed={0}, encoder="au")
