"""The zarr.json files of a store: made by zarr-python, read as the JSON that they are.

Reading them needs no Zarr library (its import costs more than listing a store), but every value that the direct
reading of chunk files relies on is checked: an array that some other tool rewrote with a codec is refused.
abaw's own facts stand under the attribute "abaw" of the root and of every encoder's group.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from .errors import ConfigError, StoreError
from .layout import ChunkLayout, storage_dtype
from .provenance import Provenance

if TYPE_CHECKING:
    from zarr.core.common import JSON

FORMAT: Final = 1
"""The store's format version; a reader refuses a higher one."""

ZARR_JSON: Final = "zarr.json"
FRAMES_FILE: Final = "frames.parquet"
EMBEDDING: Final = "embedding"
COMMITS: Final = "commits"
FAILURES: Final = "failures"
_ATTRIBUTE: Final = "abaw"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")
_RESERVED: Final = (ZARR_JSON, FRAMES_FILE)
_PLAIN_CODECS: Final = [{"name": "bytes", "configuration": {"endian": "little"}}]
_PLAIN_KEYS: Final = {"name": "default", "configuration": {"separator": "/"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderRecord:
    """What an encoder's group says about itself."""

    frames: str  # fingerprint of the frames
    provenance: Provenance
    layout: ChunkLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class RootRecord:
    """What a store's root says about itself."""

    frames: str  # fingerprint of the frames
    n_frames: int
    sources: Mapping[str, str]  # name -> digest of the files that the frames were made from


def check_encoder_name(name: str) -> None:
    """Refuse (ConfigError) a name that cannot be a group of the store."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ConfigError(
            "An encoder's name starts with a letter or digit and goes on with letters, digits or any of _ . @ + -, "
            f"and is not {' or '.join(_RESERVED)}; not {name!r}. Choose another."
        )


def is_encoder(store: Path, name: str) -> bool:
    """Whether `name` is an encoder's group of a store; what lies outside the store never is."""
    return _NAME.fullmatch(name) is not None and (store / name / EMBEDDING / ZARR_JSON).is_file()


def write_root(store: Path, root: RootRecord) -> None:
    """Make the store's root group, or replace what it says."""
    import zarr  # half a second, needed only where something is made

    sources: dict[str, JSON] = dict(root.sources)
    facts: dict[str, JSON] = {
        "format": FORMAT,
        "frames": root.frames,
        "n_frames": root.n_frames,
        "sources": sources,
    }
    if (store / ZARR_JSON).is_file():
        zarr.open_group(store, mode="r+", zarr_format=3).attrs[_ATTRIBUTE] = facts
    else:
        zarr.create_group(store, attributes={_ATTRIBUTE: facts}, zarr_format=3)


def read_root(store: Path) -> RootRecord:
    """What the store's root says; StoreError if it is not a store, or of a newer format."""
    facts = _facts(store)
    frames, n_frames, sources = facts.get("frames"), facts.get("n_frames"), facts.get("sources")
    if not isinstance(frames, str) or not isinstance(n_frames, int) or not isinstance(sources, dict):
        raise _damaged(store / ZARR_JSON, "the fingerprint and number of its frames, and their sources")
    return RootRecord(frames=frames, n_frames=n_frames, sources={str(k): str(v) for k, v in sources.items()})


def create_encoder(group: Path, record: EncoderRecord) -> None:
    """Make an encoder's group, all of it or nothing; one that another worker made meanwhile is left as it is."""
    import zarr
    from zarr.codecs import BytesCodec

    layout = record.layout
    facts = {
        "format": FORMAT,
        "frames": record.frames,
        "provenance": record.provenance.to_dict(),
        "batch_rows": layout.batch_rows,
    }
    made = group.with_name(f".{group.name}.{uuid.uuid4().hex}.new")
    try:
        zarr_group = zarr.create_group(made, attributes={_ATTRIBUTE: facts}, zarr_format=3)
        zarr_group.create_array(
            EMBEDDING,
            shape=(layout.n_frames, *layout.row_shape),
            chunks=(layout.chunk_rows, *layout.row_shape),
            dtype=layout.dtype,
            fill_value=float("nan"),
            filters=None,
            compressors=None,
            serializer=BytesCodec(endian="little"),
        )
        zarr_group.create_array(
            COMMITS,
            shape=(layout.n_chunks, 2),
            chunks=(1, 2),
            dtype=np.dtype("<u8"),
            fill_value=0,
            filters=None,
            compressors=None,
            serializer=BytesCodec(endian="little"),
        )
        try:
            os.rename(made, group)  # noqa: PTH104 - Path.rename hides which of the two paths was in the way
        except OSError:
            if not is_encoder(group.parent, group.name):
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def read_encoder(group: Path) -> EncoderRecord:
    """What an encoder's group says; StoreError if it is damaged or was rewritten by another tool."""
    facts = _facts(group)
    frames, provenance, batch_rows = facts.get("frames"), facts.get("provenance"), facts.get("batch_rows")
    if not isinstance(frames, str) or not isinstance(provenance, dict) or not isinstance(batch_rows, int):
        raise _damaged(group / ZARR_JSON, "the encoder's frames, provenance and batch_rows")
    layout = _read_layout(group / EMBEDDING / ZARR_JSON, batch_rows)
    return EncoderRecord(frames=frames, provenance=Provenance.from_dict(provenance), layout=layout)


def _read_layout(path: Path, batch_rows: int) -> ChunkLayout:
    array = _read_json(path)
    shape, dtype = array.get("shape"), array.get("data_type")
    chunks = _within(array, "chunk_grid", "configuration", "chunk_shape")
    is_plain = array.get("codecs") == _PLAIN_CODECS and array.get("chunk_key_encoding") == _PLAIN_KEYS
    wanted = "an uncompressed little-endian float16 or float32 Zarr v3 array in chunks of whole rows"
    if not isinstance(shape, list) or not isinstance(chunks, list) or chunks[1:] != shape[1:]:
        raise _damaged(path, wanted)
    if not is_plain or not isinstance(dtype, str) or dtype not in ("float16", "float32"):
        raise _damaged(path, wanted)
    return ChunkLayout(
        n_frames=shape[0],
        row_shape=tuple(shape[1:]),
        dtype=storage_dtype(dtype),
        chunk_rows=chunks[0],
        batch_rows=batch_rows,
    )


def _within(value: object, *keys: str) -> object:
    """The value under nested keys; None where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _facts(group: Path) -> dict[str, object]:
    path = group / ZARR_JSON
    metadata = _read_json(path)
    attributes = metadata.get("attributes")
    facts = attributes.get(_ATTRIBUTE) if isinstance(attributes, dict) else None
    version = facts.get("format") if isinstance(facts, dict) else None
    if not isinstance(facts, dict) or not isinstance(version, int):
        raise StoreError(
            f"A feature store's zarr.json has the attribute {_ATTRIBUTE!r} with a format version; this one has not "
            f"({path}). Give the folder that `abaw frames` made."
        )
    if version > FORMAT:
        raise StoreError(
            f"This abaw reads feature stores up to format {FORMAT}; this one is format {version} ({path}). Update abaw."
        )
    return facts


def _read_json(path: Path) -> dict[str, object]:
    try:
        metadata = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"A Zarr v3 group or array has a zarr.json; there is none ({path}).") from error
    except ValueError as error:
        raise _damaged(path, "JSON") from error
    if not isinstance(metadata, dict):
        raise _damaged(path, "a JSON object")
    return metadata


def _damaged(path: Path, wanted: str) -> StoreError:
    return StoreError(
        f"This file of a feature store should hold {wanted}, and does not ({path}). "
        "It was damaged or written by another tool: restore it, or remove the encoder and extract it again."
    )
