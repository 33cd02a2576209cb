import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.bytesize import format_bytes, parse_bytes
from featurestore.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("4GB", 4 * 10**9),
        ("512MB", 512 * 10**6),
        ("1.5GiB", 3 * 2**29),
        (" 64 kib ", 65536),
        ("2g", 2 * 10**9),
        (".5TB", 5 * 10**11),
        ("65536", 65536),
        ("7B", 7),
    ],
)
def test_sizes_as_people_write_them(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    "text",
    ["", "GB", "-1GB", "4 Gigabytes", "4GBs", "1e9", "0", "0.5", "1,5GB", "4.GB", "inf", "٤GB", "9" * 400 + "TB"],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"a size in bytes such as 4GB, 512MB, 1\.5GiB or 65536, got "):
        parse_bytes(text)


@given(st.integers(1, 10**15))
def test_a_printed_size_can_be_given_back_and_is_enough(n_bytes: int) -> None:
    assert n_bytes <= parse_bytes(format_bytes(n_bytes)) <= n_bytes * 1.1 + 1


def test_printed_sizes() -> None:
    assert [format_bytes(n) for n in (999, 16_000_000, 217_238_017, 4 * 10**9)] == ["999B", "16MB", "217.3MB", "4GB"]
