"""One video: its labels out of its plan, and its frames drawn and written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from .affect import Affect, label_frames
from .camera import draw_scene, photograph
from .dynamics import move_face
from .face import face_layers
from .identity import draw_identity
from .plan import VideoPlan
from .state import FaceState

JPEG_QUALITY: Final = 90
_MOVES, _LABELS, _PERSON, _CAMERA = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoState:
    """The listed frames of one video: how the face truly is, and its labels before any is withheld."""

    plan: VideoPlan
    state: FaceState
    affect: Affect

    def paths(self) -> list[str]:
        """`video/00001.jpg` of each listed frame, as the annotation files name it."""
        return [f"{self.plan.name}/{frame:05d}.jpg" for frame in self.plan.frames.tolist()]


def simulate_video(plan: VideoPlan) -> VideoState:
    """Move and label every source frame of a video at 30 fps, and keep the listed ones; nothing is drawn."""
    n_frames = int(plan.frames[-1]) + 1  # numbers count from 1; what would be frame 0 is never listed
    everything = move_face(np.random.default_rng([*plan.seed, _MOVES]), n_frames, plan.kinds)
    labels = label_frames(np.random.default_rng([*plan.seed, _LABELS]), everything.units)
    return VideoState(plan=plan, state=everything.take(plan.frames), affect=labels.take(plan.frames))


def write_frames(video: VideoState, folder: Path, missing: frozenset[str]) -> int:
    """Draw the frames of a video as JPEG files.

    Parameters
    ----------
    folder
        The root of the images; the video's own folder is made in it.
    missing
        Paths that are listed, and get no image.

    Returns
    -------
    How many images were written.
    """
    plan = video.plan
    person = draw_identity(np.random.default_rng([*plan.seed, _PERSON]))
    scene = draw_scene(np.random.default_rng(list(plan.scene_seed)))
    camera = np.random.default_rng([*plan.seed, _CAMERA])
    (folder / plan.name).mkdir(parents=True)
    written = 0
    pictures = photograph(camera, scene, person, face_layers(person, video.state), video.state.pose)
    for path, pixels in zip(video.paths(), pictures, strict=True):
        if path not in missing:
            Image.fromarray(pixels).save(folder / path, "JPEG", quality=JPEG_QUALITY)
            written += 1
    return written
