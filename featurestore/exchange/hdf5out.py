"""Writing HDF5 in the layouts that `featurestore.exchange.hdf5` reads, block by block."""

from pathlib import Path

import h5py
import numpy as np

from featurestore.layout import FloatArray

from .hdf5 import FEATURE, FRAME, KEYS
from .keys import IntArray
from .origin import ORIGIN
from .outgoing import Outgoing


def write_hdf5(path: Path, vectors: Outgoing, layout: str) -> None:
    """Write vectors to a new HDF5 file, with the note of where they came from.

    Parameters
    ----------
    path
        The file.
    vectors
        What to write.
    layout
        flat, video or image.
    """
    write = {"flat": _write_flat, "video": _write_videos, "image": _write_images}[layout]
    with h5py.File(path, "w") as file:
        file.attrs[ORIGIN] = vectors.origin.to_json()
        write(file, vectors)


def _write_flat(file: h5py.File, vectors: Outgoing) -> None:
    n_rows = len(vectors.rows)
    feature = file.create_dataset(FEATURE, (n_rows, *vectors.row_shape), vectors.dtype)
    keys = file.create_dataset(KEYS, (n_rows,), h5py.string_dtype())
    start = 0
    for rows, block in vectors.blocks():
        stop = start + len(rows)
        feature[start:stop] = block
        keys[start:stop] = np.asarray([vectors.index.name(row) for row in rows.tolist()], dtype=object)
        start = stop


def _write_videos(file: h5py.File, vectors: Outgoing) -> None:
    for video, video_rows in vectors.videos():
        group = file.create_group(video)
        feature = group.create_dataset(FEATURE, (len(video_rows), *vectors.row_shape), vectors.dtype)
        group.create_dataset(FRAME, data=np.asarray([vectors.index.numbers[row] for row in video_rows.tolist()]))
        start = 0
        for rows, block in vectors.blocks(video_rows):
            feature[start : start + len(rows)] = block
            start += len(rows)


def _write_images(file: h5py.File, vectors: Outgoing) -> None:
    for rows, block in vectors.blocks():
        _write_image_block(file, vectors, rows, block)


def _write_image_block(file: h5py.File, vectors: Outgoing, rows: IntArray, block: FloatArray) -> None:
    for row, vector in zip(rows.tolist(), block, strict=True):
        # Without the suffix, as the layout's own readers ask for it; a video's name may have slashes.
        image = vectors.index.name(row).rpartition("/")[2].partition(".")[0]
        file[f"{image}/{vectors.index.videos[row]}"] = vector
