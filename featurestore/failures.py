"""Frames that could not be embedded, with the reason: one small JSON file a chunk, only where there are any.

They stand beside the chunk and go to disk before its commit, so a committed row that holds NaN always has its
reason. A file may name rows past the commit (a kill came between the two): those count for nothing.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from .atomic import replace_file
from .errors import StoreError


class FailureLog:
    """The failures of one encoder.

    Parameters
    ----------
    directory
        The folder `failures` of the encoder's group; made when first needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, chunk: int) -> Path:
        """The file of a chunk's failures."""
        return self._directory / f"{chunk}.json"

    def chunks(self) -> list[int]:
        """Chunks that have a file, ascending."""
        if not self._directory.is_dir():
            return []
        stems = [path.stem for path in self._directory.iterdir() if path.suffix == ".json"]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def read(self, chunk: int) -> dict[int, str]:
        """Table row -> reason, ascending; empty where no frame of the chunk failed."""
        path = self.path(chunk)
        try:
            raw = json.loads(path.read_bytes())
            return {int(row): str(reason) for row, reason in raw.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError) as error:
            raise StoreError(
                f"The failures of a chunk are a JSON object of row to reason; this file is not ({path}): {error}. "
                "Delete the chunk's commit and extract again."
            ) from error

    def write(self, chunk: int, failures: Mapping[int, str]) -> None:
        """Replace a chunk's file, flushed to disk; without failures there is no file."""
        path = self.path(chunk)
        if not failures:
            # Left by an earlier attempt at frames that can be read now.
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(exist_ok=True)
        text = json.dumps({str(row): failures[row] for row in sorted(failures)}, indent=1, ensure_ascii=False)
        with replace_file(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
