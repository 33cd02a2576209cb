import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import ShapeError, UnknownNameError
from heads.scoring.predictions import Predictions

THRESHOLDS = np.linspace(0.1, 0.9, 12)


def make(rows: list[int], *, seed: int = 0, thresholds: np.ndarray | None = None) -> Predictions:
    rng = np.random.default_rng(seed)
    n = len(rows)
    return Predictions(
        rows=np.array(rows),
        valence=rng.uniform(-1, 1, n),
        arousal=rng.uniform(-1, 1, n),
        expression=rng.dirichlet(np.ones(8), n),
        action_units=rng.random((n, 12)),
        thresholds=thresholds,
    )


def same(a: Predictions, b: Predictions) -> bool:
    equal = np.array_equal(a.rows, b.rows) and a.joint == b.joint
    arrays = all(np.array_equal(a.of(task), b.of(task)) for task in a.joint)
    return bool(equal and arrays and np.array_equal(a.active_above(), b.active_above()))


def test_a_unit_is_active_above_its_own_threshold() -> None:
    probabilities = np.tile(THRESHOLDS, (3, 1)) + np.array([[-1e-9], [0], [1e-9]])
    some = Predictions(rows=np.arange(3), action_units=probabilities, thresholds=THRESHOLDS)
    assert some.active_units().tolist() == [[False] * 12, [False] * 12, [True] * 12]
    assert (some.with_thresholds(None).active_units() == (probabilities > 0.5)).all()
    assert some.with_thresholds(None).active_above().tolist() == [0.5] * 12
    probabilities[2, 3] = np.nan
    low = Predictions(rows=np.arange(3), action_units=probabilities, thresholds=np.zeros(12))
    assert not low.active_units()[2, 3]


@given(cut=st.integers(0, 10), seed=st.integers(0, 99))
def test_pieces_in_any_order_make_the_whole(cut: int, seed: int) -> None:
    whole = make(list(range(3, 13)), thresholds=THRESHOLDS)
    picked = np.random.default_rng(seed).permutation(10)[:cut]
    mask = np.isin(np.arange(10), picked)
    assert same(Predictions.concatenated([whole.where(mask), whole.where(~mask)]), whole)
    assert same(Predictions.concatenated([whole.where(~mask), whole.where(mask)]), whole)
    rows = whole.rows[picked]
    taken = whole.take(rows)
    assert taken.rows.tolist() == rows.tolist()
    assert whole.valence is not None
    assert taken.valence is not None
    assert taken.valence.tolist() == whole.valence[picked].tolist()


def test_pieces_that_do_not_belong_together() -> None:
    whole = make([1, 2, 3])
    with pytest.raises(ShapeError, match=r"in one piece of predictions alone"):
        Predictions.concatenated([whole, make([3, 4])])
    with pytest.raises(ShapeError, match=r"the same tasks, got au, expr, v, a and v"):
        Predictions.concatenated([whole, make([4]).only(["v"])])
    with pytest.raises(ShapeError, match=r"the same thresholds"):
        Predictions.concatenated([whole, make([4], thresholds=THRESHOLDS)])
    half = np.full(12, 0.5)
    assert len(Predictions.concatenated([whole, make([4], thresholds=half)])) == 4
    with pytest.raises(ShapeError, match=r"At least one piece"):
        Predictions.concatenated([])


def test_each_task_from_its_own_model() -> None:
    members = {
        task: make([1, 2, 5], seed=number, thresholds=THRESHOLDS)
        for number, task in enumerate(("a", "v", "expr", "au"))
    }
    together = Predictions.together(members)
    assert together.joint == ("au", "expr", "v", "a")
    for task, member in members.items():
        assert (together.of(task) == member.of(task)).all()
    assert together.thresholds is THRESHOLDS
    assert Predictions.together({"v": members["v"]}).thresholds is None
    with pytest.raises(ShapeError, match=r"must be of the same rows: 'v' has 3, 'a' 2"):
        Predictions.together({"v": members["v"], "a": make([1, 2])})
    with pytest.raises(ShapeError, match=r"No 'a' was predicted \(joined: v\)"):
        Predictions.together({"a": members["v"].only(["v"])})
    with pytest.raises(ShapeError, match=r"at least one task"):
        Predictions.together({})


def test_some_tasks() -> None:
    whole = make([1, 2], thresholds=THRESHOLDS)
    some = whole.only(["v", "au"])
    assert some.joint == ("au", "v")
    assert some.thresholds is THRESHOLDS
    assert whole.only(["expr"]).thresholds is None
    with pytest.raises(UnknownNameError, match=r"There is no task 'exp'"):
        whole.only(["exp"])
    with pytest.raises(ShapeError, match=r"No 'a' was predicted \(joined: au, v\)"):
        some.of("a")


def test_rows_that_are_not_there() -> None:
    with pytest.raises(ShapeError, match=r"2 of 3 rows are not predicted, such as row 4"):
        make([1, 2, 5]).take(np.array([1, 4, 7]))


def test_thresholds_are_checked() -> None:
    for wrong in (np.zeros(11), np.full(12, 1.5), np.full(12, np.nan)):
        with pytest.raises(ShapeError, match=r"Thresholds must be 12 numbers in \[0, 1\]"):
            make([1], thresholds=wrong)


def test_other_values_keep_rows_and_thresholds() -> None:
    whole = make([1, 2], thresholds=THRESHOLDS)
    changed = whole.with_arrays({"v": np.zeros(2)})
    assert changed.of("v").tolist() == [0, 0]
    assert (changed.of("a") == whole.of("a")).all()
    assert changed.thresholds is THRESHOLDS
