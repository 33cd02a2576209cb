"""What moves in a face: the state of every frame of a video."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featurestore.labels import ACTION_UNITS

from .layers import FloatArray, Pose


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceState:
    """The true state of the frames of one video.

    Attributes
    ----------
    units : shape (n_frames, 12), float32 in [0, 1]
        Intensities of the action units, in the challenge's order.
    blink : shape (n_frames,)
        0 open .. 1 shut.
    gaze : shape (n_frames, 2)
        To the right and down, in [-1, 1].
    """

    units: FloatArray
    pose: Pose
    blink: FloatArray
    gaze: FloatArray

    def au(self, number: int) -> FloatArray:
        """Intensity of one action unit, by its FACS number: shape (n_frames,)."""
        column: FloatArray = self.units[:, ACTION_UNITS.index(number)]
        return column

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The state of some frames only."""
        pose = Pose(
            yaw=self.pose.yaw[rows],
            pitch=self.pose.pitch[rows],
            roll=self.pose.roll[rows],
            shift=self.pose.shift[rows],
            scale=self.pose.scale[rows],
        )
        return type(self)(units=self.units[rows], pose=pose, blink=self.blink[rows], gaze=self.gaze[rows])

    def truth(self) -> FloatArray:
        """Twelve intensities, then yaw, pitch and roll in radians: shape (n_frames, 15), float32."""
        return np.column_stack([self.units, self.pose.yaw, self.pose.pitch, self.pose.roll]).astype(np.float32)
