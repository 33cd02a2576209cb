"""What is wrong with text files, collected: every malformed line of every file is reported at once, with its place."""

from pathlib import Path
from typing import Final

import polars as pl

from featurestore.errors import AnnotationError

MAX_LISTED: Final = 20
"""So many of a file are listed one by one; the rest are counted."""


class MalformedLines:
    """Collects the malformed lines of any number of files, then raises one error for all of them."""

    def __init__(self) -> None:
        self._by_file: dict[Path, pl.DataFrame] = {}

    def add(self, path: Path, lines: pl.DataFrame) -> None:
        """Add lines of one file.

        Parameters
        ----------
        path
            The file.
        lines : columns `line` (number, from 1) and `problem` (what was expected, what came)
        """
        added = lines.select(pl.col("line").cast(pl.Int64), pl.col("problem").cast(pl.String))
        if added.height:
            self._by_file[path] = pl.concat([self._by_file.get(path, added.clear()), added])

    def add_line(self, path: Path, line: int, problem: str) -> None:
        """Add one line; what is wrong with a whole file stands at its first."""
        self.add(path, pl.DataFrame({"line": [line], "problem": [problem]}))

    def __len__(self) -> int:
        return sum(lines.height for lines in self._by_file.values())

    def raise_any(self) -> None:
        """Raise for what was collected, if anything.

        Raises
        ------
        AnnotationError
            It lists the first 20 of each file and counts the rest.
        """
        if not self._by_file:
            return
        problems = "is 1 problem" if len(self) == 1 else f"are {len(self):,} problems"
        counts = ", ".join(f"{lines.height:,} in {path}" for path, lines in self._by_file.items())
        listing = "\n".join(_listing(path, lines) for path, lines in self._by_file.items())
        raise AnnotationError(
            f"Annotation files are read whole or not at all, and there {problems} ({counts}):\n"
            f"{listing}\nCorrect those lines, give the file that was meant, or get it anew from where it came."
        )


def _listing(path: Path, lines: pl.DataFrame) -> str:
    first = lines.sort("line", maintain_order=True).head(MAX_LISTED)
    listed = [f"  {path}:{line}: {problem}" for line, problem in first.iter_rows()]
    if lines.height > MAX_LISTED:
        listed.append(f"  ... and {lines.height - MAX_LISTED:,} more")
    return "\n".join(listed)
