"""What an import and an export have to say for themselves."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """How the vectors of a file met the frames of a store."""

    encoder: str  # the name that they have in the store
    format: str  # what the file was recognised as: hdf5, npz, npy, pickle, parquet or store
    layout: str | None  # of HDF5: flat, video or image
    dtype: str  # float16 or float32, as stored
    taken_from: str | None  # the encoder that the file, or the other store, says they are of
    restored: bool  # whether the file carried the provenance of what made it
    matched: int  # frames that have their vector now
    written: int  # of these, by this import
    there: int  # of these, before it, with the same values
    missing: int  # frames of the store without a vector
    extra: int  # vectors without a frame in the store
    missing_examples: tuple[str, ...]  # the first few, as video/frame
    extra_examples: tuple[str, ...]  # the first few, as the file's keys

    def as_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What an export wrote."""

    encoder: str
    path: str
    format: str  # hdf5, npz, npy, pickle, parquet or zarr.zip
    layout: str | None  # of HDF5: flat, video or image
    rows: int  # vectors that the file holds
    row_shape: tuple[int, ...]  # (dim,) or (n_tokens, dim)
    dtype: str  # float16 or float32
    bytes: int  # of the file
    failed: Mapping[str, str]  # frame -> why it has no embedding; a keyed file has no vector of these
    lacks_projection: bool  # whether tokens went through a projection that the store keeps and the file does not hold

    def as_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return asdict(self)
