"""What is calibrated by default: what the joined tasks have, where there are clips enough and folds are quick."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from featurestore.frames import FrameTable
from heads.calibration.config import PostConfig
from heads.features.featureset import FeatureSet
from heads.light.config import LightConfig
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.runs import defaults
from heads.runs.defaults import DEFAULT_FOLDS, LEAST_CLIPS, default_judging
from heads.runs.judging import Judging

MakeFrames = Callable[..., FrameTable]
Build = Callable[[FrameTable, Mapping[str, NDArray[np.float32]]], FeatureSet]

HEAD = HeadConfig(temporal="none", seq=1)


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


@pytest.mark.parametrize("config", [HEAD, LightConfig(estimator="ridge")], ids=["head", "light"])
@pytest.mark.parametrize(
    ("joint", "thresholds", "class_bias"),
    [
        (("au", "expr", "v", "a"), True, True),
        (("au",), True, False),
        (("expr", "v"), False, True),
        (("v", "a"), False, False),
    ],
)
def test_what_is_calibrated_follows_from_the_joined_tasks(
    build: Callable[..., FeatureSet],
    config: HeadConfig | LightConfig,
    joint: tuple[str, ...],
    thresholds: bool,
    class_bias: bool,
) -> None:
    judging, reason = default_judging(build(LEAST_CLIPS), replace(config, joint=joint))
    assert reason == ""
    assert judging.post == PostConfig(thresholds=thresholds, class_bias=class_bias)
    assert judging.n_folds == (DEFAULT_FOLDS if thresholds or class_bias else None)
    assert (judging.calibrate_on, judging.select_on_folds, judging.probe) == ("train", False, True)


def test_too_few_clips_calibrate_nothing(build: Callable[..., FeatureSet]) -> None:
    judging, reason = default_judging(build(LEAST_CLIPS - 1), HEAD)
    assert judging == Judging()
    assert reason == f"train has {LEAST_CLIPS - 1} clips with labels of au, expr, at least {LEAST_CLIPS} needed"


def test_clips_without_labels_of_what_is_calibrated_do_not_count(build: Callable[..., FeatureSet]) -> None:
    judging, reason = default_judging(build(LEAST_CLIPS + 1, bare=2), replace(HEAD, joint=("expr", "v")))
    assert judging == Judging()
    assert reason.startswith(f"train has {LEAST_CLIPS - 1} clips with labels of expr, at least")


def test_two_people_of_one_clip_are_one(new_features: Build, make_frames: MakeFrames) -> None:
    names = [f"t{i}{side}" for i in range(LEAST_CLIPS - 1) for side in ("", "_left", "_right")]
    frames = make_frames(dict.fromkeys(names, ("train", 6)) | {"v": ("val", 6)}, unlabelled=0)
    vectors = np.zeros((len(frames), 4), dtype=np.float32)
    judging, reason = default_judging(new_features(frames, {"mae": vectors}), HEAD)
    assert judging == Judging()
    assert reason.startswith(f"train has {LEAST_CLIPS - 1} clips")


def test_a_long_fit_on_a_cpu_is_not_fitted_once_more_a_fold(
    build: Callable[..., FeatureSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = build(LEAST_CLIPS)
    work = 6 * LEAST_CLIPS * HeadModel(HEAD, {"mae": (4,)}).n_parameters()  # train rows x parameters
    monkeypatch.setattr(defaults, "MOST_WORK", work)
    assert default_judging(features, HEAD)[0].folds == DEFAULT_FOLDS
    monkeypatch.setattr(defaults, "MOST_WORK", work - 1)
    judging, reason = default_judging(features, HEAD)
    assert judging == Judging()
    assert reason.startswith("folds would take long on this device; --post thresholds,class-bias fits them")
    on_gpu = replace(features, device=torch.device("cuda"))
    assert default_judging(on_gpu, HEAD)[0].folds == DEFAULT_FOLDS


def test_a_light_head_counts_rows(build: Callable[..., FeatureSet], monkeypatch: pytest.MonkeyPatch) -> None:
    features, light = build(LEAST_CLIPS), LightConfig(estimator="ridge")
    monkeypatch.setattr(defaults, "MOST_LIGHT_ROWS", 6 * LEAST_CLIPS)
    assert default_judging(features, light)[0].folds == DEFAULT_FOLDS
    monkeypatch.setattr(defaults, "MOST_LIGHT_ROWS", 6 * LEAST_CLIPS - 1)
    assert default_judging(features, light)[0] == Judging()
