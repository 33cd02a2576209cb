"""Which rows belong to one clip: two people in it, `_left` and `_right`, are two videos but no strangers.

They share light, sound and mood. What must not see a video must not see the other one either.
"""

import re
from typing import Final

import numpy as np

from featurestore.frames import FrameTable
from heads.arrays import IntArray

_PERSON: Final = re.compile(r"_(left|right)$")


def clip_ids(frames: FrameTable) -> IntArray:
    """A number a clip, shape (n_frames,), int64."""
    videos = frames.video_ids()
    firsts = np.unique(videos, return_index=True)[1]
    clips = [_PERSON.sub("", name) for name in frames.data["video"].gather(firsts).to_list()]
    numbers = np.unique(np.array(clips, dtype=np.str_), return_inverse=True)[1].astype(np.int64)
    return np.asarray(numbers[videos]) if len(clips) else np.empty(0, dtype=np.int64)
