"""A folder of results, there as a whole or not at all: written under a hidden name beside its place, then renamed."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from featurestore.atomic import says_no_space
from featurestore.errors import StorageFullError


@contextlib.contextmanager
def replace_folder(directory: Path) -> Iterator[Path]:
    """Replace a folder by what the body writes into the yielded one, or leave it as it was.

    Parameters
    ----------
    directory
        The folder that will be there afterwards; those above it are made.

    Yields
    ------
    An empty folder beside it.

    Raises
    ------
    StorageFullError
        If there was no space; the old folder, if any, is untouched.
    """
    token = secrets.token_hex(4)
    hidden = directory.with_name(f".{directory.name}.{token}.partial")
    replaced = directory.with_name(f".{directory.name}.{token}.replaced")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        hidden.mkdir()
        yield hidden
        if directory.exists():
            directory.rename(replaced)
        hidden.rename(directory)
    except OSError as error:
        if not (isinstance(error, StorageFullError) or says_no_space(error)):
            raise
        raise StorageFullError(
            f"No space is left on the device for {directory.name!r}: it was not written, and what was there "
            f"before is as it was (folder: {directory}). Free some, and run the same command again."
        ) from error
    finally:
        if replaced.exists() and not directory.exists():  # stopped between the two renames
            replaced.rename(directory)
        shutil.rmtree(hidden, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
