"""How the entries of a file meet the frames of a store: by video and frame, never by order."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featurestore.errors import ConfigError, StoreError

from .keys import FrameIndex, IntArray
from .source import VectorSource

_NONE = -1


@dataclass(frozen=True, eq=False, slots=True)
class Matches:
    """Which entry of a source each row of a frame table takes.

    Attributes
    ----------
    entries : shape (n_frames,)
        The entry of every row; -1 where there is none.
    extra
        Names of the entries that are no frame of the table.
    reasons
        Table row -> why the source has no vector of it, where the source says so.
    """

    entries: IntArray
    extra: tuple[str, ...]
    reasons: Mapping[int, str]

    @property
    def matched(self) -> IntArray:
        """Rows that have an entry, ascending."""
        return np.flatnonzero(self.entries != _NONE).astype(np.int64)

    @property
    def missing(self) -> IntArray:
        """Rows that have none, ascending."""
        return np.flatnonzero(self.entries == _NONE).astype(np.int64)


def match(source: VectorSource, index: FrameIndex) -> Matches:
    """Match the entries of a source with the rows of a table.

    Raises
    ------
    StoreError
        If two entries are the same frame.
    ConfigError
        If none is a frame of the table.
    """
    entries = np.full(len(index), _NONE, dtype=np.int64)
    extra: list[str] = []
    for entry, name in enumerate(source.names):
        row = index.row(name)
        if row is None:
            extra.append(name)
        elif entries[row] != _NONE:
            raise StoreError(
                f"An import names each frame once; {source.names[int(entries[row])]!r} and {name!r} are the same one "
                f"(file: {source.path}). Remove one of them."
            )
        else:
            entries[row] = entry
    if not (entries != _NONE).any():
        ours = [index.name(row) for row in range(min(1, len(index)))]
        raise ConfigError(
            f"The vectors of an import are named by frames of the store; none of the {len(extra)} names is one, for "
            f"example {extra[:1]} against {ours} (file: {source.path}). Check that the file belongs to these videos."
        )
    said = {index.row(name): reason for name, reason in source.reasons.items()}
    return Matches(entries, tuple(extra), {row: reason for row, reason in said.items() if row is not None})
