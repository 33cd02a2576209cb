"""A local copy of what was read from an object store, so that the next epoch, and the next process, need not fetch it.

Every object is asked for with the ETag of the copy; the store answers with new bytes only where it has others. Copies
are files that are mapped like a local store's. Written objects pass through. Clear the cache by removing its folder.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from featurestore.errors import AbawError

from .base import Bytes, Storage
from .local import LocalStorage
from .objects import ObjectStorage

_FEW_BYTES: Final = 1 << 16


class CachedStorage(Storage):
    """An object store behind a folder of copies.

    Parameters
    ----------
    remote
        The object store.
    folder
        Where copies are kept; several stores, and several processes, may share it.
    """

    is_remote = True

    def __init__(self, remote: ObjectStorage, folder: Path) -> None:
        self.location = remote.location
        self.folder = folder
        self._remote = remote
        self._copies = LocalStorage(folder)
        self._place = hashlib.sha256(remote.location.encode()).hexdigest()[:16]

    def __reduce__(self) -> "tuple[Callable[[ObjectStorage, Path], CachedStorage], tuple[ObjectStorage, Path]]":
        return CachedStorage, (self._remote, self.folder)

    def read(self, key: str) -> bytes | None:
        """An object's bytes, never from the cache: what is read in this way is small, and must be new."""
        return self._remote.read(key)

    def view(self, key: str) -> memoryview | None:
        """An object's bytes, mapped from the copy; None where there is no object."""
        folder = f"{self._place}/{key}"
        tags = self._copies.names(folder)
        copy = self._copies.view(f"{folder}/{tags[-1]}") if tags else None
        found = self._remote.fetch(key, _tag_of(tags[-1]) if copy is not None else None)
        if found is None:
            return None
        tag, content = found
        if content is None:
            return copy
        # A copy's name is its tag, so that processes which fetch two versions at once cannot mix them up.
        name = f"{folder}/{_name_of(tag)}"
        try:
            self._copies.write(name, [content], flush=False)
            for old in tags:
                self._copies.remove(f"{folder}/{old}")
        except (OSError, AbawError):
            return content  # a cache that is full or may not be written to is no reason not to read
        return self._copies.view(name) or content

    def drop_copy(self, key: str) -> bool:
        """Forget the copies of an object; whether there were any."""
        folder = f"{self._place}/{key}"
        tags = self._copies.names(folder)
        for tag in tags:
            self._copies.remove(f"{folder}/{tag}")
        return bool(tags)

    def read_into(self, key: str, out: memoryview, offset: int = 0) -> int | None:
        """Copy an object's bytes from `offset` on to `out`: a few from its middle straight, else the copy."""
        if offset and len(out) < _FEW_BYTES:
            return self._remote.read_into(key, out, offset)
        return super().read_into(key, out, offset)

    def size(self, key: str) -> int | None:
        """An object's length in bytes; None where there is none."""
        return self._remote.size(key)

    def names(self, prefix: str = "") -> list[str]:
        """The names directly under a prefix, sorted."""
        return self._remote.names(prefix)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Key -> length in bytes of every object under a prefix."""
        return self._remote.sizes(prefix)

    def read_many(self, keys: Iterable[str]) -> list[bytes | None]:
        """The bytes of several objects, fetched side by side."""
        return self._remote.read_many(keys)

    def write(self, key: str, parts: Sequence[Bytes], *, flush: bool = True) -> None:
        """Replace an object."""
        self._remote.write(key, parts, flush=flush)

    def remove(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        self._remote.remove(key)

    def create(self, prefix: str, files: Mapping[str, bytes]) -> bool:
        """Make a group of objects, unless it is there."""
        return self._remote.create(prefix, files)

    def discard(self, prefix: str) -> None:
        """Remove a group and all that is in it."""
        self._remote.discard(prefix)


def _name_of(tag: str) -> str:
    """An ETag, quotes and all, as the name of a file."""
    return tag.encode().hex()


def _tag_of(name: str) -> str:
    return bytes.fromhex(name).decode()
