"""The published weights of timm's models: from the hub's cache on this machine, else from the hub.

The file is downloaded by huggingface_hub into its own cache (HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE and
proxies are honoured), as timm's ``pretrained=True`` does. It is then loaded like any file of weights, so that what
matched is told. Before a download the hub is asked for a connection, for a second at most: the library itself tries
for minutes where names cannot be resolved.
"""

import os
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from featurestore.errors import AbawError, ConfigError, MissingFileError

# As they are published; timm itself writes the first.
_FILES: Final = ("model.safetensors", "pytorch_model.bin")
_PROBE_S: Final = 0.8
_PORTS: Final = {"http": 80, "https": 443}


def is_cached(tag: str, *, cache: Path | None = None) -> bool:
    """Whether the weights of one of timm's own repositories are in the hub's cache, without an import of timm."""
    from huggingface_hub import try_to_load_from_cache

    files = (try_to_load_from_cache(f"timm/{tag}", file, cache_dir=cache) for file in _FILES)
    return any(isinstance(file, str) for file in files)


def cached_weights(tag: str, *, cache: Path | None = None) -> Path | None:
    """The file of a timm model's published weights in the hub's cache; None if it is not there.

    Parameters
    ----------
    tag
        timm's name with the weights' tag, such as ``vit_base_patch16_224.mae``.
    cache
        The cache; None for huggingface_hub's own.
    """
    from huggingface_hub import try_to_load_from_cache

    repository, revision, files = _published(tag)
    for file in files:
        found = try_to_load_from_cache(repository, file, cache_dir=cache, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def download_weights(tag: str, *, advice: str, cache: Path | None = None) -> Path:
    """The file of a timm model's published weights, downloaded if it is not in the cache.

    Parameters
    ----------
    tag
        timm's name with the weights' tag, such as ``vit_base_patch16_224.mae``.
    advice
        What to do without a network, in a sentence; it ends an error.
    cache
        The cache; None for huggingface_hub's own.

    Raises
    ------
    MissingFileError
        If the hub cannot be reached, or does not give the file: within a second or so where there is no network.
    """
    found = cached_weights(tag, cache=cache)
    if found is not None:
        return found
    repository, revision, files = _published(tag)
    endpoint = hub_endpoint()
    where = f"{endpoint}/{repository}"
    reason = _why_not(endpoint)
    if reason is not None:
        raise _missing(tag, where, reason, advice)

    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision, cache_dir=cache, endpoint=endpoint))
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
    """Why the hub cannot be reached; None if a connection was made, to it or to the proxy before it."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE forbids it"
    address = urlsplit(endpoint)
    host = address.hostname or ""
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        address = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    outcome: list[str | None] = []

    def connect() -> None:
        try:
            port = address.port or _PORTS.get(address.scheme, 443)
            socket.create_connection((address.hostname or "", port), timeout=_PROBE_S).close()
            outcome.append(None)
        except (OSError, ValueError) as error:
            outcome.append(getattr(error, "strerror", None) or str(error))

    # A thread, because resolving a name takes no timeout; it is left behind if it hangs.
    probe = threading.Thread(target=connect, name="hub-probe", daemon=True)
    probe.start()
    probe.join(_PROBE_S)
    return outcome[0] if outcome else f"no answer from {address.hostname} within {_PROBE_S} s"


def _missing(tag: str, where: str, reason: str, advice: str) -> AbawError:
    return MissingFileError(f"The weights {tag} are not on this machine, and {where} gave none: {reason}. {advice}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
