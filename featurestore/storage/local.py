"""A folder: objects are files, read by mapping them.

A file is written beside its place under a hidden name, flushed, and renamed; a group is made in a hidden folder and
renamed; one that is removed is renamed first. So a kill leaves hidden names at most, which nothing reads. The renames
themselves are flushed together, by `sync`: a power cut may take the last ones back, but never leaves half a file.
"""

import contextlib
import errno
import io
import mmap
import os
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from featurestore.atomic import flush_file, flush_folder, replace_file
from featurestore.errors import NotWritableError, StorageFullError

from .addresses import AddressRange, reserve
from .base import Bytes, Storage, checked_key

_LEFT_BEHIND_S: Final = 3600.0  # a file is written in seconds; what is hidden for an hour was left by a kill
_READ_ONLY: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FLUSHERS: Final = 8
_READ_BYTES: Final = 1 << 16
_PARTIAL: Final = ".*.partial.*"
_GROUP_FILE: Final = "zarr.json"


class LocalStorage(Storage):
    """A folder.

    Parameters
    ----------
    root
        The folder; it is made when the first object is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)
        self._prefix = f"{root}/"
        self._unflushed: set[Path] = set()
        self._renamed_in: set[Path] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> "tuple[Callable[[Path], LocalStorage], tuple[Path]]":
        return LocalStorage, (self.root,)

    def free_bytes(self) -> int | None:
        """Bytes that can still be written here, by this user; the folder need not be there yet."""
        place = self.root.absolute()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def read(self, key: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        # Not Path.read_bytes: a store has a commit a chunk, and opening one this way takes half the time.
        try:
            handle = os.open(self._prefix + key, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            parts = [os.read(handle, _READ_BYTES)]
            while len(parts[-1]) == _READ_BYTES:
                parts.append(os.read(handle, _READ_BYTES))
        except IsADirectoryError:
            return None
        finally:
            os.close(handle)
        return b"".join(parts)

    def view(self, key: str) -> memoryview | None:
        """An object's bytes, mapped; None where there is none."""
        n_bytes = self.size(key)
        if n_bytes is None:
            return None
        # Python's own mmap keeps a descriptor open for each file, of which a process has a thousand.
        addresses = reserve(-(-n_bytes // mmap.PAGESIZE) * mmap.PAGESIZE)
        if addresses is not None and addresses.map_file(self.root / key, 0, n_bytes):
            return memoryview(addresses.buffer).cast("B").toreadonly()[:n_bytes]
        with self._open(key) as file:
            if file is None:
                return None
            if not os.fstat(file.fileno()).st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read_into(self, key: str, out: memoryview, offset: int = 0) -> int | None:
        """Copy an object's bytes from `offset` on to `out`, without mapping them."""
        with self._open(key) as file:
            if file is None:
                return None
            if offset:
                file.seek(offset)
            n_read = 0
            while n_read < len(out) and (step := file.readinto(out[n_read:])):
                n_read += step
            return n_read

    def size(self, key: str) -> int | None:
        """An object's length in bytes; None where there is none."""
        try:
            found = os.stat(self._prefix + key)  # noqa: PTH116 - a Path costs more than the call
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def names(self, prefix: str = "") -> list[str]:
        """The names directly under a prefix, sorted; hidden ones are left out."""
        try:
            names = [path.name for path in (self.root / prefix).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.startswith("."))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Key -> length in bytes of every object under a prefix; hidden ones are left out."""
        found: dict[str, int] = {}
        folders = [prefix]
        while folders:
            folder = folders.pop()
            try:
                entries = list(os.scandir(self._prefix + folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                key = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(key)
                else:
                    found[key] = entry.stat().st_size
        return dict(sorted(found.items()))

    def write(self, key: str, parts: Sequence[Bytes], *, flush: bool = True) -> None:
        """Replace a file by the bytes of `parts`; see `Storage.write`."""
        path = self.root / checked_key(key)
        with self._writing(key):
            try:
                self._replace(path, parts, flush=flush)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._replace(path, parts, flush=flush)
        with self._lock:
            self._renamed_in.add(path.parent)
            if not flush:
                self._unflushed.add(path)

    def _replace(self, path: Path, parts: Sequence[Bytes], *, flush: bool) -> None:
        with replace_file(path, flush=flush, flush_name=False) as partial, io.FileIO(partial, "wb") as file:
            for part in parts:
                rest = memoryview(part)
                while len(rest):
                    rest = rest[file.write(rest) :]

    def sync(self) -> None:
        """Flush what was written unflushed, then the names: many small files at once, which share the disk's waits."""
        with self._lock:
            paths, folders = set(self._unflushed), set(self._renamed_in)
        with self._writing(""):
            with ThreadPoolExecutor(_FLUSHERS) as pool:
                list(pool.map(_flush_if_there, paths))
            for folder in folders:
                # Its own name, too: the folder of failures is made when the first frame fails.
                for each in (folder, folder.parent):
                    with contextlib.suppress(FileNotFoundError):
                        flush_folder(each)
        # Only now: after an error they are still to be flushed. What was written meanwhile is flushed once too often.
        with self._lock:
            self._unflushed -= paths
            self._renamed_in -= folders

    def remove(self, key: str) -> None:
        """Remove a file, flushed, or a power cut could bring it back."""
        path = self.root / checked_key(key)
        with self._writing(key), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            flush_folder(path.parent)

    def create(self, prefix: str, files: Mapping[str, bytes]) -> bool:
        """Make a folder of files by one rename; see `Storage.create`."""
        group = self.root / checked_key(prefix)
        made = group.with_name(f".{group.name}.{uuid.uuid4().hex}.new")
        with self._writing(prefix):
            try:
                for key, raw in files.items():
                    (made / key).parent.mkdir(parents=True, exist_ok=True)
                    (made / key).write_bytes(raw)
                    flush_file(made / key)
                self._clear_orphan(group, files)
                try:
                    os.rename(made, group)  # noqa: PTH104 - Path.rename hides which of the two paths was in the way
                except OSError:
                    if not (group / _GROUP_FILE).is_file():
                        raise
                    return False
                flush_folder(group.parent)
                return True
            finally:
                shutil.rmtree(made, ignore_errors=True)

    def _clear_orphan(self, group: Path, files: Mapping[str, bytes]) -> None:
        """Put away what a worker wrote into a group after it had been removed; anything else in the way stays."""
        known = {key.partition("/")[0] for key in files} | {"failures"}
        if group.is_dir() and not (group / _GROUP_FILE).exists() and {each.name for each in group.iterdir()} <= known:
            with contextlib.suppress(FileNotFoundError):  # another worker was quicker
                _put_away(group)

    def discard(self, prefix: str) -> None:
        """Remove a folder: out of sight by one rename, so that a kill leaves no half of it; then the slow part."""
        group = self.root / checked_key(prefix)
        with self._writing(prefix):
            _put_away(group)
            for left in group.parent.glob(".*.removed"):
                shutil.rmtree(left, ignore_errors=True)

    def tidy(self, prefix: str) -> None:
        """Remove what runs that were killed long ago left half written under a prefix."""
        oldest_s = time.time() - _LEFT_BEHIND_S
        for partial in (self.root / prefix).glob(f"*/{_PARTIAL}"):
            with contextlib.suppress(OSError):  # someone else's business, or gone by now
                if partial.stat().st_mtime < oldest_s:
                    partial.unlink()
        for made in self.root.glob(f".{prefix}.*.new"):
            with contextlib.suppress(OSError):
                if made.stat().st_mtime < oldest_s:
                    shutil.rmtree(made)

    def reserve(self, object_bytes: int, n_objects: int) -> AddressRange | None:
        """Addresses to map objects of one size at, one after the other; None where that cannot be."""
        return None if object_bytes % mmap.PAGESIZE else reserve(object_bytes * n_objects)

    def map_at(self, key: str, addresses: AddressRange, place: int, n_bytes: int) -> bool:
        """Map an object of `n_bytes` at the place-th place of `addresses`; False if there is no such object."""
        return addresses.map_file(self.root / key, place * n_bytes, n_bytes)

    @contextlib.contextmanager
    def _open(self, key: str) -> Iterator[io.FileIO | None]:
        """A file, unbuffered, which saves a copy; None where there is none."""
        try:
            file = io.FileIO(self._prefix + key)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            yield None
            return
        with file:
            yield file

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        """Say clearly what kept a file from being written."""
        try:
            yield
        except StorageFullError:
            raise
        except OSError as error:
            if error.errno in _READ_ONLY:
                raise NotWritableError(
                    f"{self.where(key)} cannot be written: {os.strerror(error.errno)}. What was there is as it was. "
                    "Get write access to the store's folder, or copy it to where you have it."
                ) from error
            if error.errno in _NO_SPACE:
                raise StorageFullError(
                    f"No space is left for {self.where(key)}; what was there is as it was. "
                    "Free some space and run the same command again."
                ) from error
            raise


def _put_away(group: Path) -> None:
    hidden = group.with_name(f".{group.name}.{uuid.uuid4().hex}.removed")
    group.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _flush_if_there(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # removed since
        flush_file(path)
