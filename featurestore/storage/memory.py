"""Memory: for tests, and for embeddings that are not worth a disk."""

import threading
from collections.abc import Mapping, Sequence

from featurestore.errors import ConfigError

from .base import Bytes, Storage, checked_key


class MemoryStorage(Storage):
    """A dictionary of byte strings, which threads may share."""

    def __init__(self, location: str = "memory") -> None:
        self.location = location
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> str:
        raise ConfigError(
            f"A store in memory stays in the process that made it ({self.location}): another one would write to a copy "
            "that nobody reads. Make the store in a folder to share it among processes."
        )

    def read(self, key: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        return self._objects.get(key)

    def view(self, key: str) -> memoryview | None:
        """An object's bytes, shared; None where there is none."""
        raw = self._objects.get(key)
        return None if raw is None else memoryview(raw)

    def size(self, key: str) -> int | None:
        """An object's length in bytes; None where there is none."""
        raw = self._objects.get(key)
        return None if raw is None else len(raw)

    def names(self, prefix: str = "") -> list[str]:
        """The names directly under a prefix, sorted."""
        start = f"{prefix}/" if prefix else ""
        return sorted({key[len(start) :].partition("/")[0] for key in self._objects.copy() if key.startswith(start)})

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Key -> length in bytes of every object under a prefix."""
        start = f"{prefix}/" if prefix else ""
        return {key: len(raw) for key, raw in sorted(self._objects.items()) if key.startswith(start)}

    def write(self, key: str, parts: Sequence[Bytes], *, flush: bool = True) -> None:
        """Replace an object by the bytes of `parts`."""
        self._objects[checked_key(key)] = b"".join(parts)

    def remove(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        self._objects.pop(key, None)

    def create(self, prefix: str, files: Mapping[str, bytes]) -> bool:
        """Make a group of objects, unless it is there."""
        checked_key(prefix)
        with self._lock:
            if f"{prefix}/zarr.json" in self._objects:
                return False
            self._objects |= {f"{prefix}/{key}": raw for key, raw in files.items()}
            return True

    def discard(self, prefix: str) -> None:
        """Remove a group and all that is in it."""
        with self._lock:
            self._objects = {key: raw for key, raw in self._objects.items() if not key.startswith(f"{prefix}/")}
