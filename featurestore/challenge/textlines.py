"""The lines of a text file as other people's tools leave them: with a byte order mark, CRLF, spaces, trailing commas.

A file is read as bytes and decoded here, so that what is not text is named as such, and the digest is that of
the very bytes that were parsed.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import xxhash

from featurestore.errors import AnnotationError, MissingFileError


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLines:
    """A file's first line, and the lines after it.

    Attributes
    ----------
    path
        The file.
    digest
        The xxh3-128 of its bytes, in hexadecimal.
    header
        Its first line; empty when the file is.
    lines : columns `line` (number in the file, from 2) and `text`
        Spaces around a line, and commas and spaces at its end, are gone; so are empty lines at the end of the file.
    """

    path: Path
    digest: str
    header: str
    lines: pl.DataFrame


def read_text_lines(path: Path) -> TextLines:
    """Read a file of lines.

    Raises
    ------
    MissingFileError
        If there is no such file.
    AnnotationError
        If it cannot be read, or is not text.
    """
    raw = _read_bytes(path)
    text = _decode(path, raw).replace("\r\n", "\n").replace("\r", "\n").rstrip(" \t\n")
    first, *rest = text.split("\n")
    lines = pl.DataFrame(
        {
            "line": pl.int_range(2, 2 + len(rest), dtype=pl.Int64, eager=True),
            "text": pl.Series(rest, dtype=pl.String).str.strip_chars(" \t").str.strip_chars_end(", \t"),
        }
    )
    return TextLines(path=path, digest=xxhash.xxh3_128_hexdigest(raw), header=first.strip(" \t"), lines=lines)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(
            f"An annotation or list file was expected; {path} is not there. Correct the path."
        ) from error
    except IsADirectoryError as error:
        raise AnnotationError(
            f"A file with the rows of all videos was expected, {path} is a folder. Give the file itself, such as "
            "training_set_annotations.txt; folders of the per-video challenges are not read."
        ) from error
    except OSError as error:
        raise AnnotationError(f"The file cannot be read: {error.strerror} ({path}). Check its permissions.") from error


def _decode(path: Path, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text, line = "", raw.count(b"\n", 0, error.start) + 1
    else:
        line = raw.count(b"\n", 0, raw.index(b"\0")) + 1 if "\0" in text else 0
    if line:
        raise AnnotationError(
            f"A text file in UTF-8 was expected, line {line} is not (file: {path}, {len(raw):,} bytes). "
            "It is a binary file, an archive, or text in another encoding: unpack or convert it first."
        )
    return text
