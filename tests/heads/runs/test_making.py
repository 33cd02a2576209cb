"""Fits with folds and calibration, of both kinds of heads, and their way to the disk and back."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from featurestore.errors import ConfigError, UnknownNameError
from featurestore.frames import FrameTable
from featurestore.labels import LABEL_COLUMNS
from heads.calibration.config import PostConfig
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import FittedHead, fit
from heads.fitting.folds import video_folds
from heads.fitting.outoffold import FoldReport
from heads.fitting.parts import Parts
from heads.light.config import LightConfig
from heads.light.fit import FittedLight
from heads.modules.config import HeadConfig
from heads.runs.judging import Judging
from heads.runs.making import make, make_each
from heads.runs.probe import fit_probe
from heads.runs.run import Run

MakeFrames = Callable[..., FrameTable]
MakeVectors = Callable[..., NDArray[np.float32]]
Build = Callable[[FrameTable, Mapping[str, NDArray[np.float32]]], FeatureSet]

HEAD = HeadConfig(temporal="none", seq=4)
TRAINING = FitConfig(epochs=3, batch_frames=64, learning_rate=1e-2)
POST = PostConfig(thresholds=True, class_bias=True, rescale=True, n_folds=2, least_gain=0)
VIDEOS = {f"t{i}": ("train", 24) for i in range(6)} | {"v": ("val", 30), "w": ("val", 20)}


@pytest.fixture
def videos(new_features: Build, make_frames: MakeFrames, label_vectors: MakeVectors) -> FeatureSet:
    frames = make_frames(VIDEOS, smooth=4)
    return new_features(frames, {"mae": label_vectors(frames, noise=0.4)})


def scrambled(features: FeatureSet) -> FeatureSet:
    """The same with other val labels."""
    other = replace(features)
    rows = features.frames.rows("val")
    for task in ("valence", "arousal", "expression", "action_units"):
        values = getattr(other.targets, task)
        values[rows] = values[rows][::-1].copy()
    return other


def test_a_plain_fit_is_what_fit_returns(videos: FeatureSet) -> None:
    made = make(videos, HEAD, TRAINING)
    alone = fit(videos, HEAD, TRAINING)
    assert made.out_of_fold is made.calibration is None
    assert made.predictions is made.fitted.predictions
    assert made.scores.as_dict() == alone.scores.as_dict()


def test_the_calibration_sees_train_out_of_fold_and_never_val(videos: FeatureSet) -> None:
    judging = Judging(post=POST, folds=2, select_on_folds=True)
    made = make(videos, HEAD, TRAINING, judging)
    assert made.calibration is not None
    assert made.calibration.fitted_on == "train, out of fold"
    assert made.out_of_fold is not None
    assert made.out_of_fold.predictions.rows.tolist() == videos.frames.rows("train").tolist()
    # The folds pick the epoch, too: with other val labels nothing is fitted otherwise.
    again = make(scrambled(videos), HEAD, TRAINING, judging)
    assert again.calibration == made.calibration
    assert again.predictions.valence is not None
    assert made.predictions.valence is not None
    assert (again.predictions.valence == made.predictions.valence).all()
    assert made.fitted.selected_on == "last"


def test_a_calibration_on_val_says_so(videos: FeatureSet) -> None:
    made = make(videos, HEAD, TRAINING, Judging(post=POST, calibrate_on="val"))
    assert made.out_of_fold is None
    run = Run.from_fit(made, videos, judging=Judging(post=POST, calibrate_on="val"))
    assert run.record.in_sample("val") == "the post-processing was calibrated on these frames"
    assert run.record.in_sample("train") == "the head was trained on these frames"
    assert run.record.in_sample("test") is None
    assert run.metrics["in_sample"] == run.record.in_sample("val")
    assert make(scrambled(videos), HEAD, TRAINING, Judging(post=POST, calibrate_on="val")).calibration is not None


@pytest.mark.parametrize("select", ["p", "each"])
def test_folds_keep_the_epochs_and_the_schedule_of_the_fit_on_all_of_train(videos: FeatureSet, select: str) -> None:
    # Rows a step and epochs follow from the rows.
    training = FitConfig(patience=4, learning_rate=1e-2, select=select)
    told: list[tuple[int | None, int, int]] = []
    made = make(
        videos,
        HEAD,
        training,
        Judging(folds=3),
        on_epoch=lambda report: told.append((None, report.epoch, report.n_epochs)),
        on_fold=lambda report: told.append((report.fold, report.epoch, report.n_epochs)),
    )
    whole, folded = made.fitted, made.out_of_fold
    assert isinstance(whole, FittedHead)
    assert folded is not None
    n_epochs, kept = len(whole.curve), whole.epoch
    assert n_epochs == kept + 4 < whole.schedule.epochs  # patience has ended it
    assert (folded.epochs, folded.schedule) == (whole.epochs, whole.schedule)
    assert (len(set(whole.epochs.values())) > 1) == (select == "each")
    # The whole comes first, and no fold goes on beyond its last epoch.
    assert [(fold, epoch) for fold, epoch, _ in told] == [(None, epoch) for epoch in range(1, n_epochs + 1)] + [
        (fold, epoch) for fold in (1, 2, 3) for epoch in range(1, kept + 1)
    ]
    assert {total for fold, _, total in told if fold is not None} == {kept}
    # A fold is the fit on the others that ends where the task's does, with as many windows a step as the whole has.
    folds = video_folds(videos.frames, 3, seed=0)
    for task, epoch in whole.epochs.items():
        alone = fit(
            videos,
            HEAD,
            replace(training, select_on="last"),
            parts=Parts.of_fold(videos, folds, 1),
            schedule=replace(whole.schedule, epochs=epoch, patience=None),
        )
        of_fold = np.isin(folded.predictions.rows, alone.predictions.rows)
        assert of_fold.sum() == len(alone.predictions.rows)
        assert np.allclose(folded.predictions.of(task)[of_fold], alone.predictions.of(task), atol=1e-6)


def test_folds_of_a_light_head_keep_the_penalties_of_the_fit_on_all_of_train(
    videos: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def choose(groups: NDArray[np.int64], *_: object, **__: object) -> float:
        given.append(len(groups))
        return 0.01

    monkeypatch.setattr("heads.light.penalty.choose_penalty", choose)
    made = make(videos, LightConfig(estimator="ridge", joint=("v", "expr")), TRAINING, Judging(folds=2))
    train = videos.frames.rows("train")
    # Of all of train, once a task; neither folds nor the probe choose.
    assert given == [videos.targets.labelled(task)[train].sum() for task in ("expr", "v")]
    assert isinstance(made.fitted, FittedLight)
    assert made.fitted.penalties == {"expr": 0.01, "v": 0.01}


def test_a_linear_probe_stands_beside_a_fit_unless_it_is_not_wanted(videos: FeatureSet) -> None:
    made = make(videos, HEAD, TRAINING, Judging(folds=2))
    probe = fit_probe(videos, HEAD)
    assert probe is not None
    assert made.probe == probe
    assert make(videos, HEAD, TRAINING, Judging(probe=False)).probe is None


def test_each_score_picks_its_own_epoch_in_one_fit(videos: FeatureSet) -> None:
    selects = ("au", "v", "p")
    together = make_each(videos, HEAD, TRAINING, selects, Judging(folds=2))
    for select, made in zip(selects, together, strict=True):
        alone = make(videos, HEAD, replace(TRAINING, select=select), Judging(folds=2))
        assert made.scores.as_dict() == alone.scores.as_dict()
        assert made.out_of_fold is not None
        assert alone.out_of_fold is not None
        assert made.out_of_fold.epochs == alone.out_of_fold.epochs
        assert made.out_of_fold.scores.as_dict() == alone.out_of_fold.scores.as_dict()


@pytest.mark.parametrize("config", [HEAD, LightConfig(estimator="ridge", joint=("v", "expr"))], ids=["head", "light"])
def test_a_calibrated_run_comes_back_from_the_disk(
    config: HeadConfig | LightConfig, videos: FeatureSet, tmp_path: Path
) -> None:
    judging = Judging(post=POST, folds=2)
    made = make(videos, config, TRAINING, judging)
    run = Run.from_fit(made, videos, training=TRAINING, judging=judging, name="r")
    run.save(tmp_path / "r")
    loaded = Run.load(tmp_path / "r")
    assert loaded.record == run.record
    assert type(loaded.head) is type(config)
    assert loaded.calibration == made.calibration
    for raw, expected in ((False, made.predictions), (True, made.fitted.predictions)):
        found = loaded.predict(videos, raw=raw)
        assert found.joint == expected.joint
        for task, array in found.arrays().items():
            assert np.allclose(array, expected.arrays()[task], atol=1e-6)
    assert loaded.out_of_fold is not None
    assert loaded.out_of_fold.height == len(videos.frames.rows("train"))
    assert loaded.metrics["out_of_fold"] == run.metrics["out_of_fold"]
    assert {"uncalibrated", "calibrated_on"} <= set(loaded.metrics)
    loaded.save(tmp_path / "r")  # the same configuration may be written again


def test_refusals(videos: FeatureSet) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=r"no split to calibrate on 'test'"):
        Judging(calibrate_on="test")
    with pytest.raises(ConfigError, match=r"9 folds of whole clips .* the train split has 6"):
        make(videos, HEAD, TRAINING, Judging(folds=9))


@pytest.mark.parametrize(
    ("config", "select_on", "on_folds", "reason"),
    [
        (HEAD, "val", False, "The best epoch is picked on val"),
        (HEAD, "last", False, "What is fitted is scored on val"),
        (HEAD, "val", True, "What is fitted is scored on val"),
        (LightConfig(estimator="ridge"), "val", False, "What is fitted is scored on val"),
    ],
    ids=["val", "last", "folds", "light"],
)
@pytest.mark.parametrize("n_rows", [0, 30])
def test_a_val_that_cannot_judge_is_refused_before_any_fold(
    config: HeadConfig | LightConfig,
    select_on: str,
    on_folds: bool,
    reason: str,
    n_rows: int,
    new_features: Build,
    make_frames: MakeFrames,
    label_vectors: MakeVectors,
) -> None:
    frames = make_frames({f"t{i}": ("train", 12) for i in range(4)} | ({"v": ("val", n_rows)} if n_rows else {}))
    is_val = pl.col("split") == "val"
    frames = FrameTable(
        frames.data.with_columns(pl.when(is_val).then(None).otherwise(pl.col(c)).alias(c) for c in LABEL_COLUMNS)
    )
    features = new_features(frames, {"mae": label_vectors(frames)})
    folds: list[FoldReport] = []
    judging = Judging(folds=2, select_on_folds=on_folds)
    with pytest.raises(ConfigError, match=rf"{reason}, but of its {n_rows} rows too few have both"):
        make(features, config, replace(TRAINING, select_on=select_on), judging, on_fold=folds.append)
    assert folds == []
