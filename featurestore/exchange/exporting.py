"""Handing embeddings on in formats that other tools read.

A file is there as a whole or not at all. It is written in blocks, so that memory stays flat; dictionaries (.npy and
pickles) are the exception. Frames without an embedding are left out of it, and are named in the report.
"""

from pathlib import Path
from typing import Final

from featurestore.atomic import replace_file
from featurestore.embedding import Embedding
from featurestore.errors import ConfigError, FileExistsAlreadyError, MissingEmbeddingsError, StoreError, unknown_name
from featurestore.store import FeatureStore

from .keys import FrameIndex
from .origin import Origin
from .outgoing import Outgoing
from .report import ExportReport

_FORMATS: Final = {
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npz": "npz",
    ".npy": "npy",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".parquet": "parquet",
    ".zarr.zip": "zarr.zip",
}
_LAYOUTS: Final = ("flat", "video", "image")


def export_vectors(
    store: FeatureStore, path: Path, *, encoder: str, layout: str | None = None, force: bool = False
) -> ExportReport:
    """Export the embeddings of an encoder to a file.

    Parameters
    ----------
    store
        Where from.
    path
        The file; its suffix says the format: .h5, .npz, .npy, .pkl, .parquet or .zarr.zip.
    encoder
        Whose embeddings.
    layout
        Of HDF5: flat (the default), video or image.
    force
        Replace a file that is there.

    Returns
    -------
    What was written, and which frames have no embedding.

    Raises
    ------
    ConfigError
        If the suffix is of no known format, or has no layouts.
    FileExistsAlreadyError
        If the file is there.
    MissingEmbeddingsError
        If the embeddings are not complete, or all failed.
    StoreError
        If they are damaged.
    MissingFileError
        If the file's folder is not there.
    StorageFullError
        If there was no space for it.
    """
    found = _format(path)
    chosen = _layout(found, layout, path)
    if path.is_dir():
        raise FileExistsAlreadyError(f"An export makes a file; {path} is a folder. Give a file's name.")
    if path.exists() and not force:
        raise FileExistsAlreadyError(f"An export makes a new file; {path} is there already. Give --force, or another.")
    embedding = store.embedding(encoder)
    _check_whole(store, encoder, embedding)
    index = FrameIndex(store.frames)
    origin = Origin(encoder=encoder, provenance=embedding.provenance, batch_rows=embedding.batch_rows)
    vectors = Outgoing(embedding, index, origin)
    failed = {index.name(row): reason for row, reason in embedding.failures().items()}
    if not len(vectors.rows):
        raise MissingEmbeddingsError(
            f"An export holds at least one vector; all {len(failed):,} frames of encoder {encoder!r} failed "
            f"(store: {store.location}). `abaw store show {encoder}` says why."
        )
    with replace_file(path) as partial:
        if found == "zarr.zip":
            from .storezip import write_zip

            _ = embedding.projection  # a damaged one is refused
            write_zip(store, [encoder], partial)
        else:
            _write(partial, vectors, found, chosen or _LAYOUTS[0])
    return ExportReport(
        encoder=encoder,
        path=str(path),
        format=found,
        layout=chosen,
        rows=len(vectors.rows),
        row_shape=vectors.row_shape,
        dtype=vectors.dtype.name,
        bytes=path.stat().st_size,
        failed=failed,
        lacks_projection=found != "zarr.zip" and embedding.record.projection_shape is not None,
    )


def _format(path: Path) -> str:
    for suffix, found in _FORMATS.items():
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return found
    raise ConfigError(
        f"The suffix of an export says its format: {', '.join(_FORMATS)}; {path.name!r} has none of these. Rename it."
    )


def _layout(found: str, layout: str | None, path: Path) -> str | None:
    if found != "hdf5":
        if layout is not None:
            raise ConfigError(
                f"--layout is for HDF5, whose layouts are several; {path} is to be {found}. Leave it out."
            )
        return None
    if layout is not None and layout not in _LAYOUTS:
        raise unknown_name("HDF5 layout", layout, _LAYOUTS)
    return layout or _LAYOUTS[0]


def _check_whole(store: FeatureStore, encoder: str, embedding: Embedding) -> None:
    """Refuse embeddings that are not all there, or are no longer what was written."""
    if not embedding.is_complete():
        raise MissingEmbeddingsError(
            f"An export needs all embeddings of encoder {encoder!r}: {embedding.rows_done():,} of "
            f"{embedding.n_frames:,} rows are there (store: {store.location}). Run `abaw extract --encoder {encoder}`, "
            "or its import again, which goes on where it stopped."
        )
    if bad := embedding.verify():
        raise StoreError(
            f"An export hands on what was written; chunks {bad[:5]} of encoder {encoder!r} are damaged "
            f"(store: {store.location}). `abaw store verify` lists them all; extract or import them again first."
        )


def _write(path: Path, vectors: Outgoing, found: str, layout: str) -> None:
    # What a format needs is imported for it alone: h5py and polars take their time.
    if found == "hdf5":
        from .hdf5out import write_hdf5

        write_hdf5(path, vectors, layout)
    elif found == "npz":
        from .npz import write_npz

        write_npz(path, vectors)
    elif found == "parquet":
        from .parquet import write_parquet

        write_parquet(path, vectors)
    else:
        from .mapping import write_npy, write_pickle

        (write_npy if found == "npy" else write_pickle)(path, vectors)
