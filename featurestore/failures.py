"""Frames that could not be embedded, with the reason: one small JSON object a chunk, only where there are any.

They stand beside the chunk and go to disk before its commit, so a committed row that holds NaN always has its
reason. One may name rows past the commit (a kill came between the two): those count for nothing.
"""

import json
from collections.abc import Mapping

from .errors import StoreError
from .storage.base import Storage


class FailureLog:
    """The failures of one encoder.

    Parameters
    ----------
    storage
        Where they are.
    prefix
        The folder `failures` of the encoder's group.
    """

    def __init__(self, storage: Storage, prefix: str) -> None:
        self._storage = storage
        self._prefix = prefix

    def key(self, chunk: int) -> str:
        """The key of a chunk's failures."""
        return f"{self._prefix}/{chunk}.json"

    def chunks(self) -> list[int]:
        """Chunks that have some, ascending."""
        stems = [name.removesuffix(".json") for name in self._storage.names(self._prefix) if name.endswith(".json")]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def read(self, chunk: int) -> dict[int, str]:
        """Table row -> reason, ascending; empty where no frame of the chunk failed."""
        raw = self._storage.read(self.key(chunk))
        if raw is None:
            return {}
        try:
            return {int(row): str(reason) for row, reason in json.loads(raw).items()}
        except (ValueError, AttributeError) as error:
            raise StoreError(
                f"The failures of a chunk are a JSON object of row to reason; these are not "
                f"({self._storage.where(self.key(chunk))}): {error}. "
                "Run `abaw store verify --repair`, and extract again: only its chunk is computed anew."
            ) from error

    def write(self, chunk: int, failures: Mapping[int, str]) -> None:
        """Replace a chunk's failures; without any there is no object, also if an earlier attempt left one."""
        if not failures:
            self._storage.remove(self.key(chunk))
            return
        text = json.dumps({str(row): failures[row] for row in sorted(failures)}, indent=1, ensure_ascii=False)
        self._storage.write(self.key(chunk), [text.encode()])
