"""HDF5 as other tools write it: layouts, how they are told apart, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featurestore.errors import ConfigError, ShapeError, StoreError, UnknownNameError
from featurestore.exchange.exporting import export_vectors
from featurestore.exchange.importing import import_vectors
from featurestore.exchange.origin import ORIGIN
from featurestore.layout import FloatArray
from featurestore.store import FeatureStore

StoreMaker = Callable[..., FeatureStore]
Vectors = dict[str, np.ndarray]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "v.h5"


def expected(store: FeatureStore, vectors: Vectors) -> bytes:
    return np.stack([vectors[name] for name in store.frames.data["path"]]).tobytes()


def test_the_dump_of_the_abaw7_winner(store: FeatureStore, vectors: Vectors, path: Path) -> None:
    """f[image][video], images without a suffix, videos of one number in one group; `34` and `341` are both numbers."""
    with h5py.File(path, "w") as file:
        for name, vector in vectors.items():
            video, _, image = name.rpartition("/")
            file.require_group(image.removesuffix(".jpg")).create_dataset(video, data=vector)
    report = import_vectors(store, path, encoder="au")
    assert (report.layout, report.matched) == ("image", 10)
    assert store.embedding("au").load().tobytes() == expected(store, vectors)


def test_the_winners_reader_reads_what_is_exported(
    store: FeatureStore, fill: Callable[..., FloatArray], path: Path
) -> None:
    rows = fill(store)
    export_vectors(store, path, encoder="au", layout="image")
    found = {}
    with h5py.File(path) as file:
        for image in file:
            for video in file[image]:
                found[video, image] = file[image][video][:]
    for row, name in enumerate(store.frames.data["path"]):
        key = (name.split("/")[0], name.split("/")[-1].split(".")[0])
        assert (key in found) == (row not in (2, 5))
        if key in found:
            assert found[key].tobytes() == rows[row].tobytes()


@pytest.mark.parametrize(("wanted", "forced"), [("video", None), ("image", "image")])
def test_names_that_are_frames_either_way(make_store: StoreMaker, path: Path, wanted: str, forced: str | None) -> None:
    store = make_store(videos={"1": (1, 2), "2": (1, 2)})
    with h5py.File(path, "w") as file:
        for first in ("1", "2"):
            for second in ("1", "2"):
                file[f"{first}/{second}"] = np.float32([int(first), int(second)])
    with pytest.raises(ConfigError, match=r"names 4 each, for example '1/1' .*Give --layout video or --layout image"):
        import_vectors(store, path, encoder="au")
    assert store.names() == ()
    assert import_vectors(store, path, encoder="au", layout=wanted).layout == (forced or "video")
    rows = [[1, 1], [1, 2], [2, 1], [2, 2]] if wanted == "video" else [[1, 1], [2, 1], [1, 2], [2, 2]]
    assert store.embedding("au").load().tolist() == rows


def by_video(store: FeatureStore, vectors: Vectors) -> dict[str, tuple[list[int], FloatArray]]:
    table: dict[str, tuple[list[int], list[np.ndarray]]] = {}
    for video, frame, name in store.frames.data.select("video", "frame", "path").iter_rows():
        numbers, rows = table.setdefault(video, ([], []))
        numbers.append(frame)
        rows.append(vectors[name])
    return {video: (numbers, np.stack(rows)) for video, (numbers, rows) in table.items()}


@pytest.mark.parametrize("numbered_by", ["frame", "frames", "names", None])
def test_a_group_a_video(store: FeatureStore, vectors: Vectors, path: Path, numbered_by: str | None) -> None:
    with h5py.File(path, "w") as file:
        for video, (numbers, rows) in by_video(store, vectors).items():
            turned = slice(None) if numbered_by is None else slice(None, None, -1)
            group = file.create_group(f"cropped_aligned/{video}")
            group["feature"] = rows[turned]
            group["label"] = np.zeros(len(rows))
            if numbered_by == "names":
                group["frame"] = [f"{number:05d}.jpg" for number in numbers][turned]
            elif numbered_by:
                group[numbered_by] = np.array(numbers)[turned]
        file.create_group("unknown")["feature"] = np.zeros((3, 6), np.float32)
    report = import_vectors(store, path, encoder="au")
    assert (report.layout, report.matched, report.extra) == ("video", 10, 3)
    assert report.extra_examples[0] == "unknown/row 0"
    assert store.embedding("au").load().tobytes() == expected(store, vectors)


def test_rows_that_nothing_numbers(store: FeatureStore, vectors: Vectors, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["341/feature"] = np.zeros((5, 6), np.float32)
    with pytest.raises(ShapeError, match=r"a dataset 341/frame, .* 5 rows stand against 4 frames \(file: .*v\.h5\)"):
        import_vectors(store, path, encoder="au")
    with h5py.File(path, "w") as file:
        file["341/feature"] = np.zeros((4, 6), np.float32)
        file["341/frame"] = [1, 2, 3]
    with pytest.raises(ShapeError, match="holds 4 rows and 3 names"):
        import_vectors(store, path, encoder="au")
    with h5py.File(path, "a") as file:
        del file["341/frame"]
        file["341/frame"] = [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(StoreError, match=r"'/341/frame' is float64 of shape \(4,\)"):
        import_vectors(store, path, encoder="au")
    assert store.names() == ()


def test_videos_of_two_widths(store: FeatureStore, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["341/feature"] = np.zeros((4, 6), np.float32)
        file["34/feature"] = np.zeros((3, 5), np.float32)
    with pytest.raises(ShapeError, match=r"here \(6,\); '/34/feature' has \(5,\)"):
        import_vectors(store, path, encoder="au")
    assert store.names() == ()


@pytest.mark.parametrize(
    ("feature", "names", "as_bytes"),
    [("feature", "keys", False), ("X", "filename", True), ("embeddings", "image_location", False)],
)
def test_flat_files_of_others(
    store: FeatureStore, vectors: Vectors, path: Path, feature: str, names: str, as_bytes: bool
) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(feature, data=np.stack(list(vectors.values())), compression="gzip", chunks=(2, 6))
        file[names] = np.array(list(vectors), dtype="S") if as_bytes else list(vectors)
        file["label"] = np.zeros(10)
    assert import_vectors(store, path, encoder="au").layout == "flat"
    assert store.embedding("au").load().tobytes() == expected(store, vectors)


def test_flat_files_with_video_and_frame(store: FeatureStore, vectors: Vectors, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["feature"] = np.stack(list(vectors.values()))
        file["video"] = [name.partition("/")[0] for name in vectors]
        file["frame"] = [int(name.partition("/")[2].partition(".")[0]) for name in vectors]
    import_vectors(store, path, encoder="au")
    assert store.embedding("au").load().tobytes() == expected(store, vectors)


def test_videos_in_folders(make_store: StoreMaker, fill: Callable[..., FloatArray], path: Path) -> None:
    """HDF5 makes groups of the slashes in a video's name."""
    videos = {"val/341": (1, 2), "341": (1, 3, 4), "val/b": (7, 8)}
    for layout in ("flat", "video", "image"):
        source, target = make_store(f"source_{layout}", videos), make_store(f"target_{layout}", videos)
        rows = fill(source, failed=())
        export_vectors(source, path, encoder="au", layout=layout, force=True)
        assert import_vectors(target, path).matched == 7
        assert target.embedding("au").load().tobytes() == rows.tobytes()


def test_what_is_no_layout(store: FeatureStore, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros((4, 4))
        file["bias"] = np.zeros(4)
    with pytest.raises(StoreError, match=r"one of the layouts: flat .*this one holds bias, weights \(file: .*v\.h5\)"):
        import_vectors(store, path, encoder="au")
    with pytest.raises(StoreError, match="holds the layout video: "):
        import_vectors(store, path, encoder="au", layout="video")
    with pytest.raises(UnknownNameError, match=r"no HDF5 layout 'flatt'\. Did you mean 'flat'"):
        import_vectors(store, path, encoder="au", layout="flatt")
    with h5py.File(path, "w"):
        pass
    with pytest.raises(StoreError, match="this one holds nothing"):
        import_vectors(store, path, encoder="au")
    with h5py.File(path, "w") as file:
        file.create_group("341/00001.jpg")
    with pytest.raises(StoreError, match=r"'341/00001.jpg' is an empty group"):
        import_vectors(store, path, encoder="au")


def test_flat_names_that_are_too_few(store: FeatureStore, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["feature"] = np.zeros((3, 6), np.float32)
        file["keys"] = ["341/00001.jpg"]
    with pytest.raises(ShapeError, match="'feature' holds 3 rows and 1 names"):
        import_vectors(store, path, encoder="au")
    with h5py.File(path, "a") as file:
        del file["keys"]
        file["keys"] = np.array([b"\xff\xfe", b"a", b"b"])
    with pytest.raises(StoreError, match=r"damaged or cut short: .*decode"):
        import_vectors(store, path, encoder="au")


def test_links_lead_nowhere(store: FeatureStore, tmp_path: Path, path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones(6, np.float32)
    with h5py.File(path, "w") as file:
        file["341/00001.jpg"] = np.zeros(6, np.float32)
        file["341/00003.jpg"] = h5py.ExternalLink("secret.h5", "/x")
        file["341/00066.jpg"] = h5py.SoftLink("/nowhere")
    assert import_vectors(store, path, encoder="au").matched == 1


def test_damage_is_told_and_leaves_nothing(store: FeatureStore, fill: Callable[..., FloatArray], path: Path) -> None:
    fill(store, "whole", row_shape=(3000,), failed=())
    export_vectors(store, path, encoder="whole")
    raw = path.read_bytes()
    for n_bytes in (100, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:n_bytes])
        with pytest.raises(StoreError, match=r"damaged or cut short: .*\(file: .*v\.h5\)"):
            import_vectors(store, path, encoder="au")
    assert store.names() == ("whole",)


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "no JSON object of format 1"),
        ('{"format": 2, "encoder": "au", "provenance": {}}', "no JSON object of format 1"),
        ('{"format": 1, "encoder": "au"}', "lacks 'encoder' or 'provenance'"),
        ('{"format": 1, "encoder": "au", "provenance": {}}', "holds 'preprocessing'"),
        (
            '{"format": 1, "encoder": "au", "provenance": {"preprocessing": {"mean": {"a": 1}}, "architecture": "a", '
            '"weights": "b", "pooling": "c", "precision": "d", "made_at": "e"}}',
            "Preprocessing 'mean' of a provenance",
        ),
        (3, "no JSON object"),
    ],
)
def test_a_malformed_note(
    store: FeatureStore, fill: Callable[..., FloatArray], path: Path, note: object, message: str
) -> None:
    fill(store, "whole")
    export_vectors(store, path, encoder="whole")
    with h5py.File(path, "a") as file:
        file.attrs[ORIGIN] = note
    with pytest.raises(StoreError, match=rf"note 'abaw'.*{message}.*\(file: .*v\.h5\)\. Export the file again"):
        import_vectors(store, path, encoder="au")
    assert store.names() == ("whole",)


def test_what_stands_beside_the_videos_is_not_passed_over(store: FeatureStore, vectors: Vectors, path: Path) -> None:
    with h5py.File(path, "w") as file:
        for video, (numbers, rows) in by_video(store, vectors).items():
            file[f"{video}/feature"], file[f"{video}/frame"] = rows, numbers
        file["notes/model"] = np.zeros(3)
    report = import_vectors(store, path, encoder="au")
    assert (report.matched, report.extra_examples) == (10, ("notes/model",))
    with h5py.File(path, "a") as file:
        del file["140"]
        file["140/00005"] = vectors["140/00005.jpg"]
    with pytest.raises(StoreError, match=r"has one layout; .* and also '140/00005' "):
        import_vectors(store, path, encoder="mixed")
