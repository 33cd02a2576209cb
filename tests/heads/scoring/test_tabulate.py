from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featurestore.errors import FrameMismatchError, ShapeError
from featurestore.frames import FrameTable
from heads.scoring.predictions import Predictions
from heads.scoring.tabulate import prediction_table, predictions_from_table


@pytest.fixture(scope="module")
def predictions(frames: FrameTable) -> Predictions:
    rng = np.random.default_rng(0)
    rows = frames.rows("val")
    n = len(rows)
    arrays = {"v": rng.uniform(-1, 1, n), "a": rng.uniform(-1, 1, n), "expr": rng.dirichlet(np.ones(8), n)}
    arrays["au"] = rng.random((n, 12))
    for array in arrays.values():
        array[4] = np.nan
    return Predictions(rows=rows).with_arrays(arrays)


@pytest.mark.parametrize("tasks", [("au", "expr", "v", "a"), ("v",), ("au", "a")])
@pytest.mark.parametrize("limits", [None, 0.31, 0.9])
def test_there_and_back(
    tmp_path: Path, frames: FrameTable, predictions: Predictions, tasks: tuple[str, ...], limits: float | None
) -> None:
    some = predictions.only(tasks)
    if limits is not None and "au" in tasks:
        some = some.with_thresholds(np.linspace(0.1, limits, 12))
    table = prediction_table(frames, some)
    table.write_parquet(tmp_path / "p.parquet")
    shuffled = pl.read_parquet(tmp_path / "p.parquet").sample(fraction=1, shuffle=True, seed=1)
    back = predictions_from_table(frames, shuffled)
    assert back.joint == some.joint
    assert back.rows.tolist() == some.rows.tolist()
    for task in tasks:
        np.testing.assert_array_equal(back.of(task), some.of(task))
    if "au" in tasks:
        assert (back.active_units() == some.active_units()).all()
    assert prediction_table(frames, back).equals(table)


def test_half_is_preferred_and_then_round_numbers(frames: FrameTable, predictions: Predictions) -> None:
    assert predictions_from_table(frames, prediction_table(frames, predictions)).thresholds is None
    low = Predictions(rows=predictions.rows[:2], action_units=np.array([[0.301] * 12, [0.42] * 12]))
    back = predictions_from_table(frames, prediction_table(frames, low.with_thresholds(np.full(12, 0.35))))
    assert back.active_above().tolist() == [0.41] * 12
    # Nothing round lies between .6101 and .6102.
    close = Predictions(rows=predictions.rows[:2], action_units=np.array([[0.6101] * 12, [0.6102] * 12]))
    table = prediction_table(frames, close.with_thresholds(np.full(12, 0.61015)))
    assert predictions_from_table(frames, table).active_units().tolist() == [[False] * 12, [True] * 12]


def test_refusals(
    frames: FrameTable,
    predictions: Predictions,
    make_frames: Callable[[Mapping[str, tuple[str, int]]], FrameTable],
) -> None:
    table = prediction_table(frames, predictions)
    fewer = make_frames({"d": ("val", 50), "e": ("val", 40)})
    with pytest.raises(FrameMismatchError, match=r"8 of 98 are not in it, such as e/41"):
        predictions_from_table(fewer, table)
    with pytest.raises(FrameMismatchError, match=r"each frame once"):
        predictions_from_table(frames, pl.concat([table, table[:1]]))
    with pytest.raises(ShapeError, match=r"got \['video', 'frame', 'split'\]"):
        predictions_from_table(frames, table.select("video", "frame", "split"))
    wrong = table.with_columns((1 - pl.col("au7")).alias("au7"))
    with pytest.raises(ShapeError, match=r"the table's au7 is 1 and 0 without one between"):
        predictions_from_table(frames, wrong)
