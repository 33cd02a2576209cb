"""How many rows a step, epochs and patience follow from the number of rows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.fitting.schedule import (
    BATCH_ROWS,
    CAP_STEPS,
    LEAST_BATCH_ROWS,
    LEAST_BATCH_WINDOWS,
    LEAST_PATIENCE,
    LEAST_STEPS,
    MOST_STEPS,
    PATIENCE_STEPS,
    UNJUDGED_STEPS,
    Schedule,
    batch_windows_of,
    rows_per_step,
)
from heads.modules.config import HeadConfig


def schedule_of(training: FitConfig, n_steps: int) -> Schedule:
    return Schedule.of(training, n_rows=16 * n_steps, batch_windows=4, n_steps=n_steps)


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 300_000))
def test_an_epoch_has_some_twenty_to_a_few_hundred_steps(n_rows: int) -> None:
    rows = rows_per_step(n_rows)
    n_steps = -(-n_rows // rows)
    assert rows >= LEAST_BATCH_ROWS
    assert n_steps <= MOST_STEPS
    if n_rows >= LEAST_STEPS * LEAST_BATCH_ROWS:
        assert n_steps >= LEAST_STEPS
    if rows > BATCH_ROWS:  # larger steps only where there would be too many
        assert -(-n_rows // (rows - 1)) > MOST_STEPS
    assert rows <= rows_per_step(n_rows + 1)


@pytest.mark.parametrize(
    ("n_rows", "expected"), [(1, 16), (200, 16), (920, 46), (5120, 256), (76_800, 256), (76_801, 257), (141_431, 472)]
)
def test_rows_a_step_of_some_sizes(n_rows: int, expected: int) -> None:
    assert rows_per_step(n_rows) == expected


@settings(max_examples=200, deadline=None)
@given(st.integers(1, MOST_STEPS))
def test_what_is_left_open_is_counted_in_steps(n_steps: int) -> None:
    judged = schedule_of(FitConfig(), n_steps)
    assert CAP_STEPS <= judged.epochs * n_steps < CAP_STEPS + n_steps
    assert judged.patience is not None
    assert judged.patience >= LEAST_PATIENCE
    assert judged.patience == LEAST_PATIENCE or PATIENCE_STEPS <= judged.patience * n_steps < PATIENCE_STEPS + n_steps
    unjudged = schedule_of(FitConfig(select_on="last"), n_steps)
    assert UNJUDGED_STEPS <= unjudged.epochs * n_steps < UNJUDGED_STEPS + n_steps


def test_what_is_given_is_kept() -> None:
    assert (schedule_of(FitConfig(epochs=7), 20).epochs, schedule_of(FitConfig(epochs=7), 20).patience) == (7, None)
    both = schedule_of(FitConfig(epochs=7, patience=2), 20)
    assert (both.epochs, both.patience) == (7, 2)
    waiting = schedule_of(FitConfig(patience=50), 20)
    assert (waiting.epochs, waiting.patience) == (200, 50)
    training = FitConfig(batch_frames=64)
    assert batch_windows_of(training, n_rows=100_000, n_windows=5000, length=20) == 3
    assert batch_windows_of(training, n_rows=10, n_windows=1, length=100) == 1  # at least one window


@pytest.mark.parametrize("training", [FitConfig(), FitConfig(patience=5), FitConfig(epochs=9, patience=5)])
def test_only_val_makes_a_fit_end_early(training: FitConfig) -> None:
    assert schedule_of(training, 20).patience is not None
    unjudged = FitConfig(epochs=training.epochs, patience=training.patience, select_on="last")
    assert schedule_of(unjudged, 20).patience is None


def test_windows_are_counted_by_the_rows_that_count() -> None:
    training = FitConfig()
    # 1,000 rows: 50 a step. Windows that hold 10 of them each, then windows that hold one, then none but padding.
    assert batch_windows_of(training, n_rows=1000, n_windows=100, length=10) == 5
    assert batch_windows_of(training, n_rows=1000, n_windows=1000, length=10) == 50
    assert batch_windows_of(training, n_rows=1000, n_windows=1000, length=1) == 50
    assert batch_windows_of(training, n_rows=1000, n_windows=20, length=50) == LEAST_BATCH_WINDOWS
    assert batch_windows_of(training, n_rows=1, n_windows=1, length=1) == 16


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 60), st.integers(1, 3000), st.data())
def test_a_step_holds_about_as_many_rows_whatever_the_padding(length: int, n_windows: int, data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(n_windows, n_windows * length))
    windows = batch_windows_of(FitConfig(), n_rows=n_rows, n_windows=n_windows, length=length)
    assert windows >= LEAST_BATCH_WINDOWS
    # No more than half a window, of n_rows / n_windows rows, too many or too few; in whole numbers, for there are ties.
    off = abs(windows * n_rows - rows_per_step(n_rows) * n_windows)
    assert windows == LEAST_BATCH_WINDOWS or 2 * off <= n_rows


def test_a_fit_runs_as_its_schedule_says(features: FeatureSet) -> None:
    labelled = int(features.targets.valid_valence[features.frames.rows("train")].sum())
    head = HeadConfig(temporal="none", seq=1, joint=("v",), hidden=())
    found = fit(features, head, FitConfig(epochs=2))
    schedule = found.schedule
    assert (schedule.n_rows, schedule.batch_windows) == (labelled, rows_per_step(labelled))
    assert schedule.steps_per_epoch == -(-labelled // schedule.batch_windows)
    assert (schedule.epochs, schedule.patience, len(found.curve)) == (2, None, 2)
    given_ = fit(features, head, FitConfig(epochs=3, batch_frames=100, select_on="last")).schedule
    assert (given_.batch_windows, given_.steps_per_epoch, given_.epochs) == (100, -(-labelled // 100), 3)
