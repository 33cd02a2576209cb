"""What the points of a picture are coloured by: a label of every frame, or the split or video that it is of."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from featurestore.errors import unknown_name
from featurestore.frames import FrameTable
from featurestore.labels import AU_COLUMNS, EXPRESSIONS, SPLITS

REALS: Final = ("valence", "arousal")
COLOURINGS: Final = ("expression", *REALS, *AU_COLUMNS, "split", "video")
"""Everything that a picture can be coloured by."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Colouring:
    """What every frame of a table is coloured by.

    Attributes
    ----------
    name
        One of `COLOURINGS`.
    classes
        Their names; none for valence and arousal, which are real.
    values : shape (n_frames,), float64
        Number of the class, or a real in [-1, 1]; NaN where a frame has no such label.
    """

    name: str
    classes: tuple[str, ...]
    values: npt.NDArray[np.float64]

    @property
    def is_real(self) -> bool:
        """Whether values are reals, not classes."""
        return not self.classes

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Which frames have the label, shape (n_frames,)."""
        return ~np.isnan(self.values)


def colouring_named(name: str, frames: FrameTable) -> Colouring:
    """The colouring called `name`.

    Parameters
    ----------
    name
        One of `COLOURINGS`.
    frames
        The frames to colour.

    Raises
    ------
    UnknownNameError
        If there is no such colouring.
    """
    if name not in COLOURINGS:
        raise unknown_name("colour", name, COLOURINGS)
    data = frames.data
    if name == "video":
        videos = frames.video_ids()
        first = np.flatnonzero(np.diff(videos, prepend=-1))  # of every video
        return Colouring(name=name, classes=tuple(data["video"].gather(first)), values=videos.astype(np.float64))
    if name == "split":
        numbers = data["split"].replace_strict(list(SPLITS), list(range(len(SPLITS))))
        return Colouring(name=name, classes=SPLITS, values=_floats(numbers.to_numpy()))
    classes = {"expression": EXPRESSIONS} | dict.fromkeys(AU_COLUMNS, ("off", "on"))
    return Colouring(name=name, classes=classes.get(name, ()), values=_floats(data[name].to_numpy()))


def _floats(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    return values.astype(np.float64)
