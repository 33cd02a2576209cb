from collections.abc import Callable

import pytest

from featurestore.exchange.keys import FrameIndex, frame_key
from featurestore.store import FeatureStore


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("341/00066.jpg", ("341", 66)),
        ("10-60-1280x720_left/00012.png", ("10-60-1280x720_left", 12)),
        ("video91/7", ("video91", 7)),
        ("val/341/00066.jpg", ("val/341", 66)),
        ("350/12.48.jpg", None),
        ("350/12.48", None),
        pytest.param("350/" + "9" * 5000, None, id="too long"),
        ("00066.jpg", None),
        ("341/face.jpg", None),
        ("341/", None),
        ("341/-3.jpg", None),
        ("341/²3.jpg", None),
    ],
)
def test_frame_key(name: str, key: tuple[str, int] | None) -> None:
    assert frame_key(name) == key


@pytest.mark.parametrize(
    "name",
    [
        "341/00066.jpg",
        "341/66.png",
        "341/66",
        "cropped_aligned/341/00066.jpg",
        "/data/cropped_aligned/341/00066.jpg",
        "./341/66.jpg",
        "cropped_aligned\\341\\00066.jpg",
    ],
)
def test_names_of_one_frame(store: FeatureStore, name: str) -> None:
    index = FrameIndex(store.frames)
    row = index.row(name)
    assert row == 2
    assert index.key(row) == "341/66"
    assert index.name(row) == "341/00066.jpg"


@pytest.mark.parametrize("name", ["1341/00066.jpg", "341/00065.jpg", "00066/341.jpg", "66", "341x/66", "341/66/1"])
def test_names_of_none(store: FeatureStore, name: str) -> None:
    assert FrameIndex(store.frames).row(name) is None


def test_a_video_with_a_folder_in_its_name_comes_first(make_store: Callable[..., FeatureStore]) -> None:
    index = FrameIndex(make_store(videos={"341": (1, 2), "val/341": (1,)}).frames)
    assert index.row("val/341/1.jpg") == 2
    assert index.row("train/341/1.jpg") == 0
    assert index.frames_of("341") == [1, 2]


def test_an_image_whose_path_names_another_frame_is_not_trusted(make_store: Callable[..., FeatureStore]) -> None:
    store = make_store(videos={"clip/00001.jpg": (4,)}, folder="a/b/")
    assert FrameIndex(store.frames).name(0) == "a/b/clip/00001.jpg/00004.jpg"
    store = make_store("other", videos={"clip": (4,)})
    index = FrameIndex(store.frames)
    index._paths[0] = "clip.mp4"
    assert index.name(0) == "clip/00004"
