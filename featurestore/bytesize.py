"""Sizes in bytes as people write them: ``4GB``, ``512MB``, ``1.5GiB``, ``65536``."""

import re
from typing import Final

from .errors import ConfigError

_UNITS: Final = {"": 1, "b": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]+)?|\.[0-9]+)\s*([a-z]*)")


def parse_bytes(text: str) -> int:
    """The number of bytes that `text` names.

    Parameters
    ----------
    text
        A number and a unit: B, kB, MB, GB, TB (of 1000) or KiB, MiB, GiB, TiB (of 1024), in any case; without a
        unit it is bytes, and K, M, G, T alone are of 1000.

    Raises
    ------
    ConfigError
        If it is no such size, or less than a byte.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    unit = None if match is None else _UNITS.get(match[2])
    n_bytes = 0 if match is None or unit is None else int(float(match[1]) * unit)
    if n_bytes < 1:
        raise ConfigError(f"Expected a size in bytes such as 4GB, 512MB, 1.5GiB or 65536, got {text!r}. Give one.")
    return n_bytes


def format_bytes(n_bytes: int) -> str:
    """A size for people, in tenths of a unit that `parse_bytes` reads, and never below what it stands for."""
    for unit in ("TB", "GB", "MB", "kB"):
        size = _UNITS[unit.lower()]
        if n_bytes >= size:
            tenths = -(-n_bytes * 10 // size)
            return f"{tenths // 10}.{tenths % 10}{unit}" if tenths % 10 else f"{tenths // 10}{unit}"
    return f"{n_bytes}B"
