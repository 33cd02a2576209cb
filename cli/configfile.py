"""Setting an entry of `abaw.toml` while every other line stays as its owner wrote it, comments too."""

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Final

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError

_TABLE: Final = re.compile(r"\s*\[")
_TEXT_ENTRY: Final = re.compile(r"""\s*\w+\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*')(?P<comment>.*)""")


def set_entry(path: Path, name: str, value: str, *, after: str) -> bool:
    """Set a text of the file's first part, which comes before any [table].

    Parameters
    ----------
    path
        The file.
    name, value
        The entry: its line is replaced, or added.
    after
        The entry below which it is added.

    Returns
    -------
    Whether the file was changed.

    Raises
    ------
    ConfigError
        If the file is written in a way in which the line cannot be set without harm to others.
    """
    text = path.read_bytes().decode()  # not as text, which would change the ends of lines
    old = tomllib.loads(text)
    if old.get(name) == value:
        return False
    changed = _with_line(text, name, f"{name} = {json.dumps(value, ensure_ascii=False)}", after)
    try:
        is_right = tomllib.loads(changed) == {**old, name: value}
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:  # a text of several lines, an entry written with quotes
        raise ConfigError(
            f"`{name} = {json.dumps(value)}` could not be put into {path} without a change to its other entries. "
            "Add that line by hand, above the first [table]."
        )
    target = path.resolve()  # a link to a shared file stays one
    with replace_file(target) as partial:
        partial.write_bytes(changed.encode())
        partial.chmod(stat.S_IMODE(target.stat().st_mode))
    return True


def _with_line(text: str, name: str, line: str, after: str) -> str:
    lines = text.splitlines(keepends=True)
    n_first = next((number for number, each in enumerate(lines) if _TABLE.match(each)), len(lines))
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    for number, each in enumerate(lines[:n_first]):
        if _assigns(each, name):
            entry = _TEXT_ENTRY.match(each.rstrip("\r\n"))
            lines[number] = line + (entry["comment"] if entry else "") + end
            return "".join(lines)
    place = next((number + 1 for number, each in enumerate(lines[:n_first]) if _assigns(each, after)), 0)
    if place and not lines[place - 1].endswith(("\n", "\r")):
        lines[place - 1] += end
    return "".join([*lines[:place], line + end, *lines[place:]])


def _assigns(line: str, name: str) -> bool:
    return re.match(rf"\s*{re.escape(name)}\s*=", line) is not None
