"""Another feature store as a source of vectors: its rows are matched by frame, whatever order it keeps them in."""

from pathlib import Path

import numpy as np

from featurestore.errors import MissingEmbeddingsError, StoreError, unknown_name
from featurestore.storage.zipped import ZipStorage
from featurestore.store import FeatureStore

from .keys import FrameIndex, IntArray
from .origin import Origin
from .source import NumberArray, VectorSource


class StoreSource(VectorSource):
    """The embeddings of one encoder of another store.

    Parameters
    ----------
    path
        The store.
    encoder
        Which encoder; None takes the only one. The only one is also taken where `encoder` is the new name for it.

    Raises
    ------
    StoreError
        If it is no feature store, or damaged.
    MissingEmbeddingsError
        If it has no embeddings, or not all of that encoder's.
    UnknownNameError
        If it has several encoders, and not that one.
    """

    def __init__(self, path: Path, encoder: str | None) -> None:
        # A ZIP file by what it is, not by its name.
        store = FeatureStore.open(ZipStorage(path) if path.is_file() else path)
        name = _chosen(store, encoder)
        self._embedding = store.embedding(name)
        if not self._embedding.is_complete():
            raise MissingEmbeddingsError(
                f"The embeddings of another store are imported when they are complete; of encoder {name!r} "
                f"{self._embedding.rows_done():,} of {store.n_frames:,} rows are there (store: {store.location}). "
                "Let their extraction end first."
            )
        if bad := self._embedding.verify():
            raise StoreError(
                f"An import takes what was written; chunks {bad[:5]} of encoder {name!r} are damaged "
                f"(store: {store.location}). Copy that store again, or repair it where it was made."
            )
        index = FrameIndex(store.frames)
        self._rows: IntArray = np.flatnonzero(self._embedding.valid()).astype(np.int64)
        super().__init__(
            path,
            [index.key(row) for row in self._rows.tolist()],
            format="store",
            origin=Origin(encoder=name, provenance=self._embedding.provenance, batch_rows=self._embedding.batch_rows),
            reasons={index.key(row): reason for row, reason in self._embedding.failures().items()},
            projection=self._embedding.projection,
        )

    def read(self, entries: IntArray) -> NumberArray:
        """As of `VectorSource`."""
        return self._embedding.gather(self._rows[entries])


def _chosen(store: FeatureStore, encoder: str | None) -> str:
    names = store.names()
    if not names:
        raise MissingEmbeddingsError(
            f"An import reads the embeddings of another store; this one has none yet (store: {store.location}). "
            "Run `abaw extract` there first."
        )
    if encoder in names:
        return encoder
    if len(names) == 1:
        return names[0]
    raise unknown_name("encoder to import", encoder or "", names)
