"""Embeddings from elsewhere: an .npz with one vector a frame, keyed ``video/frame.jpg``.

That is how this field's feature extractors (HSEmotion's among them) hand their results on. Rows are matched by
(video, frame number), so ``341/00066.jpg``, ``341/66.png`` and ``341/66`` are one frame. A frame without a vector
becomes a failure with its reason; vectors without a frame are counted and left out. Nothing is unpickled.
"""

import struct
import zipfile
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, MissingFileError, ShapeError, StorageFullError, StoreError
from .provenance import Provenance, file_digest
from .store import FeatureStore
from .writer import ChunkTask, EmbeddingWriter

_BLOCK_ROWS: Final = 256
_N_EXAMPLES: Final = 5

FrameKey = tuple[str, int]
"""A video and a frame's number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """How the vectors of a file met the frames of a store."""

    matched: int  # frames that have their vector now
    missing: int  # frames of the store without a vector
    extra: int  # vectors without a frame in the store
    missing_examples: tuple[str, ...]  # the first few, as video/frame
    extra_examples: tuple[str, ...]  # the first few, as the file's keys

    def as_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return asdict(self)


def import_npz(store: FeatureStore, name: str, path: Path, *, dtype: npt.DTypeLike = np.float16) -> ImportReport:
    """Import the vectors of an .npz file as the embeddings of encoder `name`.

    Parameters
    ----------
    store
        Where to.
    name
        Of the encoder.
    path
        The .npz, keyed ``video/frame.jpg``; every vector of one length.
    dtype
        float16 or float32.

    Returns
    -------
    What was matched, missing and extra. An import that was interrupted goes on when it is run again.

    Raises
    ------
    MissingFileError
        If the file is not there.
    StoreError
        If it is not an .npz of plain numbers, names a frame twice, or holds NaN.
    ConfigError
        If no key is a frame of the store.
    ShapeError
        If the vectors differ in shape.
    PrecisionError
        If a value does not fit `dtype`.
    """
    is_new = name not in store
    keys = list(zip(store.frames.data["video"].to_list(), store.frames.data["frame"].to_list(), strict=True))
    with VectorFile(path) as vectors:
        table = set(keys)
        matched = [key for key in keys if key in vectors.members]
        missing = [f"{video}/{frame}" for video, frame in keys if (video, frame) not in vectors.members]
        extra = [member for key, member in vectors.members.items() if key not in table] + vectors.strangers
        if not matched:
            raise ConfigError(
                f"The vectors of an import are keyed by video/frame.jpg of the store's frames; none of the "
                f"{len(extra)} keys is one, for example {extra[:1]} against {missing[:1]} ({path}). "
                "Check that the file belongs to these videos."
            )
        first = vectors.read(matched[0])
        provenance = Provenance(
            architecture="imported",
            weights=file_digest(path),
            preprocessing={},
            pooling="unknown",
            precision=first.dtype.name,
            versions={"numpy": np.__version__},
        )
        try:
            with store.writer(name, provenance, row_shape=first.shape, dtype=dtype) as writer:
                for task in writer.pending():
                    _fill(writer, task, vectors, keys)
        except StorageFullError:
            raise
        except (ShapeError, ArithmeticError, StoreError):
            # What is wrong is in the file, and stays wrong: leave no half of an encoder behind.
            if is_new and name in store:
                store.remove(name)
            raise
    return ImportReport(
        matched=len(matched),
        missing=len(missing),
        extra=len(extra),
        missing_examples=tuple(missing[:_N_EXAMPLES]),
        extra_examples=tuple(extra[:_N_EXAMPLES]),
    )


def _fill(writer: EmbeddingWriter, task: ChunkTask, vectors: "VectorFile", keys: list[FrameKey]) -> None:
    """Append a chunk's pending rows, a block at a time, so that memory stays flat."""
    row_shape = writer.embedding.row_shape
    for start in range(task.start, task.stop, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, task.stop)
        block = np.full((stop - start, *row_shape), np.nan, dtype=np.float32)
        failures: dict[int, str] = {}
        for row in range(start, stop):
            if keys[row] not in vectors.members:
                failures[row] = f"no vector in {vectors.path.name}"
                continue
            vector = vectors.read(keys[row])
            if vector.shape != row_shape:
                raise ShapeError(
                    f"The vectors of an import have one shape, here {row_shape}; "
                    f"{vectors.members[keys[row]]!r} has {vector.shape} ({vectors.path}). Mend that entry."
                )
            block[row - start] = vector
        writer.append(start, block, failures)


class VectorFile:
    """The vectors of an .npz file, one member a frame, read one at a time in any order.

    `numpy.load` parses the header of every member as Python source, which is most of the time for many small
    ones; here the parse of a header is kept, and members of one dtype and shape share one header.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingFileError(f"An import reads an .npz file; {path} is not there. Check the path.")
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise StoreError(
                f"An import reads an .npz file; this is not one ({path}): {error}. Save it with numpy.savez."
            ) from error
        self.path = path
        self.members: dict[FrameKey, str] = {}  # frame -> key in the file
        self.strangers: list[str] = []  # keys that name no frame
        self._headers: dict[bytes, tuple[np.dtype[np.generic], tuple[int, ...]]] = {}
        for member in self._zip.namelist():
            self._add(member.removesuffix(".npy"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def _add(self, member: str) -> None:
        key = frame_key(member)
        if key is None:
            self.strangers.append(member)
        elif key in self.members:
            raise StoreError(
                f"An import names each frame once; {self.members[key]!r} and {member!r} are the same one "
                f"({self.path}). Remove one of them."
            )
        else:
            self.members[key] = member

    def read(self, key: FrameKey) -> npt.NDArray[np.generic]:
        """The vector of a frame that is in `members`."""
        member = self.members[key]
        try:
            raw = self._zip.read(f"{member}.npy")
            # Magic (6 bytes), version (2), header length (2 in version 1), header.
            header_stop = 10 + struct.unpack_from("<H", raw, 8)[0]
            if raw[:header_stop] not in self._headers:
                self._headers[raw[:header_stop]] = _read_header(raw)
            dtype, shape = self._headers[raw[:header_stop]]
            return np.frombuffer(raw, dtype=dtype, offset=header_stop).reshape(shape)
        except (ValueError, KeyError, struct.error, zipfile.BadZipFile) as error:
            raise StoreError(
                f"An import's vectors are plain arrays of numbers; {member!r} is not one that can be read "
                f"({self.path}): {error}. Save it again with numpy.savez."
            ) from error


def _read_header(raw: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """Dtype and shape of an .npy of format 1; ValueError for anything that would have to be unpickled."""
    stream = BytesIO(raw)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"its .npy format is {version}, not (1, 0)")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if not (np.issubdtype(dtype, np.floating) or np.issubdtype(dtype, np.integer)):
        raise ValueError(f"its dtype is {dtype}")
    if fortran and len(shape) > 1:
        raise ValueError("it is in Fortran order")
    return dtype, shape


def frame_key(member: str) -> FrameKey | None:
    """(video, frame number) of a key such as ``341/00066.jpg``; None where it is not of that form.

    >>> frame_key("10-60-1280x720/00012.jpg")
    ('10-60-1280x720', 12)
    """
    video, _, image = member.rpartition("/")
    number = image.partition(".")[0]
    if not video or not (number.isascii() and number.isdecimal()):
        return None
    return video, int(number)
