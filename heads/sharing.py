"""What several processes and several tables share: a folder's lock, and the digest that is a row's key."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import xxhash

_LOCK_FILE: Final = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait for a folder's lock, and hold it until the body ends; a killed process does not keep it."""
    with (folder / _LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest_of(decisive: Mapping[str, object]) -> str:
    """The xxh3-128 of values that JSON can hold, whatever their order."""
    return xxhash.xxh3_128_hexdigest(json.dumps(dict(decisive), sort_keys=True).encode())
