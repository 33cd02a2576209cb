"""Exact duplicates among the image files of a batch: frozen video, and rows that name one file twice.

Files are taken for the same if the xxh3-128 of their bytes is. That costs half a microsecond a file of 4 KB, and by
chance two different ones of a billion share it with a probability below 1e-20.
"""

import threading
from collections.abc import Mapping, Sequence

import xxhash


class Duplicates:
    """Who decodes which of the files of one batch, when several threads do.

    Whoever claims a file's bytes first decodes them; that may be at any of their positions. What is told afterwards
    depends on the files alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._positions: dict[bytes, list[int]] = {}  # of one content, the one that decodes it first

    def claim(self, position: int, raw: bytes) -> bool:
        """Whether the file at a position is to be decoded; False if another position has the same bytes."""
        digest = xxhash.xxh3_128_digest(raw)
        with self._lock:
            positions = self._positions.setdefault(digest, [])
            positions.append(position)
            return len(positions) == 1

    def found(self) -> Mapping[int, Sequence[int]]:
        """Position that was decoded -> all positions of the same bytes, ascending; only where there are several."""
        with self._lock:
            return {alike[0]: sorted(alike) for alike in self._positions.values() if len(alike) > 1}
