import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heads.features.targets import Targets
from heads.scoring.intervals import bootstrap, interval, resample
from heads.scoring.predictions import Predictions
from heads.scoring.scores import part_scores, video_sums
from heads.tasks import PARTS


def make_case(seed: int, n: int) -> tuple[Targets, Predictions, NDArray[np.int64], int]:
    """Random labels and predictions of n rows in a few videos, some labels missing, some classes absent."""
    rng = np.random.default_rng(seed)
    n_videos = int(rng.integers(1, 6))
    classes = rng.integers(0, rng.integers(1, 9), n)
    targets = Targets(
        valence=rng.uniform(-1, 1, n).astype(np.float32),
        arousal=rng.normal(0.4, 1e-3, n).astype(np.float32),
        expression=classes,
        action_units=(rng.random((n, 12)) < 0.3).astype(np.float32),
        valid_valence=rng.random(n) < 0.8,
        valid_arousal=np.ones(n, dtype=bool),
        valid_expression=rng.random(n) < 0.8,
        valid_action_units=rng.random((n, 12)) < 0.8,
    )
    targets.valid_valence[:2] = targets.valid_expression[:1] = targets.valid_action_units[:1] = True
    predictions = Predictions(
        rows=np.arange(n),
        valence=rng.uniform(-1, 1, n),
        arousal=rng.normal(0.4, 1e-3, n),
        expression=rng.dirichlet(np.full(8, 0.3), n),
        action_units=rng.random((n, 12)),
        thresholds=rng.uniform(0.1, 0.9, 12),
    )
    return targets, predictions, np.sort(rng.integers(0, n_videos, n)), n_videos


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(8, 60))
def test_sums_over_videos_lead_to_the_scores(seed: int, n: int) -> None:
    targets, predictions, video, n_videos = make_case(seed, n)
    points = part_scores(targets, predictions)
    for part in PARTS:
        found = video_sums(part, targets, predictions, video, n_videos)
        assert len(found.sums) == n_videos
        assert float(found.score(found.sums.sum(axis=0))) == pytest.approx(points[part], abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(8, 60))
def test_a_resample_is_what_scoring_the_drawn_rows_gives(seed: int, n: int) -> None:
    targets, predictions, video, n_videos = make_case(seed, n)
    sums = [video_sums(part, targets, predictions, video, n_videos) for part in PARTS]
    got = bootstrap(sums, n_videos=n_videos, n_resamples=3, seed=5)
    drawn = np.random.default_rng(5).multinomial(n_videos, np.full(n_videos, 1 / n_videos), size=3)
    for number, counts in enumerate(drawn):
        rows = np.repeat(np.arange(n), counts[video])
        some = Predictions(rows=rows, thresholds=predictions.thresholds).with_arrays(
            {task: array[rows] for task, array in predictions.arrays().items()}
        )
        expected = part_scores(targets.take(rows), some)
        for part in expected:
            assert got[part][number] == pytest.approx(expected[part], abs=1e-8)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, predictions, video, n_videos = make_case(1, 50)
    sums = [video_sums(part, targets, predictions, video, n_videos) for part in PARTS]
    whole = resample(sums, n_videos=n_videos, n_resamples=50, seed=0)
    monkeypatch.setattr("heads.scoring.intervals._CHUNK_COUNTS", 7 * n_videos)
    for one, other in zip(whole, resample(sums, n_videos=n_videos, n_resamples=50, seed=0), strict=True):
        assert one == pytest.approx(other, abs=1e-12)


def test_the_middle_95_percent() -> None:
    found = interval(np.arange(1001.0))
    assert (found.low, found.high) == pytest.approx((25, 975))
