import re

import numpy as np
import pytest

from featurestore.errors import PrecisionError, StoreError
from featurestore.precision import stored_rows

HALF, SINGLE = np.dtype("<f2"), np.dtype("<f4")


def test_casts_and_masks() -> None:
    rows = np.array([[1.0, 2.0], [np.inf, np.nan], [65504.0, -3.0]], dtype=np.float32)
    stored = stored_rows(rows, HALF, start=10, failed={11}, encoder="au")
    assert stored.dtype == HALF
    np.testing.assert_array_equal(stored, [[1.0, 2.0], [np.nan, np.nan], [65504.0, -3.0]])
    assert stored[1].view("<u2").tolist() == [0x7E00, 0x7E00]  # one NaN, so that equal stores are equal in bytes
    assert rows[1, 0] == np.inf  # the caller's rows are not touched


def test_does_not_alias_the_rows_given() -> None:
    rows = np.ones((2, 2), dtype=HALF)
    assert not np.shares_memory(stored_rows(rows, HALF, start=0, failed=(), encoder="au"), rows)


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
