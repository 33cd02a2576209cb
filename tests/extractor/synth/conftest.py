"""A small dataset on disk, and the default one without its pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from extractor.synth.dataset import SynthConfig, SynthSummary, write_dataset
from extractor.synth.layers import Pose
from extractor.synth.plan import plan_videos
from extractor.synth.state import FaceState
from extractor.synth.video import VideoState, simulate_video
from featurestore.labels import ACTION_UNITS

SMALL = SynthConfig(videos=6, seed=3, frames_per_video=12)

StateOf = Callable[[list[dict[int, float]]], FaceState]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SynthSummary]:
    root = tmp_path_factory.mktemp("synth") / "data"
    return root, write_dataset(root, SMALL)


@pytest.fixture(scope="session")
def default_videos() -> list[VideoState]:
    config = SynthConfig()
    return [simulate_video(plan) for plan in plan_videos(config.seed, config.videos, config.frames_per_video)]


def posed(units: NDArray[np.float32]) -> FaceState:
    n_frames = len(units)
    still = np.zeros(n_frames, np.float32)
    aside = np.zeros((n_frames, 2), np.float32)
    pose = Pose(yaw=still, pitch=still, roll=still, shift=aside, scale=still + 1)
    return FaceState(units=units, pose=pose, blink=still, gaze=aside)


@pytest.fixture(scope="session")
def state_of() -> StateOf:
    """Makes the state of a face that looks straight ahead, from {AU number: intensity} of each frame."""

    def make(frames: list[dict[int, float]]) -> FaceState:
        units = np.zeros((len(frames), len(ACTION_UNITS)), np.float32)
        for row, frame in enumerate(frames):
            for number, level in frame.items():
                units[row, ACTION_UNITS.index(number)] = level
        return posed(units)

    return make
