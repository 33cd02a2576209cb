"""A whole store as one ZIP file: the frames and some encoders, as they are in the store, byte for byte.

The file is a feature store itself, read without unpacking, and a Zarr group for any Zarr reader.
"""

from collections.abc import Sequence
from pathlib import Path

from featurestore.metadata import FRAMES_FILE, ZARR_JSON
from featurestore.storage.zipped import write_members
from featurestore.store import FeatureStore


def write_zip(store: FeatureStore, names: Sequence[str], path: Path) -> None:
    """Write the frames and some encoders of a store to a ZIP file; it is there as a whole or not at all.

    Parameters
    ----------
    store
        The feature store.
    names
        Encoders in it.
    path
        The file to write; its folder exists.

    Raises
    ------
    MissingEmbeddingsError
        If an encoder is not in the store.
    StorageFullError
        If there was no space for it.
    """
    keys = [ZARR_JSON, FRAMES_FILE]
    for name in names:
        keys += store.storage.sizes(store.embedding(name).name)
    write_members(path, store.storage, keys)
