"""What an import takes, reports and refuses, whatever the format."""

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from featurestore.errors import ConfigError, EncoderMismatchError, PrecisionError, ShapeError, StoreError
from featurestore.exchange.exporting import export_vectors
from featurestore.exchange.importing import import_vectors
from featurestore.exchange.origin import ORIGIN, Origin
from featurestore.exchange.report import ImportReport
from featurestore.frames import FrameTable
from featurestore.layout import FloatArray
from featurestore.provenance import Provenance, file_digest
from featurestore.store import FeatureStore
from featurestore.writer import EmbeddingWriter

from_other_tools = pytest.mark.parametrize("kind", ["npz", "npy", "pickle", "flat", "path", "image", "parquet"])
Vectors = dict[str, np.ndarray]


def save(kind: str, folder: Path, vectors: Vectors) -> Path:
    """A file as another tool would write it."""
    path = folder / f"v.{kind}"
    match kind:
        case "npz":
            with path.open("wb") as file:
                np.savez(file, **vectors)
        case "npy":
            with path.open("wb") as file:
                np.save(file, vectors, allow_pickle=True)
        case "pickle":
            path.write_bytes(pickle.dumps(vectors))
        case "parquet":
            columns = {"path": list(vectors), "feature": [vector.tolist() for vector in vectors.values()]}
            inner = {2: pl.Float16, 4: pl.Float32, 8: pl.Float64}[next(iter(vectors.values())).itemsize]
            pl.DataFrame(columns, schema={"path": pl.String, "feature": pl.List(inner)}).write_parquet(path)
        case _:
            _save_hdf5(kind, path, vectors)
    return path


def _save_hdf5(kind: str, path: Path, vectors: Vectors) -> None:
    with h5py.File(path, "w") as file:
        if kind == "flat":
            file["feature"] = np.stack(list(vectors.values()))
            file["names"] = list(vectors)
            return
        for name, vector in vectors.items():
            video, _, image = name.rpartition("/")
            file[name if kind == "path" else f"{image}/{video}"] = vector


@from_other_tools
class TestEveryFormat:
    def test_every_row_has_its_own_vector(
        self, store: FeatureStore, vectors: Vectors, tmp_path: Path, kind: str
    ) -> None:
        path = save(kind, tmp_path, vectors)
        report = import_vectors(store, path, encoder="hse")
        assert isinstance(report, ImportReport)
        assert (report.matched, report.missing, report.extra, report.restored) == (10, 0, 0, False)
        assert (report.missing_examples, report.extra_examples, report.dtype) == ((), (), "float32")
        embedding = store.embedding("hse")
        expected = np.stack([vectors[name] for name in store.frames.data["path"]])
        assert embedding.load().tobytes() == expected.tobytes()
        assert embedding.failures() == {}
        assert embedding.provenance.architecture == "imported"
        assert embedding.provenance.weights == file_digest(path)
        assert embedding.provenance.precision == "float32"

    def test_leading_folders_and_other_suffixes(
        self, store: FeatureStore, vectors: Vectors, tmp_path: Path, kind: str
    ) -> None:
        renamed = {f"cropped_aligned/{name.replace('.jpg', '.png')}": vector for name, vector in vectors.items()}
        if kind == "image":
            renamed = {name.removeprefix("cropped_aligned/"): vector for name, vector in renamed.items()}
        assert import_vectors(store, save(kind, tmp_path, renamed), encoder="hse").matched == 10

    def test_missing_and_extra_are_reported_and_masked(
        self, store: FeatureStore, vectors: Vectors, tmp_path: Path, kind: str
    ) -> None:
        for name in ("341/00001.jpg", "34/00066.jpg"):
            del vectors[name]
        vectors["other/00001.jpg"] = np.zeros(6, np.float32)
        path = save(kind, tmp_path, vectors)
        report = import_vectors(store, path, encoder="hse", dtype="float16")
        assert (report.matched, report.missing, report.extra, report.dtype) == (8, 2, 1, "float16")
        assert report.missing_examples == ("341/1", "34/66")
        assert report.extra_examples == ("other/00001.jpg",)
        assert report.as_dict()["matched"] == 8
        embedding = store.embedding("hse")
        assert embedding.failures() == dict.fromkeys((0, 7), f"no vector in {path.name}")
        assert np.flatnonzero(~embedding.valid()).tolist() == [0, 7]

    def test_frames_of_other_videos_make_nothing(self, store: FeatureStore, tmp_path: Path, kind: str) -> None:
        path = save(kind, tmp_path, {"x/00001.jpg": np.zeros(6, np.float32)})
        with pytest.raises(ConfigError, match=r"none of the 1 names is one.*against \['341/00001.jpg'\] \(file: .*v\."):
            import_vectors(store, path, encoder="hse")
        assert store.names() == ()

    def test_a_frame_that_is_named_twice(
        self, store: FeatureStore, vectors: Vectors, tmp_path: Path, kind: str
    ) -> None:
        vectors["341/66"] = np.zeros(6, np.float32)
        with pytest.raises(StoreError, match=r"names each frame once; '341/.*66.*' and '341/.*66.*' are the same one"):
            import_vectors(store, save(kind, tmp_path, vectors), encoder="hse")
        assert store.names() == ()

    def test_values_that_cannot_be_stored(
        self, store: FeatureStore, vectors: Vectors, tmp_path: Path, kind: str
    ) -> None:
        for value, error, dtype, message in (
            (1e6, PrecisionError, "float16", r"'140/00005.jpg' holds 1e\+06 .*--dtype float32"),
            (np.nan, StoreError, None, "finite numbers; '140/00005.jpg' holds nan"),
            (np.inf, StoreError, None, "finite numbers; '140/00005.jpg' holds inf"),
        ):
            vectors["140/00005.jpg"][2] = value
            path = save(kind, tmp_path, vectors)
            with pytest.raises(error, match=message):
                import_vectors(store, path, encoder="hse", dtype=dtype)
            assert store.names() == ()

    def test_doubles_become_float32(self, store: FeatureStore, vectors: Vectors, tmp_path: Path, kind: str) -> None:
        doubles = {name: vector.astype(np.float64) / 3 for name, vector in vectors.items()}
        assert import_vectors(store, save(kind, tmp_path, doubles), encoder="hse").dtype == "float32"
        expected = np.stack([doubles[name] for name in store.frames.data["path"]]).astype(np.float32)
        assert store.embedding("hse").load().tobytes() == expected.tobytes()

    def test_halves_stay(self, store: FeatureStore, vectors: Vectors, tmp_path: Path, kind: str) -> None:
        halves = {name: vector.astype(np.float16) for name, vector in vectors.items()}
        assert import_vectors(store, save(kind, tmp_path, halves), encoder="hse").dtype == "float16"
        expected = np.stack([halves[name] for name in store.frames.data["path"]])
        assert store.embedding("hse").load().tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", ["npz", "npy", "pickle", "path", "image", "parquet"])
def test_vectors_of_two_lengths(store: FeatureStore, vectors: Vectors, tmp_path: Path, kind: str) -> None:
    vectors["140/00005.jpg"] = np.zeros(5, np.float32)
    with pytest.raises(ShapeError, match=r"here \(6,\); '140/00005.jpg' has \(5,\) \(file: .*v\."):
        import_vectors(store, save(kind, tmp_path, vectors), encoder="hse")
    assert store.names() == ()


@pytest.mark.parametrize("kind", ["npz", "npy", "pickle", "path", "image"])
def test_vectors_of_two_precisions_need_to_be_told(
    store: FeatureStore, vectors: Vectors, tmp_path: Path, kind: str
) -> None:
    vectors["341/00001.jpg"] = vectors["341/00001.jpg"].astype(np.float16)  # the table's first
    path = save(kind, tmp_path, vectors)
    with pytest.raises(StoreError, match=r"the first is float16, others are float32 .*--dtype"):
        import_vectors(store, path, encoder="hse")
    assert store.names() == ()
    import_vectors(store, path, encoder="hse", dtype="float32")
    assert store.embedding("hse").load()[9].tobytes() == vectors["140/00005.jpg"].tobytes()


@pytest.mark.parametrize("kind", ["npz", "npy", "pickle", "flat", "path", "image"])
def test_integers(store: FeatureStore, vectors: Vectors, tmp_path: Path, kind: str) -> None:
    whole = {name: np.full(6, 100 * row, dtype=np.int64) for row, name in enumerate(store.frames.data["path"])}
    path = save(kind, tmp_path, whole)
    assert import_vectors(store, path, encoder="hse").dtype == "float32"
    np.testing.assert_array_equal(store.embedding("hse").load()[:, 5], 100 * np.arange(10))
    whole["341/00003.jpg"][:] = 70_000
    with pytest.raises(PrecisionError, match=r"'341/00003.jpg' holds 70000"):
        import_vectors(store, save(kind, tmp_path, whole), encoder="half", dtype="float16")


def test_other_dtypes(store: FeatureStore, vectors: Vectors, tmp_path: Path) -> None:
    vectors["341/00001.jpg"] = np.array(["a"] * 6)
    with pytest.raises(StoreError, match=r"'341/00001.jpg' is of dtype <U1"):
        import_vectors(store, save("pickle", tmp_path, vectors), encoder="hse")
    with pytest.raises(StoreError, match=r"'341/00001.jpg' is not one that can be read: its dtype is <U1"):
        import_vectors(store, save("npz", tmp_path, vectors), encoder="hse")
    with pytest.raises(ConfigError, match="stored as float16 or float32, not float64"):
        import_vectors(store, save("npz", tmp_path, vectors), encoder="hse", dtype="float64")
    vectors["341/00001.jpg"] = np.float32(1)
    with pytest.raises(ShapeError, match=r"'341/00001.jpg' has \(\)"):
        import_vectors(store, save("pickle", tmp_path, vectors), encoder="hse")
    assert store.names() == ()


def in_chunks_of_256(store: FeatureStore, path: Path) -> None:
    """Make the group that the import of a file of float32 vectors of 3 will go on with."""
    provenance = Provenance(
        architecture="imported", weights=file_digest(path), preprocessing={}, pooling="unknown", precision="float32"
    )
    store.writer("hse", provenance, row_shape=(3,), dtype="float32", chunk_rows=256)


def test_an_import_goes_on_where_it_was_killed(
    make_store: Callable[..., FeatureStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(videos={"v": range(700)})
    many = {f"v/{frame}.jpg": np.full(3, frame, np.float32) for frame in range(700)}
    path = save("npz", tmp_path, many)
    in_chunks_of_256(store, path)
    append, begun = EmbeddingWriter.append, []

    def killed(self: EmbeddingWriter, start: int, rows: FloatArray, failures: dict[int, str]) -> None:
        begun.append(start)
        if start == 512 and begun.count(512) == 1:
            raise KeyboardInterrupt
        append(self, start, rows, failures)

    monkeypatch.setattr(EmbeddingWriter, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        import_vectors(store, path, encoder="hse")
    assert store.embedding("hse").rows_done() == 512
    assert import_vectors(store, path, encoder="hse").matched == 700
    assert begun == [0, 256, 512, 512]
    np.testing.assert_array_equal(store.embedding("hse").load()[:, 0], np.arange(700))


def test_a_resumed_import_that_is_refused_leaves_what_was_there(
    make_store: Callable[..., FeatureStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(videos={"v": range(700)})
    many = {f"v/{frame}.jpg": np.full(3, frame, np.float32) for frame in range(700)}
    many["v/600.jpg"][1] = np.nan
    path = save("npz", tmp_path, many)
    in_chunks_of_256(store, path)
    append = EmbeddingWriter.append

    def killed(self: EmbeddingWriter, start: int, rows: FloatArray, failures: dict[int, str]) -> None:
        append(self, start, rows, failures)
        raise KeyboardInterrupt

    monkeypatch.setattr(EmbeddingWriter, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        import_vectors(store, path, encoder="hse")
    monkeypatch.undo()
    assert store.names() == ("hse",)
    with pytest.raises(StoreError, match=r"'v/600.jpg' holds nan"):
        import_vectors(store, path, encoder="hse")
    assert store.embedding("hse").rows_done() == 512


def test_another_file_under_the_same_name(store: FeatureStore, vectors: Vectors, tmp_path: Path) -> None:
    import_vectors(store, save("npz", tmp_path, vectors), encoder="hse")
    whole = store.embedding("hse").load()
    vectors["341/00001.jpg"][0] += 1
    with pytest.raises(StoreError, match=r"differ in weights.*Import it with --encoder hse@2, which keeps both"):
        import_vectors(store, save("npz", tmp_path, vectors), encoder="hse")
    assert store.embedding("hse").load().tobytes() == whole.tobytes()


def test_rows_that_stand_as_failed_are_not_reported_as_imported(
    make_store: Callable[..., FeatureStore], fill: Callable[..., FloatArray], tmp_path: Path
) -> None:
    source, target = make_store("source"), make_store("target")
    fill(source, failed=())
    export_vectors(source, tmp_path / "au.h5", encoder="au")
    fill(target, failed=(2, 5))
    with pytest.raises(EncoderMismatchError, match=r"2 of the frames in au\.h5 stand as failed.*abaw store rm au"):
        import_vectors(target, tmp_path / "au.h5", encoder="au")
    assert target.embedding("au").failures() == dict.fromkeys((2, 5), "no such file")


def test_a_refused_file_leaves_an_extraction_as_it_was(
    store: FeatureStore, fill: Callable[..., FloatArray], provenance: Provenance, vectors: Vectors, tmp_path: Path
) -> None:
    rows = fill(store, dtype="float32", stop=4, failed=())
    vectors.update(zip(store.frames.data["path"][:4].to_list(), rows[:4], strict=True))
    vectors["140/00005.jpg"][2] = np.nan
    path = save("flat", tmp_path, vectors)
    with h5py.File(path, "a") as file:
        file.attrs[ORIGIN] = Origin(encoder="au", provenance=provenance).to_json()
    with pytest.raises(StoreError, match=r"'140/00005.jpg' holds nan"):
        import_vectors(store, path)
    assert store.embedding("au").rows_done() >= 4


def test_a_complete_import_outlives_a_refusal_after_the_store_has_grown(
    make_table: Callable[..., FrameTable], tmp_path: Path
) -> None:
    store = FeatureStore.create(tmp_path / "features", make_table({"a": (1, 2)}))
    path = save("npz", tmp_path, {"a/1.jpg": np.ones(3), "a/2.jpg": np.ones(3), "b/1.jpg": np.full(3, np.nan)})
    import_vectors(store, path, encoder="hse")
    grown = FeatureStore.create(tmp_path / "features", make_table({"a": (1, 2), "b": (1,)}), add=True)
    with pytest.raises(StoreError, match=r"'b/1.jpg' holds nan"):
        import_vectors(grown, path, encoder="hse")
    assert grown.embedding("hse").rows_done() == 2


def test_the_same_file_again_and_another_of_the_same_note(
    make_store: Callable[..., FeatureStore], fill: Callable[..., FloatArray], tmp_path: Path
) -> None:
    source, target = make_store("source"), make_store("target")
    fill(source, failed=())
    export_vectors(source, tmp_path / "au.h5", encoder="au")
    first = import_vectors(target, tmp_path / "au.h5")
    assert (first.matched, first.written, first.there) == (10, 10, 0)
    again = import_vectors(target, tmp_path / "au.h5")
    assert (again.matched, again.written, again.there) == (10, 0, 10)
    with h5py.File(tmp_path / "au.h5", "a") as file:
        file["feature"][4:6] = np.ones((2, 6))
    whole = target.embedding("au").load().tobytes()
    with pytest.raises(EncoderMismatchError, match=r"'10-60-1280x720_left/00001.jpg' is the first.*--encoder au@2"):
        import_vectors(target, tmp_path / "au.h5")
    assert target.embedding("au").load().tobytes() == whole


@pytest.mark.parametrize("file", ["source", "au.h5", "au.parquet"])
def test_the_batches_of_an_extraction_travel(
    make_store: Callable[..., FeatureStore], provenance: Provenance, tmp_path: Path, file: str
) -> None:
    source, target = make_store("source"), make_store("target")
    with source.writer("au", provenance, row_shape=(3,), batch_rows=4) as writer:
        writer.append(0, np.ones((10, 3), np.float16))
    if file != "source":
        export_vectors(source, tmp_path / file, encoder="au")
    import_vectors(target, tmp_path / file)
    assert target.embedding("au").batch_rows == 4


def test_batches_of_one_are_vectors_and_three_dimensions_are_refused(store: FeatureStore, tmp_path: Path) -> None:
    names = store.frames.data["path"].to_list()
    rows = np.arange(30, dtype=np.float32).reshape(10, 1, 3)
    import_vectors(store, save("npz", tmp_path, dict(zip(names, rows, strict=True))), encoder="one")
    assert store.embedding("one").load().tolist() == rows[:, 0].tolist()
    with pytest.raises(
        ShapeError, match=r"\(dim,\) or \(n_tokens, dim\), each at least 1; '341/00001.jpg' has \(1, 1, 3\)"
    ):
        import_vectors(store, save("npz", tmp_path, dict.fromkeys(names, rows[:1])), encoder="three")


def test_shared_nested_lists_are_not_unfolded(store: FeatureStore, tmp_path: Path) -> None:
    nested: list[object] = [1.0] * 10
    for _ in range(12):
        nested = [nested] * 10
    (tmp_path / "v.pkl").write_bytes(pickle.dumps({"341/1.jpg": nested}))
    with pytest.raises(StoreError, match=r"'341/1.jpg' is a list of something else"):
        import_vectors(store, tmp_path / "v.pkl", encoder="au")


def test_a_double_beyond_float32_is_not_sent_to_float32(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match=r"holds 1e\+300 .*Rescale them first"):
        import_vectors(store, save("npz", tmp_path, {"341/1.jpg": np.array([1e300])}), encoder="au")
