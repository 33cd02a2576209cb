import numpy as np
import polars as pl
import pytest

from featurestore.errors import ShapeError, UnknownNameError
from featurestore.frames import FrameTable
from featurestore.labels import AU_COLUMNS
from heads.features.targets import Targets, labels_digest


def test_nulls_are_masked_and_values_kept(frames: FrameTable) -> None:
    targets = Targets.from_frames(frames)
    assert len(targets) == len(frames)
    assert (targets.valence.dtype, targets.expression.dtype) == (np.float32, np.int64)
    assert targets.action_units.shape == targets.valid_action_units.shape == (len(frames), 12)
    for row, record in enumerate(frames.data.iter_rows(named=True)):
        assert targets.valid_valence[row] == (record["valence"] is not None)
        assert targets.valid_expression[row] == (record["expression"] is not None)
        if record["arousal"] is not None:
            assert targets.arousal[row] == np.float32(record["arousal"])
        for number, name in enumerate(AU_COLUMNS):
            assert targets.valid_action_units[row, number] == (record[name] is not None)
            if record[name] is not None:
                assert targets.action_units[row, number] == record[name]
    assert not targets.valid_arousal.all()
    assert np.isfinite(targets.valence).all()


def test_of_and_labelled(frames: FrameTable) -> None:
    targets = Targets.from_frames(frames)
    assert targets.of("v")[0] is targets.valence
    assert targets.of("a")[1] is targets.valid_arousal
    assert targets.of("expr")[0] is targets.expression
    assert targets.of("au")[1] is targets.valid_action_units
    assert (targets.labelled("au") == targets.valid_action_units.any(axis=1)).all()
    with pytest.raises(UnknownNameError, match="no task 'x'"):
        targets.of("x")


def test_take(frames: FrameTable) -> None:
    targets = Targets.from_frames(frames)
    rows = np.array([5, 2, 9])
    assert (targets.take(rows).valence == targets.valence[rows]).all()
    assert (targets.take(rows).valid_action_units == targets.valid_action_units[rows]).all()


def test_lengths_must_agree(frames: FrameTable) -> None:
    good = Targets.from_frames(frames)
    parts = {name: getattr(good, name) for name in good.__dataclass_fields__} | {"valence": good.valence[:3]}
    with pytest.raises(ShapeError, match="one row a frame each"):
        Targets(**parts)


def test_the_digest_sees_labels_and_splits(frames: FrameTable) -> None:
    digest = labels_digest(frames)
    assert digest == labels_digest(FrameTable(frames.data.clone()))
    changes = (
        pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise(pl.col("au7")).cast(pl.Int8).alias("au7"),
        (pl.col("valence") / 2).alias("valence"),
        pl.col("split").replace("test", "train").alias("split"),
    )
    assert len({digest, *(labels_digest(FrameTable(frames.data.with_columns(change))) for change in changes)}) == 4
