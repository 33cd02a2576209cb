import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extractor.images import FrameReader, decode_file
from featurestore.errors import MissingFileError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(10):
        Image.new("RGB", (16, 16), (number * 20, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_batches_come_in_order_whatever_the_threads_do(folder: Path) -> None:
    reader = FrameReader(folder, [f"{i}.png" for i in range(10)], n_workers=4)
    batches = [np.array([9, 0]), np.array([3]), np.array([5, 5, 1]), *[np.array([i]) for i in range(10)]]
    seen = [[int(pixels[0, 0, 0]) // 20 for pixels in frames.groups[0][1]] for frames in reader.batches(iter(batches))]
    assert seen == [batch.tolist() for batch in batches]
    reader.close()


def test_unreadable_frames_are_named_with_their_reason_and_never_grey(folder: Path) -> None:
    whole = folder / "whole.jpg"
    Image.effect_noise((16, 16), 50).convert("RGB").save(whole)
    (folder / "truncated.jpg").write_bytes(whole.read_bytes()[:-20])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"not an image")
    names = ["0.png", "truncated.jpg", "empty.jpg", "text.jpg", "absent.jpg", "whole.jpg"]
    reader = FrameReader(folder, names)
    (frames,) = reader.batches([np.arange(6)])
    assert [positions.tolist() for positions, _ in frames.groups] == [[0, 5]]
    assert set(frames.failures) == {1, 2, 3, 4}
    assert "truncated" in frames.failures[1]
    assert frames.failures[2] == "empty file"
    assert frames.failures[3] == "cannot decode: not an image"
    assert frames.failures[4] == "no such file"
    assert reader.failures == frames.failures


def test_sizes_are_grouped_and_grey_images_become_rgb(folder: Path) -> None:
    Image.new("L", (8, 12), 77).save(folder / "grey.png")
    reader = FrameReader(folder, ["0.png", "grey.png", "1.png"])
    (frames,) = reader.batches([np.arange(3)])
    assert {tuple(pixels.shape): positions.tolist() for positions, pixels in frames.groups} == {
        (2, 3, 16, 16): [0, 2],
        (1, 3, 12, 8): [1],
    }
    assert (decode_file(folder / "grey.png") == 77).all()


def test_a_wrong_folder_is_said_before_anything_runs(folder: Path) -> None:
    with pytest.raises(MissingFileError, match="does not exist"):
        FrameReader(folder / "nowhere", ["0.png"])
    with pytest.raises(MissingFileError, match=r"None of 2 sampled frames .*for one, a/1\.jpg"):
        FrameReader(folder, ["a/1.jpg", "a/2.jpg"])


def test_as_many_batches_are_decoded_at_once_as_there_are_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(8, timeout=20)

    def wait_for_the_others(path: Path) -> np.ndarray:
        together.wait()
        return np.zeros((4, 4, 3), dtype=np.uint8)

    monkeypatch.setattr("extractor.images.decode_file", wait_for_the_others)
    reader = FrameReader(folder, ["0.png"] * 8, n_workers=8)
    assert len(list(reader.batches(np.array([i]) for i in range(8)))) == 8
