"""From what the user names to a storage: a folder, a ZIP file, a URL."""

from pathlib import Path
from typing import Final

from .base import Storage
from .local import LocalStorage

Location = Path | str | Storage
"""A folder, a ``.zip`` file, a URL such as ``s3://bucket/prefix``, or a storage itself."""

_URL: Final = "://"


def is_url(location: str) -> bool:
    """Whether a text names a place by URL rather than a path."""
    return _URL in location


def open_storage(location: Location, *, cache: Path | None = None) -> Storage:
    """The storage at a location; a folder need not be there yet.

    Parameters
    ----------
    location
        A folder, a ZIP file, a URL, or a storage, which is returned as it is.
    cache
        Folder for copies of what is read from a URL; None for none.

    Raises
    ------
    MissingFileError, StoreError
        If a ZIP file is not there, or is none.
    ConfigError
        If a URL cannot be used, or the extra it needs is not installed.
    """
    if isinstance(location, Storage):
        return location
    if isinstance(location, str) and is_url(location):
        from .cached import CachedStorage
        from .objects import ObjectStorage

        remote = ObjectStorage(location)
        return remote if cache is None else CachedStorage(remote, cache)
    path = Path(location)
    if path.suffix == ".zip" and not path.is_dir():
        from .zipped import ZipStorage

        return ZipStorage(path)
    return LocalStorage(path)
