"""Colours out of labels, splits and videos; nulls have none."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from featurestore.errors import UnknownNameError
from featurestore.frames import FrameTable
from featurestore.inspection.colouring import COLOURINGS, colouring_named

FramesMaker = Callable[..., FrameTable]


@pytest.fixture
def frames(make_frames: FramesMaker) -> FrameTable:
    """Twenty frames of three videos, every other one labelled, the last six in val."""
    rows = pl.int_range(20)
    labelled = make_frames(20).data.with_columns(
        split=pl.when(rows < 14).then(pl.lit("train")).otherwise(pl.lit("val")),
        valence=pl.when(rows % 2 == 0).then(rows.cast(pl.Float32) / 20),
        expression=pl.when(rows % 2 == 0).then(rows % 8).cast(pl.Int8),
        au12=pl.when(rows % 2 == 0).then(rows % 4 // 2).cast(pl.Int8),
    )
    return FrameTable(labelled)


@pytest.mark.parametrize(
    ("name", "n_labelled", "classes", "last"),
    [
        ("expression", 10, ("Neutral", "Anger"), 2),
        ("valence", 10, (), 0.9),
        ("arousal", 0, (), None),
        ("au12", 10, ("off", "on"), 1),
        ("au1", 0, ("off", "on"), None),
        ("split", 20, ("train", "val"), 1),
        ("video", 20, ("v000000", "v000001"), 2),
    ],
)
def test_colours_are_the_labels(
    frames: FrameTable, name: str, n_labelled: int, classes: tuple[str, ...], last: float | None
) -> None:
    colouring = colouring_named(name, frames)
    assert colouring.labelled.sum() == n_labelled
    assert colouring.classes[:2] == classes
    assert colouring.is_real == (name in ("valence", "arousal"))
    if last is not None:
        assert colouring.values[colouring.labelled][-1] == pytest.approx(last)


def test_every_colouring_is_of_every_frame(frames: FrameTable) -> None:
    for name in COLOURINGS:
        assert colouring_named(name, frames).values.shape == (20,)
    assert colouring_named("video", frames).classes == ("v000000", "v000001", "v000002")
    np.testing.assert_array_equal(colouring_named("video", frames).values[[0, 6, 7, 13, 14]], [0, 0, 1, 1, 2])


def test_an_unknown_colour(frames: FrameTable) -> None:
    with pytest.raises(UnknownNameError, match=r"no colour 'valance'\. Did you mean 'valence'\? Known: .*au12"):
        colouring_named("valance", frames)
