"""The bytes of one image file to pixels.

Plain JPEGs go to libjpeg-turbo through simplejpeg, which is three to four times as fast as Pillow, gives the same
pixels to the bit (both take the accurate transform and smooth chroma), releases the interpreter's lock and writes where
it is told to. (torchvision's decoder is slower, and deprecated since 0.29.) Everything else is Pillow's: other formats,
CMYK, and whatever libjpeg-turbo complains of. So the two never disagree on what an image is, and a reason is worded by
Pillow, with one exception: Pillow passes over damage inside a JPEG and fills up what it cannot decode, mostly with
grey; here that is a failure. As with Pillow's own `convert`, the orientation in EXIF is not applied.
"""

import re
from io import BytesIO
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from featurestore.errors import ImageError

_COLOURS: Final = frozenset({"RGB", "YCbCr", "Gray"})  # CMYK is turned into other RGB than Pillow's
_MOST_PIXELS: Final = 1 << 26  # beyond that it is for Pillow to say whether it is an attack
_DAMAGE: Final = "Corrupt JPEG data"
_PADDING: Final = re.compile(r"(\d+) extraneous bytes before marker")
_MOST_PADDING: Final = 32  # bytes; some cameras fill up their files, which costs no pixel


def jpeg_shape(raw: bytes) -> tuple[int, int, int] | None:
    """The shape that `decode_jpeg` fills, (height, width, 3); None if the file is not for it but for `decode_image`."""
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(raw)
    except ValueError:
        return None
    if colour not in _COLOURS or height * width > _MOST_PIXELS:
        return None
    return height, width, 3


def decode_jpeg(raw: bytes, into: NDArray[np.uint8]) -> None:
    """Decode an image file where it belongs.

    Parameters
    ----------
    raw
        A file to which `jpeg_shape` gives a shape.
    into : of that shape, contiguous
        Holds the RGB pixels afterwards, in [0, 255].

    Raises
    ------
    ImageError
        As `decode_image`; what `into` holds is then undefined.
    """
    try:
        simplejpeg.decode_jpeg(raw, "RGB", buffer=into)
    except ValueError as error:
        into[:] = _decode_by_pillow(raw)
        _refuse_damage(error)


def decode_image(raw: bytes) -> NDArray[np.uint8]:
    """An image file's bytes as RGB, shape (height, width, 3), in [0, 255].

    Raises
    ------
    ImageError
        If they are truncated, damaged, or no image; the message is the reason alone, as it is kept with the frame.
    """
    shape = jpeg_shape(raw)
    if shape is None:
        return _decode_by_pillow(raw)
    pixels = np.empty(shape, dtype=np.uint8)
    decode_jpeg(raw, pixels)
    return pixels


def _decode_by_pillow(raw: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(BytesIO(raw)) as image:
            if image.mode.startswith("I;16"):  # `convert` would cut off at 255 and not scale
                grey = (np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            if image.mode in ("I", "F"):
                raise ImageError(f"cannot decode: pixels of mode {image.mode!r} have no known range")
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ImageError("cannot decode: not an image") from error
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers of rarer formats raise whatever they stumble over
        raise ImageError(f"cannot decode: {error}") from error


def _refuse_damage(error: ValueError) -> None:
    """Pillow has decoded what libjpeg-turbo complained of; this is for what it has made up there."""
    message = str(error)
    padding = _PADDING.search(message)
    if message.startswith(_DAMAGE) and not (padding and int(padding[1]) <= _MOST_PADDING):
        raise ImageError(f"cannot decode: c{message[1:]}") from error
