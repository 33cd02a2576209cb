"""Taking in embeddings that were made elsewhere.

Rows are matched by (video, frame). A frame without a vector becomes a failure with its reason, vectors without a
frame are counted and left out. What is written is what stands in the file, to the bit, unless another precision is
asked for. An import that was interrupted goes on when it is run again; one that is refused leaves the store as it was.
Rows that are there already are compared with the file's, and stay.
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from featurestore.embedding import Embedding
from featurestore.errors import (
    ConfigError,
    EncoderMismatchError,
    PrecisionError,
    ShapeError,
    StorageFullError,
    StoreError,
)
from featurestore.layout import EmbeddingDType, FloatArray, storage_dtype
from featurestore.provenance import Provenance, file_digest
from featurestore.store import FeatureStore
from featurestore.writer import ChunkTask, EmbeddingWriter

from .keys import FrameIndex, IntArray
from .matching import Matches, match
from .recognise import open_source
from .report import ImportReport
from .source import NumberArray, VectorSource, block_rows

_N_EXAMPLES: Final = 5
_IMPORTED: Final = "imported"


def import_vectors(
    store: FeatureStore,
    path: Path,
    *,
    encoder: str | None = None,
    dtype: npt.DTypeLike | None = None,
    layout: str | None = None,
) -> ImportReport:
    """Import the vectors of a file, or of another store, as the embeddings of an encoder.

    Parameters
    ----------
    store
        Where to.
    path
        HDF5, .npz, .npy or a pickle of a dictionary, Parquet, or another feature store; known by its content.
    encoder
        Name that they get; None takes the one that the file says they are from. Of another store: which encoder.
    dtype
        float16 or float32; None keeps the file's, and makes float32 of float64 and integers: digits beyond its
        precision are rounded, and what is smaller than its smallest number becomes 0.
    layout
        Of HDF5: flat, video or image; None recognises it.

    Returns
    -------
    What was matched, missing and extra.

    Raises
    ------
    MissingFileError
        If the file is not there.
    StoreError
        If it is damaged or of another format, names what is no number, names a frame twice, or holds NaN.
    ConfigError
        If no name is a frame of the store, or `encoder` is needed.
    ShapeError
        If the vectors differ in shape.
    PrecisionError
        If a value does not fit `dtype`.
    EncoderMismatchError
        If other embeddings have that name, or the file's values differ from those that are there.
    MissingEmbeddingsError
        If another store's are not complete.
    """
    asked = None if dtype is None else storage_dtype(dtype)
    index = FrameIndex(store.frames)
    with open_source(path, index, encoder=encoder, layout=layout) as source:
        name = _named(source, encoder)
        vectors = _Vectors(source, match(source, index), asked, may_be_tokens=_may_be_tokens(store, name, source))
        _refuse_failures(store, name, vectors)
        n_there = _write(store, name, vectors)
        matches, missing = vectors.matches, vectors.matches.missing
        return ImportReport(
            encoder=name,
            format=source.format,
            layout=source.layout,
            dtype=vectors.dtype.name,
            taken_from=None if source.origin is None else source.origin.encoder,
            restored=source.origin is not None,
            matched=len(matches.matched),
            written=len(matches.matched) - n_there,
            there=n_there,
            missing=len(missing),
            extra=len(matches.extra),
            missing_examples=tuple(index.key(row) for row in missing[:_N_EXAMPLES].tolist()),
            extra_examples=matches.extra[:_N_EXAMPLES],
        )


def _named(source: VectorSource, encoder: str | None) -> str:
    if encoder is not None:
        return encoder
    if source.origin is None:
        raise ConfigError(
            f"Embeddings have an encoder's name, and this file does not say theirs (file: {source.path}). "
            "Give one, such as --encoder au."
        )
    return source.origin.encoder


def _may_be_tokens(store: FeatureStore, name: str, source: VectorSource) -> bool:
    """Whether vectors of shape (1, dim) are meant so: a note tells the shape on purpose, or such rows are there."""
    return source.origin is not None or (name in store and len(store.embedding(name).row_shape) == 2)


class _Vectors:
    """The matched vectors of a source in the dtype that they are stored in."""

    def __init__(
        self, source: VectorSource, matches: Matches, asked: EmbeddingDType | None, *, may_be_tokens: bool
    ) -> None:
        self.source = source
        self.matches = matches
        first = source.read(matches.entries[matches.matched[:1]])
        shape = first.shape[1:]
        # (1, dim) of a stranger is a batch of one, as a network gives it, and no token.
        self.row_shape: tuple[int, ...] = (
            shape[1:] if len(shape) == 2 and shape[0] == 1 and not may_be_tokens else shape
        )
        self._own = first.dtype
        self._is_asked = asked is not None
        self.dtype = _stored_as(first.dtype) if asked is None else asked

    @property
    def provenance(self) -> Provenance:
        """What the file says made its vectors, or that it says nothing."""
        if self.source.origin is not None:
            return self.source.origin.provenance
        return Provenance(
            architecture=_IMPORTED,
            weights=file_digest(self.source.path),
            preprocessing={},
            pooling="unknown",
            precision=self._own.name,
            versions={"numpy": np.__version__},
        )

    def read(self, start: int, stop: int) -> tuple[FloatArray, dict[int, str]]:
        """Table rows [start, stop), shape (stop - start, *row_shape), and why some of them have no vector."""
        entries = self.matches.entries[start:stop]
        there = entries >= 0
        rows: FloatArray = np.full((stop - start, *self.row_shape), np.nan, dtype=self.dtype)
        if there.any():
            rows[there] = self.take(np.flatnonzero(there) + start)
        reason = f"no vector in {self.source.path.name}"
        missing = (np.flatnonzero(~there) + start).tolist()
        return rows, {row: self.matches.reasons.get(row, reason) for row in missing}

    def take(self, rows: IntArray) -> FloatArray:
        """The vectors of matched table rows, shape (len(rows), *row_shape)."""
        entries = self.matches.entries[rows]
        block = self.source.read(entries)
        return self._cast(block.reshape(len(block), *self.row_shape), entries)

    def _cast(self, block: NumberArray, entries: IntArray) -> FloatArray:
        """A block in the dtype that is stored, every value of it accounted for."""
        self._check_dtype(block)
        with np.errstate(over="ignore", invalid="ignore"):
            cast: FloatArray = block.astype(self.dtype)
        bad = ~np.isfinite(cast).reshape(len(cast), -1).all(axis=1)
        if not bad.any():
            return cast
        at = int(np.flatnonzero(bad)[0])
        name = self.source.names[int(entries[at])]
        wrong = block[at][~np.isfinite(cast[at])].reshape(-1)[0]
        if not np.isfinite(wrong):
            raise StoreError(
                f"An import's vectors are finite numbers; {name!r} holds {wrong} (file: {self.source.path}). "
                "Leave that frame out: it is then kept as one without an embedding."
            )
        advice = "Rescale them first." if self.dtype.itemsize == 4 else "Import them with --dtype float32."
        raise PrecisionError(
            f"The vectors of an import must fit {self.dtype.name} (at most "
            f"{float(np.finfo(self.dtype).max):.6g}); {name!r} holds {float(wrong):.6g} (file: {self.source.path}). "
            f"{advice}"
        )

    def _check_dtype(self, block: NumberArray) -> None:
        # Nobody asked for less than what stands in the file.
        if not self._is_asked and _stored_as(block.dtype).itemsize > self.dtype.itemsize:
            raise StoreError(
                f"The vectors of an import are of one dtype unless one is asked for; the first is {self._own}, others "
                f"are {block.dtype} (file: {self.source.path}). Give --dtype float32, or --dtype float16."
            )


def _stored_as(dtype: np.dtype[np.floating | np.integer]) -> EmbeddingDType:
    return storage_dtype(np.float16 if dtype.kind == "f" and dtype.itemsize == 2 else np.float32)


def _refuse_failures(store: FeatureStore, name: str, vectors: _Vectors) -> None:
    """Refuse what would be reported as imported, but cannot be: rows that stand in the store as failed."""
    if name not in store:
        return
    failed = np.fromiter(store.embedding(name).failures(), np.int64)
    filled = np.intersect1d(failed, vectors.matches.matched)
    if len(filled):
        raise EncoderMismatchError(
            f"An import goes on with what is there; embeddings of encoder {name!r} are there, in which {len(filled):,} "
            f"of the frames in {vectors.source.path.name} stand as failed (store: {store.location}). Run "
            f"`abaw store rm {name}` first, or import under another name."
        )


def _write(store: FeatureStore, name: str, vectors: _Vectors) -> int:
    """Write what is pending, once what is there is known to be the same; how many matched rows were there already.

    A refusal removes what this call made, and nothing that was there before it.
    """
    is_new = name not in store
    try:
        with _writer(store, name, vectors) as writer:
            tasks = writer.pending()
            there = vectors.matches.entries >= 0
            for task in tasks:
                there[task.start : task.stop] = False
            _check_same(store.embedding(name), np.flatnonzero(there).astype(np.int64), vectors)
            for task in tasks:
                _fill(writer, task, vectors)
    except (StorageFullError, EncoderMismatchError):
        raise
    except (ShapeError, PrecisionError, StoreError):
        # What is wrong is in the file, and stays wrong: leave no half of an encoder behind.
        if is_new and name in store:
            store.remove(name)
        raise
    return int(there.sum())


def _writer(store: FeatureStore, name: str, vectors: _Vectors) -> EmbeddingWriter:
    """The writer of the encoder; what it refuses is said in an import's words."""
    origin = vectors.source.origin
    try:
        return store.writer(
            name,
            vectors.provenance,
            row_shape=vectors.row_shape,
            dtype=vectors.dtype,
            batch_rows=1 if origin is None else origin.batch_rows,
            projection=vectors.source.projection,
        )
    except (EncoderMismatchError, ShapeError) as error:
        raise type(error)(str(error).replace("Extract it as ", "Import it with --encoder ")) from error


def _check_same(embedding: Embedding, rows: IntArray, vectors: _Vectors) -> None:
    """Refuse a file whose vectors differ, in any bit, from those that are there already; `rows` are to be compared."""
    n_rows = block_rows(vectors.row_shape, vectors.dtype.itemsize)
    for start in range(0, len(rows), n_rows):
        part = rows[start : start + n_rows]
        new, old = vectors.take(part), embedding.gather(part)
        differs = (new.view(np.uint8) != old.view(np.uint8)).reshape(len(part), -1).any(axis=1)
        if differs.any():
            entry = int(vectors.matches.entries[part[int(np.flatnonzero(differs)[0])]])
            raise EncoderMismatchError(
                f"An import over embeddings that are there brings the same values; of encoder {embedding.name!r} "
                f"{vectors.source.names[entry]!r} is the first that differs (file: {vectors.source.path}). Import it "
                f"under another name, such as --encoder {embedding.name}@2, or run `abaw store rm {embedding.name}` "
                "first."
            )


def _fill(writer: EmbeddingWriter, task: ChunkTask, vectors: _Vectors) -> None:
    """Append a chunk's pending rows, a block at a time, so that memory stays flat."""
    n_rows = block_rows(vectors.row_shape, vectors.dtype.itemsize)
    for start in range(task.start, task.stop, n_rows):
        rows, failures = vectors.read(start, min(start + n_rows, task.stop))
        writer.append(start, rows, failures)
