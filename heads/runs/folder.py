"""A folder of results, there as a whole or not at all: written under a hidden name beside its place, then renamed."""

import contextlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue

from featurestore.atomic import replace_file, says_no_space
from featurestore.errors import FileExistsAlreadyError, MissingFileError, StorageFullError


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


def check_replaceable(kind: str, file: str, directory: Path, *, is_same: Callable[[], bool], force: bool) -> None:
    """Refuse a folder that holds another of its kind, or something that is none; with `force` only the latter.

    Parameters
    ----------
    kind
        What is to be written there, such as ``"run"``.
    file
        The file by which one is known.
    directory
        The folder.
    is_same
        Whether the one that is there is of the same configuration; asked only if one is.
    force
        Whether one of another configuration may be replaced.

    Raises
    ------
    FileExistsAlreadyError
        If it is refused.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not (directory / file).is_file():
        raise FileExistsAlreadyError(
            f"A {kind} is written to a new folder, but {directory} holds something that is not a {kind}. "
            "Choose another name with --name."
        )
    if not force and not is_same():
        raise FileExistsAlreadyError(
            f"A {kind} of another configuration is in the way ({kind}: {directory}). "
            "Choose another name with --name, or replace it with --force."
        )


def present(kind: str, path: Path) -> Path:
    """A file that a folder must have.

    Raises
    ------
    MissingFileError
        If it is not there.
    """
    if not path.is_file():
        raise MissingFileError(
            f"A {kind} has a file {path.name}; it is missing ({kind}: {path.parent}). Fit the {kind} again."
        )
    return path


def write_json(path: Path, values: Mapping[str, JsonValue]) -> None:
    """Write a file of a folder for people and programs."""
    with replace_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
