import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extractor.synth.dataset import SynthConfig, SynthSummary, is_written, write_dataset
from extractor.synth.listing import FILES
from featurestore.challenge.annotations import build_frames, read_annotations, read_list
from featurestore.errors import ConfigError, FileExistsAlreadyError
from featurestore.labels import SPLITS

SMALL = SynthConfig(videos=6, seed=3, frames_per_video=12)
Small = tuple[Path, SynthSummary]


def listed(root: Path, split: str) -> list[str]:
    return [line.split(",")[0] for line in (root / FILES[split]).read_text().splitlines()[1:]]


def digest(root: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        whole.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def test_the_files_are_read_by_the_reader_of_the_real_ones(small: Small) -> None:
    root, summary = small
    train, val = (read_annotations(root / FILES[split], split) for split in ("train", "val"))
    test = read_list(root / FILES["test"])
    frames = build_frames(train, val, test)
    assert {split: len(frames.rows(split)) for split in SPLITS} == {
        "train": train["path"].n_unique(),
        "val": val["path"].n_unique(),
        "test": test["path"].n_unique(),
    }
    assert summary.rows == {"train": train.height, "val": val.height, "test": test.height}


def test_header_has_five_names_over_sixteen_fields_and_the_list_ends_in_commas(small: Small) -> None:
    root, _ = small
    for name in ("train", "val", "test_labels"):
        header, *rows = (root / FILES[name]).read_text().splitlines()
        assert header == "image,valence,arousal,expression,aus"
        assert {row.count(",") for row in rows} == {15}
    header, *rows = (root / FILES["test"]).read_text().splitlines()
    assert header == "image"
    assert all(row.endswith(".jpg,") for row in rows)


def test_every_listed_frame_but_one_of_test_is_a_crop_of_112_pixels(small: Small) -> None:
    root, summary = small
    missing = []
    for split in SPLITS:
        for path in sorted(set(listed(root, split))):
            file = root / "cropped_aligned" / path
            if not file.exists():
                missing.append((split, path))
                continue
            with Image.open(file) as image:
                assert (image.size, image.mode, image.format) == ((112, 112), "RGB", "JPEG")
    assert [split for split, _ in missing] == ["test"]
    assert summary.images == len(list((root / "cropped_aligned").rglob("*.jpg")))


def test_truth_has_fifteen_numbers_for_every_listed_frame(small: Small) -> None:
    root, _ = small
    with np.load(root / "truth.npz") as truth:
        assert set(truth.files) == {path for split in SPLITS for path in listed(root, split)}
        vectors = np.stack([truth[name] for name in truth.files])
    assert vectors.shape[1] == 15
    assert vectors.dtype == np.float32
    assert ((vectors[:, :12] >= 0) & (vectors[:, :12] <= 1)).all()


def test_withheld_labels_answer_the_list_row_for_row(small: Small) -> None:
    root, _ = small
    assert listed(root, "test_labels") == listed(root, "test")
    labels = read_annotations(root / FILES["test_labels"], "test")
    assert labels.drop("fold").null_count().sum_horizontal().item() == 0


@pytest.mark.parametrize("split", SPLITS)
def test_some_rows_stand_twice_and_are_exact_copies(small: Small, split: str) -> None:
    rows = (small[0] / FILES[split]).read_text().splitlines()[1:]
    assert len(rows) > len(set(rows))
    assert len(set(rows)) == len({row.split(",")[0] for row in rows})


def test_names_set_their_traps(small: Small) -> None:
    root, _ = small
    train, val = ({path.split("/")[0] for path in listed(root, split)} for split in ("train", "val"))
    assert any(other.startswith(name) for name in train for other in val)
    sides = {name.rpartition("_")[::2] for name in train if "_" in name}
    assert {side for _, side in sides} == {"left", "right"}
    assert len({clip for clip, _ in sides}) == 1


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(small: Small, tmp_path: Path) -> None:
    parallel = SynthConfig(videos=6, seed=3, frames_per_video=12, workers=2)
    write_dataset(tmp_path / "again", parallel)
    assert digest(tmp_path / "again") == digest(small[0])


def test_another_seed_gives_another_dataset(small: Small, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", SynthConfig(videos=6, seed=4, frames_per_video=12))
    assert set(listed(tmp_path / "other", "train")).isdisjoint(listed(small[0], "train"))


def test_progress_is_reported_video_by_video(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_dataset(
        tmp_path / "data",
        SynthConfig(videos=6, frames_per_video=4),
        on_video=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 6) for done in range(1, 7)]


def test_a_killed_run_leaves_no_half_of_a_dataset_and_is_made_anew(tmp_path: Path) -> None:
    config = SynthConfig(videos=6, frames_per_video=4)

    def stop(done: int, total: int) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_dataset(tmp_path / "data", config, on_video=stop)
    assert not (tmp_path / "data").exists()
    write_dataset(tmp_path / "data", config)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert is_written(tmp_path / "data", config)
    assert not is_written(tmp_path / "data", SynthConfig(videos=7, frames_per_video=4))
    with pytest.raises(FileExistsAlreadyError, match="there is something in"):
        write_dataset(tmp_path / "data", config)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(FileExistsAlreadyError, match="data"):
        write_dataset(tmp_path / "data", SMALL)


@pytest.mark.parametrize(("name", "value"), [("videos", 5), ("seed", -1), ("frames_per_video", 3), ("workers", 0)])
def test_values_too_small_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} {value} "):
        SynthConfig(**{name: value})


def test_summary_is_plain_json(small: Small) -> None:
    assert json.loads(json.dumps(small[1].as_dict()))["paths"]["train"].endswith(FILES["train"])


def test_pictures_survive_jpeg(small: Small) -> None:
    """A face is neither flat nor saturated."""
    root, _ = small
    files = sorted((root / "cropped_aligned").rglob("*.jpg"))[::7]
    for file in files:
        pixels = np.asarray(Image.open(io.BytesIO(file.read_bytes())))
        assert pixels.std() > 15
        assert ((pixels == 0) | (pixels == 255)).mean() < 0.3
