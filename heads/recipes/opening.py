"""A fitted head or a fitted system, whichever a folder holds."""

from pathlib import Path
from typing import Final

from featurestore.errors import MissingFileError
from heads.runs.record import CONFIG_FILE
from heads.runs.run import Run

from .system import System
from .systemrecord import SYSTEM_FILE

RECORD_FILES: Final = (CONFIG_FILE, SYSTEM_FILE)
"""Of the two kinds of folders in ``runs/``."""


def open_fitted(directory: Path) -> Run | System:
    """Read what `Run.save` or `System.save` wrote; both predict and evaluate.

    Raises
    ------
    MissingFileError
        If the folder holds neither, or lacks a file.
    ConfigError
        If a file cannot be read as what it should be.
    """
    if (directory / SYSTEM_FILE).is_file():
        return System.load(directory)
    if directory.is_dir() and not (directory / CONFIG_FILE).is_file():
        raise MissingFileError(
            f"A run is a folder with a {CONFIG_FILE}, a system one with a {SYSTEM_FILE}; {directory} holds neither. "
            "Run `abaw fit-heads` to make one, or give its path."
        )
    return Run.load(directory)
