import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import ConfigError, MissingFileError, PrecisionError, ShapeError, StoreError
from featurestore.exchange import ImportReport, frame_key, import_npz
from featurestore.layout import FloatArray
from featurestore.provenance import file_digest
from featurestore.store import FeatureStore

N_FRAMES = 300
MakeStore = Callable[[int], FeatureStore]


@pytest.fixture
def store(make_store: MakeStore) -> FeatureStore:
    return make_store(N_FRAMES)


@pytest.fixture
def vectors(store: FeatureStore) -> dict[str, FloatArray]:
    """A vector for every frame, keyed by its path."""
    rng = np.random.default_rng(5)
    return {path: rng.standard_normal(6).astype(np.float32) for path in store.frames.data["path"]}


def save(path: Path, vectors: dict[str, FloatArray]) -> Path:
    np.savez(path, **vectors)
    return path


def test_every_row_has_its_own_vector(store: FeatureStore, vectors: dict[str, FloatArray], tmp_path: Path) -> None:
    shuffled = dict(sorted(vectors.items(), key=lambda item: item[1][0]))
    path = save(tmp_path / "v.npz", shuffled)
    report = import_npz(store, "hse", path, dtype=np.float32)
    assert report == ImportReport(matched=N_FRAMES, missing=0, extra=0, missing_examples=(), extra_examples=())
    embedding = store.embedding("hse")
    np.testing.assert_array_equal(embedding.load(), np.stack(list(vectors.values())))
    assert embedding.failures() == {}
    assert embedding.provenance.architecture == "imported"
    assert embedding.provenance.weights == file_digest(path)
    assert embedding.provenance.precision == "float32"


def test_missing_and_extra_are_reported_and_masked(
    store: FeatureStore, vectors: dict[str, FloatArray], tmp_path: Path
) -> None:
    for row, key in enumerate(list(vectors)):
        if row in (0, 7, 299):
            del vectors[key]
    vectors |= {"other/00001.jpg": np.zeros(6, np.float32), "scores": np.zeros(3, np.float32)}
    report = import_npz(store, "hse", save(tmp_path / "v.npz", vectors))
    assert (report.matched, report.missing, report.extra) == (297, 3, 2)
    assert report.missing_examples == ("v000000/1", "v000001/1", "v000042/11")
    assert report.extra_examples == ("other/00001.jpg", "scores")
    assert report.as_dict()["matched"] == 297
    embedding = store.embedding("hse")
    assert embedding.failures() == dict.fromkeys((0, 7, 299), "no vector in v.npz")
    assert np.flatnonzero(np.isnan(embedding.load()).all(axis=1)).tolist() == [0, 7, 299]
    assert np.flatnonzero(~embedding.valid()).tolist() == [0, 7, 299]


def test_an_import_goes_on_and_is_not_mixed_with_another(
    store: FeatureStore, vectors: dict[str, FloatArray], tmp_path: Path
) -> None:
    path = save(tmp_path / "v.npz", vectors)
    import_npz(store, "hse", path)
    whole = store.embedding("hse").load()
    store.embedding("hse").commits.remove(0)
    import_npz(store, "hse", path)
    assert store.embedding("hse").load().tobytes() == whole.tobytes()
    first = next(iter(vectors))
    other = save(tmp_path / "w.npz", vectors | {first: vectors[first] + 1})
    with pytest.raises(StoreError, match="differ in weights"):
        import_npz(store, "hse", other)
    assert store.embedding("hse").load().tobytes() == whole.tobytes()


def test_compressed_files_and_integers_are_read(store: FeatureStore, tmp_path: Path) -> None:
    counted = {path: np.array([row, -row]) for row, path in enumerate(store.frames.data["path"])}
    np.savez_compressed(tmp_path / "v.npz", **counted)
    import_npz(store, "hse", tmp_path / "v.npz")
    np.testing.assert_array_equal(store.embedding("hse").load()[:, 1], -np.arange(N_FRAMES))


@pytest.mark.parametrize(
    ("member", "key"),
    [
        ("341/00066.jpg", ("341", 66)),
        ("10-60-1280x720_left/00012.png", ("10-60-1280x720_left", 12)),
        ("video91/7", ("video91", 7)),
        ("val/341/00066.jpg", ("val/341", 66)),
        ("00066.jpg", None),
        ("341/face.jpg", None),
        ("341/", None),
        ("341/²3.jpg", None),
    ],
)
def test_frame_key(member: str, key: tuple[str, int] | None) -> None:
    assert frame_key(member) == key


def test_vectors_of_two_lengths_are_refused_and_leave_nothing(
    store: FeatureStore, vectors: dict[str, FloatArray], tmp_path: Path
) -> None:
    key = list(vectors)[280]
    vectors[key] = np.zeros(5, np.float32)
    with pytest.raises(ShapeError, match=rf"here \(6,\); '{key}' has \(5,\)"):
        import_npz(store, "hse", save(tmp_path / "v.npz", vectors))
    assert "hse" not in store


@pytest.mark.parametrize(("value", "error"), [(1e6, PrecisionError), (np.nan, StoreError)])
def test_values_that_cannot_be_stored_are_refused_and_leave_nothing(
    store: FeatureStore, vectors: dict[str, FloatArray], tmp_path: Path, value: float, error: type[Exception]
) -> None:
    vectors[list(vectors)[280]][2] = value
    with pytest.raises(error, match="row 280"):
        import_npz(store, "hse", save(tmp_path / "v.npz", vectors))
    assert "hse" not in store


def test_other_files_are_refused(store: FeatureStore, vectors: dict[str, FloatArray], tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="is not there"):
        import_npz(store, "hse", tmp_path / "v.npz")
    (tmp_path / "v.npz").write_bytes(b"PK nothing")
    with pytest.raises(StoreError, match="this is not one"):
        import_npz(store, "hse", tmp_path / "v.npz")
    with pytest.raises(
        ConfigError, match=r"none of the 1 keys is one, for example \['x/1.jpg'\] against \['v000000/1'\]"
    ):
        import_npz(store, "hse", save(tmp_path / "v.npz", {"x/1.jpg": np.zeros(2, np.float32)}))
    first = next(iter(vectors))
    twice = vectors | {first.replace(".jpg", ".png"): np.zeros(6, np.float32)}
    with pytest.raises(StoreError, match=rf"'{first}' and 'v000000/00001.png' are the same one"):
        import_npz(store, "hse", save(tmp_path / "v.npz", twice))


class Bomb:
    """Would make a file if it were ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_nothing_is_ever_unpickled(store: FeatureStore, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    key = store.frames.data["path"][0]
    np.savez(tmp_path / "v.npz", **{key: np.array([Bomb(trap)], dtype=object)})
    with pytest.raises(StoreError, match="dtype is object"):
        import_npz(store, "hse", tmp_path / "v.npz")
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as file:
        file.writestr(f"{key}.npy", pickle.dumps(Bomb(trap)))
    with pytest.raises(StoreError, match="not one that can be read"):
        import_npz(store, "hse", tmp_path / "w.npz")
    assert not trap.exists()
