"""Names of recipes and of their models: they become names of folders."""

import re
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_@+-]*")


def name_mistakes(what: str, name: str) -> list[str]:
    """What is wrong with a name, in sentences; empty if nothing is."""
    if _NAME.fullmatch(name):
        return []
    return [f"{what} must be letters, digits and _ @ + -, a letter or digit first, got {name!r}."]
