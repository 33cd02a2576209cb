import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.trainer import Trainer
from heads.modules.config import HeadConfig
from heads.search.space import Candidate
from heads.search.trials import NO_SCORE, TrialJob

TRAINING = FitConfig(epochs=2, batch_frames=128, select="v")
HEAD = HeadConfig(encoder="mae", joint=("v",), temporal="none", seq=1)


def _job(head: HeadConfig = HEAD, *, n_folds: int | None = None, seeds: tuple[int, ...] = (1,)) -> TrialJob:
    return TrialJob(name="trial", candidate=Candidate(head=head, training=TRAINING), seeds=seeds, n_folds=n_folds)


def test_what_the_model_refuses_is_an_answer(few: FeatureSet) -> None:
    for refused in (
        replace(HEAD, temporal="transformer", temporal_width=None, attention_heads=5),  # of 16 columns
        replace(HEAD, fuse=("wide",), fusion="sum"),  # 24 beside 16
    ):
        outcome = _job(refused).run(few, lambda step, value: True)
        assert ("multiple of 5, got 16" in outcome.error) or ("a sum needs equal widths" in outcome.error)
        assert outcome.scores == ()
        assert not outcome.ended


def test_an_honest_trial_fits_each_fold_once(few: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    whole: Callable[[Trainer], object] = Trainer.train_epoch
    monkeypatch.setattr(Trainer, "train_epoch", lambda self: epochs.append(1) or whole(self))
    asked: list[tuple[int, float]] = []
    outcome = _job(n_folds=3, seeds=(1, 2)).run(few, lambda step, value: asked.append((step, value)) is None)
    assert len(epochs) == 2 * 3 * TRAINING.epochs
    assert len(outcome.scores) == 2
    assert [step for step, _ in asked] == [1, 2] * 3 + [3, 4] * 3
    # Only the first fold of the first seed is judged by: the others take its score as it is.
    assert [math.isfinite(value) for _, value in asked] == [True] * 2 + [False] * 10
    assert asked[1][1] >= asked[0][1] > -1


def test_an_honest_trial_ends_in_its_first_fold(few: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    whole: Callable[[Trainer], object] = Trainer.train_epoch
    monkeypatch.setattr(Trainer, "train_epoch", lambda self: epochs.append(1) or whole(self))
    outcome = _job(n_folds=3).run(few, lambda step, value: value is NO_SCORE)
    assert outcome.ended
    assert len(epochs) == 1
