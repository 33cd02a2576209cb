"""The zarr.json objects of a store: made by zarr-python, read as the JSON that they are.

Reading them needs no Zarr library (its import costs more than listing a store), but every value that the direct
reading of chunks relies on is checked: an array that some other tool rewrote with a codec is refused.
abaw's own facts stand under the attribute "abaw" of the root and of every encoder's group.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeGuard, cast

import numpy as np

from .committed import COMMITS, EMBEDDING
from .errors import ConfigError, StoreError
from .layout import ChunkLayout, storage_dtype
from .provenance import Provenance
from .storage.base import Storage
from .tokenprojection import TokenProjection

if TYPE_CHECKING:
    from zarr.core.common import JSON

FORMAT: Final = 1
"""The store's format version; a reader refuses a higher one."""

ZARR_JSON: Final = "zarr.json"
FRAMES_FILE: Final = "frames.parquet"
_ATTRIBUTE: Final = "abaw"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")
_RESERVED: Final = (ZARR_JSON, FRAMES_FILE)
_PLAIN_CODECS: Final = [{"name": "bytes", "configuration": {"endian": "little"}}]


@dataclass(frozen=True, kw_only=True, slots=True)
class FramesRecord:
    """Which frames: how many, and their fingerprint."""

    n_frames: int
    fingerprint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderRecord:
    """What an encoder's group says about itself."""

    frames: FramesRecord  # that it has room for
    provenance: Provenance
    layout: ChunkLayout
    projection_shape: tuple[int, int] | None = None  # (dim, n_components) of the projection that is kept in the group


@dataclass(frozen=True, kw_only=True, slots=True)
class RootRecord:
    """What a store's root says about itself."""

    frames: FramesRecord
    earlier: Sequence[FramesRecord] = ()  # what it held before videos were appended, the oldest first
    sources: Mapping[str, str]  # name -> digest of the files that the frames were made from


def check_encoder_name(name: str) -> None:
    """Refuse (ConfigError) a name that cannot be a group of the store."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ConfigError(
            "An encoder's name starts with a letter or digit and goes on with letters, digits or any of _ . @ + -, "
            f"and is not {' or '.join(_RESERVED)}; not {name!r}. Choose another."
        )


def is_encoder(storage: Storage, name: str) -> bool:
    """Whether `name` is an encoder's group of a store; what lies outside the store never is."""
    return (
        _NAME.fullmatch(name) is not None
        and storage.size(f"{name}/{ZARR_JSON}") is not None
        and storage.size(f"{name}/{EMBEDDING}/{ZARR_JSON}") is not None
    )


def write_root(storage: Storage, root: RootRecord) -> None:
    """Make the store's root group, or replace what it says."""
    sources: dict[str, JSON] = dict(root.sources)
    facts: dict[str, JSON] = {
        "format": FORMAT,
        "frames": root.frames.fingerprint,
        "n_frames": root.frames.n_frames,
        "sources": sources,
    }
    if root.earlier or storage.size(ZARR_JSON) is not None:
        facts["earlier"] = [{"frames": each.fingerprint, "n_frames": each.n_frames} for each in root.earlier]
    metadata = json.loads(_group_files(facts)[ZARR_JSON])
    if storage.size(ZARR_JSON) is not None:
        # What a newer abaw, or the user, has noted there stays.
        there = _read_json(storage, ZARR_JSON).get("attributes")
        kept = dict(there) if isinstance(there, dict) else {}
        known = kept.get(_ATTRIBUTE)
        kept[_ATTRIBUTE] = {**(known if isinstance(known, dict) else {}), **facts}
        metadata["attributes"] = kept
    storage.write(ZARR_JSON, [json.dumps(metadata, indent=2).encode()])


def read_root(storage: Storage) -> RootRecord:
    """What the store's root says; StoreError if it is not a store, or of a newer format."""
    facts = _facts(storage, ZARR_JSON)
    frames, sources, earlier = _frames_of(facts), facts.get("sources"), facts.get("earlier", [])
    before = [_frames_of(each) for each in earlier] if isinstance(earlier, list) else [None]
    known = [each for each in before if each is not None]
    if frames is None or not isinstance(sources, dict) or len(known) < len(before):
        raise _damaged(storage.where(ZARR_JSON), "the fingerprint and number of its frames, and their sources")
    return RootRecord(frames=frames, earlier=tuple(known), sources={str(k): str(v) for k, v in sources.items()})


def create_encoder(
    storage: Storage, name: str, record: EncoderRecord, projection: TokenProjection | None = None
) -> None:
    """Make an encoder's group, all of it or nothing; one that another worker made meanwhile is left as it is.

    Parameters
    ----------
    storage, name
        Where.
    record
        What the group says; of its projection it says what `projection` is.
    projection
        To keep in it.
    """
    shape = None if projection is None else (projection.dim, projection.n_components)
    files = _encoder_files(replace(record, projection_shape=shape), projection)
    # Workers that bring different projections all stop at the first object that differs: the order is the same for all.
    storage.create(name, files)


def grow_encoder(storage: Storage, name: str, record: EncoderRecord) -> None:
    """Give an encoder's group room for more frames; workers that do so at once write the same."""
    files = _encoder_files(record)
    # The group's own comes last: as long as it names the old frames, the arrays count as being that long.
    for key in sorted(files, key=lambda key: (key == ZARR_JSON, key)):
        if key == ZARR_JSON:
            storage.sync()
        storage.write(f"{name}/{key}", [files[key]])


def read_encoder(storage: Storage, name: str) -> EncoderRecord:
    """What an encoder's group says; StoreError if it is damaged or was rewritten by another tool."""
    key = f"{name}/{ZARR_JSON}"
    facts = _facts(storage, key)
    frames, provenance, batch_rows = facts.get("frames"), facts.get("provenance"), facts.get("batch_rows")
    if not isinstance(frames, str) or not isinstance(provenance, dict) or not isinstance(batch_rows, int):
        raise _damaged(storage.where(key), "the encoder's frames, provenance and batch_rows")
    array_key = f"{name}/{EMBEDDING}/{ZARR_JSON}"
    n_frames = facts.get("n_frames")
    layout = _read_layout(storage, array_key, batch_rows, n_frames if isinstance(n_frames, int) else None)
    return EncoderRecord(
        frames=FramesRecord(n_frames=layout.n_frames, fingerprint=frames),
        provenance=Provenance.from_dict(provenance),
        layout=layout,
        projection_shape=_read_projection_shape(facts, storage.where(key)),
    )


def _encoder_files(record: EncoderRecord, projection: TokenProjection | None = None) -> dict[str, bytes]:
    layout = record.layout
    facts: dict[str, JSON] = {
        "format": FORMAT,
        "frames": record.frames.fingerprint,
        "n_frames": record.frames.n_frames,
        "provenance": cast("JSON", record.provenance.to_dict()),
        "batch_rows": layout.batch_rows,
    }
    if record.projection_shape is not None:
        facts["projection"] = list(record.projection_shape)
    return _group_files(facts, layout, projection)


def _group_files(
    facts: "dict[str, JSON]", layout: ChunkLayout | None = None, projection: TokenProjection | None = None
) -> dict[str, bytes]:
    """Key -> bytes of a group, as zarr-python writes it: its metadata, the two arrays of a layout, and a projection."""
    import zarr  # half a second, needed only where something is made
    from zarr.codecs import BytesCodec
    from zarr.core.buffer import Buffer

    made: dict[str, Buffer] = {}
    group = zarr.create_group(zarr.storage.MemoryStore(made), attributes={_ATTRIBUTE: facts}, zarr_format=3)
    if layout is not None:
        group.create_array(
            EMBEDDING,
            shape=(layout.n_frames, *layout.row_shape),
            chunks=(layout.chunk_rows, *layout.row_shape),
            dtype=layout.dtype,
            fill_value=float("nan"),
            filters=None,
            compressors=None,
            serializer=BytesCodec(endian="little"),
            chunk_key_encoding={"name": "default", "separator": layout.separator},
        )
        group.create_array(
            COMMITS,
            shape=(layout.n_chunks, 2),
            chunks=(1, 2),
            dtype=np.dtype("<u8"),
            fill_value=0,
            filters=None,
            compressors=None,
            serializer=BytesCodec(endian="little"),
            chunk_key_encoding={"name": "default", "separator": layout.separator},
        )
    if projection is not None:
        projection.add_to(group)
    return {key: buffer.to_bytes() for key, buffer in made.items()}


def _read_projection_shape(facts: Mapping[str, object], where: str) -> tuple[int, int] | None:
    shape = facts.get("projection")
    if shape is None:
        return None
    if not _are_lengths(shape) or len(shape) != 2:
        raise _damaged(where, "the shape (dim, n_components) of the projection that is kept with the embeddings")
    return shape[0], shape[1]


def _read_layout(storage: Storage, key: str, batch_rows: int, n_frames: int | None) -> ChunkLayout:
    array = _read_json(storage, key)
    shape, dtype = array.get("shape"), array.get("data_type")
    chunks = _within(array, "chunk_grid", "configuration", "chunk_shape")
    separator = _within(array, "chunk_key_encoding", "configuration", "separator")
    is_plain = array.get("codecs") == _PLAIN_CODECS and _within(array, "chunk_key_encoding", "name") == "default"
    wanted = "an uncompressed little-endian float16 or float32 Zarr v3 array in chunks of whole rows"
    if not _are_lengths(shape) or not _are_lengths(chunks) or chunks[1:] != shape[1:]:
        raise _damaged(storage.where(key), wanted)
    if not is_plain or not isinstance(dtype, str) or dtype not in ("float16", "float32"):
        raise _damaged(storage.where(key), wanted)
    if separator not in ("/", ".") or (n_frames is not None and n_frames > shape[0]):
        raise _damaged(storage.where(key), f"{wanted}, as long as its group says")
    return ChunkLayout(
        n_frames=shape[0] if n_frames is None else n_frames,
        row_shape=tuple(shape[1:]),
        dtype=storage_dtype(dtype),
        chunk_rows=chunks[0],
        batch_rows=batch_rows,
        separator=str(separator),
    )


def _are_lengths(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(isinstance(each, int) and each >= 0 for each in value)


def _frames_of(facts: object) -> FramesRecord | None:
    n_frames, fingerprint = _within(facts, "n_frames"), _within(facts, "frames")
    if not isinstance(n_frames, int) or n_frames < 0 or not isinstance(fingerprint, str):
        return None
    return FramesRecord(n_frames=n_frames, fingerprint=fingerprint)


def _within(value: object, *keys: str) -> object:
    """The value under nested keys; None where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _facts(storage: Storage, key: str) -> dict[str, object]:
    metadata = _read_json(storage, key)
    attributes = metadata.get("attributes")
    facts = attributes.get(_ATTRIBUTE) if isinstance(attributes, dict) else None
    version = facts.get("format") if isinstance(facts, dict) else None
    if not isinstance(facts, dict) or not isinstance(version, int):
        raise StoreError(
            f"A feature store's zarr.json has the attribute {_ATTRIBUTE!r} with a format version; this one has not "
            f"({storage.where(key)}). Give the folder that `abaw frames` made."
        )
    if version > FORMAT:
        raise StoreError(
            f"This abaw reads feature stores up to format {FORMAT}; this one is format {version} "
            f"({storage.where(key)}). Update abaw."
        )
    return facts


def _read_json(storage: Storage, key: str) -> dict[str, object]:
    raw = storage.read(key)
    if raw is None:
        raise StoreError(
            f"A Zarr v3 group or array has a zarr.json; there is none ({storage.where(key)}). "
            "Restore it, or remove the encoder and extract it again."
        )
    try:
        metadata = json.loads(raw)
    except ValueError as error:
        raise _damaged(storage.where(key), "JSON") from error
    if not isinstance(metadata, dict):
        raise _damaged(storage.where(key), "a JSON object")
    return metadata


def _damaged(where: str, wanted: str) -> StoreError:
    return StoreError(
        f"This file of a feature store should hold {wanted}, and does not ({where}). "
        "It was damaged or written by another tool: restore it, or remove the encoder and extract it again."
    )
