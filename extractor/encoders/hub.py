"""The published weights of timm's models: from the hub's cache on this machine, else from the hub.

The file is downloaded by huggingface_hub into its own cache (HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE and
proxies are honoured), as timm's ``pretrained=True`` does. It is then loaded like any file of weights, so that what
matched is told. Before a download the hub is asked for a connection, for a second at most, and for an answer: the
library itself tries for minutes where names cannot be resolved, or where a connection is taken and never answered.
"""

import os
import socket
import ssl
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from featurestore.errors import AbawError, ConfigError, MissingFileError

# As they are published; timm itself writes the first.
_FILES: Final = ("model.safetensors", "pytorch_model.bin")
_PROBE_S: Final = 0.8  # until a connection
_ANSWER_S: Final = 3.0  # until the first answer: two or three round trips more, and a proxy
_ETAG_S: Final = 5.0  # of the library's own question for a file; its habit is 10, and it asks again
_PORTS: Final = {"http": 80, "https": 443}


def is_cached(tag: str, *, cache: Path | None = None) -> bool:
    """Whether the weights of one of timm's own repositories are in the hub's cache, without an import of timm."""
    from huggingface_hub import try_to_load_from_cache

    files = (try_to_load_from_cache(f"timm/{tag}", file, cache_dir=cache) for file in _FILES)
    return any(isinstance(file, str) for file in files)


def cached_weights(tag: str, *, repository: str | None = None, cache: Path | None = None) -> Path | None:
    """The file of a timm model's published weights in the hub's cache; None if it is not there.

    Parameters
    ----------
    tag
        timm's name with the weights' tag, such as ``vit_base_patch16_224.mae``.
    repository
        Where they are, such as ``timm/vit_base_patch16_224.mae``; None to ask timm, whose import takes seconds.
    cache
        The cache; None for huggingface_hub's own.
    """
    from huggingface_hub import try_to_load_from_cache

    repository, revision, files = _place(tag, repository)
    for file in files:
        found = try_to_load_from_cache(repository, file, cache_dir=cache, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def download_weights(tag: str, *, advice: str, repository: str | None = None, cache: Path | None = None) -> Path:
    """The file of a timm model's published weights, downloaded if it is not in the cache.

    Parameters
    ----------
    tag
        timm's name with the weights' tag, such as ``vit_base_patch16_224.mae``.
    advice
        What to do without a network, in a sentence; it ends an error.
    repository, cache
        As in `cached_weights`.

    Raises
    ------
    MissingFileError
        If the hub cannot be reached, or does not give the file: within a second or so where there is no network.
    """
    found = cached_weights(tag, repository=repository, cache=cache)
    if found is not None:
        return found
    repository, revision, files = _place(tag, repository)
    endpoint = hub_endpoint()
    where = f"{endpoint}/{repository}"
    reason = _why_not(endpoint)
    if reason is not None:
        raise _missing(tag, where, reason, advice)

    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in files:
        try:
            downloaded = hf_hub_download(
                repository, file, revision=revision, cache_dir=cache, endpoint=endpoint, etag_timeout=_ETAG_S
            )
            return Path(downloaded)
        except LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError, but of the network
            raise _missing(tag, where, _first_line(error), advice) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the errors of its HTTP library, which is another in each version
            raise _missing(tag, where, _first_line(error), advice) from error
    raise _missing(tag, where, f"it has none of {', '.join(files)}", advice)


def hub_endpoint() -> str:
    """The hub's address: HF_ENDPOINT, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _place(tag: str, repository: str | None) -> tuple[str, str | None, tuple[str, ...]]:
    """Repository, revision and possible files."""
    return _published(tag) if repository is None else (repository, None, _FILES)


def _published(tag: str) -> tuple[str, str | None, tuple[str, ...]]:
    """Repository, revision and possible files of a timm model's weights."""
    import timm

    try:
        config = timm.get_pretrained_cfg(tag)
    except RuntimeError:  # a tag that the architecture has not
        config = None
    if config is None:
        raise ConfigError(f"timm knows no published weights {tag!r}. Name a file of weights.")
    if not config.hf_hub_id:
        raise MissingFileError(
            f"The weights of {tag} are not on the hub but at {config.url or 'no public address'}. "
            "Download that file, and name it."
        )
    repository, _, revision = config.hf_hub_id.partition("@")
    files = (config.hf_hub_filename,) if config.hf_hub_filename else _FILES
    return repository, revision or None, files


def _why_not(endpoint: str) -> str | None:
    """Why the hub cannot be reached; None if it answered, whatever it said."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE forbids it"
    address = urlsplit(endpoint)
    host = address.hostname or ""
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        address = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    connected, answered = threading.Event(), threading.Event()
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            port = address.port or _PORTS.get(address.scheme, 443)
            socket.create_connection((address.hostname or "", port), timeout=_PROBE_S).close()
            connected.set()
            outcome.append(_answer(endpoint))
        except (OSError, ValueError, HTTPException) as error:
            outcome.append(getattr(error, "strerror", None) or str(error))
        connected.set()
        answered.set()

    # A thread, because resolving a name takes no timeout; it is left behind if it hangs.
    threading.Thread(target=ask, name="hub-probe", daemon=True).start()
    if not connected.wait(_PROBE_S):
        return f"no answer from {address.hostname} within {_PROBE_S} s"
    if not answered.wait(_ANSWER_S):
        return f"{address.hostname} took the connection and gave no answer within {_ANSWER_S} s"
    return outcome[0]


def _answer(endpoint: str) -> str | None:
    """Why a hub that takes connections gives no answer; None if it gave any."""
    asked = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(asked, timeout=_ANSWER_S).close()
    except urllib.error.HTTPError:
        return None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return None  # it speaks; whom to trust is the library's to say, which has certificates of its own
        return str(error.reason)
    return None


def _missing(tag: str, where: str, reason: str, advice: str) -> AbawError:
    return MissingFileError(f"The weights {tag} are not on this machine, and {where} gave none: {reason}. {advice}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
