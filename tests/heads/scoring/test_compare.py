import dataclasses
import json

import numpy as np
import pytest
from numpy.typing import NDArray

from featurestore.errors import ShapeError
from heads.features.targets import Targets
from heads.scoring.compare import Comparison, compare, compare_samples
from heads.scoring.predictions import Predictions
from heads.scoring.scores import combine, part_scores, score

N_VIDEOS, N_ROWS = 12, 25
VIDEO = np.repeat(np.arange(N_VIDEOS), N_ROWS)
N = len(VIDEO)


@pytest.fixture(scope="module")
def targets() -> Targets:
    rng = np.random.default_rng(0)
    return Targets(
        valence=rng.uniform(-1, 1, N).astype(np.float32),
        arousal=rng.uniform(-1, 1, N).astype(np.float32),
        expression=rng.integers(0, 8, N),
        action_units=(rng.random((N, 12)) < 0.3).astype(np.float32),
        valid_valence=rng.random(N) < 0.8,
        valid_arousal=rng.random(N) < 0.8,
        valid_expression=rng.random(N) < 0.8,
        valid_action_units=rng.random((N, 12)) < 0.8,
    )


def run(targets: Targets, *, seed: int, noise: float = 0.5, common: NDArray[np.float64] | None = None) -> Predictions:
    """Predictions of all rows, with noise of their own and, if given, noise that others have as well."""
    rng = np.random.default_rng(seed)
    shared = np.zeros(N) if common is None else common
    logits = 2 * np.eye(8)[targets.expression] + 2 * noise * rng.normal(size=(N, 8))
    return Predictions(
        rows=np.arange(N),
        valence=np.clip(targets.valence + shared + noise * rng.normal(size=N), -1, 1),
        arousal=np.clip(targets.arousal + shared + noise * rng.normal(size=N), -1, 1),
        expression=np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True),
        action_units=np.clip(0.5 * targets.action_units + noise * rng.random((N, 12)), 0, 1),
    )


def against(targets: Targets, a: list[Predictions], b: list[Predictions], n_resamples: int = 400) -> Comparison:
    return compare(targets, a, b, VIDEO, n_resamples=n_resamples, seed=3)


def test_it_equals_scoring_every_resample_of_both_sides(targets: Targets) -> None:
    a, b = run(targets, seed=1, noise=0.6), run(targets, seed=2)
    got = against(targets, [a], [b], n_resamples=60)
    differences: dict[str, list[float]] = {"P": []}
    for counts in np.random.default_rng(3).multinomial(N_VIDEOS, np.full(N_VIDEOS, 1 / N_VIDEOS), size=60):
        rows = np.repeat(np.arange(N), counts[VIDEO])
        truth = targets.take(rows)
        scores = [part_scores(truth, each.take(rows)) for each in (a, b)]
        differences["P"].append(combine(scores[1]) - combine(scores[0]))
        for part in scores[0]:
            differences.setdefault(part, []).append(scores[1][part] - scores[0][part])
    assert got.p is not None
    found = {"P": got.p, **got.parts}
    points = [part_scores(targets, each) for each in (a, b)]
    assert got.p.difference == pytest.approx(combine(points[1]) - combine(points[0]))
    for part, samples in differences.items():
        each = found[part]
        assert each is not None
        assert (each.low, each.high) == pytest.approx(tuple(np.percentile(samples, (2.5, 97.5))), abs=1e-9)
        sign = np.sign(each.difference)
        assert each.probability == pytest.approx((np.sign(samples) == sign).mean())
        assert each.stands == (each.low > 0 or each.high < 0)
    assert got.of("v") is got.parts["ccc_valence"]
    assert got.of("p") is got.p
    assert json.loads(json.dumps(got.as_dict(), allow_nan=False))["n_seeds"] == [1, 1]


def test_pairing_finds_what_two_intervals_hide(targets: Targets) -> None:
    hard = np.repeat(np.random.default_rng(9).normal(size=N_VIDEOS), N_ROWS) * 0.7  # videos that are hard for both
    a, b = run(targets, seed=1, noise=0.2, common=hard), run(targets, seed=2, noise=0.1, common=hard)
    apart = [score(targets, each, VIDEO, n_resamples=400).parts["ccc_valence"] for each in (a, b)]
    assert apart[0] is not None
    assert apart[1] is not None
    assert apart[1].low < apart[0].score < apart[1].score < apart[0].high
    paired = against(targets, [a], [b]).parts["ccc_valence"]
    assert paired is not None
    assert paired.stands
    assert paired.probability > 0.99
    assert paired.high - paired.low < 0.3 * (apart[0].high - apart[0].low)


def test_sides_change_places(targets: Targets) -> None:
    a, b = [run(targets, seed=1), run(targets, seed=4)], [run(targets, seed=seed, noise=0.45) for seed in (2, 3)]
    there, back = against(targets, a, b), against(targets, b, a)
    assert there.p is not None
    assert back.p is not None
    assert back.p.difference == pytest.approx(-there.p.difference)
    assert (back.p.low, back.p.high) == pytest.approx((-there.p.high, -there.p.low))
    assert back.p.probability == there.p.probability
    assert (back.p.a, back.p.b) == (there.p.b, there.p.a)
    same = against(targets, a, a)
    assert same.p is not None
    assert (same.p.difference, same.p.probability) == (0, 0.5)
    assert same.p.low <= 0 <= same.p.high
    assert not same.p.stands


N_DRAWN, N_DRAWS = 400, 600
COUNTS = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=N_DRAWN) / 30


def stands_share(n_a: int, n_b: int, *, main: float, by_video: float, calm: float = 1.0, shift: float = 0.0) -> float:
    """How often two heads differ whose runs score by the video, by their seed, and by their seed on the video.

    Side b is better by `shift`, and side a depends on its seed `calm` times as much as side b does.
    """
    rng = np.random.default_rng(1)
    n = n_a + n_b
    spread = np.where(np.arange(n) < n_a, calm, 1.0)[:, None]
    found = 0
    for number in range(N_DRAWS):
        hard = rng.normal(size=30)
        by_video_too = hard + spread * (main * rng.normal(size=(n, 1)) + by_video * rng.normal(size=(n, 30)))
        by_video_too[n_a:] += shift
        samples = by_video_too @ COUNTS.T
        found += compare_samples(by_video_too.mean(axis=1), samples, n_a=n_a, seed=number).stands
    return found / N_DRAWS


@pytest.mark.parametrize(("n_a", "n_b"), [(2, 2), (3, 3), (5, 5), (1, 5), (2, 5)])
@pytest.mark.parametrize(("main", "by_video"), [(1, 0), (0, 1), (1, 3)])
def test_heads_that_are_the_same_hardly_ever_stand(n_a: int, n_b: int, main: float, by_video: float) -> None:
    # 5 % would be right; of 600 draws, 7.5 % or more would come of that once in 200 times.
    share = stands_share(n_a, n_b, main=main, by_video=by_video)
    assert share < 0.1 if n_a != n_b else share < 0.075


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_head_that_depends_on_its_seed_beside_one_that_does_not(n: int) -> None:
    assert stands_share(n, n, main=1, by_video=0, calm=0.1) < 0.085


@pytest.mark.parametrize(("n", "shift", "least"), [(2, 15, 0.85), (3, 5, 0.85), (5, 2.5, 0.85)])
def test_true_differences_are_found(n: int, shift: float, least: float) -> None:
    assert stands_share(n, n, main=1, by_video=0, shift=shift) > least
    # What comes of the videos is not counted twice: as sure as the videos alone would have it, with some tolerance.
    assert stands_share(n, n, main=0, by_video=1, shift=shift) == 1


def test_it_is_no_stricter_than_it_must_be() -> None:
    assert stands_share(5, 5, main=1, by_video=0) > 0.03
    # Five seeds a side that differ by the video: what they differ by stands in the videos' resamples already.
    least = 2.8 * np.sqrt(2 / 5 / 30)  # found by four of five, were the spread known
    assert stands_share(5, 5, main=0, by_video=1, shift=least) > 0.55


def test_seeds_are_resampled_too(targets: Targets) -> None:
    good, bad, other = (run(targets, seed=seed, noise=noise) for seed, noise in ((1, 0.2), (2, 0.8), (3, 0.45)))
    alone = [against(targets, [each], [other]).parts["ccc_valence"] for each in (good, bad)]
    several = against(targets, [good, bad], [other]).parts["ccc_valence"]
    assert several is not None
    assert alone[0] is not None
    assert alone[1] is not None
    assert several.a == pytest.approx((alone[0].a + alone[1].a) / 2)
    assert several.difference == pytest.approx((alone[0].difference + alone[1].difference) / 2)
    # What the seed changes is inside the interval.
    assert several.low < alone[0].difference
    assert several.high > alone[1].difference
    assert not several.stands
    assert alone[0].stands
    assert alone[1].stands


def test_a_tie_counts_half() -> None:
    rows = np.arange(2)
    targets = Targets(
        valence=np.zeros(2, dtype=np.float32),
        arousal=np.zeros(2, dtype=np.float32),
        expression=np.array([3, 3]),
        action_units=np.zeros((2, 12), dtype=np.float32),
        valid_valence=np.zeros(2, dtype=bool),
        valid_arousal=np.zeros(2, dtype=bool),
        valid_expression=np.ones(2, dtype=bool),
        valid_action_units=np.zeros((2, 12), dtype=bool),
    )
    a = Predictions(rows=rows, expression=np.eye(8)[[3, 4]])
    b = Predictions(rows=rows, expression=np.eye(8)[[3, 3]])
    got = compare(targets, [a], [b], np.array([0, 1]), n_resamples=20_000).parts["f1_expression"]
    assert got is not None
    # Of two videos drawn, the one that differs is missing in a quarter of the resamples.
    assert got.probability == pytest.approx(3 / 4 + 1 / 8, abs=0.01)


def test_only_what_all_predict_is_compared(targets: Targets) -> None:
    a, b = run(targets, seed=1), run(targets, seed=2)
    some = (VIDEO > 1) & (VIDEO < 10)
    valence = b.of("v").copy()
    valence[(VIDEO > 3) & (VIDEO < 6)] = np.nan
    kept = some & ~np.isnan(valence)
    got = against(targets, [a.where(some)], [b.with_arrays({"v": valence})])
    assert got.as_dict() == against(targets, [a.where(kept)], [b.where(kept)]).as_dict()
    assert (got.n_frames, got.n_videos) == (6 * N_ROWS, 6)
    fewer = against(targets, [a.only(["v", "expr"]), a], [b])
    assert fewer.p is None
    assert fewer.parts["f1_au"] is None
    assert fewer.reasons["f1_au"] == "task 'au' is not joined"
    assert fewer.reasons["P"] == "needs all four parts; without ccc_arousal, f1_au"
    assert fewer.n_seeds == (2, 1)


def test_one_video_that_tells_of_a_part_says_nothing_of_others(targets: Targets) -> None:
    some = dataclasses.replace(targets, valid_valence=targets.valid_valence & (VIDEO == 3))
    got = against(some, [run(targets, seed=1)], [run(targets, seed=2, noise=0.1)])
    for part in (got.parts["ccc_valence"], got.p):
        assert part is not None
        assert (part.low, part.high, part.probability) == (-np.inf, np.inf, 0.5)
        assert (part.as_dict()["low"], part.as_dict()["high"], part.stands) == (None, None, False)
    assert got.parts["ccc_arousal"] is not None
    assert got.parts["ccc_arousal"].stands


def test_refusals(targets: Targets) -> None:
    a, b = run(targets, seed=1), run(targets, seed=2)
    with pytest.raises(ShapeError, match=r"Both sides of a comparison need predictions, got 1 and 0"):
        against(targets, [a], [])
    with pytest.raises(ShapeError, match=r"by tasks that all of them join, but there is none \(a; v\)"):
        against(targets, [a.only(["v"])], [b.only(["a"])])
    with pytest.raises(ShapeError, match=r"on rows that all of them predict, but there is none"):
        against(targets, [a.where(VIDEO < 3)], [b.where(VIDEO > 3)])
