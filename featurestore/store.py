"""A feature store: the frame table, and the embeddings of any number of encoders over it.

On disk it is a plain Zarr v3 group (docs/format.md); this is the way in. What a store holds never mixes: every
encoder's group names the frames and the provenance that it was made from, and anything else is refused.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .embedding import Embedding
from .errors import (
    EncoderMismatchError,
    FileExistsAlreadyError,
    FrameMismatchError,
    MissingEmbeddingsError,
    MissingFileError,
    ShapeError,
    unknown_name,
)
from .frames import FrameTable
from .layout import ChunkLayout, default_chunk_rows, storage_dtype
from .metadata import (
    FRAMES_FILE,
    ZARR_JSON,
    EncoderRecord,
    RootRecord,
    check_encoder_name,
    create_encoder,
    is_encoder,
    read_root,
    write_root,
)
from .provenance import Provenance
from .writer import COMMIT_EVERY_S, EmbeddingWriter


class FeatureStore:
    """A feature store on disk; made by `create`, found by `open`.

    Parameters
    ----------
    path
        Its folder.

    Raises
    ------
    StoreError
        If the folder is not a feature store, or of a newer format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = read_root(path)

    @classmethod
    def create(cls, path: Path, frames: FrameTable, *, sources: Mapping[str, str] | None = None) -> "FeatureStore":
        """A store over `frames`.

        Over an existing store of the same frames the table is replaced, since labels may have been corrected,
        and embeddings stay. Over one of other frames it is made anew if there are no embeddings yet.

        Parameters
        ----------
        path
            Its folder.
        frames
            The frames.
        sources
            Name -> digest of the files the frames were made from; None keeps what is recorded.

        Raises
        ------
        FrameMismatchError
            If embeddings of other frames are there.
        FileExistsAlreadyError
            If the folder holds something else.
        """
        kept: Mapping[str, str] = {}
        if (path / ZARR_JSON).is_file():
            old = cls(path)
            kept = old.sources
            if old.fingerprint != frames.fingerprint and old.names():
                raise FrameMismatchError(
                    f"The store's embeddings ({', '.join(old.names())}) belong to frames {old.fingerprint}, these "
                    f"frames are {frames.fingerprint} (store: {path}). Make a store in another folder, or remove "
                    "those embeddings with `abaw store rm` first."
                )
        else:
            _refuse_foreign_folder(path)
        path.mkdir(parents=True, exist_ok=True)
        frames.write(path / FRAMES_FILE)
        recorded = kept if sources is None else sources
        write_root(path, RootRecord(frames=frames.fingerprint, n_frames=len(frames), sources=recorded))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "FeatureStore":
        """The store in a folder.

        Raises
        ------
        MissingFileError
            If there is none.
        StoreError
            If it is not a feature store, or of a newer format.
        """
        if not (path / ZARR_JSON).is_file():
            what = "holds no zarr.json" if path.is_dir() else "is not there"
            raise MissingFileError(
                f"A feature store is a folder with a zarr.json; {path} {what}. "
                "Run `abaw frames` to make one, or give its path."
            )
        return cls(path)

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        return str(self.path)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the frames."""
        return self._root.frames

    @property
    def sources(self) -> Mapping[str, str]:
        """Name -> digest of the files the frames were made from."""
        return dict(self._root.sources)

    @property
    def n_frames(self) -> int:
        """Rows of the frame table."""
        return self._root.n_frames

    @cached_property
    def frames(self) -> FrameTable:
        """The frame table, read when first asked for.

        Raises
        ------
        FrameMismatchError
            If the table is not the one that the store was made for.
        """
        table = FrameTable.read(self.path / FRAMES_FILE)
        if table.fingerprint != self.fingerprint:
            raise FrameMismatchError(
                f"The store was made for frames {self.fingerprint}, its table holds {table.fingerprint} "
                f"({self.path / FRAMES_FILE}). Run `abaw frames` again, or restore that file."
            )
        return table

    def names(self) -> tuple[str, ...]:
        """The encoders it has embeddings of, complete or not, sorted."""
        return tuple(sorted(entry.name for entry in self.path.iterdir() if entry.name in self))

    def __contains__(self, name: str) -> bool:
        return is_encoder(self.path, name)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}, {self.n_frames} frames, encoders: {', '.join(self.names())})"

    def embedding(self, name: str) -> Embedding:
        """The embeddings of an encoder.

        Raises
        ------
        MissingEmbeddingsError
            If there are none of that name.
        FrameMismatchError
            If they are of other frames.
        """
        self._check_there(name)
        embedding = Embedding(self.path / name)
        if embedding.frames_fingerprint != self.fingerprint or embedding.n_frames != self.n_frames:
            raise FrameMismatchError(
                f"Embeddings of encoder {name!r} are of {embedding.n_frames} frames "
                f"{embedding.frames_fingerprint}, the store of {self.n_frames} frames {self.fingerprint} "
                f"(store: {self.path}). Run `abaw store rm {name}` and extract them again."
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
        commit_every_s: float = COMMIT_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> EmbeddingWriter:
        """A writer of an encoder's embeddings, which makes their group or goes on with it.

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
        if name not in self:
            stored = storage_dtype(dtype)
            row_bytes = max(1, int(np.prod(row_shape))) * stored.itemsize
            layout = ChunkLayout(
                n_frames=self.n_frames,
                row_shape=tuple(int(length) for length in row_shape),
                dtype=stored,
                chunk_rows=default_chunk_rows(row_bytes, batch_rows) if chunk_rows is None else chunk_rows,
                batch_rows=batch_rows,
            )
            record = EncoderRecord(frames=self.fingerprint, provenance=provenance, layout=layout)
            create_encoder(self.path / name, record)
        # Read back in either case: another worker may have made the group a moment before us.
        embedding = self.embedding(name)
        _check_same_encoder(embedding, provenance, row_shape=row_shape, dtype=dtype)
        return EmbeddingWriter(embedding, commit_every_s=commit_every_s, clock=clock)

    def remove(self, name: str) -> None:
        """Remove an encoder's embeddings; MissingEmbeddingsError if there are none."""
        self._check_there(name)
        # Out of sight in one step, so that a kill leaves no half of an encoder; then the slow part.
        hidden = self.path / f".{name}.{uuid.uuid4().hex}.removed"
        (self.path / name).rename(hidden)
        for left in self.path.glob(".*.removed"):
            shutil.rmtree(left, ignore_errors=True)

    def rows_done(self, name: str) -> int:
        """How many rows of an encoder are committed."""
        return self.embedding(name).rows_done()

    def size_bytes(self, name: str) -> int:
        """Bytes that an encoder's files hold."""
        self._check_there(name)
        folders = os.walk(self.path / name)
        return sum(Path(folder, file).stat().st_size for folder, _, files in folders for file in files)

    def _check_there(self, name: str) -> None:
        if name not in self:
            raise MissingEmbeddingsError(
                f"{unknown_name('encoder', name, self.names())} (store: {self.path}). "
                f"Run `abaw extract --encoder {name}` to add it."
            )


def _refuse_foreign_folder(path: Path) -> None:
    """Refuse to make a store of a folder that holds anything but an interrupted creation's traces."""
    if path.is_dir():
        foreign = [entry.name for entry in path.iterdir() if not entry.name.startswith((".", FRAMES_FILE))]
    else:
        foreign = [path.name] if path.exists() else []
    if foreign:
        raise FileExistsAlreadyError(
            f"A feature store is made in a new or empty folder; {path} is taken (by {foreign[0]!r}). Give another path."
        )


def _check_same_encoder(
    embedding: Embedding, provenance: Provenance, *, row_shape: tuple[int, ...], dtype: npt.DTypeLike
) -> None:
    """Refuse to go on with embeddings that something else made."""
    recorded, where = embedding.provenance, f"encoder {embedding.name!r}, store: {embedding.path.parent}"
    advice = f"Extract under another name, or run `abaw store rm {embedding.name}` first."
    if recorded.fingerprint != provenance.fingerprint:
        differing = ", ".join(recorded.differences(provenance))
        raise EncoderMismatchError(
            f"The embeddings that are there were made by {recorded.fingerprint}, these would be by "
            f"{provenance.fingerprint}; they differ in {differing} ({where}). {advice}"
        )
    if embedding.row_shape != tuple(row_shape):
        raise ShapeError(
            f"The embeddings that are there have rows of shape {embedding.row_shape}, these would have "
            f"{tuple(row_shape)} ({where}). {advice}"
        )
    if embedding.dtype != storage_dtype(dtype):
        raise EncoderMismatchError(
            f"The embeddings that are there are {embedding.dtype}, these would be {storage_dtype(dtype)} "
            f"({where}). {advice}"
        )
