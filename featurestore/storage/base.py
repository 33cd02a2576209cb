"""What every place that holds a store can do: read, write and list named byte strings.

A key is a path with ``/`` between its parts. An object is written as a whole or not at all, so a reader sees the old
one or the new one. Nothing here knows what the bytes mean, and no operation needs a lock.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from featurestore.errors import NotWritableError, StoreError

Bytes: TypeAlias = bytes | memoryview

MAX_REQUESTS: Final = 16
"""Requests to a remote storage that are on their way side by side."""


class Storage(ABC):
    """A place that holds a store.

    Attributes
    ----------
    location
        Where it is, as the user names it.
    is_remote
        Whether an object costs a round trip: then whole ones are read, many at a time.
    """

    location: str
    is_remote: bool = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"

    def where(self, key: str) -> str:
        """An object as a message names it."""
        return f"{self.location.rstrip('/')}/{key}"

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """An object's bytes; None where there is none."""

    @abstractmethod
    def view(self, key: str) -> memoryview | None:
        """An object's bytes without a copy, where that is possible; None where there is none.

        It shows the same bytes for as long as it is kept, also when the object is replaced or removed.
        """

    @abstractmethod
    def size(self, key: str) -> int | None:
        """An object's length in bytes; None where there is none."""

    @abstractmethod
    def names(self, prefix: str = "") -> list[str]:
        """The names directly under a prefix, sorted; work in progress is left out."""

    @abstractmethod
    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Key -> length in bytes of every object under a prefix, in the order of the keys."""

    def read_into(self, key: str, out: memoryview, offset: int = 0) -> int | None:
        """Copy an object's bytes from `offset` on to `out`, which may be longer.

        Returns
        -------
        How many were copied; None where there is no object.
        """
        view = self.view(key)
        if view is None:
            return None
        part = view[offset : offset + len(out)]
        out[: len(part)] = part
        return len(part)

    def read_many(self, keys: Iterable[str]) -> list[bytes | None]:
        """The bytes of several objects, as `read` gives each."""
        return [self.read(key) for key in keys]

    def write(self, key: str, parts: Sequence[Bytes], *, flush: bool = True) -> None:
        """Replace an object by the bytes of `parts`, one after the other.

        Parameters
        ----------
        key
            Its key.
        parts
            The bytes.
        flush
            What is found under the key, also after a power cut, is then whole: the old object or the new one. Without,
            it may be empty after a power cut. A kill can do no harm in either case; see `sync`.

        Raises
        ------
        StorageFullError
            If there is no space for it; what was there before is untouched.
        NotWritableError
            If nothing can be written here.
        """
        raise self._refusal()

    def sync(self) -> None:  # noqa: B027 - most places have nothing to wait for
        """Return when a power cut cannot take back what this process wrote before."""

    def free_bytes(self) -> int | None:
        """Bytes that can still be written here; None where nobody can say, as of an object store."""
        return None

    def drop_copy(self, key: str) -> bool:
        """Forget a local copy of an object, which may have rotted; whether there was one."""
        return False

    def remove(self, key: str) -> None:
        """Remove an object, for good; nothing happens where there is none."""
        raise self._refusal()

    def create(self, prefix: str, files: Mapping[str, bytes]) -> bool:
        """Make a group of objects, to be found by its ``zarr.json``.

        Parameters
        ----------
        prefix
            The group's.
        files
            Key within the group -> bytes; ``zarr.json`` is among them.

        Returns
        -------
        Whether it was made; False leaves a group that was there, or came at the same moment, as it is.
        """
        raise self._refusal()

    def discard(self, prefix: str) -> None:
        """Remove a group and all that is in it; from the first moment on it is not found any more."""
        raise self._refusal()

    def tidy(self, prefix: str) -> None:  # noqa: B027 - most places have nothing to tidy
        """Remove what runs that were killed long ago left half written under a prefix."""

    def _refusal(self) -> NotWritableError:
        return NotWritableError(
            f"This feature store can be read, not written ({self.location}). Write to a store in a folder, and export "
            "it again."
        )


def checked_key(key: str) -> str:
    """A key, if it stays below its storage (StoreError)."""
    if not key or key.startswith("/") or ".." in key.split("/"):
        raise StoreError(f"An object's key is a relative path without '..', not {key!r}. Check the encoder's name.")
    return key
