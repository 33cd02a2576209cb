"""Whose a search's folder is: one search's, known by its settings and data, and one process's at a time.

A folder whose search has no complete trial yet holds nothing to compare with: it may be taken for other settings.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from featurestore.errors import ConfigError, FileExistsAlreadyError
from heads.runs.folder import write_json

from .study import JOURNAL_FILE, has_complete

SEARCH_FILE: Final = "search.json"
_LOCK_FILE: Final = ".lock"
_FINGERPRINTED: Final = ("encoders", "frames", "labels")


@contextmanager
def claimed(folder: Path, description: dict[str, JsonValue]) -> Iterator[None]:
    """Make the folder, or make sure that it holds this very search; this process's alone until the body ends.

    Parameters
    ----------
    folder
        Of the search.
    description
        What makes its trials comparable.

    Raises
    ------
    ConfigError
        If another process is at it.
    FileExistsAlreadyError
        If something else is there, or a search with other settings or data that has a complete trial.
    """
    _check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Of the system: a killed process does not keep it.
    with (folder / _LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"A search is run by one process, but another is at this one ({folder}). Wait for it, or give this "
                "one another --name; --parallel runs several trials at once."
            ) from error
        _claim(folder, description)
        yield


def _check_place(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise FileExistsAlreadyError(
            f"A search is written to a folder of its own, but {there} is a file (search: {folder.name}). "
            "Move the file away, or choose another --name."
        )
    is_taken = there == folder and any(path.name != _LOCK_FILE for path in folder.iterdir())
    if is_taken and not (folder / SEARCH_FILE).exists():
        raise FileExistsAlreadyError(
            f"A search is written to a folder of its own, but {folder} holds something else. Choose another --name."
        )


def _claim(folder: Path, description: dict[str, JsonValue]) -> None:
    path = folder / SEARCH_FILE
    if not path.exists():
        write_json(path, description)
        return
    try:
        found: JsonValue = json.loads(path.read_bytes())
    except ValueError as error:
        raise FileExistsAlreadyError(
            f"A search's settings were expected, but they cannot be read: {error} (file: {path}). "
            "Move the folder away, or choose another --name."
        ) from error
    changed = changes(found if isinstance(found, dict) else {}, description)
    if not changed:
        return
    if has_complete(folder):
        raise FileExistsAlreadyError(
            f"Trials of one search are compared, so all of them need the same settings and data; but {changed} "
            f"(search: {folder}). Choose another --name, or move the folder away."
        )
    (folder / JOURNAL_FILE).unlink(missing_ok=True)  # first: a kill in between leaves settings without trials
    write_json(path, description)


def changes(old: dict[str, JsonValue], new: dict[str, JsonValue]) -> str:
    """What differs, for people, setting by setting: ``"epochs was 3, is 2; encoders a, au are gone"``; or nothing."""
    told = []
    for name in dict.fromkeys((*new, *old)):
        before, now = old.get(name), new.get(name)
        if before == now:
            continue
        if name in _FINGERPRINTED and not isinstance(before, dict):
            told.append(f"the {name} are others")
        elif isinstance(before, dict) and isinstance(now, dict):
            told.append(_of_encoders(before, now) if name == "encoders" else changes(before, now))
        else:
            told.append(f"{name} was {_short(before)}, is {_short(now)}")
    return "; ".join(told)


def _of_encoders(before: dict[str, JsonValue], now: dict[str, JsonValue]) -> str:
    gone, new = sorted(before.keys() - now.keys()), sorted(now.keys() - before.keys())
    others = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    pairs = ((gone, "gone"), (new, "new"), (others, "extracted otherwise"))
    return "; ".join(
        f"encoder {names[0]} is {what}" if len(names) == 1 else f"encoders {', '.join(names)} are {what}"
        for names, what in pairs
        if names
    )


def _short(value: JsonValue) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
