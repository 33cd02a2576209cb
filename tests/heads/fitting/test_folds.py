from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from featurestore.errors import ConfigError
from featurestore.frames import FrameTable
from heads.fitting.folds import video_folds

MakeFrames = Callable[..., FrameTable]

SIZES = (400, 250, 250, 120, 90, 90, 60, 30, 30, 20, 11, 11)
VIDEOS = {f"t{i:02d}": ("train", n) for i, n in enumerate(SIZES)} | {"v": ("val", 50)}


def folds_of(frames: FrameTable, folds: np.ndarray) -> dict[str, set[int]]:
    videos = frames.data["video"].to_list()
    return {name: {int(fold) for fold, video in zip(folds, videos, strict=True) if video == name} for name in videos}


def test_videos_stay_whole_and_val_has_none(make_frames: MakeFrames) -> None:
    frames = make_frames(VIDEOS)
    folds = video_folds(frames, 4, seed=3)
    by_video = folds_of(frames, folds)
    assert by_video.pop("v") == {-1}
    assert all(len(found) == 1 for found in by_video.values())
    assert sorted(set(folds[folds >= 0].tolist())) == [0, 1, 2, 3]


def test_folds_are_balanced_for_every_seed_and_differ_between_seeds(make_frames: MakeFrames) -> None:
    frames = make_frames({f"t{i:02d}": ("train", 40 + i) for i in range(24)})
    drawn = [video_folds(frames, 4, seed=seed) for seed in range(6)]
    for folds in drawn:
        sizes = np.bincount(folds)
        assert sizes.max() < 1.2 * sizes.min()
    assert len({tuple(folds.tolist()) for folds in drawn}) == 6
    assert (video_folds(frames, 4, seed=2) == drawn[2]).all()


def test_two_people_of_a_clip_share_a_fold(make_frames: MakeFrames) -> None:
    frames = make_frames({f"{i}_{side}": ("train", 10 + i) for i in range(9) for side in ("left", "right")})
    for seed in range(4):
        by_video = folds_of(frames, video_folds(frames, 3, seed=seed))
        assert all(by_video[f"{i}_left"] == by_video[f"{i}_right"] for i in range(9))


def test_the_tables_own_folds_are_followed(make_frames: MakeFrames) -> None:
    frames = make_frames({"a": ("train", 5), "b": ("train", 4), "c": ("train", 6), "v": ("val", 3)})
    own = pl.Series("fold", [7] * 5 + [2] * 4 + [7] * 6 + [None] * 3, dtype=frames.data["fold"].dtype)
    named = FrameTable(frames.data.with_columns(own))
    assert video_folds(named, 2).tolist() == [1] * 5 + [0] * 4 + [1] * 6 + [-1] * 3
    # Another number than the table's is dealt out anew.
    assert sorted(set(video_folds(named, 3).tolist())) == [-1, 0, 1, 2]


def test_refusals(make_frames: MakeFrames) -> None:
    frames = make_frames({"a": ("train", 5), "b": ("train", 4)})
    with pytest.raises(ConfigError, match=r"folds must be at least 2, got 1"):
        video_folds(frames, 1)
    with pytest.raises(ConfigError, match=r"3 folds of whole clips .* the train split has 2\. Ask for fewer"):
        video_folds(frames, 3)
