import json
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from featurestore.errors import ConfigError, ShapeError, UnknownNameError
from heads.calibration.blend import Blend, error_correlation, fit_blend, near_copies
from heads.calibration.simplex import N_SHARES, _move, fit_weights, score_of
from heads.features.targets import Targets
from heads.scoring.predictions import Predictions
from heads.scoring.scores import part_scores
from heads.tasks import TASKS

N_VIDEOS, N_ROWS = 12, 60
VIDEO = np.repeat(np.arange(N_VIDEOS), N_ROWS)
N = len(VIDEO)


@pytest.fixture(scope="module")
def targets() -> Targets:
    rng = np.random.default_rng(0)
    return Targets(
        valence=rng.uniform(-1, 1, N).astype(np.float32),
        arousal=rng.uniform(-1, 1, N).astype(np.float32),
        expression=rng.integers(0, 8, N),
        action_units=(rng.random((N, 12)) < 0.4).astype(np.float32),
        valid_valence=rng.random(N) < 0.8,
        valid_arousal=rng.random(N) < 0.8,
        valid_expression=rng.random(N) < 0.8,
        valid_action_units=rng.random((N, 12)) < 0.8,
    )


def member(targets: Targets, *, seed: int, noise: float = 1.0) -> Predictions:
    rng = np.random.default_rng(seed)
    logits = 2 * np.eye(8)[targets.expression] + noise * rng.normal(size=(N, 8))
    exponents = np.exp(logits)
    return Predictions(
        rows=np.arange(N),
        valence=targets.valence + 0.5 * noise * rng.normal(size=N),
        arousal=targets.arousal + 0.5 * noise * rng.normal(size=N),
        expression=exponents / exponents.sum(axis=1, keepdims=True),
        action_units=np.clip(0.25 + 0.5 * targets.action_units + 0.4 * noise * rng.normal(size=(N, 12)), 0, 1),
    )


def scores(targets: Targets, predictions: Predictions) -> dict[str, float]:
    found = part_scores(targets.take(predictions.rows), predictions)
    return {task: found[TASKS[task].part] for task in predictions.joint}


def test_members_that_err_apart_are_worth_more_together(targets: Targets) -> None:
    members = {f"m{seed}": member(targets, seed=seed) for seed in range(3)}
    fit_on = {name: each.where(VIDEO % 2 == 0) for name, each in members.items()}
    held = {name: each.where(VIDEO % 2 == 1) for name, each in members.items()}
    blend = fit_blend(fit_on, targets, video_ids=VIDEO)
    together = scores(targets, blend.apply(held))
    for task in TASKS:
        assert sum(blend.weights[task].values()) == pytest.approx(1)
        best = max(scores(targets, each)[task] for each in held.values())
        assert together[task] > best + 0.03
        assert blend.scores[task][blend.ways[task]] == max(blend.scores[task].values())
        assert blend.scores[task]["equal weights"] > blend.scores[task]["best member"]


def test_a_useless_member_gets_little_and_a_copy_of_the_truth_all(targets: Targets) -> None:
    members = {"noise": member(targets, seed=1, noise=9), "truth": member(targets, seed=2, noise=0)}
    blend = fit_blend(members, targets, video_ids=VIDEO)
    for task in TASKS:
        assert blend.weights[task] == {"noise": 0, "truth": 1}
    # Of equals the simplest way.
    assert set(blend.ways.values()) == {"best member"}
    assert blend.members == ("truth",)


def test_uneven_members_get_uneven_weights_where_that_pays(targets: Targets) -> None:
    members = {"better": member(targets, seed=1, noise=0.7), "worse": member(targets, seed=2, noise=1.6)}
    blend = fit_blend(members, targets, video_ids=VIDEO)
    assert blend.ways["v"] == "fitted weights"
    # Independent errors: weights as their inverse variances, .84 and .16.
    assert blend.weights["v"]["better"] == pytest.approx(1.6**2 / (0.7**2 + 1.6**2), abs=0.1)


@pytest.mark.parametrize("task", list(TASKS))
def test_weights_are_near_the_best_of_the_whole_grid(targets: Targets, task: str) -> None:
    members = [member(targets, seed=seed, noise=noise) for seed, noise in ((1, 0.8), (2, 1.0), (3, 1.5))]
    rows = np.flatnonzero(targets.labelled(task))
    arrays = [each.take(rows).of(task) - (0.5 if task == "au" else 0) for each in members]
    score = score_of(task, targets.take(rows))
    found = fit_weights(arrays, score)
    assert found.sum() == pytest.approx(1)
    assert np.allclose(found * N_SHARES, np.round(found * N_SHARES))

    def blended(weights: NDArray[np.float64]) -> float:
        return score(sum(weight * each for weight, each in zip(weights, arrays, strict=True)))

    tried = [np.array(w) / 5 for w in product(range(6), repeat=3) if sum(w) == 5]
    assert blended(found) >= max(blended(weights) for weights in tried) - 0.005
    assert (found == fit_weights(arrays, score)).all()


def test_shares_move_to_the_best_of_all_divisions(targets: Targets) -> None:
    rows = np.flatnonzero(targets.valid_valence)
    better, worse = (member(targets, seed=seed, noise=noise).of("v")[rows] for seed, noise in ((1, 0.7), (2, 1.6)))
    score = score_of("v", targets.take(rows))
    divided = [score((share * better + (N_SHARES - share) * worse) / N_SHARES) for share in range(N_SHARES + 1)]
    for start in ([0, N_SHARES], [N_SHARES, 0], [5, N_SHARES - 5]):
        total = start[0] * better + start[1] * worse
        moved = _move([better, worse], score, np.array(start), total, score(total / N_SHARES))
        assert moved.tolist() == [np.argmax(divided), N_SHARES - np.argmax(divided)]


@pytest.mark.parametrize("task", list(TASKS))
def test_what_is_maximised_is_the_task_s_score(targets: Targets, task: str) -> None:
    some = member(targets, seed=4).only([task])
    some = some.with_thresholds(np.linspace(0.2, 0.8, 12)) if task == "au" else some
    rows = np.flatnonzero(targets.labelled(task))
    values = some.take(rows).of(task) - (some.active_above() if task == "au" else 0)
    assert score_of(task, targets.take(rows))(values) == pytest.approx(scores(targets, some)[task])


def test_labels_of_other_rows_are_not_read_and_members_may_miss_rows(targets: Targets) -> None:
    members = {"a": member(targets, seed=1).where(VIDEO < 9), "b": member(targets, seed=2)}
    valence = members["b"].of("v").copy()
    valence[:40] = np.nan
    members["b"] = members["b"].with_arrays({"v": valence})
    blend = fit_blend(members, targets, video_ids=VIDEO)
    changed = Targets(**{name: getattr(targets, name).copy() for name in Targets.__dataclass_fields__})
    changed.valence[VIDEO >= 9] *= -1
    changed.valence[:40] *= -1
    changed.expression[VIDEO >= 9] = 0
    changed.arousal[~changed.valid_arousal] = 1  # nor what stands where there is no label
    changed.expression[~changed.valid_expression] = 5
    assert fit_blend(members, changed, video_ids=VIDEO) == blend


def test_tasks_are_blended_of_those_that_predict_them(targets: Targets) -> None:
    whole = member(targets, seed=1)
    members = {"a": whole.only(["v", "expr"]), "b": member(targets, seed=2).only(["v"])}
    blend = fit_blend(members, targets, video_ids=VIDEO)
    assert {task: set(weights) for task, weights in blend.weights.items()} == {"expr": {"a"}, "v": {"a", "b"}}
    assert blend.ways["expr"] == "best member"
    assert (blend.apply(members).of("expr") == whole.of("expr")).all()


def test_applying_weights() -> None:
    rows = np.arange(3)
    units = np.tile([[0.2], [0.4], [np.nan]], 12)
    a = Predictions(rows=rows, valence=np.array([0.0, 0.5, 0.6]), action_units=units)
    b = Predictions(rows=rows, valence=np.array([1.0, np.nan, np.nan]), action_units=np.full((3, 12), 0.8))
    blend = Blend(weights={"v": {"a": 0.75, "b": 0.25}, "au": {"a": 0.5, "b": 0.5, "c": 0}})
    got = blend.apply({"a": a, "b": b.with_thresholds(np.full(12, 0.3))})
    # Where one has no prediction the others' weights make up for it.
    assert got.of("v") == pytest.approx([0.25, 0.5, 0.6])
    assert got.of("au")[:, 0] == pytest.approx([0.5, 0.6, 0.8])
    assert got.active_above() == pytest.approx(np.full(12, 0.4))
    assert blend.apply({"a": a, "b": b}).thresholds is None
    nothing = b.with_arrays({"v": np.full(3, np.nan)})
    assert np.isnan(Blend(weights={"v": {"b": 1}}).apply({"b": nothing}).of("v")).all()


def test_refusals(targets: Targets) -> None:
    a, b = member(targets, seed=1), member(targets, seed=2)
    blend = Blend(weights={"v": {"first": 0.5, "second": 0.5}})
    with pytest.raises(UnknownNameError, match=r"There is no member 'second'"):
        blend.apply({"first": a})
    with pytest.raises(ShapeError, match=r"must predict the same rows; 'second' has others in 'v'"):
        blend.apply({"first": a, "second": b.where(VIDEO > 1)})
    for weights in ({"a": 0.5}, {"a": 1.5, "b": -0.5}, {}):
        with pytest.raises(ConfigError, match=r"must be at least 0 and sum to 1"):
            Blend(weights={"v": weights})
    with pytest.raises(UnknownNameError, match=r"There is no task 'valence'"):
        Blend(weights={"valence": {"a": 1}})
    with pytest.raises(ConfigError, match=r"at least one member"):
        fit_blend({}, targets, video_ids=VIDEO)
    with pytest.raises(ShapeError, match=r"labelled rows that all of first, second predict"):
        fit_blend({"first": a.where(VIDEO < 3), "second": b.where(VIDEO > 3)}, targets, video_ids=VIDEO)


def test_there_and_back(targets: Targets) -> None:
    members = {"a": member(targets, seed=1), "b": member(targets, seed=2)}
    blend = fit_blend(members, targets, video_ids=VIDEO, fitted_on="val")
    assert Blend.from_dict(json.loads(json.dumps(blend.to_dict()))) == blend
    assert blend.in_sample("val")
    assert not blend.in_sample("train")
    assert not Blend(weights={"v": {"a": 1}}).in_sample("val")


def test_correlation_of_errors(targets: Targets) -> None:
    a, b = member(targets, seed=1), member(targets, seed=2)
    valence = a.of("v").copy()
    valence[:100] = np.nan
    copy = a.with_arrays({"v": valence, "expr": a.of("expr") * 0.9 + 0.0125}).only(["v", "expr", "au"])
    found = error_correlation({"a": a, "b": b, "copy": copy}, targets)
    assert found.columns == ["task", "first", "second", "correlation", "n_frames"]
    table = {(row["task"], row["first"], row["second"]): row for row in found.iter_rows(named=True)}
    assert len(table) == 3 + 3 + 3 + 1
    valid = targets.valid_valence
    expected = np.corrcoef((a.of("v") - targets.valence)[valid], (b.of("v") - targets.valence)[valid])[0, 1]
    assert table["v", "a", "b"]["correlation"] == pytest.approx(expected)
    assert table["v", "a", "b"]["n_frames"] == valid.sum()
    assert table["v", "a", "copy"]["n_frames"] == valid[100:].sum()
    right = [1 - each.of("expr")[np.arange(N), targets.expression] for each in (a, b)]
    expected = np.corrcoef(*(each[targets.valid_expression] for each in right))[0, 1]
    assert table["expr", "a", "b"]["correlation"] == pytest.approx(expected)
    errors = [(each.of("au") - targets.action_units)[targets.valid_action_units] for each in (a, b)]
    assert table["au", "a", "b"]["correlation"] == pytest.approx(np.corrcoef(*errors)[0, 1])
    assert table["au", "a", "b"]["n_frames"] == targets.labelled("au").sum()

    named = near_copies(found)
    assert len(named) == 3
    assert all("'a' and 'copy'" in sentence for sentence in named)
    assert named[0].startswith("Members 'a' and 'copy' err alike in")
    assert len(near_copies(found, above=-1)) == 10
    assert near_copies(found, above=1.1) == ()


def test_errors_that_do_not_vary_have_no_correlation(targets: Targets) -> None:
    exact = Predictions(rows=np.arange(N), valence=targets.valence.astype(np.float64))
    found = error_correlation({"a": exact, "b": member(targets, seed=1)}, targets)
    assert found["correlation"].to_list() == [None]
    assert near_copies(found) == ()


def test_many_rows_are_thinned_to_look_for_weights(targets: Targets, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"better": member(targets, seed=1, noise=0.7), "worse": member(targets, seed=2, noise=1.6)}
    whole = fit_blend(members, targets, video_ids=VIDEO)
    monkeypatch.setattr("heads.calibration.simplex.MAX_ROWS", 200)
    thinned = fit_blend(members, targets, video_ids=VIDEO)
    assert thinned.scores != whole.scores
    assert thinned.scores["v"]["equal weights"] == whole.scores["v"]["equal weights"]  # judged on all rows
    assert thinned.weights["v"]["better"] == pytest.approx(whole.weights["v"]["better"], abs=0.15)
