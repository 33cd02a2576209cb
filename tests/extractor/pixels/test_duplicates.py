"""Files of the same bytes, in a batch that several threads decode."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from extractor.pixels import reader
from extractor.pixels.duplicates import Duplicates
from extractor.pixels.reader import FrameReader
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageFolder

TableOf = Callable[[list[str]], FrameTable]


def test_the_first_to_come_decodes_and_the_order_does_not_show() -> None:
    duplicates = Duplicates()
    claims = [duplicates.claim(position, raw) for position, raw in ((7, b"a"), (2, b"b"), (3, b"a"), (1, b"a"))]
    assert claims == [True, True, False, False]
    assert duplicates.found() == {7: [1, 3, 7]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures, one of another size, one truncated."""
    for name, side in (("a", 16), ("b", 16), ("c", 24), ("bad", 16)):
        noise = np.random.default_rng([ord(name[0]), side]).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.jpg")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(bad.read_bytes()[:-30])
    (tmp_path / "copy.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    return tmp_path


def test_same_bytes_are_decoded_once_and_told(folder: Path, table_of: TableOf, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["c", "a", "bad", "copy", "b", "c", "a", "bad", "b", "absent"]
    n_decoded = []
    original = reader.decode_jpeg
    monkeypatch.setattr(reader, "decode_jpeg", lambda raw, into: n_decoded.append(original(raw, into)))
    table = table_of([f"{name}.jpg" for name in names])
    with_all = FrameReader(ImageFolder(folder), table)
    (plain,) = with_all.batches([np.arange(10)])
    assert plain.same_as == {}
    n_decoded.clear()
    once = FrameReader(ImageFolder(folder), table, find_duplicates=True)
    (frames,) = once.batches([np.arange(10)])
    assert frames.same_as == {3: 1, 5: 0, 6: 1, 8: 4}
    assert len(n_decoded) == 1  # c, which sets the size; a and b are beside it, and "bad" fails
    assert [positions.tolist() for positions, _ in frames.groups] == [[0], [1, 4]]
    assert dict(frames.failures) == dict(plain.failures)
    assert set(frames.failures) == {2, 7, 9}
    for positions, pixels in frames.groups:
        for position, image in zip(positions, pixels, strict=True):
            assert torch.equal(image, image_at(plain.groups, int(position)))


def test_who_decodes_first_does_not_matter(folder: Path) -> None:
    names = [("a", "b", "c")[position % 3] for position in range(100)]
    batch = reader._Batch(np.arange(100), pinned=False, duplicates=Duplicates())
    for position in reversed(range(100)):  # as if the thread of the last piece had been the first
        batch.decode(position, (folder / f"{names[position]}.jpg").read_bytes())
    frames = batch.decoded()
    assert frames.same_as == {position: position % 3 for position in range(3, 100)}
    assert [positions.tolist() for positions, _ in frames.groups] == [[0, 1], [2]]
    for position, name in enumerate(("a", "b", "c")):
        with Image.open(folder / f"{name}.jpg") as image:
            expected = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        assert torch.equal(image_at(frames.groups, position), expected)


def image_at(groups: list[tuple[torch.Tensor, torch.Tensor]], position: int) -> torch.Tensor:
    return next(pixels[where == position][0] for where, pixels in groups if (where == position).any())
