"""Decoding ahead, from a folder and from a pack of it: the same frames, and the same reasons where there are none."""

import threading
import time
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from extractor.pixels.decode import decode_image
from extractor.pixels.reader import FrameReader
from extractor.pixels.stages import StageTimes
from featurestore.errors import FrameMismatchError, ImageError, MissingFileError, StoreError
from featurestore.frames import FrameTable
from featurestore.images.framepack import open_images
from featurestore.images.imagesource import ImageFolder, ImageSource
from featurestore.images.packwriter import write_pack

TableOf = Callable[[list[str]], FrameTable]
Opener = Callable[[list[str]], FrameReader]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(10):
        Image.new("RGB", (16, 16), (number * 20, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture(params=["folder", "pack"])
def open_reader(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """A reader of some of the folder's files, or of a pack of them."""

    def make(paths: list[str]) -> FrameReader:
        frames: FrameTable = request.getfixturevalue("table_of")(paths)
        images: ImageSource = ImageFolder(folder)
        if request.param == "pack":
            path = tmp_path_factory.mktemp("pack") / "frames.h5"
            write_pack(path, frames, ImageFolder(folder))
            images = open_images(path)
        return FrameReader(images, frames, n_workers=4)

    return make


def test_batches_come_in_order_whatever_the_threads_do(open_reader: Opener) -> None:
    reader = open_reader([f"{i}.png" for i in range(10)])
    batches = [np.array([9, 0]), np.array([3]), np.array([5, 5, 1]), *[np.array([i]) for i in range(10)]]
    seen = [[int(pixels[0, 0, 0]) // 20 for pixels in frames.groups[0][1]] for frames in reader.batches(iter(batches))]
    assert seen == [batch.tolist() for batch in batches]
    reader.close()


def test_unreadable_frames_are_named_with_their_reason_and_never_grey(folder: Path, open_reader: Opener) -> None:
    whole = folder / "whole.jpg"
    Image.effect_noise((16, 16), 50).convert("RGB").save(whole)
    (folder / "truncated.jpg").write_bytes(whole.read_bytes()[:-20])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"not an image")
    (folder / "folder.jpg").mkdir()
    names = ["0.png", "truncated.jpg", "empty.jpg", "text.jpg", "absent.jpg", "0.png/1.jpg", "folder.jpg", "whole.jpg"]
    reader = open_reader(names)
    (frames,) = reader.batches([np.arange(8)])
    assert [positions.tolist() for positions, _ in frames.groups] == [[0, 7]]
    # From a folder and from a pack, to the letter.
    assert frames.failures.pop(1).startswith("cannot decode: image file is truncated (")
    assert frames.failures == {
        2: "empty file",
        3: "cannot decode: not an image",
        4: "no such file",
        5: "no such file",
        6: "not a file",
    }
    assert reader.failures.keys() == {1, *frames.failures}


def test_sizes_are_grouped_and_grey_images_become_rgb(folder: Path, open_reader: Opener) -> None:
    Image.new("L", (8, 12), 77).save(folder / "grey.png")
    reader = open_reader(["0.png", "grey.png", "1.png"])
    (frames,) = reader.batches([np.arange(3)])
    assert {tuple(pixels.shape): positions.tolist() for positions, pixels in frames.groups} == {
        (2, 3, 16, 16): [0, 2],
        (1, 3, 12, 8): [1],
    }
    assert (decode_image((folder / "grey.png").read_bytes()) == 77).all()


def test_pixels_are_pillows_own_of_the_file(image_root: Path) -> None:
    path = image_root / "v0" / "00007.jpg"
    with Image.open(path) as image:
        assert np.array_equal(decode_image(path.read_bytes()), np.asarray(image.convert("RGB")))


def test_a_wrong_folder_is_said_before_anything_runs(folder: Path, table_of: TableOf) -> None:
    with pytest.raises(MissingFileError, match="does not exist"):
        FrameReader(ImageFolder(folder / "nowhere"), table_of(["0.png"]))
    with pytest.raises(MissingFileError, match=r"None of 2 sampled frames .*for one, a/1\.jpg"):
        FrameReader(ImageFolder(folder), table_of(["a/1.jpg", "a/2.jpg"]))


def test_a_pack_of_other_frames_is_said_before_anything_runs(folder: Path, table_of: TableOf) -> None:
    write_pack(folder / "frames.h5", table_of(["0.png", "1.png"]), ImageFolder(folder))
    pack = open_images(folder / "frames.h5")
    with pytest.raises(FrameMismatchError, match=r"of 2 frames \w+, these are 3 .*Run `abaw frames --pack .*h5`"):
        FrameReader(pack, table_of(["0.png", "1.png", "2.png"]))


def test_what_is_wrong_with_the_pack_is_no_failure_of_a_frame(folder: Path, table_of: TableOf) -> None:
    frames = table_of([f"{i}.png" for i in range(10)])
    path = folder / "frames.h5"
    write_pack(path, frames, ImageFolder(folder))
    reader = FrameReader(open_images(path), frames)
    with path.open("r+b") as file:
        file.truncate(2100)
    with pytest.raises(StoreError, match=r"ends before byte .*Copy it again"):
        list(reader.batches([np.arange(10)]))
    assert not reader.failures


@pytest.mark.parametrize("raw", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(40)])
def test_bytes_that_are_no_image_have_a_reason(raw: bytes) -> None:
    with pytest.raises(ImageError, match=r"^cannot decode: "):
        decode_image(raw)


def test_as_many_batches_are_decoded_at_once_as_there_are_threads(
    folder: Path, table_of: TableOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(8, timeout=20)

    def wait_for_the_others(raw: bytes) -> np.ndarray:
        together.wait()
        return np.zeros((4, 4, 3), dtype=np.uint8)

    monkeypatch.setattr("extractor.pixels.reader.decode_image", wait_for_the_others)
    reader = FrameReader(ImageFolder(folder), table_of(["0.png"] * 8), n_workers=8)
    batches = list(reader.batches(np.array([i]) for i in range(8)))
    assert len(batches) == 8
    assert all(torch.equal(batch.groups[0][1], torch.zeros(1, 3, 4, 4, dtype=torch.uint8)) for batch in batches)


@pytest.mark.parametrize("odd", [0, 50])  # the first image's size is taken for that of all, and need not be
@pytest.mark.parametrize("n_workers", [1, 3])
def test_a_batch_of_many_pieces_keeps_its_order_around_failures_and_other_sizes(
    folder: Path, table_of: TableOf, odd: int, n_workers: int
) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(folder / "small.png")
    names = [f"{number % 10}.png" for number in range(100)]
    names[odd] = names[70] = "small.png"
    names[40] = "absent.png"
    reader = FrameReader(ImageFolder(folder), table_of(names), n_workers=n_workers)
    (frames,) = reader.batches([np.arange(100)])
    groups = sorted(frames.groups, key=lambda group: len(group[0]))
    assert frames.groups[0][0][0] == 0  # in the order of their first images
    (small, _), (usual, pixels) = groups
    assert small.tolist() == [odd, 70]
    assert usual.tolist() == [position for position in range(100) if position not in (odd, 40, 70)]
    assert (pixels[:, 0, 0, 0] // 20).tolist() == [position % 10 for position in usual.tolist()]
    assert reader.failures == {40: "no such file"}
    reader.close()


def test_the_threads_time_is_told_by_stage(folder: Path, table_of: TableOf) -> None:
    stages = StageTimes()
    reader = FrameReader(ImageFolder(folder), table_of([f"{i}.png" for i in range(10)]), stages=stages)
    assert stages.seconds() == {}
    started = time.perf_counter()
    list(reader.batches([np.arange(10)] * 3))
    wall_s = time.perf_counter() - started
    seconds = stages.seconds()
    assert seconds.keys() == {"read", "decode", "wait"}
    assert all(0 < each <= wall_s for each in seconds.values())
    assert seconds["read"] + seconds["decode"] <= wall_s  # one thread


def test_the_readers_memory_does_not_grow_with_the_frames(folder: Path, table_of: TableOf) -> None:
    table = table_of(["0.png"] * 50_000)
    FrameReader(ImageFolder(folder), table)
    tracemalloc.start()
    reader = FrameReader(ImageFolder(folder), table)
    list(reader.batches(np.arange(first, first + 10) for first in range(0, 500, 10)))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 200_000  # a string a row would be 3 MB
    assert reader.paths[np.int64(3)] == "0.png"


def test_images_of_sixteen_bits_keep_their_greys_and_those_without_a_range_are_refused() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    raw = BytesIO()
    Image.fromarray(ramp).save(raw, format="PNG")
    decoded = decode_image(raw.getvalue())
    assert decoded.shape == (64, 64, 3)
    np.testing.assert_array_equal(decoded[:, :, 0], np.round(ramp / 257))
    raw = BytesIO()
    Image.fromarray(ramp.astype(np.float32)).save(raw, format="TIFF")
    with pytest.raises(ImageError, match=r"pixels of mode 'F' have no known range"):
        decode_image(raw.getvalue())
