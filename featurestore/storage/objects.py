"""An object store: S3, and what else speaks its language or has a URL that obstore knows (extra ``abaw[s3]``).

A put is atomic there, so nothing needs a hidden name. Credentials and endpoint come from the environment
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, ...) and are never written anywhere.
Many objects are read at once: one request waits for its round trip, not for the line.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from featurestore.errors import ConfigError, NotWritableError, UnreachableStoreError

from .base import MAX_REQUESTS, Bytes, Storage, checked_key

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_GROUP_FILE: Final = "zarr.json"
_RETRY_S: Final = 30
_PATIENCE, _PATIENCE_STEP_S = 20, 0.1  # for another worker to finish making a group: two objects of a few hundred bytes


class ObjectStorage(Storage):
    """A prefix of an object store.

    Parameters
    ----------
    url
        ``s3://bucket/prefix``, or another URL of obstore's.

    Raises
    ------
    ConfigError
        If the extra is not installed, or the URL cannot be used.
    """

    is_remote = True

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/")
        self._store = _open(self.location)

    def __reduce__(self) -> "tuple[Callable[[str], ObjectStorage], tuple[str]]":
        return ObjectStorage, (self.location,)

    def read(self, key: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        view = self.view(key)
        return None if view is None else bytes(view)

    def view(self, key: str) -> memoryview | None:
        """An object's bytes, fetched as a whole; None where there is none."""
        import obstore

        with self._asking(key):
            try:
                return memoryview(obstore.get(self._store, key).bytes())
            except FileNotFoundError:
                return None

    def read_into(self, key: str, out: memoryview, offset: int = 0) -> int | None:
        """Copy an object's bytes from `offset` on to `out`; no others are fetched."""
        import obstore
        from obstore.exceptions import BaseError

        with self._asking(key):
            try:
                part = memoryview(obstore.get_range(self._store, key, start=offset, length=len(out)))
            except FileNotFoundError:
                return None
            except BaseError:
                n_bytes = self.size(key)
                if n_bytes is None or offset < n_bytes:
                    raise
                return 0  # a range that begins past the end is an error there
            out[: len(part)] = part
            return len(part)

    def fetch(self, key: str, known: str | None) -> tuple[str, memoryview | None] | None:
        """An object with its ETag, unless that is `known`: then without its bytes; None where there is none."""
        import obstore
        from obstore.exceptions import NotModifiedError

        with self._asking(key):
            try:
                found = obstore.get(self._store, key, options={"if_none_match": known} if known else None)
                return str(found.meta["e_tag"]), memoryview(found.bytes())
            except NotModifiedError:
                return known or "", None
            except FileNotFoundError:
                return None

    def size(self, key: str) -> int | None:
        """An object's length in bytes; None where there is none."""
        import obstore

        with self._asking(key):
            try:
                return int(obstore.head(self._store, key)["size"])
            except FileNotFoundError:
                return None

    def names(self, prefix: str = "") -> list[str]:
        """The names directly under a prefix, sorted."""
        import obstore

        with self._asking(prefix):
            listed = obstore.list_with_delimiter(self._store, prefix or None)
        paths = [*listed["common_prefixes"], *(each["path"] for each in listed["objects"])]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Key -> length in bytes of every object under a prefix."""
        import obstore

        with self._asking(prefix):
            pages = obstore.list(self._store, prefix or None)
            return dict(sorted((str(each["path"]), int(each["size"])) for page in pages for each in page))

    def read_many(self, keys: Iterable[str]) -> list[bytes | None]:
        """The bytes of several objects, fetched side by side."""
        with ThreadPoolExecutor(MAX_REQUESTS) as pool:
            return list(pool.map(self.read, keys))

    def write(self, key: str, parts: Sequence[Bytes], *, flush: bool = True) -> None:
        """Replace an object by the bytes of `parts`; it is durable when this returns."""
        import obstore

        with self._asking(key):
            obstore.put(self._store, checked_key(key), b"".join(parts), use_multipart=False)

    def remove(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        import obstore

        with self._asking(key), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, checked_key(key))

    def create(self, prefix: str, files: Mapping[str, bytes]) -> bool:
        """Make a group of objects, its ``zarr.json`` last and only if there is none: that one decides.

        Objects that are under the prefix without a ``zarr.json`` were left by a removal or a creation that was killed,
        and go first; metadata alone may also be another worker's, who is making the group right now.
        """
        group_key = f"{prefix}/{_GROUP_FILE}"
        if self.size(group_key) is not None:
            return False
        inner = {f"{prefix}/{key}": raw for key, raw in files.items() if key != _GROUP_FILE}
        self._delete(key for key in self.sizes(prefix) if key not in inner)
        if not all(self._put_new(key, raw) or self.read(key) == raw for key, raw in inner.items()):
            for _ in range(_PATIENCE):
                if self.size(group_key) is not None:
                    return False
                time.sleep(_PATIENCE_STEP_S)
            for key, raw in inner.items():
                self.write(key, [raw])
        return self._put_new(group_key, files[_GROUP_FILE])

    def _put_new(self, key: str, raw: bytes) -> bool:
        """Put an object if there is none of its key; whether that was so."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with self._asking(key):
            try:
                obstore.put(self._store, key, raw, mode="create")
                return True
            except (AlreadyExistsError, FileExistsError):
                return False

    def _delete(self, keys: Iterable[str]) -> None:
        import obstore

        if doomed := list(keys):
            with self._asking(doomed[0]):
                obstore.delete(self._store, doomed)

    def discard(self, prefix: str) -> None:
        """Remove a group, its ``zarr.json`` first, so that it is not found any more."""
        self.remove(f"{prefix}/{_GROUP_FILE}")
        self._delete(self.sizes(prefix))

    @contextlib.contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        """Put obstore's errors in our words."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise NotWritableError(
                f"{self.where(key)} may not be accessed with these credentials: {_first_line(error)}. "
                "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy."
            ) from error
        except (BaseError, OSError) as error:
            raise UnreachableStoreError(
                f"The object store did not answer as it should ({self.where(key)}): {_first_line(error)}. "
                "Check the URL, AWS_ENDPOINT_URL and the network, and run the same command again."
            ) from error


def _open(url: str) -> "ObjectStore":
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise ConfigError(
            f"A store at a URL needs the extra 's3' ({url}). Install it with: pip install 'abaw[s3]'."
        ) from error
    # S3's own endpoint is https; one that is given with http (a server in the house) is meant.
    is_http = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    try:
        return from_url(
            url,
            client_options={"allow_http": True} if is_http else None,
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=_RETRY_S)},
        )
    except (BaseError, ValueError) as error:
        raise ConfigError(
            f"A store's URL is like s3://bucket/prefix; {url!r} cannot be opened: {_first_line(error)}. Correct it."
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error)
    if "NoSuchBucket" in text:
        return "there is no such bucket"
    return text.partition("\n")[0].partition(": <?xml")[0].rstrip(".")[:300]
