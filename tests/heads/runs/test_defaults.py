"""Thresholds of light heads by default, where there are clips enough and folds are quick."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from featurestore.frames import FrameTable
from heads.calibration.config import PostConfig
from heads.features.featureset import FeatureSet
from heads.light.config import LAYERED, LightConfig
from heads.modules.config import HeadConfig
from heads.runs import defaults
from heads.runs.defaults import DEFAULT_FOLDS, LEAST_CLIPS, default_judging
from heads.runs.judging import Judging

MakeFrames = Callable[..., FrameTable]
Build = Callable[[FrameTable, Mapping[str, NDArray[np.float32]]], FeatureSet]

LIGHT = LightConfig(estimator="ridge")


@pytest.fixture
def build(new_features: Build, make_frames: MakeFrames) -> Callable[..., FeatureSet]:
    """Features of so many train videos, of which some have no label."""

    def made(n_videos: int, *, bare: int = 0, suffix: str = "") -> FeatureSet:
        videos = {f"t{i}{suffix}": ("train", 6) for i in range(n_videos)} | {"v": ("val", 6)}
        frames = make_frames(videos, unlabelled=0)
        hidden = [f"t{i}{suffix}" for i in range(bare)]
        labels = ("expression", *(name for name in frames.data.columns if name.startswith("au")))
        is_bare = pl.col("video").is_in(hidden)
        frames = FrameTable(
            frames.data.with_columns(pl.when(is_bare).then(None).otherwise(pl.col(name)).alias(name) for name in labels)
        )
        return new_features(frames, {"mae": np.random.default_rng(0).normal(size=(len(frames), 4)).astype(np.float32)})

    return made


def test_a_light_head_gets_thresholds_out_of_fold(build: Callable[..., FeatureSet]) -> None:
    judging, reason = default_judging(build(LEAST_CLIPS), LIGHT)
    assert reason == ""
    assert judging.post == PostConfig(thresholds=True)
    assert judging.n_folds == DEFAULT_FOLDS
    assert (judging.calibrate_on, judging.select_on_folds, judging.probe) == ("train", False, True)


@pytest.mark.parametrize(
    "config",
    [HeadConfig(), *(replace(LIGHT, estimator=name) for name in LAYERED), replace(LIGHT, joint=("expr", "v"))],
    ids=["neural", *LAYERED, "without units"],
)
def test_nothing_is_calibrated_of_other_heads(
    build: Callable[..., FeatureSet], config: HeadConfig | LightConfig
) -> None:
    assert default_judging(build(LEAST_CLIPS), config) == (Judging(), "")


def test_too_few_clips_calibrate_nothing(build: Callable[..., FeatureSet]) -> None:
    judging, reason = default_judging(build(LEAST_CLIPS - 1), LIGHT)
    assert judging == Judging()
    assert reason == f"train has {LEAST_CLIPS - 1} clips with labels of action units, at least {LEAST_CLIPS} needed"


def test_clips_without_labels_of_action_units_do_not_count(build: Callable[..., FeatureSet]) -> None:
    judging, reason = default_judging(build(LEAST_CLIPS + 1, bare=2), LIGHT)
    assert judging == Judging()
    assert reason.startswith(f"train has {LEAST_CLIPS - 1} clips with labels of action units, at least")


def test_two_people_of_one_clip_are_one(new_features: Build, make_frames: MakeFrames) -> None:
    names = [f"t{i}{side}" for i in range(LEAST_CLIPS - 1) for side in ("", "_left", "_right")]
    frames = make_frames(dict.fromkeys(names, ("train", 6)) | {"v": ("val", 6)}, unlabelled=0)
    vectors = np.zeros((len(frames), 4), dtype=np.float32)
    judging, reason = default_judging(new_features(frames, {"mae": vectors}), LIGHT)
    assert judging == Judging()
    assert reason.startswith(f"train has {LEAST_CLIPS - 1} clips")


def test_folds_of_many_rows_are_left_out(build: Callable[..., FeatureSet], monkeypatch: pytest.MonkeyPatch) -> None:
    features = build(LEAST_CLIPS)
    monkeypatch.setattr(defaults, "MOST_ROWS", 6 * LEAST_CLIPS)
    assert default_judging(features, LIGHT)[0].folds == DEFAULT_FOLDS
    monkeypatch.setattr(defaults, "MOST_ROWS", 6 * LEAST_CLIPS - 1)
    judging, reason = default_judging(features, LIGHT)
    assert judging == Judging()
    assert reason.startswith("folds of so many rows take long; --post thresholds fits them")
