"""A folder that is made beside its place and put there whole, whoever interrupts and whoever else is at it.

encoders/.mae.adding-x7r2k0ab/made        being written
encoders/.mae.adding-x7r2k0ab/replaced    the old one, between two renames; put back if the second one fails

What a killed process left is swept when the name is made the next time, once it is an hour old; if it took the old
encoder away and did not bring the new one, the old one is put back.
"""

import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from featurestore.errors import FileExistsAlreadyError

from .spec import EncoderSpec
from .specfile import SPEC_FILE, read_spec

_STALE_S: Final = 3600.0
_RANDOM: Final = r"[a-z0-9_]{8}"  # what tempfile puts behind a prefix


def place_folder(write: Callable[[Path], None], target: Path, *, force: bool = False) -> bool:
    """Put a new encoder folder in its place by one rename.

    Parameters
    ----------
    write
        Writes the encoder into the folder that it is given.
    target
        The place; the folder above it is made if it is not there.
    force
        Replace what stands there.

    Returns
    -------
    True if it was put there; False if another process put the same encoder there meanwhile.

    Raises
    ------
    FileExistsAlreadyError
        If another encoder was put there meanwhile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target)
    hidden = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
    made, replaced = hidden / "made", hidden / "replaced"
    try:
        write(made)
        if force and target.exists():
            target.rename(replaced)
        return _moved(made, target)
    finally:
        _put_back(replaced, target)
        if not replaced.exists() or target.exists():  # else the only copy is in there
            shutil.rmtree(hidden, ignore_errors=True)


def sweep(target: Path) -> None:
    """Remove what killed processes left of making a folder; an encoder that they took away is put back."""
    if not target.parent.is_dir():
        return
    ours = re.compile(re.escape(_prefix(target)) + _RANDOM)
    for hidden in target.parent.iterdir():
        if ours.fullmatch(hidden.name) and time.time() - _last_change_s(hidden) > _STALE_S:
            _put_back(hidden / "replaced", target)
            shutil.rmtree(hidden, ignore_errors=True)


def _prefix(target: Path) -> str:
    return f".{target.name}.adding-"


def _put_back(replaced: Path, target: Path) -> None:
    if replaced.exists() and not target.exists():
        replaced.rename(target)


def _moved(made: Path, target: Path) -> bool:
    try:
        made.rename(target)
    except OSError:
        if not (target / SPEC_FILE).is_file():
            raise
        theirs = read_spec(target)  # another process was faster
        if _is_same(read_spec(made), theirs):
            return False
        raise FileExistsAlreadyError(
            f"Encoder {target.name!r} ({target}) was added by another process meanwhile, from "
            f"{theirs.origin.get('file', 'other weights')} and as another encoder. Nothing was replaced. "
            "Give another name, or --force."
        ) from None
    return True


def _is_same(one: EncoderSpec, other: EncoderSpec) -> bool:
    """Whether two encoders are built and fed alike and hold the weights of the same file."""
    if one.origin.get("digest") != other.origin.get("digest"):
        return False
    return one.model_copy(update={"origin": {}}) == other.model_copy(update={"origin": {}})


def _last_change_s(hidden: Path) -> float:
    times = []
    for path in (hidden, *hidden.rglob("*")):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # its maker is at work
            return time.time()
    return max(times)
