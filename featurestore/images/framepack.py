"""Frame packs, format 1: the image files of all frames in one HDF5 file, for disks on which small files are slow.

    frames.h5
      attributes
        abaw_frame_pack  1, the format's version: what marks the file as a pack
        frames           fingerprint of the frame table that it was made for
        digest           xxh3-128 of all image bytes
        index_digest     xxh3-128 of `offsets`, `paths`, `absent` and `reasons`
        left_out         image files that lay in the folder and are in no frame table
      bytes              uint8 (n_bytes,), contiguous and without a filter: the files, one after the other
      offsets            int64 (n_frames + 1,): frame i is bytes[offsets[i] : offsets[i + 1]]
      paths              UTF-8 text (n_frames,): the frames' paths, in the order of the table
      absent             int64 (n_absent,): frames without an image; their ranges are empty
      reasons            UTF-8 text (n_absent,): why, such as "no such file"

A file's bytes are its own, unchanged, so embeddings of a pack are those of its folder to the bit. HDF5 only opens a
pack: `bytes` being one run, it says where that run begins, and images are then read with positional reads of the file
itself. These take no lock, neither HDF5's, which lets one thread at a time through, nor the file system's.
"""

import json
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from featurestore.errors import FrameMismatchError, ImageError, MissingFileError, StoreError
from featurestore.frames import FrameTable

from .imagesource import NO_SUCH_FILE, NOT_A_FILE, ImageFolder, ImageList, ImageSource, is_pack_path

FORMAT: Final = 1
FORMAT_KEY: Final = "abaw_frame_pack"

_VERIFY_BYTES: Final = 1 << 24
_ADVICE: Final = "Name a pack in abaw.toml, or make one with `abaw frames --pack FILE`."


@dataclass(frozen=True, slots=True, kw_only=True)
class PackIndex:
    """What a pack says of its images.

    Attributes
    ----------
    frames
        Fingerprint of the frame table.
    digest
        xxh3-128 of all image bytes.
    start
        Where in the file the first image begins.
    offsets : shape (n_frames + 1,), int64
        Where each begins, from there.
    paths
        In the order of the table.
    absent
        Row -> why it has no image.
    n_left_out
        Image files of the folder that are in no frame table.
    """

    frames: str
    digest: str
    start: int
    offsets: npt.NDArray[np.int64]
    paths: Sequence[str]
    absent: Mapping[int, str]
    n_left_out: int

    @property
    def n_bytes(self) -> int:
        """Of all images."""
        return int(self.offsets[-1])


class FramePack:
    """The images of a frame table, in one file; an `ImageSource`.

    Parameters
    ----------
    path
        The file; it is opened when it is first needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"FramePack({str(self.path)!r})"

    def __getstate__(self) -> dict[str, object]:
        # Another process opens the file for itself.
        return {"path": self.path}

    @property
    def location(self) -> str:
        """The file."""
        return str(self.path)

    @property
    def index(self) -> PackIndex:
        """What it holds.

        Raises
        ------
        MissingFileError
            If the file is not there.
        StoreError
            If it is no pack, a damaged one, or of a newer format.
        """
        return self._opened.index

    @property
    def n_images(self) -> int:
        """Frames that have an image."""
        return len(self.index.paths) - len(self.index.absent)

    def is_of(self, frames: FrameTable) -> bool:
        """Whether it was made for these frames."""
        return self.index.frames == frames.fingerprint

    def check(self, frames: FrameTable) -> None:
        """Refuse a pack that is not there, damaged, or of other frames: `ImageSource.check`."""
        if not self.is_of(frames):
            raise FrameMismatchError(
                f"The pack holds the images of {len(self.index.paths):,} frames {self.index.frames}, these are "
                f"{len(frames):,} frames {frames.fingerprint} (pack: {self.path}). "
                f"Run `abaw frames --pack {self.path}` again, where the image folder is."
            )
        if self.index.paths != frames.data["path"].to_list():
            raise _damaged(self.path, "its paths are not those of its frames")

    def holds(self, path: str) -> bool:
        """Whether there was a file when the pack was made."""
        row = self._opened.rows.get(path)
        return row is not None and self.index.absent.get(row) not in (NO_SUCH_FILE, NOT_A_FILE)

    def read(self, path: str) -> bytes:
        """The bytes of an image file; ImageError with the reason if there are none.

        Raises
        ------
        StoreError
            If the file cannot be read there: the pack is at fault, no image of its own.
        """
        opened = self._opened
        row = opened.rows.get(path)
        if row is None:
            raise ImageError("not in the pack")
        if row in opened.index.absent:
            raise ImageError(opened.index.absent[row])
        start, stop = (int(offset) for offset in opened.index.offsets[row : row + 2])
        return self._read(start, stop)

    def images(self) -> ImageList:
        """Every image that had a file when the pack was made."""
        gone = {row for row, reason in self.index.absent.items() if reason in (NO_SUCH_FILE, NOT_A_FILE)}
        paths = [path for row, path in enumerate(self.index.paths) if row not in gone]
        return ImageList(paths=paths, n_left_out=self.index.n_left_out)

    def verify(self, *, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Read all images once, and compare their digest.

        Parameters
        ----------
        on_progress
            Called with bytes done and bytes in all.

        Raises
        ------
        StoreError
            If a byte is not what was packed.
        """
        digest, total = xxhash.xxh3_128(), self.index.n_bytes
        for start in range(0, total, _VERIFY_BYTES):
            stop = min(start + _VERIFY_BYTES, total)
            digest.update(self._read(start, stop))
            if on_progress is not None:
                on_progress(stop, total)
        if digest.hexdigest() != self.index.digest:
            raise _damaged(self.path, f"its images are not those that were packed (digest {digest.hexdigest()})")

    @cached_property
    def _opened(self) -> "_OpenPack":
        return _OpenPack(self.path)

    def _read(self, start: int, stop: int) -> bytes:
        opened = self._opened  # held: when the last of it goes, the file is closed
        place = opened.index.start
        try:
            raw = os.pread(opened.handle, stop - start, place + start)
            while len(raw) < stop - start:  # a read may return less than was asked for
                more = os.pread(opened.handle, stop - start - len(raw), place + start + len(raw))
                if not more:
                    raise _damaged(self.path, f"it ends before byte {place + stop:,}")
                raw += more
        except OSError as error:
            raise _damaged(self.path, f"{error.strerror} at byte {place + start:,}") from error
        return raw


def open_images(path: Path) -> ImageSource:
    """The images at a path: those of a folder, or of a pack, which ends in .h5 or .hdf5. Nothing is opened yet."""
    return FramePack(path) if is_pack_path(path) else ImageFolder(path)


def index_digest(offsets: npt.NDArray[np.int64], paths: Sequence[str], absent: Mapping[int, str]) -> str:
    """The xxh3-128 of what finds an image: a flipped bit there would hand out another one."""
    digest = xxhash.xxh3_128(offsets.astype("<i8").tobytes())
    digest.update(json.dumps([list(paths), sorted(absent.items())]).encode())
    return digest.hexdigest()


class _OpenPack:
    """The file, its index, and where each path stands in it."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingFileError(
                f"A frame pack is an HDF5 file; {path} is not there. Run `abaw frames --pack {path}` where the image "
                "folder is, correct `pack` in abaw.toml, or take that line out to read the folder."
            )
        # One open file for index and images: by its name it might be another by then, packed again meanwhile.
        with path.open("rb", buffering=0) as file:
            self.index = _read_index(path, file)
            self.handle = os.dup(file.fileno())
        self.rows = {name: row for row, name in enumerate(self.index.paths)}
        weakref.finalize(self, os.close, self.handle)


def _read_index(path: Path, file: object) -> PackIndex:
    try:
        with h5py.File(file, "r") as pack:
            _check_format(path, pack)
            offsets: npt.NDArray[np.int64] = pack["offsets"][:]
            paths: list[str] = pack["paths"].asstr()[:].tolist()
            rows, reasons = pack["absent"][:].tolist(), pack["reasons"].asstr()[:].tolist()
            data, attributes = pack["bytes"], dict(pack.attrs)
            index = PackIndex(
                frames=str(attributes["frames"]),
                digest=str(attributes["digest"]),
                start=data.id.get_offset() or 0,  # None where there is not one byte
                offsets=offsets,
                paths=paths,
                absent=dict(zip(rows, reasons, strict=True)),
                n_left_out=int(attributes["left_out"]),
            )
            is_run = data.chunks is None and data.dtype == np.uint8 and data.shape == (index.n_bytes,)
    except StoreError:
        raise
    except OSError as error:
        if "truncated file" in str(error):
            raise _damaged(path, "it is cut short") from error
        if "signature not found" in str(error):
            raise StoreError(f"A frame pack is an HDF5 file, and this is none (file: {path}). {_ADVICE}") from error
        raise _damaged(path, str(error)) from error
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise _damaged(path, str(error).strip("'\"")) from error
    if not is_run or len(offsets) != len(paths) + 1:
        raise _damaged(path, "its parts do not fit together")
    if index_digest(offsets, paths, index.absent) != str(attributes["index_digest"]):
        raise _damaged(path, "its index is not what was written")
    return index


def _check_format(path: Path, pack: h5py.File) -> None:
    if FORMAT_KEY not in pack.attrs:
        raise StoreError(
            f"A frame pack has the attribute {FORMAT_KEY}, this HDF5 file has not (file: {path}). {_ADVICE}"
        )
    version = int(pack.attrs[FORMAT_KEY])
    if version != FORMAT:
        raise StoreError(
            f"This abaw reads frame packs of format {FORMAT}, this one is of format {version} (pack: {path}). "
            "Update abaw, or pack the images again."
        )


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"The frame pack cannot be read as it was written: {what} (pack: {path}). "
        f"Copy it again, or run `abaw frames --pack {path} --force` where the image folder is."
    )
