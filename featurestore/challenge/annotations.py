"""The annotation files and test lists of s-Aff-Wild2's multi-task challenge, read into tables.

Whole files are parsed column by column, and every malformed line of every file is reported at once. Nothing is
guessed: a label is a number in its range, or the file's sentinel (-5 for valence and arousal, -1 for the rest), which
becomes null here and goes no further. Video names are kept exactly, `140` and `140-30-632x360` are two videos. Rows
stay as they are listed, duplicates included, since a submission answers them one by one; `build_frames` drops them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from featurestore.errors import AnnotationError, unknown_name
from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.labels import SPLITS

from .annotationrows import parse_annotations, parse_list
from .malformed import MalformedLines
from .textlines import read_text_lines

_LIST_COLUMNS: Final = ("video", "frame", "path")
_MAX_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeFiles:
    """The rows of a challenge's files, in their order, duplicates included.

    Attributes
    ----------
    train, val : columns as in `FRAME_SCHEMA`
    test : columns `video`, `frame`, `path`
        None without a test list.
    sources
        Split -> xxh3-128 of its file.
    """

    train: pl.DataFrame
    val: pl.DataFrame
    test: pl.DataFrame | None
    sources: Mapping[str, str]


def read_challenge(train: Path, val: Path, test: Path | None = None) -> ChallengeFiles:
    """Read a challenge's files, and report what is wrong with any of them in one error.

    Parameters
    ----------
    train, val
        Annotation files.
    test
        A test list.

    Raises
    ------
    MissingFileError
        If a file is not there.
    AnnotationError
        If a file is of another format, or lines are malformed: all of them, with file and line.
    """
    texts = {"train": read_text_lines(train), "val": read_text_lines(val)}
    malformed = MalformedLines()
    tables = {split: parse_annotations(text, split, malformed) for split, text in texts.items()}
    listed = None
    if test is not None:
        texts["test"] = read_text_lines(test)
        listed = parse_list(texts["test"], malformed)
    malformed.raise_any()
    sources = {split: text.digest for split, text in texts.items()}
    return ChallengeFiles(train=tables["train"], val=tables["val"], test=listed, sources=sources)


def read_annotations(path: Path, split: str) -> pl.DataFrame:
    """Every row of an annotation file, in its order, duplicates included.

    Parameters
    ----------
    path
        The file: `image,valence,arousal,expression,aus`, or with the action units spelled out, in any order.
    split
        train, val or test: what the rows are marked with.

    Returns
    -------
    Columns as in `FRAME_SCHEMA`; labels are null where the file has -5 (valence, arousal) or -1.

    Raises
    ------
    MissingFileError
        If the file is not there.
    AnnotationError
        If it is of another format, or lines are malformed: all of them, with file and line.
    UnknownNameError
        If there is no such split.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    malformed = MalformedLines()
    table = parse_annotations(read_text_lines(path), split, malformed)
    malformed.raise_any()
    return table


def read_list(path: Path) -> pl.DataFrame:
    """Every row of a test list, in its order, duplicates included.

    The list has one image a line under a header (`image`, or the annotation files' own), or no header at all. A file
    with labels is refused: given as a test list it is a mistake, and its labels would go unused without a word.

    Returns
    -------
    Columns `video`, `frame`, `path`.

    Raises
    ------
    MissingFileError
        If the file is not there.
    AnnotationError
        If it is of another format, or lines are malformed: all of them, with file and line.
    """
    malformed = MalformedLines()
    table = parse_list(read_text_lines(path), malformed)
    malformed.raise_any()
    return table


def build_frames(train: pl.DataFrame, val: pl.DataFrame, test: pl.DataFrame | None) -> FrameTable:
    """The frame table of a challenge: rows sorted, and of duplicates the first.

    Parameters
    ----------
    train, val : columns as in `FRAME_SCHEMA`
    test : columns `video`, `frame`, `path` at least
        Its labels are null.

    Raises
    ------
    AnnotationError
        If a frame is in two splits. A video may be: its frames then form segments.
    """
    parts = [train, val, *([] if test is None else [unlabelled_rows(test)])]
    rows = pl.concat([part.unique(["video", "frame"], keep="first", maintain_order=True) for part in parts])
    shared = rows.filter(pl.struct("video", "frame").is_duplicated()).sort("video", "frame")
    if shared.height:
        named = shared.group_by("video", "frame", maintain_order=True).agg(pl.col("path").first(), "split")
        first = [f"{path} ({', '.join(splits)})" for path, splits in named[:_MAX_NAMED, 2:].iter_rows()]
        more = f" and {named.height - len(first):,} more" if named.height > len(first) else ""
        raise AnnotationError(
            f"A frame belongs to one split, {named.height:,} are in several: {'; '.join(first)}{more}. "
            "Check that no file was given twice, or take those rows out of one."
        )
    return FrameTable(rows.sort("video", "frame"))


def unlabelled_rows(listed: pl.DataFrame) -> pl.DataFrame:
    """Listed images as rows of the test split, columns as in `FRAME_SCHEMA`, every label null."""
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in FRAME_SCHEMA.items() if name not in _LIST_COLUMNS]
    rows = listed.select(_LIST_COLUMNS).with_columns(absent).with_columns(split=pl.lit("test"))
    return rows.select(FRAME_SCHEMA.names())
