"""Dictionaries ``{"video/frame.jpg": vector}``, in a pickle or saved by `numpy.save`.

Both formats are one object that is read and written as a whole: unlike every other one, they take the memory of
all vectors at once.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from featurestore.errors import StoreError

from .outgoing import Outgoing
from .source import EntrySource
from .unpickle import PickledArray, load_plain

_MAX_NUMBERS: Final = 1 << 22  # of one vector in a list
_PROTOCOL: Final = 4  # read by every Python since 3.4


class MappingSource(EntrySource):
    """The vectors of a dictionary.

    Parameters
    ----------
    path
        Its file.
    mapping
        Name -> array or sequence of numbers; a name may also be a pair (video, image).
    format
        npy, npz or pickle.

    Raises
    ------
    StoreError
        If a key is no name.
    """

    def __init__(self, path: Path, mapping: Mapping[object, object], *, format: str) -> None:  # noqa: A002
        # By dict's own methods: a pickle may have set attributes on an OrderedDict.
        keys = list(dict.keys(mapping)) if isinstance(mapping, dict) else list(mapping)
        super().__init__(path, [_name(key, path) for key in keys], format=format)
        self._values = list(dict.values(mapping)) if isinstance(mapping, dict) else list(mapping.values())

    def vector(self, entry: int) -> npt.NDArray[np.generic]:
        """As of `EntrySource`."""
        value = self._values[entry]
        try:
            if isinstance(value, PickledArray | np.ndarray | np.generic):
                return np.asarray(value)
            if isinstance(value, list | tuple) and _is_vector(value):
                return np.asarray(value)
        except ValueError:  # a ragged sequence
            pass
        raise StoreError(
            f"An import's vectors are arrays or lists of numbers; {self.names[entry]!r} is a {type(value).__name__} "
            f"of something else (file: {self.path}). Save one vector a frame."
        )


def _is_vector(value: list[object] | tuple[object, ...]) -> bool:
    """Whether a sequence is small and of two levels at most; lists that a pickle shares unfold without end."""
    n_numbers = 0
    for item in value:
        inner = item if isinstance(item, list | tuple) else (item,)
        n_numbers += sum(part.array.size if isinstance(part, PickledArray) else 1 for part in inner[:_MAX_NUMBERS])
        if n_numbers >= _MAX_NUMBERS or any(isinstance(part, list | tuple) for part in inner):
            return False
    return True


def _name(key: object, path: Path) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    if isinstance(key, tuple) and len(key) == 2 and all(isinstance(part, str | int) for part in key):
        return f"{key[0]}/{key[1]}"
    raise StoreError(
        f"A dictionary of vectors is keyed by names such as '341/00066.jpg', or by pairs (video, image), not by "
        f"{key!r} (file: {path}). Name the frames."
    )


def open_pickle(path: Path) -> MappingSource:
    """The vectors of a pickled dictionary.

    Raises
    ------
    StoreError
        If it is damaged, holds something else, or names what is not a container or an array.
    """
    with path.open("rb") as file:
        return _of_object(load_plain(file, path), path, "pickle")


def open_npy(path: Path) -> MappingSource:
    """The vectors of a dictionary that `numpy.save` wrote; errors as of `open_pickle`."""
    with path.open("rb") as file:
        return read_npy(file, path, "npy")


def read_npy(file: BinaryIO, path: Path, format: str) -> MappingSource:  # noqa: A002
    """The dictionary in an open .npy; errors as of `open_pickle`."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"its format is {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, EOFError, SyntaxError) as error:
        raise StoreError(
            f"An import reads a dictionary saved by numpy.save; this file has no header of one: {error} "
            f"(file: {path}). Copy it again from where it came."
        ) from error
    if dtype != np.dtype(object):
        raise StoreError(
            f"The vectors of an import are keyed by their frames; this .npy is an array of shape {shape} of {dtype}, "
            f"without keys (file: {path}). Save a dictionary, numpy.save(file, {{'341/00066.jpg': vector, ...}}), "
            "or an .npz."
        )
    return _of_object(load_plain(file, path), path, format)


def _of_object(value: object, path: Path, format: str) -> MappingSource:  # noqa: A002
    if isinstance(value, PickledArray) and value.array.dtype == np.dtype(object) and value.array.size == 1:
        value = value.array.reshape(-1)[0]
    if not isinstance(value, dict):
        shape = f" of shape {value.array.shape}" if isinstance(value, PickledArray) else ""
        what = "an array" if isinstance(value, PickledArray) else f"a {type(value).__name__}"
        raise StoreError(
            f"An import reads a dictionary of vectors, keyed by video/frame.jpg; this file holds {what}{shape} "
            f"(file: {path}). Save {{'341/00066.jpg': vector, ...}}."
        )
    return MappingSource(path, value, format=format)


def write_pickle(path: Path, vectors: Outgoing) -> None:
    """Pickle a dictionary of vectors; it is made in memory as a whole."""
    with path.open("wb") as file:
        pickle.dump(_whole(vectors), file, protocol=_PROTOCOL)


def write_npy(path: Path, vectors: Outgoing) -> None:
    """Save a dictionary of vectors by `numpy.save`; it is made in memory as a whole."""
    with path.open("wb") as file:
        np.save(file, np.array(_whole(vectors), dtype=object), allow_pickle=True)


def _whole(vectors: Outgoing) -> dict[str, npt.NDArray[np.floating]]:
    # Each row a copy of its own: a view would pickle as a view, but hold on to its block.
    return {
        name: row.copy()
        for rows, block in vectors.blocks()
        for name, row in zip(map(vectors.index.name, rows.tolist()), block, strict=True)
    }
