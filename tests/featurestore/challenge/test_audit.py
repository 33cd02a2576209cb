import json
from pathlib import Path

import pytest

from featurestore.challenge.annotations import read_challenge
from featurestore.challenge.audit import Audit, audit
from featurestore.errors import MissingFileError
from featurestore.images.imagesource import ImageFolder

HEADER = "image,valence,arousal,expression,aus"
NO_UNITS = ",".join(["-1"] * 12)
TRAIN = f"""{HEADER}
140/00001.jpg,0.5,-5,3,1,0{",-1" * 10}
140/00002.jpg,-5,-5,-1,{NO_UNITS}
140/00005.jpg,-0.25,1,3,0,0{",0" * 10}
140/00001.jpg,0.5,-5,3,1,0{",-1" * 10}
140/00002.jpg,0.5,-5,-1,{NO_UNITS}
140-30-632x360/00001.jpg,-5,-5,7,1,-1{",-1" * 10}
140-30-632x360/00004.jpg,-5,-5,-1,-1,1{",-1" * 10}
"""
VAL = f"{HEADER}\n140/00100.jpg,0,0,0,{NO_UNITS}\n"
TEST = "image\nx_left/00001.jpg,\nx_left/00001.jpg,\nx_right/00001.jpg,\n"


@pytest.fixture
def counted(tmp_path: Path) -> Audit:
    for name, text in {"train.txt": TRAIN, "val.txt": VAL, "test.txt": TEST}.items():
        (tmp_path / name).write_text(text)
    there = ["140/00001.jpg", "140/00005.jpg", "140/00007.jpg", "140-30-632x360/00001.jpg", "x_left/00001.jpg"]
    for path in [*there, "stranger/00001.PNG", "140/notes.txt"]:
        (tmp_path / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / path).touch()
    (tmp_path / "images" / "140-30-632x360" / "00004.jpg").mkdir()
    (tmp_path / "images" / "readme.jpg").touch()
    files = read_challenge(tmp_path / "train.txt", tmp_path / "val.txt", tmp_path / "test.txt")
    return audit(files, ImageFolder(tmp_path / "images"))


def test_rows_and_labels_of_a_split(counted: Audit) -> None:
    train = counted.splits["train"]
    assert (train.rows, train.duplicates, train.distinct, train.conflicting_duplicates) == (7, 2, 5, 1)
    assert train.videos == 2
    # The first line of a frame wins: 140/00002 has no valence.
    assert (train.valence, train.arousal, train.expression, train.au) == (2, 1, 3, 4)
    assert train.expression_counts["Fear"] == 2
    assert train.expression_counts["Other"] == 1
    assert sum(train.expression_counts.values()) == 3
    assert [train.au_valid[name] for name in ("AU1", "AU2", "AU26")] == [3, 3, 1]
    assert [train.au_rates[name] for name in ("AU1", "AU2", "AU26")] == pytest.approx([2 / 3, 1 / 3, 0])


def test_images_that_are_missing_or_unlisted(counted: Audit) -> None:
    train = counted.splits["train"]
    assert train.missing_images == 2
    assert train.missing_examples == ("140/00002.jpg", "140-30-632x360/00004.jpg")
    assert counted.splits["val"].missing_images == 1
    assert counted.splits["test"].missing_examples == ("x_right/00001.jpg",)
    assert counted.unlisted_images == 2


def test_gaps_and_rows_of_videos(counted: Audit) -> None:
    train = counted.splits["train"]
    assert train.rows_per_video == {"min": 2, "median": 2.5, "max": 3}
    # 1 -> 2, 2 -> 5; 1 -> 4.
    assert train.adjacent_share == pytest.approx(1 / 3)
    assert (train.gaps["median"], train.gaps["max"]) == (3, 3)
    assert counted.splits["val"].adjacent_share is None
    assert counted.splits["val"].gaps["max"] is None


def test_gap_quantiles_are_gaps_that_occur(tmp_path: Path) -> None:
    labels = f"0,0,0,{NO_UNITS}"
    frames = [1, 2, 4, 8, 16, 32]
    (tmp_path / "train.txt").write_text("\n".join([HEADER, *(f"a/{frame}.jpg,{labels}" for frame in frames[::-1])]))
    (tmp_path / "val.txt").write_text(VAL)
    counted = audit(read_challenge(tmp_path / "train.txt", tmp_path / "val.txt"), ImageFolder(tmp_path))
    assert counted.splits["train"].gaps == {"q25": 2, "median": 4, "q75": 8, "p95": 16, "max": 16}
    assert counted.splits["train"].adjacent_share == pytest.approx(0.2)


def test_a_video_of_two_splits_is_named_in_both(counted: Audit) -> None:
    assert counted.splits["train"].videos_in_other_splits == ("140",)
    assert counted.splits["val"].videos_in_other_splits == ("140",)
    assert counted.splits["test"].videos_in_other_splits == ()


def test_the_test_list_has_no_labels(counted: Audit) -> None:
    test = counted.splits["test"]
    assert (test.rows, test.duplicates, test.distinct, test.videos) == (3, 1, 2, 2)
    assert (test.valence, test.arousal, test.expression, test.au) == (0, 0, 0, 0)
    assert test.au_rates["AU1"] is None


def test_as_dict_is_ready_for_json(counted: Audit) -> None:
    read = json.loads(json.dumps(counted.as_dict()))
    assert set(read) == {"train", "val", "test", "unlisted_images"}
    assert read["train"]["rows"] == 7
    assert read["train"]["expression_counts"]["Fear"] == 2
    assert read["train"]["gaps"]["max"] == 3
    assert read["val"]["videos_in_other_splits"] == ["140"]


def test_without_a_test_list_there_are_two_splits(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(TRAIN)
    (tmp_path / "val.txt").write_text(VAL)
    counted = audit(read_challenge(tmp_path / "train.txt", tmp_path / "val.txt"), ImageFolder(tmp_path))
    assert list(counted.splits) == ["train", "val"]
    assert counted.splits["train"].missing_images == 5


def test_an_image_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text(VAL)
    files = read_challenge(tmp_path / "val.txt", tmp_path / "val.txt")
    with pytest.raises(MissingFileError, match=r"one folder a video; .*absent is not there.*`--frames`"):
        audit(files, ImageFolder(tmp_path / "absent"))
