"""The fits of a system on disk, which are runs: read one at a time, since a system may hold more than memory does."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from heads.runs.record import RunRecord, read_record
from heads.runs.run import Run


class SavedMembers(Mapping[str, Run]):
    """The runs of a system on disk, each read when it is asked for.

    Parameters
    ----------
    folder
        Theirs.
    names
        What must be there.

    Raises
    ------
    MissingFileError, ConfigError
        If one is not there, or its record cannot be read.
    """

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._folder = folder
        self.records: dict[str, RunRecord] = {name: read_record(folder / name) for name in names}

    def __getitem__(self, name: str) -> Run:
        if name not in self.records:
            raise KeyError(name)
        return Run.load(self._folder / name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)
