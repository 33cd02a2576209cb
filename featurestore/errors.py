"""The errors that abaw raises on purpose.

Every one is an `AbawError`, which the command line catches in one place, and also the builtin that a
Python caller would expect. A message has four parts: what was expected, what came, where, and what to do.
"""

import difflib
from collections.abc import Iterable
from typing import Final

_MAX_LISTED: Final = 20


class AbawError(Exception):
    """Root of every error raised on purpose."""

    def __str__(self) -> str:
        # KeyError, a second base of some children, would print the repr of its message.
        return " ".join(str(part) for part in self.args)


class ConfigError(AbawError, ValueError):
    """An option or a configuration value is outside what it may be."""


class ShapeError(AbawError, ValueError):
    """Arrays differ in shape, or hold too little, for what is asked of them."""


class UnknownNameError(AbawError, KeyError):
    """A name that is not among the known ones; made by `unknown_name`."""


class MissingFileError(AbawError, FileNotFoundError):
    """A file or folder that should be there is not."""


class FileExistsAlreadyError(AbawError, FileExistsError):
    """Something that would be overwritten is there already."""


class AnnotationError(AbawError, ValueError):
    """Annotation or list files that cannot be read as what they claim to be."""


class ImageError(AbawError, ValueError):
    """An image that cannot be read or decoded."""


class StoreError(AbawError, ValueError):
    """A feature store that is damaged, or not a feature store."""


class FrameMismatchError(StoreError):
    """A store that was made from other frames than the ones in hand."""


class EncoderMismatchError(StoreError):
    """An encoder's name is taken by other weights or another preprocessing."""


class MissingEmbeddingsError(AbawError, LookupError):
    """Embeddings that were asked for have not been extracted, or not all of them."""


class PrecisionError(AbawError, ArithmeticError):
    """A value that the chosen precision cannot hold."""


class WorkerError(AbawError, RuntimeError):
    """A process that died before its work was done."""


class DeviceMemoryError(AbawError, MemoryError):
    """A model that the device's memory cannot hold, not even with one frame."""


class StorageFullError(AbawError, OSError):
    """No space was left on the device; what was committed before is safe."""


class UnreachableStoreError(AbawError, ConnectionError):
    """An object store that does not answer: nothing is known of what it holds, least of all that it is damaged."""


class NotWritableError(AbawError, PermissionError):
    """A place that can be read and not written, or not accessed at all."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for an unknown `name`: it suggests the nearest known one and lists them, the nearest of very many.

    Parameters
    ----------
    kind
        What is named, as it reads in a sentence: ``"encoder"``.
    name
        What was asked for.
    known
        The names that exist.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listing = ", ".join(names) if names else "none yet"
    if len(names) > _MAX_LISTED:
        nearest = difflib.get_close_matches(name, names, n=5, cutoff=0.3) or names[:5]
        listing = f"{len(names):,}, such as {', '.join(nearest)}"
    return UnknownNameError(f"There is no {kind} {name!r}.{hint} Known: {listing}.")
