"""One file to pixels: Pillow's own where Pillow is right, and a failure where it makes pixels up."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from extractor.pixels.decode import decode_image, decode_jpeg, jpeg_shape
from featurestore.errors import ImageError


def picture(width: int = 79, height: int = 53) -> Image.Image:
    coarse = np.random.default_rng(4).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    return saved(picture(), exif=exif)


KINDS: dict[str, Callable[[], bytes]] = {
    "4:4:4": lambda: saved(picture(), subsampling=0),
    "4:2:2": lambda: saved(picture(), subsampling=1),
    "4:2:0": lambda: saved(picture(), subsampling=2, quality=40),
    "progressive": lambda: saved(picture(), progressive=True),
    "stored as RGB": lambda: saved(picture(), keep_rgb=True),
    "grey": lambda: saved(picture().convert("L")),
    "CMYK": lambda: saved(picture().convert("CMYK")),
    "with an orientation": turned,
    "one pixel": lambda: saved(picture(1, 1)),
    "with bytes behind its end": lambda: saved(picture()) + b"more",
    "PNG": lambda: saved(picture(), "PNG"),
    "PNG with a palette": lambda: saved(picture().quantize(16), "PNG"),
    "PNG with transparency": lambda: saved(picture().convert("RGBA"), "PNG"),
    "WebP": lambda: saved(picture(), "WEBP"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_pillows(kind: str) -> None:
    raw = KINDS[kind]()
    with Image.open(BytesIO(raw)) as image:
        pillows = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_image(raw), pillows)
    shape = jpeg_shape(raw)
    assert (shape is None) == (kind == "CMYK" or not raw.startswith(b"\xff\xd8"))
    if shape is not None:
        batch = np.full((3, *shape), 7, dtype=np.uint8)
        decode_jpeg(raw, batch[1])
        np.testing.assert_array_equal(batch[1], pillows)
        assert (batch[[0, 2]] == 7).all()


@pytest.mark.parametrize("kept", [0.5, 0.75, 0.99])
def test_a_truncated_file_is_a_failure(kept: float) -> None:
    raw = saved(picture())
    with pytest.raises(ImageError, match=r"^cannot decode: image file is truncated"):
        decode_image(raw[: int(kept * len(raw))])


def test_a_file_that_ends_in_zeros_is_a_failure() -> None:
    raw = saved(picture())  # as after a crash: its length is there, its last blocks are not
    with pytest.raises(ImageError, match=r"^cannot decode: "):
        decode_image(raw[: len(raw) // 2] + bytes(len(raw) // 2))


def test_damage_that_pillow_fills_up_with_grey_is_a_failure() -> None:
    raw = saved(picture())
    middle = (len(raw) + raw.index(b"\xff\xda")) // 2
    damaged = raw[:middle] + b"\xff\xd9" + raw[middle + 2 :]
    with Image.open(BytesIO(damaged)) as image:
        assert len(np.unique(np.asarray(image.convert("RGB"))[-8:])) < 9  # Pillow says nothing
    with pytest.raises(ImageError, match=r"^cannot decode: corrupt JPEG data: premature end of data segment$"):
        decode_image(damaged)


def test_a_little_padding_before_the_end_is_no_damage() -> None:
    raw = saved(picture())
    padded = raw[:-2] + bytes(16) + raw[-2:]
    np.testing.assert_array_equal(decode_image(padded), decode_image(raw))
    with pytest.raises(ImageError, match=r"^cannot decode: corrupt JPEG data: \d+ extraneous bytes"):
        decode_image(raw[:-2] + bytes(200) + raw[-2:])


def test_an_image_that_claims_to_be_immense_is_refused_before_memory_is_taken() -> None:
    raw = bytearray(saved(picture()))
    sizes = raw.index(b"\xff\xc0") + 5
    raw[sizes : sizes + 4] = b"\x4e\x20\x4e\x20"  # 20,000 by 20,000
    assert jpeg_shape(bytes(raw)) is None
    with pytest.raises(ImageError, match=r"^cannot decode: Image size .* exceeds limit"):
        decode_image(bytes(raw))
