import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from featurestore.errors import ConfigError, ShapeError
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.fitting.folds import video_folds
from heads.fitting.parallel import ALONE_S, FitJob, FitResult, fit_many, resolve_parallel
from heads.fitting.parts import Parts
from heads.fitting.workers import ONE, Parallel
from heads.modules.config import HeadConfig
from heads.scoring.predictions import Predictions

TRAINING = FitConfig(epochs=2, learning_rate=1e-2, batch_frames=64)
LINEAR = HeadConfig(joint=("v",), temporal="none", seq=1)
LSTM = HeadConfig(fuse=("au",), joint=("au", "expr", "v", "a"), temporal="lstm", seq=5)


def _same(a: Predictions, b: Predictions) -> bool:
    return a.joint == b.joint and all(np.array_equal(a.of(task), b.of(task)) for task in a.joint)


def test_the_results_of_a_fit_alone(features: FeatureSet) -> None:
    folds = video_folds(features.frames, 2)
    jobs = [
        FitJob(name="linear", head=LINEAR, training=replace(TRAINING, select="v"), keep_weights=True),
        FitJob(name="lstm", head=LSTM, training=TRAINING),
        FitJob(name="fold", head=LINEAR, training=TRAINING, parts=Parts.of_fold(features, folds, 1)),
    ]
    order: list[int] = []
    results = fit_many(features, jobs, parallel=Parallel(1), on_done=lambda number, _: order.append(number))
    assert order == [0, 1, 2]
    for job, sent in zip(jobs, results, strict=True):
        result = pickle.loads(pickle.dumps(sent))  # as it comes from a worker
        alone = fit(features, job.head, job.training, parts=job.parts)
        assert _same(result.predictions, alone.predictions)
        assert result.scores == alone.scores
        assert [replace(each, seconds=0) for each in result.curve] == [replace(each, seconds=0) for each in alone.curve]
        assert (result.epoch, result.selected_on, result.n_parameters) == (
            alone.epoch,
            alone.selected_on,
            alone.n_parameters,
        )
        assert (result.weights is None) == (not job.keep_weights)
    model = results[0].fitted(torch.device("cpu")).model
    first = fit(features, LINEAR, jobs[0].training).model
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), first.state_dict().values(), strict=True))
    with pytest.raises(ConfigError, match=r"weights were not kept.*keep_weights=True"):
        results[1].fitted(torch.device("cpu"))


def test_a_fit_that_cannot_be_names_its_job(features: FeatureSet) -> None:
    done: dict[int, FitResult] = {}
    wide = FitJob(name="row 3", head=replace(LINEAR, fuse=("wide",)), training=TRAINING)
    good = FitJob(name="row 1", head=LINEAR, training=TRAINING)
    with pytest.raises(ShapeError, match=r"^row 3: .*'wide' have 24 columns"):
        fit_many(features, [good, wide, good], parallel=Parallel(1), on_done=done.__setitem__)
    assert list(done) == [0]


def test_how_many_at_once(features: FeatureSet, store: FeatureStore) -> None:
    streamed = FeatureSet.load(store, ("mae",), device="cpu", memory_bytes=4000)
    assert resolve_parallel("3", features) == Parallel(3)
    assert resolve_parallel("3", streamed) == resolve_parallel("auto", streamed) == ONE
    assert resolve_parallel("auto", features) == Parallel(min(4, torch.get_num_threads()), ALONE_S)
    for text in ("0", "-1", "two", ""):
        with pytest.raises(ConfigError, match=rf"auto or a number of at least 1, such as 2, got {text!r}"):
            resolve_parallel(text, features)


def test_patience_ends_a_fit(features: FeatureSet) -> None:
    training = replace(TRAINING, epochs=30, select="v", learning_rate=3e-2)
    whole = fit(features, LINEAR, training)
    scores = [report.selected for report in whole.curve]
    best = np.maximum.accumulate(scores)
    ends = [next((n for n in range(1, 31) if n - int(np.argmax(scores[:n])) - 1 >= p), 30) for p in (1, 3)]
    assert ends[0] < ends[1] <= 30
    for patience, end in zip((1, 3), ends, strict=True):
        ended = fit(features, LINEAR, replace(training, patience=patience))
        assert len(ended.curve) == end
        assert [report.selected for report in ended.curve] == scores[:end]
        assert ended.scores.parts["ccc_valence"].score == pytest.approx(best[end - 1])
    assert len(fit(features, LINEAR, replace(training, epochs=4, patience=1, select_on="last")).curve) == 4


@pytest.mark.gpu
def test_workers_share_a_gpu(store: FeatureStore) -> None:
    features = FeatureSet.load(store, ("mae", "au"), device="cuda")
    jobs = [FitJob(name=str(seed), head=LSTM, training=replace(TRAINING, seed=seed)) for seed in (1, 2, 3)]
    several, one = (fit_many(features, jobs, parallel=Parallel(n)) for n in (2, 1))
    assert all(_same(a.predictions, b.predictions) for a, b in zip(several, one, strict=True))
