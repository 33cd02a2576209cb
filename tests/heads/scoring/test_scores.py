import dataclasses
import json
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from featurestore.errors import ShapeError
from heads.features.targets import Targets
from heads.scoring.metrics import concordance_correlation, f1_action_units, f1_macro
from heads.scoring.predictions import Predictions
from heads.scoring.scores import combine, part_scores, score, trivial_scores


def make_targets(n: int, *, seed: int = 0, valid: float = 0.8) -> Targets:
    rng = np.random.default_rng(seed)
    return Targets(
        valence=rng.uniform(-1, 1, n).astype(np.float32),
        arousal=rng.uniform(-1, 1, n).astype(np.float32),
        expression=rng.integers(0, 8, n),
        action_units=(rng.random((n, 12)) < 0.3).astype(np.float32),
        valid_valence=rng.random(n) < valid,
        valid_arousal=rng.random(n) < valid,
        valid_expression=rng.random(n) < valid,
        valid_action_units=rng.random((n, 12)) < valid,
    )


def make_predictions(targets: Targets, rows: NDArray[np.int64], *, seed: int = 1, noise: float = 0.5) -> Predictions:
    rng = np.random.default_rng(seed)
    some = targets.take(rows)
    logits = 2 * np.eye(8)[some.expression] + rng.normal(size=(len(rows), 8))
    return Predictions(
        rows=rows,
        valence=np.clip(some.valence + noise * rng.normal(size=len(rows)), -1, 1),
        arousal=np.clip(some.arousal + noise * rng.normal(size=len(rows)), -1, 1),
        expression=np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True),
        action_units=np.clip(some.action_units * 0.5 + rng.random((len(rows), 12)) * 0.6, 0, 1),
    )


@pytest.fixture(scope="module")
def case() -> tuple[Targets, Predictions, NDArray[np.int64]]:
    targets = make_targets(400)
    video = np.repeat(np.arange(16), 25)
    return targets, make_predictions(targets, np.arange(100, 400)), video


def test_points_are_the_metrics(case: tuple[Targets, Predictions, NDArray[np.int64]]) -> None:
    targets, predictions, video = case
    got = score(targets, predictions, video)
    truth = targets.take(predictions.rows)
    assert predictions.valence is not None
    assert predictions.action_units is not None
    assert got.parts["ccc_valence"] is not None
    assert got.parts["f1_expression"] is not None
    assert got.parts["f1_au"] is not None
    assert got.parts["ccc_arousal"] is not None
    assert got.p is not None
    ccc = concordance_correlation(truth.valence, predictions.valence, valid=truth.valid_valence)
    assert got.parts["ccc_valence"].score == ccc
    f1 = f1_macro(truth.expression, predictions.expression_classes(), valid=truth.valid_expression)
    assert got.parts["f1_expression"].score == pytest.approx(f1)
    units = f1_action_units(truth.action_units, predictions.action_units > 0.5, valid=truth.valid_action_units)
    assert got.parts["f1_au"].score == pytest.approx(units.mean())
    assert list(got.per_au.values()) == pytest.approx(units.tolist())
    assert np.mean(list(got.per_expression.values())) == pytest.approx(f1)
    whole = (ccc + got.parts["ccc_arousal"].score) / 2 + f1 + units.mean()
    assert got.p.score == pytest.approx(whole)
    assert got.of("p") is got.p
    assert got.of("v") is got.parts["ccc_valence"]
    assert (got.n_frames, got.n_videos, got.n_unscored) == (300, 12, 0)


def test_the_interval_equals_a_plain_bootstrap_over_videos(
    case: tuple[Targets, Predictions, NDArray[np.int64]],
) -> None:
    targets, predictions, video = case
    got = score(targets, predictions, video, n_resamples=200, seed=3)
    # The same draws, each resample built row by row and scored by the plain metrics.
    counts = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=200)
    whole = []
    for drawn in counts:
        rows = np.concatenate([np.flatnonzero(video == 4 + v).repeat(times) for v, times in enumerate(drawn) if times])
        truth, some = targets.take(rows), predictions.where(np.ones(300, dtype=bool))
        picked = Predictions(
            rows=rows,
            **{name: getattr(some, name)[rows - 100] for name in ("valence", "arousal", "expression", "action_units")},
        )
        whole.append(combine(part_scores(truth, picked)))
    assert got.p is not None
    assert (got.p.low, got.p.high) == pytest.approx(tuple(np.percentile(whole, (2.5, 97.5))), abs=1e-9)
    assert got.p.low < got.p.score < got.p.high
    assert got.as_dict() == score(targets, predictions, video, n_resamples=200, seed=3).as_dict()
    assert got.as_dict() != score(targets, predictions, video, n_resamples=200, seed=4).as_dict()


def test_an_interval_over_videos_is_wider_than_over_frames() -> None:
    targets = make_targets(2000, valid=1.0)
    per_video = np.random.default_rng(5).normal(size=20).repeat(100) * 0.6
    predictions = Predictions(rows=np.arange(2000), valence=np.clip(targets.valence + per_video, -1, 1))
    videos = score(targets, predictions, np.repeat(np.arange(20), 100)).parts["ccc_valence"]
    rows = score(targets, predictions, np.arange(2000), n_resamples=500).parts["ccc_valence"]
    assert videos is not None
    assert rows is not None
    assert videos.score == rows.score
    assert videos.high - videos.low > 2 * (rows.high - rows.low)


def test_trivial_references() -> None:
    targets = make_targets(400, valid=1.0)
    targets.expression[:100] = 5
    rows = np.arange(100, 400)
    got = trivial_scores(targets, rows, train_rows=np.arange(100))
    share = (targets.expression[rows] == 5).mean()
    assert got["f1_expression"] == pytest.approx(2 * share / (1 + share) / 8)
    rate = targets.action_units[rows].mean(axis=0)
    assert got["f1_au"] == pytest.approx((2 * rate / (1 + rate)).mean())
    assert got["ccc_valence"] == got["ccc_arousal"] == 0
    own = trivial_scores(targets, rows, train_rows=None)
    share = np.bincount(targets.expression[rows]).max() / 300
    assert own["f1_expression"] == pytest.approx(2 * share / (1 + share) / 8)
    assert combine(got) == pytest.approx(got["f1_expression"] + got["f1_au"])
    beside = score(targets, make_predictions(targets, rows), np.repeat(np.arange(16), 25), train_rows=np.arange(100))
    assert {part: each.trivial for part, each in beside.parts.items() if each} == got
    assert beside.p is not None
    assert beside.p.trivial == combine(got)


def test_within_video_concordance_ignores_what_only_knows_the_video() -> None:
    targets = make_targets(300, valid=1.0)
    video = np.repeat(np.arange(10), 30)
    level = np.linspace(-0.5, 0.5, 10)[video]
    targets.valence[:] = 0.3 * targets.valence + level
    means = np.array([targets.valence[video == v].mean() for v in range(10)], dtype=np.float64)[video]
    knows_mean = score(targets, Predictions(rows=np.arange(300), valence=means), video)
    assert knows_mean.parts["ccc_valence"] is not None
    assert knows_mean.parts["ccc_valence"].score > 0.8
    assert knows_mean.within_video["ccc_valence"] == pytest.approx(0, abs=1e-9)
    follows = Predictions(rows=np.arange(300), valence=targets.valence.astype(np.float64) + 5 * level)
    assert score(targets, follows, video).within_video["ccc_valence"] == pytest.approx(1)
    # By hand for uneven videos: CCC of what is left after the mean, weighted by rows.
    rng = np.random.default_rng(0)
    video = np.repeat([0, 1], [100, 200])
    guess = rng.uniform(-1, 1, 300)
    expected = 0.0
    for v in (0, 1):
        x, y = targets.valence[video == v].astype(np.float64), guess[video == v]
        expected += (video == v).mean() * concordance_correlation(x - x.mean(), y - y.mean())
    got = score(targets, Predictions(rows=np.arange(300), valence=guess), video)
    assert got.within_video["ccc_valence"] == pytest.approx(expected)


def test_parts_that_were_not_joined_or_not_labelled_are_null() -> None:
    targets = make_targets(50)
    targets.valid_expression[:] = False
    full = make_predictions(targets, np.arange(50))
    some = Predictions(rows=full.rows, valence=full.valence, expression=full.expression)
    got = score(targets, some, np.repeat([0, 1], 25)).as_dict()
    assert list(got)[:5] == ["P", "ccc_valence", "ccc_arousal", "f1_expression", "f1_au"]
    assert got["P"] is got["ccc_arousal"] is got["f1_expression"] is got["f1_au"] is None
    assert set(got["ccc_valence"]) == {"score", "low", "high", "trivial"}
    assert got["reasons"] == {
        "ccc_arousal": "task 'a' is not joined",
        "f1_expression": "0 of 50 rows have a label of 'expr'",
        "f1_au": "task 'au' is not joined",
        "P": "needs all four parts; without ccc_arousal, f1_expression, f1_au",
    }
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_one_video_has_no_interval() -> None:
    targets = make_targets(100)
    predictions = make_predictions(targets, np.arange(100))
    alone = score(targets, predictions, np.zeros(100, dtype=np.int64))
    for each in (alone.p, *alone.parts.values()):
        assert each is not None
        assert (each.low, each.high) == (None, None)
    got = json.loads(json.dumps(alone.as_dict(), allow_nan=False))
    assert got["P"]["low"] is got["P"]["high"] is got["f1_au"]["low"] is None
    # Two videos, of which one has labels of valence: nor has valence an interval, nor P, and the others have.
    video = np.repeat([0, 1], 50)
    some = dataclasses.replace(targets, valid_valence=targets.valid_valence & (video == 0))
    two = score(some, predictions, video)
    with_interval = [part for part, each in two.parts.items() if each is not None and each.low is not None]
    assert with_interval == ["ccc_arousal", "f1_expression", "f1_au"]
    assert two.p is not None
    assert two.p.low is None


def test_nothing_to_score_does_not_crash() -> None:
    targets = make_targets(20, valid=0)
    got = score(targets, make_predictions(targets, np.arange(20)), np.zeros(20, dtype=np.int64))
    assert got.p is None
    assert all(part is None for part in got.parts.values())


def test_rows_without_embedding_are_left_out_and_counted() -> None:
    targets = make_targets(60)
    targets.valid_valence[:12] = True
    targets.valid_valence[10] = False
    full = make_predictions(targets, np.arange(60))
    assert full.valence is not None
    valence = full.valence.copy()
    valence[:12] = np.nan
    video = np.repeat([0, 1, 2], 20)
    got = score(targets, Predictions(rows=np.arange(60), valence=valence), video)
    rest = score(targets, Predictions(rows=np.arange(12, 60), valence=valence[12:]), video)
    assert got.n_unscored == 11
    assert got.n_frames == 48
    assert got.parts == rest.parts


def test_ten_thousand_resamples_of_the_validation_set_take_under_a_second() -> None:
    targets = make_targets(26_666)
    predictions = make_predictions(targets, np.arange(26_666))
    video = np.arange(26_666) // 540
    started = time.perf_counter()
    got = score(targets, predictions, video, n_resamples=10_000)
    assert time.perf_counter() - started < 3  # under .5 s alone on one core; the machine may be busy
    assert got.p is not None


def test_predictions_are_checked() -> None:
    with pytest.raises(ShapeError, match="got 3 of v for 4 rows"):
        Predictions(rows=np.arange(4), valence=np.zeros(3))
    bare = Predictions(rows=np.arange(4), valence=np.zeros(4))
    with pytest.raises(ShapeError, match=r"No expression was predicted \(joined: v\)"):
        bare.expression_classes()
    with pytest.raises(ShapeError, match="No action unit was predicted"):
        bare.active_units()
    assert bare.joint == ("v",)
    nothing = Predictions(rows=np.arange(2), expression=np.array([[np.nan] * 8, [0.0] * 7 + [1.0]]))
    assert nothing.expression_classes().tolist() == [-1, 7]
    assert nothing.predicted().tolist() == [False, True]
