"""Where the images of frames are read from: a folder of files here, one packed file in `framepack`.

What is read are a file's own bytes, whole; decoding them is the extractor's. An image that is not there, or empty, is
a failure with one of the reasons below, the same from a pack as from the folder that it was made of.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from featurestore.errors import ImageError, MissingFileError
from featurestore.frames import FrameTable

NO_SUCH_FILE: Final = "no such file"
NOT_A_FILE: Final = "not a file"
EMPTY_FILE: Final = "empty file"

_IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png")
_PACK_SUFFIXES: Final = (".h5", ".hdf5")
_READ_BYTES: Final = 1 << 17  # more than most frames have
_PROBES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageList:
    """The images that a source has.

    Attributes
    ----------
    paths
        Of every image that is there, as in the frame table.
    n_left_out
        Images that lay in the folder when a pack was made of it and are in no frame table; 0 of a folder.
    """

    paths: Sequence[str]
    n_left_out: int = 0


class ImageSource(Protocol):
    """Where images are read from, by their paths in the frame table.

    Nothing is opened before it is needed: what has nothing to read does not miss the images. Several threads may read
    at once, and a source can be pickled to another process.
    """

    @property
    def location(self) -> str:
        """Where it is, for messages."""

    def check(self, frames: FrameTable) -> None:
        """Refuse to be read for these frames, if it is not there or belongs to others.

        Raises
        ------
        MissingFileError
            If it is not there, or holds none of a sample of the frames.
        StoreError
            If it is a damaged pack, or a pack of other frames.
        """

    def holds(self, path: str) -> bool:
        """Whether there is a file for an image, readable or not."""

    def read(self, path: str) -> bytes:
        """The bytes of an image file.

        Raises
        ------
        ImageError
            If there are none; the message is the reason alone, in the words that are kept with the frame.
        """

    def images(self) -> ImageList:
        """Every image that is there.

        Raises
        ------
        MissingFileError
            If the source is not there.
        StoreError
            If it is a damaged pack.
        """


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The image files of a folder, one folder a video.

    Attributes
    ----------
    root
        The folder that the frames' paths are relative to.
    """

    root: Path

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.root)

    def check(self, frames: FrameTable) -> None:
        """Refuse a folder that is not there, or holds none of a sample of the frames: `ImageSource.check`."""
        if not self.root.is_dir():
            raise MissingFileError(
                f"The image folder {self.root} does not exist. Correct `frames` in abaw.toml, or mount it."
            )
        rows = np.linspace(0, len(frames) - 1, min(_PROBES, len(frames))).astype(int)
        sample = frames.data["path"].gather(rows).to_list()
        if sample and not any(self.holds(path) for path in sample):
            raise MissingFileError(
                f"None of {len(sample)} sampled frames is under {self.root} (for one, {sample[0]}). "
                "Point `frames` in abaw.toml at the folder that holds the video folders."
            )

    def holds(self, path: str) -> bool:
        """Whether the file is there."""
        return (self.root / path).is_file()

    def size_bytes(self, path: str) -> int:
        """How long an image file is; the refusals are those of `read`, and the file is not opened."""
        try:
            found = (self.root / path).stat()
        except (OSError, ValueError) as error:
            raise ImageError(_reason(error)) from error
        if not stat.S_ISREG(found.st_mode):
            raise ImageError(NOT_A_FILE)
        if not found.st_size:
            raise ImageError(EMPTY_FILE)
        return found.st_size

    def read(self, path: str) -> bytes:
        """The file's bytes; ImageError with the reason if there are none."""
        try:
            raw = _read_whole(f"{self.root}{os.sep}{path}")
        except (OSError, ValueError) as error:  # ValueError: a path that no file can have
            raise ImageError(_reason(error)) from error
        if not raw:
            raise ImageError(EMPTY_FILE)
        return raw

    def images(self) -> ImageList:
        """Every image one folder below the root; each folder is listed once, no file is touched."""
        if not self.root.is_dir():
            raise MissingFileError(
                f"The image root is a folder with one folder a video; {self.root} is not there, or no folder. "
                "Correct `--frames`: in s-Aff-Wild2 it is the folder cropped_aligned."
            )
        paths: list[str] = []
        with os.scandir(self.root) as folders:
            for folder in folders:
                if not folder.is_dir():
                    continue
                with os.scandir(folder.path) as entries:
                    paths += [
                        f"{folder.name}/{entry.name}"
                        for entry in entries
                        if entry.name.lower().endswith(_IMAGE_SUFFIXES) and entry.is_file()
                    ]
        return ImageList(paths=paths)


def is_pack_path(path: Path) -> bool:
    """Whether a path names a frame pack rather than an image folder."""
    return path.suffix.lower() in _PACK_SUFFIXES and not path.is_dir()


def _read_whole(path: str) -> bytes:
    """A small file's bytes, in a third of the time that `Path.read_bytes` takes: it is done for every frame."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        parts = []
        while part := os.read(handle, _READ_BYTES):
            parts.append(part)
    finally:
        os.close(handle)
    return b"".join(parts)


def _reason(error: OSError | ValueError) -> str:
    """Why a file could not be read, without its path: failures are kept in the store, which may go elsewhere."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NO_SUCH_FILE
    if isinstance(error, IsADirectoryError):
        return NOT_A_FILE
    return f"cannot read: {getattr(error, 'strerror', None) or error}"
