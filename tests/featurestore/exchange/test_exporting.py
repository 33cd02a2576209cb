"""What an export writes for others, and what it refuses; nothing is left of one that failed."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featurestore.errors import (
    ConfigError,
    FileExistsAlreadyError,
    MissingEmbeddingsError,
    MissingFileError,
    StorageFullError,
    StoreError,
    UnknownNameError,
)
from featurestore.exchange.exporting import export_vectors
from featurestore.layout import FloatArray
from featurestore.store import FeatureStore

Filler = Callable[..., FloatArray]
FILES = ["au.h5", "au.npz", "au.npy", "au.pkl", "au.parquet"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_numpy_pickle_and_h5py_read(store: FeatureStore, fill: Filler, tmp_path: Path, dtype: str) -> None:
    rows = fill(store, dtype=dtype, row_shape=(2, 3))
    expected = {name: rows[row] for row, name in enumerate(store.frames.data["path"]) if row not in (2, 5)}
    for file in FILES[:4]:
        export_vectors(store, tmp_path / file, encoder="au")
    with h5py.File(tmp_path / "au.h5") as file:
        flat = dict(zip(file["keys"].asstr()[:], file["feature"][:], strict=True))
    read = {
        "npz": dict(np.load(tmp_path / "au.npz")),
        "npy": np.load(tmp_path / "au.npy", allow_pickle=True).item(),
        "pkl": pickle.loads((tmp_path / "au.pkl").read_bytes()),
        "h5": flat,
    }
    for vectors in read.values():
        assert list(vectors) == list(expected)
        assert all(vectors[name].dtype == np.dtype(dtype) for name in expected)
        assert all(vectors[name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_group_a_video(store: FeatureStore, fill: Filler, tmp_path: Path) -> None:
    rows = fill(store, failed=(0, 9))
    report = export_vectors(store, tmp_path / "au.h5", encoder="au", layout="video")
    assert report.as_dict()["layout"] == "video"
    with h5py.File(tmp_path / "au.h5") as file:
        assert set(file) == {"341", "10-60-1280x720_left", "34"}  # every frame of 140 failed
        assert file["341/frame"][:].tolist() == [3, 66, 67]
        assert file["341/feature"][:].tobytes() == rows[1:4].tobytes()


@pytest.mark.parametrize("file", FILES)
def test_the_same_embeddings_give_the_same_bytes(store: FeatureStore, fill: Filler, tmp_path: Path, file: str) -> None:
    fill(store)
    export_vectors(store, tmp_path / file, encoder="au")
    first = (tmp_path / file).read_bytes()
    export_vectors(store, tmp_path / file, encoder="au", force=True)
    assert (tmp_path / file).read_bytes() == first


def test_a_file_that_is_there_is_not_replaced(store: FeatureStore, fill: Filler, tmp_path: Path) -> None:
    fill(store)
    (tmp_path / "au.h5").write_text("mine")
    with pytest.raises(FileExistsAlreadyError, match=r"au\.h5 is there already\. Give --force"):
        export_vectors(store, tmp_path / "au.h5", encoder="au")
    assert (tmp_path / "au.h5").read_text() == "mine"
    export_vectors(store, tmp_path / "au.h5", encoder="au", force=True)
    assert h5py.is_hdf5(tmp_path / "au.h5")


@pytest.mark.parametrize("file", FILES)
def test_a_full_disk_leaves_nothing(
    store: FeatureStore, fill: Filler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    fill(store)

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageFullError, match=rf"No space is left for {file}"):
        export_vectors(store, tmp_path / file, encoder="au")
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_embeddings_that_are_not_whole(store: FeatureStore, fill: Filler, tmp_path: Path) -> None:
    fill(store, stop=8)
    with pytest.raises(MissingEmbeddingsError, match=r"'au': 8 of 10 rows are there .*Run `abaw extract --encoder au`"):
        export_vectors(store, tmp_path / "au.h5", encoder="au")
    fill(store, "dead", failed=range(10))
    with pytest.raises(MissingEmbeddingsError, match="all 10 frames of encoder 'dead' failed"):
        export_vectors(store, tmp_path / "au.h5", encoder="dead")
    with pytest.raises(MissingEmbeddingsError, match=r"no encoder 'aux'. Did you mean 'au'"):
        export_vectors(store, tmp_path / "au.h5", encoder="aux")
    assert not (tmp_path / "au.h5").exists()


def test_embeddings_that_are_damaged(store: FeatureStore, fill: Filler, tmp_path: Path) -> None:
    first = fill(store)[0].tobytes()
    chunk, raw = next(
        (path, bytearray(path.read_bytes()))
        for path in (tmp_path / "features" / "au").rglob("*")
        if path.is_file() and first in path.read_bytes()
    )
    raw[raw.index(first)] ^= 1
    chunk.write_bytes(raw)
    with pytest.raises(StoreError, match=r"chunks \[\d\] of encoder 'au' are damaged .*abaw store verify"):
        export_vectors(store, tmp_path / "au.h5", encoder="au")
    assert not (tmp_path / "au.h5").exists()


@pytest.mark.parametrize(
    ("file", "layout", "error", "message"),
    [
        ("au.csv", None, ConfigError, r"\.h5, \.hdf5, \.npz.*'au\.csv' has none of these"),
        (".h5", None, ConfigError, r"'\.h5' has none of these"),
        ("au.zip", None, ConfigError, r"'au\.zip' has none of these"),
        ("au.npz", "flat", ConfigError, r"--layout is for HDF5.*is to be npz"),
        ("au.h5", "vido", UnknownNameError, "no HDF5 layout 'vido'. Did you mean 'video'"),
        ("no/au.h5", None, MissingFileError, "no is not .*Make the folder"),
    ],
)
def test_files_that_cannot_be_written(
    store: FeatureStore,
    fill: Filler,
    tmp_path: Path,
    file: str,
    layout: str | None,
    error: type[Exception],
    message: str,
) -> None:
    fill(store)
    with pytest.raises(error, match=message):
        export_vectors(store, tmp_path / file, encoder="au", layout=layout)
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_a_folder_is_refused_before_the_work(
    store: FeatureStore, fill: Callable[..., FloatArray], tmp_path: Path
) -> None:
    fill(store, stop=4)  # not complete, which would be refused too, later
    (tmp_path / "out.h5").mkdir()
    with pytest.raises(FileExistsAlreadyError, match=r"out\.h5 is a folder"):
        export_vectors(store, tmp_path / "out.h5", encoder="au", force=True)
