import pytest

from featurestore.errors import ConfigError, ShapeError
from heads.modules.config import HeadConfig
from heads.modules.shapes import read_widths

SHAPES = {"mae": (16,), "au": (16,), "wide": (24,), "patches": (9, 8)}


def test_widths_follow_the_columns_that_are_read() -> None:
    head = HeadConfig(fuse=("wide",), fusion="concat", columns={"mae": (-10, None), "wide": (2, 7)})
    assert read_widths(head, SHAPES) == {"mae": 10, "wide": 5}
    assert read_widths(HeadConfig(fuse=("wide",), columns={"wide": (0, 16)}), SHAPES) == {"mae": 16, "wide": 16}


@pytest.mark.parametrize("fusion", ["concat", "affine", "gated", "residual", "attention", "late"])
def test_all_but_the_sum_take_several_widths(fusion: str) -> None:
    assert read_widths(HeadConfig(fuse=("wide",), fusion=fusion), SHAPES) == {"mae": 16, "wide": 24}


def test_a_sum_needs_equal_widths() -> None:
    expected = (
        r"encoder 'wide' have 24 columns, but those of the base encoder 'mae' have 16, .* such as affine or concat"
    )
    with pytest.raises(ShapeError, match=expected):
        read_widths(HeadConfig(fuse=("au", "wide")), SHAPES)


@pytest.mark.parametrize("columns", [(16, None), (-17, None), (0, 17), (20, 22)])
def test_columns_out_of_range(columns: tuple[int, int | None]) -> None:
    with pytest.raises(ConfigError, match=r"Columns -?\d+:\d* of encoder 'mae' are not there: it has 16\."):
        read_widths(HeadConfig(columns={"mae": columns}), SHAPES)


def test_tokens_and_vectors() -> None:
    with pytest.raises(ConfigError, match=r"'patches' holds 9 tokens of 8 a frame\. .* --framework task-queries"):
        read_widths(HeadConfig(encoder="patches"), SHAPES)
    queries = HeadConfig(encoder="mae", framework="task-queries", temporal="none")
    with pytest.raises(ConfigError, match=r"reads patch tokens, but encoder 'mae' holds one vector of 16 a frame"):
        read_widths(queries, SHAPES)
    tokens = HeadConfig(encoder="patches", framework="task-queries", temporal="none", columns={"patches": (0, 4)})
    assert read_widths(tokens, SHAPES) == {"patches": 4}
