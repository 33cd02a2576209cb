"""A feature store: the frame table, and the embeddings of any number of encoders over it.

It is a plain Zarr v3 group (docs/format.md), in a folder, in memory, in a ZIP file or in an object store; this is
the way in. What a store holds never mixes: every encoder's group names the frames and the provenance that it was
made from, and anything else is refused.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .embedding import Embedding
from .errors import (
    FileExistsAlreadyError,
    FrameMismatchError,
    MissingEmbeddingsError,
    MissingFileError,
    unknown_name,
)
from .frames import FrameTable
from .layout import plan_layout
from .metadata import (
    FRAMES_FILE,
    ZARR_JSON,
    EncoderRecord,
    FramesRecord,
    RootRecord,
    check_encoder_name,
    create_encoder,
    grow_encoder,
    is_encoder,
    read_root,
    write_root,
)
from .provenance import Provenance
from .sameness import check_same, projected
from .storage.base import Storage
from .storage.local import LocalStorage
from .storage.opening import Location, open_storage
from .tokenprojection import TokenProjection
from .writer import COMMIT_EVERY_S, EmbeddingWriter


class FeatureStore:
    """A feature store; made by `create`, found by `open`.

    Parameters
    ----------
    storage
        What it is kept in.

    Raises
    ------
    StoreError
        If that holds no feature store, or one of a newer format.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._root = read_root(storage)

    @classmethod
    def create(
        cls,
        location: Location,
        frames: FrameTable,
        *,
        sources: Mapping[str, str] | None = None,
        add: bool = False,
    ) -> "FeatureStore":
        """A store over `frames`.

        Over an existing store of the same frames the table is replaced, since labels may have been corrected;
        rows keep their order and embeddings stay. With `add`, further videos are appended to it. Over one of other
        frames it is made anew if there are no embeddings yet.

        Parameters
        ----------
        location
            A folder, a URL, or a storage.
        frames
            The frames.
        sources
            Name -> digest of the files the frames were made from; None keeps what is recorded.
        add
            Let the store grow by the videos that it does not know.

        Raises
        ------
        FrameMismatchError
            If embeddings of other frames are there.
        FileExistsAlreadyError
            If the location holds something else.
        NotWritableError
            If it cannot be written.
        """
        storage = open_storage(location)
        if storage.size(ZARR_JSON) is None:
            _refuse_foreign(storage)
            root = RootRecord(frames=_record_of(frames), sources=sources or {})
        else:
            old = cls(storage)
            root = replace(old._root, sources=old.sources if sources is None else sources)
            if frames.fingerprint != old.fingerprint and old.names():
                frames = old.frames.continued_by(frames)
                root = _grown(root, frames, old, add=add)
            elif frames.fingerprint != old.fingerprint:
                root = replace(root, frames=_record_of(frames), earlier=())
        # The table first: one that is longer than the root says is cut to what it says (see `frames`).
        storage.write(FRAMES_FILE, [frames.to_bytes()])
        storage.sync()
        write_root(storage, root)
        storage.sync()
        return cls(storage)

    @classmethod
    def open(cls, location: Location, *, cache: Path | None = None) -> "FeatureStore":
        """The store at a location.

        Parameters
        ----------
        location
            A folder, a ``.zip`` file, a URL such as ``s3://bucket/features``, or a storage.
        cache
            Folder for copies of what is read from a URL; None for none.

        Raises
        ------
        MissingFileError
            If there is none.
        StoreError
            If it is not a feature store, or of a newer format.
        """
        storage = open_storage(location, cache=cache)
        if storage.size(ZARR_JSON) is None:
            what = "holds none" if storage.names() else "is empty or is not there"
            raise MissingFileError(
                f"A feature store is a Zarr group with a zarr.json; {storage.location} {what}. "
                "Run `abaw frames` to make one, or give its path."
            )
        return cls(storage)

    def __getstate__(self) -> dict[str, object]:
        # For another process: the same storage, and the frames as they are here, though the store may grow meanwhile.
        # The table itself is read there if it is needed.
        return {name: value for name, value in self.__dict__.items() if name != "frames"}

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        return self.storage.location

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the frames."""
        return self._root.frames.fingerprint

    @property
    def sources(self) -> Mapping[str, str]:
        """Name -> digest of the files the frames were made from."""
        return dict(self._root.sources)

    @property
    def n_frames(self) -> int:
        """Rows of the frame table."""
        return self._root.frames.n_frames

    @cached_property
    def frames(self) -> FrameTable:
        """The frame table, read when first asked for.

        Raises
        ------
        FrameMismatchError
            If the table is not the one that the store was made for.
        """
        where = self.storage.where(FRAMES_FILE)
        raw = self.storage.read(FRAMES_FILE)
        if raw is None:
            raise MissingFileError(f"A store's frames are a Parquet file; {where} is not there. Run `abaw frames`.")
        table = FrameTable.from_bytes(raw, where=where)
        if len(table) > self.n_frames:
            # A kill came after the table had grown and before the root said so; or it grew since we opened.
            table = table.head(self.n_frames)
        if table.fingerprint != self.fingerprint:
            raise FrameMismatchError(
                f"The store was made for frames {self.fingerprint}, its table holds {table.fingerprint} ({where}). "
                "Restore that file; or, if there are no embeddings yet, remove the store and run `abaw frames`."
            )
        return table

    def names(self) -> tuple[str, ...]:
        """The encoders it has embeddings of, complete or not, sorted."""
        return tuple(name for name in self.storage.names() if name in self)

    def __contains__(self, name: str) -> bool:
        return is_encoder(self.storage, name)

    def __repr__(self) -> str:
        return f"FeatureStore({self.location!r}, {self.n_frames} frames, encoders: {', '.join(self.names())})"

    def embedding(self, name: str) -> Embedding:
        """The embeddings of an encoder; rows of videos that were appended since are not there yet.

        Raises
        ------
        MissingEmbeddingsError
            If there are none of that name.
        FrameMismatchError
            If they are of other frames.
        """
        self._check_there(name)
        embedding = Embedding(self.storage, name, self.n_frames)
        frames = embedding.record.frames
        if not self._knows(frames):
            raise FrameMismatchError(
                f"Embeddings of encoder {name!r} are of {frames.n_frames} frames {frames.fingerprint}, the store of "
                f"{self.n_frames} frames {self.fingerprint} (store: {self.location}). "
                f"Run `abaw store rm {name}` and extract them again."
            )
        return embedding

    def writer(
        self,
        name: str,
        provenance: Provenance,
        *,
        row_shape: tuple[int, ...],
        dtype: npt.DTypeLike = np.float16,
        chunk_rows: int | None = None,
        batch_rows: int = 1,
        projection: TokenProjection | None = None,
        commit_every_s: float = COMMIT_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> EmbeddingWriter:
        """A writer of an encoder's embeddings, which makes their group or goes on with it.

        A projection of tokens is kept in a group that is made. If one is there, by an earlier run or by another worker
        who was quicker, ITS projection counts: take `writer.embedding.projection`, whatever was given; and before one
        is fitted, look whether `store.embedding(name).projection` is there already.

        Parameters
        ----------
        name
            Of the encoder: letters, digits and _ . @ + -.
        provenance
            What makes the embeddings.
        row_shape
            (dim,) or (n_tokens, dim).
        dtype
            float16 or float32.
        chunk_rows
            Rows of a chunk; None for about 4 MiB. An existing group keeps its own.
        batch_rows
            Rows that are computed together, a power of two. An existing group keeps its own.
        projection
            What rows, of shape (n_tokens, n_components), went through; None for nothing. A provenance that names a
            projection asks for that one and no other.
        commit_every_s
            Seconds after which a partly filled chunk is committed.
        clock
            Monotonic seconds.

        Raises
        ------
        ConfigError
            If the name, the dtype or the sizes are not possible.
        EncoderMismatchError
            If embeddings of another provenance or dtype have that name.
        FrameMismatchError
            If they are of other frames.
        ShapeError
            If they have rows of another shape.
        """
        check_encoder_name(name)
        made_by = provenance if projection is None else projected(provenance, projection, row_shape, encoder=name)
        if name not in self:
            layout = plan_layout(self.n_frames, row_shape, dtype=dtype, batch_rows=batch_rows, chunk_rows=chunk_rows)
            record = EncoderRecord(frames=self._root.frames, provenance=made_by, layout=layout)
            create_encoder(self.storage, name, record, projection)
        # Read back in either case: another worker may have made the group a moment before us.
        if provenance.projection is None and projection is not None:
            kept = self.embedding(name).projection
            made_by = made_by if kept is None else replace(made_by, projection=kept.digest)
        embedding = self.check_same_encoder(name, made_by, row_shape=row_shape, dtype=dtype)
        if embedding.record.frames.n_frames < self.n_frames:
            grown = replace(embedding.record, frames=self._root.frames, layout=embedding.layout)
            grow_encoder(self.storage, name, grown)
            self.storage.sync()
            embedding = self.embedding(name)
        self.storage.tidy(name)
        return EmbeddingWriter(embedding, commit_every_s=commit_every_s, clock=clock)

    def check_same_encoder(
        self, name: str, provenance: Provenance, *, row_shape: tuple[int, ...], dtype: npt.DTypeLike
    ) -> Embedding:
        """The embeddings of that name, if they are those that `writer` would go on with.

        Raises
        ------
        EncoderMismatchError, ShapeError
            If something else made them, or they are of another dtype or row shape.
        MissingEmbeddingsError, FrameMismatchError
            As `embedding`.
        """
        embedding = self.embedding(name)
        advice = f"Extract it as {self.free_version(name)}, which keeps both, or run `abaw store rm {name}` first."
        check_same(embedding, provenance, row_shape, dtype, advice=advice)
        return embedding

    def _knows(self, frames: FramesRecord) -> bool:
        """Whether these are our frames, or were, or have become so since we were opened."""
        if frames in (self._root.frames, *self._root.earlier):
            return True
        now = read_root(self.storage)
        return self._root.frames in now.earlier and frames in (now.frames, *now.earlier)

    def remove(self, name: str) -> None:
        """Remove an encoder's embeddings; MissingEmbeddingsError if there are none."""
        self._check_there(name)
        self.storage.discard(name)

    def rows_done(self, name: str) -> int:
        """How many rows of an encoder are committed."""
        return self.embedding(name).rows_done()

    def size_bytes(self, name: str) -> int:
        """Bytes that an encoder's files hold."""
        self._check_there(name)
        return sum(self.storage.sizes(name).values())

    def free_version(self, name: str) -> str:
        """The first of ``name@2``, ``name@3``, ... that is free, to keep another version beside what is there."""
        base, number = re.sub(r"@[0-9]+$", "", name), 2
        while f"{base}@{number}" in self:
            number += 1
        return f"{base}@{number}"

    def _check_there(self, name: str) -> None:
        if name not in self:
            raise MissingEmbeddingsError(
                f"{unknown_name('encoder', name, self.names())} (store: {self.location}). "
                f"Run `abaw extract --encoder {name}` to add it."
            )


def _record_of(frames: FrameTable) -> FramesRecord:
    return FramesRecord(n_frames=len(frames), fingerprint=frames.fingerprint)


def _grown(root: RootRecord, frames: FrameTable, old: FeatureStore, *, add: bool) -> RootRecord:
    """The root of `old` when its table has become `frames`, which goes on after it."""
    n_new = len(frames) - old.n_frames
    if not n_new:
        return root
    if not add:
        videos = frames.data["video"].tail(n_new).n_unique()
        raise FrameMismatchError(
            f"The store holds {old.n_frames:,} frames and embeddings of them ({', '.join(old.names())}); these are "
            f"{n_new:,} frames of {videos:,} further videos (store: {old.location}). "
            "Run `abaw frames --add` to append them, which computes nothing again; or make a store in another folder."
        )
    return replace(root, frames=_record_of(frames), earlier=(*root.earlier, root.frames))


def _refuse_foreign(storage: Storage) -> None:
    """Refuse to make a store where anything is but an interrupted creation's traces."""
    foreign = [name for name in storage.names() if name != FRAMES_FILE]
    if isinstance(storage, LocalStorage) and storage.root.is_file():
        foreign = [storage.root.name]
    if foreign:
        raise FileExistsAlreadyError(
            f"A feature store is made in a new or empty folder; {storage.location} is taken (by {foreign[0]!r}). "
            "Give another path."
        )
