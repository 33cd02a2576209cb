from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featurestore.errors import ConfigError
from featurestore.frames import FrameTable
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.fitting.folds import video_folds
from heads.fitting.outoffold import FoldReport, fit_folds, fit_folds_each
from heads.fitting.parts import Parts
from heads.modules.config import HeadConfig
from heads.scoring.scores import part_scores

MakeFrames = Callable[..., FrameTable]
MakeVectors = Callable[..., NDArray[np.float32]]
Build = Callable[[FrameTable, Mapping[str, NDArray[np.float32]]], FeatureSet]

HEAD = HeadConfig(joint=("v", "a"), seq=8)
TRAINING = FitConfig(epochs=3, batch_frames=64, learning_rate=1e-2)
VIDEOS = {f"t{i}": ("train", 30 + 3 * i) for i in range(6)} | {"v": ("val", 40)}


@pytest.fixture
def six_videos(new_features: Build, make_frames: MakeFrames, label_vectors: MakeVectors) -> FeatureSet:
    frames = make_frames(VIDEOS)
    return new_features(frames, {"mae": label_vectors(frames, noise=0.5)})


def test_each_row_is_predicted_by_the_model_that_did_not_see_its_video(six_videos: FeatureSet) -> None:
    folds = video_folds(six_videos.frames, 3)
    reports: list[FoldReport] = []
    found = fit_folds(six_videos, HEAD, TRAINING, folds, on_epoch=reports.append)
    train = six_videos.frames.rows("train")
    assert found.predictions.rows.tolist() == train.tolist()
    assert [(each.fold, each.epoch) for each in reports] == [(fold, epoch) for fold in (1, 2, 3) for epoch in (1, 2, 3)]
    # The same as a plain fit on the other folds, stopped at the epoch that was kept.
    alone = fit(
        six_videos,
        HEAD,
        replace(TRAINING, epochs=found.epoch, select_on="last"),
        parts=Parts.of_fold(six_videos, folds, 1),
    )
    of_fold = np.isin(found.predictions.rows, alone.predictions.rows)
    assert found.predictions.valence is not None
    assert alone.predictions.valence is not None
    assert of_fold.sum() == (folds == 1).sum()
    assert np.allclose(found.predictions.valence[of_fold], alone.predictions.valence, atol=1e-6)


def test_a_fold_s_own_score_is_told_by_epoch(six_videos: FeatureSet) -> None:
    folds = video_folds(six_videos.frames, 3)
    training = replace(TRAINING, select="v")
    reports: list[FoldReport] = []
    fit_folds(six_videos, HEAD, training, folds, on_epoch=reports.append)
    alone = fit(six_videos, HEAD, training, parts=Parts.of_fold(six_videos, folds, 1))
    assert [each.selected for each in reports[3:6]] == pytest.approx([each.selected for each in alone.curve])
    unseen: list[FoldReport] = []
    fit_folds(six_videos, HEAD, replace(training, select_on="last"), folds, on_epoch=unseen.append)
    assert np.isnan([each.selected for each in unseen]).all()
    # A fold without a label of the task has no score; the folds together have.
    six_videos.targets.valence[folds == 0] = np.nan
    six_videos.targets.valid_valence[folds == 0] = False
    bare: list[FoldReport] = []
    fit_folds(six_videos, HEAD, training, folds, on_epoch=bare.append)
    assert [bool(np.isnan(each.selected)) for each in bare] == [True] * 3 + [False] * 6


def test_one_epoch_is_kept_for_all_folds(six_videos: FeatureSet) -> None:
    found = fit_folds(six_videos, HEAD, TRAINING, video_folds(six_videos.frames, 2))
    together = [0.5 * each["ccc_valence"] + 0.5 * each["ccc_arousal"] for each in found.curve]
    assert len(together) == 3
    assert found.epoch == int(np.argmax(together)) + 1
    points = part_scores(six_videos.targets.take(found.predictions.rows), found.predictions)
    assert points == pytest.approx(found.curve[found.epoch - 1], abs=1e-9)
    part = found.scores.parts["ccc_valence"]
    assert part is not None
    assert part.score == pytest.approx(found.curve[found.epoch - 1]["ccc_valence"], abs=1e-9)


def test_tasks_that_share_nothing_keep_an_epoch_each(six_videos: FeatureSet) -> None:
    folds = video_folds(six_videos.frames, 2)
    training = replace(TRAINING, epochs=8, learning_rate=0.3, select="each")
    head = replace(HEAD, temporal="none")
    found = fit_folds(six_videos, head, training, folds)
    for task, part in (("v", "ccc_valence"), ("a", "ccc_arousal")):
        scores = [each[part] for each in found.curve]
        assert found.epochs[task] == int(np.argmax(scores)) + 1
        own = found.scores.parts[part]
        assert own is not None
        assert own.score == pytest.approx(max(scores), abs=1e-9)
    assert found.epoch == max(found.epochs.values())
    # The same epochs, given: nothing is looked at for them.
    (given,) = fit_folds_each(six_videos, head, training, ("each",), folds, epochs=[found.epochs])
    assert given.epochs == found.epochs
    assert all(np.array_equal(given.predictions.of(task), found.predictions.of(task)) for task in ("v", "a"))


def test_the_last_epoch_is_kept_where_nothing_is_to_be_looked_at(six_videos: FeatureSet) -> None:
    found = fit_folds(six_videos, HEAD, replace(TRAINING, select_on="last"), video_folds(six_videos.frames, 2))
    assert (found.epoch, len(found.curve)) == (3, 1)


def test_val_labels_have_no_part_in_it(six_videos: FeatureSet) -> None:
    folds = video_folds(six_videos.frames, 2)
    before = fit_folds(six_videos, HEAD, TRAINING, folds).predictions
    scrambled = replace(six_videos)
    target, _ = scrambled.target_tensors["v"]
    val = torch.from_numpy(six_videos.frames.rows("val"))
    target[val] = -target[val]
    scrambled.targets.valence[val.numpy()] *= -1
    after = fit_folds(scrambled, HEAD, TRAINING, folds).predictions
    assert before.valence is not None
    assert (before.valence == after.valence).all()


def test_refusals(six_videos: FeatureSet) -> None:
    with pytest.raises(ConfigError, match=r"need at least 2 folds, got 1"):
        fit_folds(six_videos, HEAD, TRAINING, np.zeros(len(six_videos.frames), dtype=np.int64))
    folds = video_folds(six_videos.frames, 3)
    folds[folds == 1] = 0
    with pytest.raises(ConfigError, match=r"Fold 2 of 3 leaves nothing to learn from or nothing to judge by"):
        fit_folds(six_videos, HEAD, TRAINING, folds)
