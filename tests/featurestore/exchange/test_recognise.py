"""Files are known by what they hold; foreign and damaged ones are refused by name."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from featurestore.errors import ConfigError, MissingFileError, StoreError
from featurestore.exchange.exporting import export_vectors
from featurestore.exchange.importing import import_vectors
from featurestore.exchange.recognise import recognise
from featurestore.layout import FloatArray
from featurestore.store import FeatureStore

Vectors = dict[str, np.ndarray]


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("a.h5", "hdf5"),
        ("a.npz", "npz"),
        ("a.npy", "npy"),
        ("a.pkl", "pickle"),
        ("a.parquet", "parquet"),
    ],
)
def test_the_name_says_nothing(
    store: FeatureStore, fill: Callable[..., FloatArray], tmp_path: Path, file: str, kind: str
) -> None:
    fill(store, failed=())
    export_vectors(store, tmp_path / file, encoder="au")
    renamed = (tmp_path / file).rename(tmp_path / "features.dat")
    assert recognise(renamed) == kind
    report = import_vectors(store, renamed, encoder="again")
    assert (report.format, report.matched) == (kind, 10)


def test_hdf5_behind_a_user_block(store: FeatureStore, vectors: Vectors, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w", userblock_size=512) as file:
        for name, vector in vectors.items():
            file[name] = vector
    assert import_vectors(store, tmp_path / "v.h5", encoder="au").format == "hdf5"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("turn", [np.asarray, np.ndarray.tolist, tuple, lambda vector: [*vector]])
def test_pickles_of_any_protocol(
    store: FeatureStore,
    vectors: Vectors,
    tmp_path: Path,
    protocol: int,
    turn: Callable[[np.ndarray], object],
) -> None:
    (tmp_path / "v.pkl").write_bytes(pickle.dumps({name: turn(v) for name, v in vectors.items()}, protocol))
    import_vectors(store, tmp_path / "v.pkl", encoder="au")
    expected = np.stack([vectors[name] for name in store.frames.data["path"]])
    assert store.embedding("au").load().tobytes() == expected.tobytes()


def test_pairs_and_bytes_as_keys(store: FeatureStore, vectors: Vectors, tmp_path: Path) -> None:
    pairs = {tuple(name.removesuffix(".jpg").split("/")): vector for name, vector in vectors.items()}
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(pairs))
    assert import_vectors(store, tmp_path / "v.pkl", encoder="au").matched == 10
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({name.encode(): vector for name, vector in vectors.items()}))
    assert import_vectors(store, tmp_path / "w.pkl", encoder="bytes").matched == 10


def test_a_dictionary_that_numpy_saved_as_one_array(store: FeatureStore, vectors: Vectors, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", vectors)
    report = import_vectors(store, tmp_path / "v.npz", encoder="au")
    assert (report.format, report.matched) == ("npz", 10)


def test_compressed_members_and_fortran_order(store: FeatureStore, tmp_path: Path) -> None:
    paths = store.frames.data["path"]
    tokens = {path: np.asfortranarray(np.arange(6.0).reshape(2, 3) + row) for row, path in enumerate(paths)}
    np.savez_compressed(tmp_path / "v.npz", **tokens)
    import_vectors(store, tmp_path / "v.npz", encoder="au")
    np.testing.assert_array_equal(store.embedding("au").load(), np.stack(list(tokens.values())))


class Bomb:
    """Would make a file if it were ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_nothing_is_run_in_any_format(store: FeatureStore, tmp_path: Path) -> None:
    trap, name = tmp_path / "sprung", "341/00001.jpg"
    bomb = {name: Bomb(trap)}
    files = {
        "v.pkl": pickle.dumps(bomb),
        "array.pkl": pickle.dumps({name: np.array([Bomb(trap)], dtype=object)}),
    }
    for file, raw in files.items():
        (tmp_path / file).write_bytes(raw)
    np.save(tmp_path / "v.npy", bomb, allow_pickle=True)
    np.save(tmp_path / "array.npy", np.array([Bomb(trap), 1], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "one.npz", bomb)
    for file in (*files, "v.npy", "array.npy", "one.npz"):
        with pytest.raises(StoreError, match=rf"this one names .*, and nothing of it was run \(file: .*{file}\)"):
            import_vectors(store, tmp_path / file, encoder="au")
    np.savez(tmp_path / "v.npz", **{name: np.array([Bomb(trap)], dtype=object)})
    with pytest.raises(StoreError, match="its dtype is object"):
        import_vectors(store, tmp_path / "v.npz", encoder="au")
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr(f"{name}.npy", pickle.dumps(Bomb(trap)))
    with pytest.raises(StoreError, match="not one that can be read"):
        import_vectors(store, tmp_path / "w.npz", encoder="au")
    assert not trap.exists()
    assert store.names() == ()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "none of them: it begins with b''"),
        (b"video,frame,f0\n341,1,0.5\n", "it begins with b'video,fr'"),
        (b"(dp0\n.", "it begins with"),  # protocol 0
        (b"PK\x03\x04 nothing", "damaged or cut short: File is not a zip file"),
        (b"\x93NUMPY\x01\x00", "has no header of one"),
        (b"\x93NUMPY\x09\x00", "has no header of one"),
        (b"\x80\x04", "cannot be read: Ran out of input|cannot be read: .*"),
        (b"\x89HDF\r\n\x1a\n", "damaged or cut short"),
        (b"PAR1", "damaged or cut short"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps(np.zeros((3, 4))), r"holds an array of shape \(3, 4\)"),
        (pickle.dumps({1: np.zeros(3)}), "not by 1"),
        (pickle.dumps({"341/1.jpg": {"a": 1}}), "'341/1.jpg' is a dict of something else"),
        (pickle.dumps({"341/1.jpg": ([1, 2], [1])}), "'341/1.jpg' is a tuple of something else"),
    ],
)
def test_foreign_and_damaged_files(store: FeatureStore, tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "v.bin").write_bytes(raw)
    with pytest.raises(StoreError, match=rf"(?s)({message}).*\(file: .*v\.bin\)"):
        import_vectors(store, tmp_path / "v.bin", encoder="au")
    assert store.names() == ()


def test_other_archives(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"v\.npz is not there"):
        import_vectors(store, tmp_path / "v.npz", encoder="au")
    with zipfile.ZipFile(tmp_path / "v.pt", "w") as archive:
        archive.writestr("v/data.pkl", b"\x80\x02.")
    with pytest.raises(StoreError, match=r"is a torch file, with the member 'v/data\.pkl'.*instead of tensors"):
        import_vectors(store, tmp_path / "v.pt", encoder="au")
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as archive:
        archive.writestr("341/00001.jpg", b"an image")
    with pytest.raises(StoreError, match="this one is another archive"):
        import_vectors(store, tmp_path / "v.zip", encoder="au")
    np.save(tmp_path / "v.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(StoreError, match=r"this \.npy is an array of shape \(3, 4\) of float32, without keys"):
        import_vectors(store, tmp_path / "v.npy", encoder="au")


def test_a_cut_npz_is_told(store: FeatureStore, vectors: Vectors, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", **vectors)
    raw = bytearray((tmp_path / "v.npz").read_bytes())
    (tmp_path / "v.npz").write_bytes(raw[:-30])
    with pytest.raises(StoreError, match="damaged or cut short"):
        import_vectors(store, tmp_path / "v.npz", encoder="au")
    raw[raw.index(vectors["140/00005.jpg"].tobytes())] ^= 1  # one bit of one vector
    (tmp_path / "v.npz").write_bytes(raw)
    with pytest.raises(StoreError, match=r"'140/00005.jpg' is not one that can be read: Bad CRC-32"):
        import_vectors(store, tmp_path / "v.npz", encoder="au")
    assert store.names() == ()


def test_a_layout_is_for_hdf5(store: FeatureStore, tmp_path: Path) -> None:
    pl.DataFrame({"path": ["341/1.jpg"], "vector": [[1.0]]}).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(ConfigError, match=r"--layout is for HDF5.*recognised as parquet"):
        import_vectors(store, tmp_path / "v.parquet", encoder="au", layout="flat")
