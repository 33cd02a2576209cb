"""A ZIP file: a store as one file, to hand on; read without unpacking, never written in place.

Members are stored, not deflated (embeddings do not compress), and begin at multiples of 64 bytes, so mapping the file
gives aligned arrays, as mapping chunk files does. Any Zarr reader opens it too (``zarr.storage.ZipStore``).
"""

import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Final

from featurestore.atomic import replace_file
from featurestore.errors import MissingFileError, StoreError

from .base import Storage

_ALIGNMENT: Final = 64
_LOCAL_HEADER_BYTES: Final = 30
_PADDING_ID: Final = 0xD935  # the extra field in which Android's zipalign pads
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same store gives the same bytes


class ZipStorage(Storage):
    """A ZIP file, read only.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    MissingFileError
        If it is not there.
    StoreError
        If it is not a whole ZIP file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingFileError(f"A zipped feature store is a file; {path} is not there. Check the path.")
        self.path = path
        self.location = str(path)
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (zipfile.BadZipFile, ValueError) as error:
            raise StoreError(
                f"A zipped feature store was expected; this is no whole ZIP file ({path}): {error}. "
                "Copy or export it again."
            ) from error
        self._members = {info.filename: info for info in members if not info.is_dir()}

    def __reduce__(self) -> "tuple[Callable[[Path], ZipStorage], tuple[Path]]":
        return ZipStorage, (self.path,)

    def read(self, key: str) -> bytes | None:
        """A member's bytes, their checksum looked at; None where there is none."""
        info = self._members.get(key)
        if info is None:
            return None
        try:
            if info.compress_type != zipfile.ZIP_STORED:
                with zipfile.ZipFile(self.path) as archive:  # its own place in the file, whoever else is reading
                    return archive.read(info)
            raw = bytes(self.view(key) or b"")
            if zlib.crc32(raw) != info.CRC:
                raise zipfile.BadZipFile("its checksum is another one")
            return raw
        except (zipfile.BadZipFile, OSError) as error:
            raise StoreError(
                f"Member {key!r} of this ZIP file is damaged ({self.path}): {error}. Copy or export it again."
            ) from error

    def view(self, key: str) -> memoryview | None:
        """A member's bytes, mapped if they are stored as they are; None where there is none."""
        info = self._members.get(key)
        if info is None:
            return None
        if info.compress_type != zipfile.ZIP_STORED:
            return memoryview(self.read(key) or b"")
        # The local header repeats the name, with extra fields of its own.
        name_bytes, extra_bytes = struct.unpack_from("<HH", self._map, info.header_offset + 26)
        start = info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        return memoryview(self._map)[start : start + info.file_size]

    def size(self, key: str) -> int | None:
        """A member's length in bytes; None where there is none."""
        info = self._members.get(key)
        return None if info is None else info.file_size

    def names(self, prefix: str = "") -> list[str]:
        """The names directly under a prefix, sorted."""
        start = f"{prefix}/" if prefix else ""
        return sorted({key[len(start) :].partition("/")[0] for key in self._members if key.startswith(start)})

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Key -> length in bytes of every member under a prefix."""
        start = f"{prefix}/" if prefix else ""
        return {key: info.file_size for key, info in sorted(self._members.items()) if key.startswith(start)}


def write_members(
    path: Path, storage: Storage, keys: Iterable[str], *, replaced: Mapping[str, bytes] | None = None
) -> None:
    """Write objects of a storage to a ZIP file; it is there as a whole or not at all.

    Parameters
    ----------
    path
        The file to write; its folder exists.
    storage
        Where the objects are.
    keys
        Theirs, in the order to write them; those that are gone meanwhile are left out.
    replaced
        Key -> bytes to write in place of the object's own.

    Raises
    ------
    StorageFullError
        If there was no space for it.
    """
    own = replaced or {}
    with (
        replace_file(path) as partial,
        partial.open("wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        for key in keys:
            content = memoryview(own[key]) if key in own else storage.view(key)
            if content is not None:
                _add(archive, file, key, content)


def _add(archive: zipfile.ZipFile, file: IO[bytes], key: str, content: memoryview) -> None:
    """Append a member whose bytes begin at a multiple of `_ALIGNMENT`."""
    info = zipfile.ZipInfo(key, _EPOCH)
    info.external_attr = 0o644 << 16
    unpadded = file.tell() + _LOCAL_HEADER_BYTES + len(key.encode()) + 4
    n_padding = -unpadded % _ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING_ID, n_padding) + bytes(n_padding)
    archive.writestr(info, content)
