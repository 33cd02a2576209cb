"""Replacing a file in one step, so that a reader, or the next run after a kill, sees the old one or the new one.

The new content is written beside the file under a hidden name of its own (several processes may replace the same
file), flushed to the disk, and renamed; then the folder is flushed, without which the rename itself may be lost.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import AbawError, MissingFileError, StorageFullError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# What file systems answer that cannot flush a folder, and need not.
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


@contextlib.contextmanager
def replace_file(path: Path, *, flush: bool = True, flush_name: bool = True) -> Iterator[Path]:
    """Replace a file by what the body writes to the yielded path, or leave it as it was.

    Parameters
    ----------
    path
        The file that will be there afterwards; its folder exists.
    flush
        Bring its bytes to the disk before it gets its name; without, a power cut may leave it empty.
    flush_name
        Bring the name to the disk too; without, a power cut may bring back what was there before.

    Yields
    ------
    A path in the same folder at which nothing is yet. It ends like `path`: some writers add a missing suffix.

    Raises
    ------
    MissingFileError
        If the folder is not there.
    StorageFullError
        If there was no space for the new file; the old one, if any, is untouched.
    """
    if not path.parent.is_dir():
        raise MissingFileError(
            f"A file is written to a folder that is there; {path.parent} is not (file: {path.name}). "
            "Make the folder, or correct the path."
        )
    partial = path.with_name(f".{secrets.token_hex(4)}.partial.{path.name}")
    try:
        yield partial
        if flush:
            flush_file(partial)
        os.replace(partial, path)  # noqa: PTH105 - named in tests, and by what every reader of this looks for
        if flush_name:
            flush_folder(path.parent)
    except AbawError:
        raise
    except Exception as error:
        if _is_out_of_space(error, path.parent):
            raise StorageFullError(
                f"No space is left for {path.name}: it was not written, and what was there before is as it was "
                f"(folder: {path.parent}). Free some space, or write elsewhere, and run the same command again."
            ) from error
        raise
    finally:
        # Gone already when all went well; a failed removal must not hide what went wrong.
        with contextlib.suppress(OSError):
            partial.unlink()


def flush_file(path: Path) -> None:
    """Flush a file's bytes to the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Flush a folder's entries to disk, where the system can: what was renamed or removed in it stays so."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise
    finally:
        os.close(handle)


def says_no_space(error: BaseException) -> bool:
    """Whether an error says that the disk is full; torch and safetensors wrap the system's in one of their own."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return True
    return any(os.strerror(code) in str(error) for code in _NO_SPACE)


def _is_out_of_space(error: Exception, folder: Path) -> bool:
    if says_no_space(error):
        return True
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free == 0
    return False
