"""What a file of the challenge is, by its first line.

The published header, `image,valence,arousal,expression,aus`, has five names over sixteen fields: `aus` stands for
the twelve action units. A header that spells them out is read as well. Columns go by their names, never by their
place: files with arousal before valence exist. A file of another format is named, not guessed at.
"""

import re
from typing import Final

from featurestore.labels import AU_COLUMNS, EXPRESSIONS, LABEL_COLUMNS

ANNOTATION_HEADER: Final = "image,valence,arousal,expression,aus"
"""First line of annotation files and of submissions, as the organisers write it."""

N_FIELDS: Final = 1 + len(LABEL_COLUMNS)
"""Fields of an annotation line: the image, then its labels."""

_LIST_HEADERS: Final = ("image", "image_location")
_AFFECTNET_ONLY: Final = "contempt"


def annotation_columns(header: str) -> tuple[str, ...] | None:
    """The sixteen columns of an annotation file, in the order of its fields; None if it is none.

    Parameters
    ----------
    header
        The file's first line.

    Returns
    -------
    A permutation of `image`, `valence`, `arousal`, `expression`, `au1` ... `au26`.
    """
    columns: list[str] = []
    for name in _names(header):
        columns += AU_COLUMNS if name == "aus" else (name,)
    return tuple(columns) if sorted(columns) == sorted(("image", *LABEL_COLUMNS)) else None


def is_list_header(header: str) -> bool:
    """Whether a first line heads a test list: the image alone, or the annotation files' own."""
    names = _names(header)
    return (len(names) == 1 and names[0] in _LIST_HEADERS) or annotation_columns(header) is not None


def describe_header(header: str) -> str:
    """What a file with this first line is, for an error message."""
    names = set(_names(header))
    if not header:
        return "it is empty"
    if len(names) == 1 and names <= set(_LIST_HEADERS):
        return "this is a test list, which has no labels"
    if "/" in header:
        return "it is a row, and without a header the order of its columns cannot be told"
    if "image_location" in names:
        return "this is a submission for one task"
    if _AFFECTNET_ONLY in names:
        return f"these are AffectNet's classes, numbered otherwise than {', '.join(EXPRESSIONS)}"
    if names & {"valence", "arousal", "au1", *(name.lower() for name in EXPRESSIONS)} and "image" not in names:
        return (
            "this is one video of a per-video challenge (Aff-Wild2), whose lines do not name their image; those of "
            "the multi-task challenge (s-Aff-Wild2) do"
        )
    return "that is none of the known formats; the five names may stand in any order, and AU1 ... AU26 for aus"


def _names(header: str) -> list[str]:
    names = [name.strip().lower() for name in header.rstrip(", \t").split(",")]
    return [re.sub(r"^au\s?0?(\d+)$", r"au\1", name) for name in names]
