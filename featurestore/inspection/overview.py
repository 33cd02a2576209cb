"""What a store holds, encoder by encoder, from metadata and commits alone: no frame table is read, nothing is hashed.

An encoder whose files are damaged stands among the others with its error, so that it neither hides them nor hides
itself.
"""

from dataclasses import dataclass

from featurestore.errors import AbawError
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderEntry:
    """One encoder of a store.

    Attributes
    ----------
    name
        Of the encoder.
    n_frames, rows_done, n_failed
        Rows of the table, those that are committed, and those of them whose frame could not be embedded.
    row_shape
        (dim,) or (n_tokens, dim).
    dtype
        float16 or float32.
    n_chunks, chunk_rows, batch_rows
        The layout.
    size_bytes
        What its files hold.
    provenance
        What made it.
    projected_from
        Dimensions of a token before the projection that is kept with the rows; None without one.
    """

    name: str
    n_frames: int
    rows_done: int
    n_failed: int
    row_shape: tuple[int, ...]
    dtype: str
    n_chunks: int
    chunk_rows: int
    batch_rows: int
    size_bytes: int
    provenance: Provenance
    projected_from: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every row is there."""
        return self.rows_done == self.n_frames

    def as_dict(self) -> dict[str, object]:
        """The entry as JSON values; of its provenance, what a listing shows."""
        return {
            "encoder": self.name,
            "rows_done": self.rows_done,
            "n_frames": self.n_frames,
            "complete": self.is_complete,
            "failed": self.n_failed,
            "row_shape": list(self.row_shape),
            "dim": self.row_shape[-1],
            "dtype": self.dtype,
            "n_chunks": self.n_chunks,
            "chunk_rows": self.chunk_rows,
            "batch_rows": self.batch_rows,
            "projected_from": self.projected_from,
            "bytes": self.size_bytes,
            "architecture": self.provenance.architecture,
            "parent": self.provenance.parent,
            "made_at": self.provenance.made_at,
            "fingerprint": self.provenance.fingerprint,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadableEntry:
    """An encoder that cannot be described, with the reason."""

    name: str
    error: str

    def as_dict(self) -> dict[str, object]:
        """The entry as JSON values."""
        return {"encoder": self.name, "error": self.error}


def describe(store: FeatureStore, name: str) -> EncoderEntry:
    """One encoder of a store.

    Raises
    ------
    MissingEmbeddingsError
        If there is none of that name.
    StoreError
        If its metadata or a commit is damaged, or it is of other frames.
    """
    embedding = store.embedding(name)
    projection_shape = embedding.record.projection_shape
    return EncoderEntry(
        name=name,
        n_frames=embedding.n_frames,
        rows_done=embedding.rows_done(),
        n_failed=len(embedding.failures()),
        row_shape=embedding.row_shape,
        dtype=embedding.dtype.name,
        n_chunks=embedding.layout.n_chunks,
        chunk_rows=embedding.chunk_rows,
        batch_rows=embedding.layout.batch_rows,
        size_bytes=store.size_bytes(name),
        provenance=embedding.provenance,
        projected_from=None if projection_shape is None else projection_shape[0],
    )


def overview(store: FeatureStore) -> tuple[EncoderEntry | UnreadableEntry, ...]:
    """Every encoder of a store, sorted by name."""
    return tuple(_described(store, name) for name in store.names())


def _described(store: FeatureStore, name: str) -> EncoderEntry | UnreadableEntry:
    try:
        return describe(store, name)
    except (AbawError, OSError) as error:
        return UnreadableEntry(name=name, error=str(error))
