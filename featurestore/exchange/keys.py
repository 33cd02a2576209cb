"""How files name a frame: ``341/00066.jpg``, ``341/66.png``, ``341/66``, with any folders in front.

Rows of two files are never matched by their order. What names a video and a frame's number is looked up in the
store's frame table, and the table also decides where the video's name begins: ``cropped_aligned/341/00066.jpg``
is frame 66 of ``341``, unless the table has a video ``cropped_aligned/341``.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from featurestore.frames import FrameTable

IntArray = npt.NDArray[np.int64]

_MAX_DIGITS: Final = 10  # a table's frame numbers are int32

FrameKey = tuple[str, int]
"""A video and a frame's number."""


def frame_key(name: str) -> FrameKey | None:
    """(video, frame number) of a name such as ``341/00066.jpg``; None where it is not of that form.

    >>> frame_key("10-60-1280x720/00012.jpg")
    ('10-60-1280x720', 12)
    """
    video, _, image = name.rpartition("/")
    stem, dot, suffix = image.rpartition(".")
    number = stem if dot and not suffix.isdecimal() else image  # 12.48 is a time, and no frame 12
    if not video or not (number.isascii() and number.isdecimal()) or len(number.lstrip("0")) > _MAX_DIGITS:
        return None
    return video, int(number.lstrip("0") or "0")


class FrameIndex:
    """The rows of a frame table, found by the names that files give to frames.

    Parameters
    ----------
    frames
        The table; every video of it is one run of rows.
    """

    def __init__(self, frames: FrameTable) -> None:
        data = frames.data
        self.videos: list[str] = data["video"].to_list()
        self.numbers: list[int] = data["frame"].to_list()
        self._paths: list[str] = data["path"].to_list()
        self._row_of = {key: row for row, key in enumerate(zip(self.videos, self.numbers, strict=True))}
        self._rows_of: dict[str, list[int]] = {}
        for row, video in enumerate(self.videos):
            self._rows_of.setdefault(video, []).append(row)

    def __len__(self) -> int:
        return len(self.videos)

    def row(self, name: str) -> int | None:
        """The row of the frame that a file names so; None where the table has no such frame."""
        key = frame_key(name.replace("\\", "/"))
        if key is None:
            return None
        video = self.video(key[0])
        return None if video is None else self._row_of.get((video, key[1]))

    def video(self, folder: str) -> str | None:
        """The table's video that a folder names, whole or by its last parts; None where there is none."""
        while folder not in self._rows_of:
            _, slash, folder = folder.partition("/")
            if not slash:
                return None
        return folder

    def frames_of(self, video: str) -> list[int]:
        """The frame numbers of a video of the table, in the table's order."""
        return [self.numbers[row] for row in self._rows_of[video]]

    def key(self, row: int) -> str:
        """A row as ``video/frame``, for reports."""
        return f"{self.videos[row]}/{self.numbers[row]}"

    def name(self, row: int) -> str:
        """The name that a row gets in a file: the path of its image, where that names the frame at all."""
        path = self._paths[row]
        return path if self.row(path) == row else f"{self.videos[row]}/{self.numbers[row]:05d}"
