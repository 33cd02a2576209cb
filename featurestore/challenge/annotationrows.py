"""From the lines of a challenge file to its rows, a whole column at a time.

A line that is malformed anywhere is reported and gives no row, so what is returned is of use only when nothing
was reported.
"""

from pathlib import Path
from typing import Final

import polars as pl

from featurestore.frames import FRAME_SCHEMA
from featurestore.labels import AU_COLUMNS, EXPRESSIONS, LABEL_COLUMNS

from .headers import ANNOTATION_HEADER, N_FIELDS, annotation_columns, describe_header, is_list_header
from .malformed import MalformedLines
from .textlines import TextLines

_AFFECT: Final = ("valence", "arousal")
_NO_AFFECT: Final = -5
_NO_CLASS: Final = -1

# A file is of the other kind when most of its lines are, else a single stray line would make a report on every one.
_MOST: Final = 0.5
_IMAGE: Final = r"^([^/\\,\x00-\x1f]+)/([0-9]+)\.(?i:jpe?g|png)$"
_EXPECTED: Final = {
    "path": "an image is VIDEO/NUMBER.jpg (or .jpeg, .png)",
    **{name: f"{name} is a number in [-1, 1], or {_NO_AFFECT}" for name in _AFFECT},
    "expression": f"expression is an integer in 0..{len(EXPRESSIONS) - 1}, or {_NO_CLASS}",
    **{name: f"{name} is 0, 1 or {_NO_CLASS}" for name in AU_COLUMNS},
}


def parse_annotations(text: TextLines, split: str, malformed: MalformedLines) -> pl.DataFrame:
    """The rows of an annotation file, columns as in `FRAME_SCHEMA`; what is malformed goes to `malformed`."""
    columns = annotation_columns(text.header)
    problem = _format_problem(text) if columns is None else _rows_problem(text)
    if columns is None or problem:
        malformed.add_line(text.path, 1, problem)
        return FRAME_SCHEMA.to_frame()
    fields = _split_fields(text, columns, malformed)
    values = fields.with_columns(pl.col(LABEL_COLUMNS).cast(pl.Float64, strict=False))
    fits = values.select(
        *(((pl.col(name) == _NO_AFFECT) | pl.col(name).is_between(-1, 1)) for name in _AFFECT),
        pl.col("expression").is_in([float(value) for value in range(_NO_CLASS, len(EXPRESSIONS))]),
        *(pl.col(name).is_in([-1.0, 0.0, 1.0]) for name in AU_COLUMNS),
    ).select(pl.all().fill_null(value=False))
    for name in LABEL_COLUMNS:
        _report(text.path, fields.filter(~fits[name]), name, malformed)
    kept = values.filter(fits.select(pl.all_horizontal(pl.all())).to_series())
    rows = _with_image(text.path, kept.rename({"image": "path"}), malformed)
    return rows.select(
        "video",
        "frame",
        "path",
        pl.lit(split).alias("split"),
        pl.lit(None, pl.Int8).alias("fold"),
        *(pl.col(name).replace(_NO_AFFECT, None) for name in _AFFECT),
        *(pl.col(name).replace(_NO_CLASS, None) for name in LABEL_COLUMNS[2:]),
    ).cast(FRAME_SCHEMA)


def parse_list(text: TextLines, malformed: MalformedLines) -> pl.DataFrame:
    """The rows of a test list, columns `video`, `frame`, `path`; what is malformed goes to `malformed`."""
    lines = text.lines
    if pl.Series([text.header.rstrip(", \t")]).str.contains(_IMAGE).item():
        # A path can only be a row: skipping it as a header would lose a frame of the submission.
        first = pl.DataFrame({"line": [1], "text": [text.header.rstrip(", \t")]})
        lines = pl.concat([first, lines])
    elif not is_list_header(text.header):
        problem = f"a test list begins with the line 'image', {text.header!r} came: {describe_header(text.header)}"
        malformed.add_line(text.path, 1, problem)
        lines = lines.clear()
    elif not lines.height:
        malformed.add_line(text.path, 1, "one image a line was expected under the header, there are no more lines")
    has_labels = pl.col("text").str.count_matches(",", literal=True) + 1 == N_FIELDS
    if lines.height and lines.select(has_labels.mean() > _MOST).item():
        problem = "a test list was expected, this is an annotation file or a submission, with labels"
        malformed.add_line(text.path, 1, problem)
        lines = lines.clear()
    rows = _with_image(text.path, lines.rename({"text": "path"}), malformed)
    return rows.select("video", "frame", "path")


def _format_problem(text: TextLines) -> str:
    return f"the first line is {ANNOTATION_HEADER!r}, {text.header[:80]!r} came: {describe_header(text.header)}"


def _rows_problem(text: TextLines) -> str:
    """What is wrong with the lines as a whole, empty if nothing is."""
    if not text.lines.height:
        return "labelled images were expected under the header, there are no more lines"
    if text.lines.select(pl.col("text").str.contains(_IMAGE).mean() > _MOST).item():
        return "labels were expected, this is a test list, which has images only"
    return ""


def _split_fields(text: TextLines, columns: tuple[str, ...], malformed: MalformedLines) -> pl.DataFrame:
    """The lines with as many fields as there are columns, split; `line` and the columns, all text."""
    counted = text.lines.with_columns(n_fields=pl.col("text").str.count_matches(",", literal=True) + 1)
    problem = pl.format("{} fields were expected, {} came: '{}'", N_FIELDS, "n_fields", _shown("text"))
    malformed.add(text.path, counted.filter(pl.col("n_fields") != N_FIELDS).select("line", problem=problem))
    split = pl.col("text").str.split_exact(",", N_FIELDS - 1).struct.rename_fields(list(columns))
    whole = counted.filter(pl.col("n_fields") == N_FIELDS).select("line", split.alias("fields")).unnest("fields")
    return whole.with_columns(pl.col(columns).str.strip_chars(" \t"))


def _with_image(path: Path, rows: pl.DataFrame, malformed: MalformedLines) -> pl.DataFrame:
    """Rows with the video and frame of their `path`; those without, or of two paths for one frame, are reported."""
    groups = rows.with_columns(image=pl.col("path").str.extract_groups(_IMAGE)).with_columns(
        video=pl.col("image").struct.field("1"),
        frame=pl.col("image").struct.field("2").cast(pl.Int32, strict=False),
    )
    fits = pl.col("frame").is_not_null() & ~pl.col("video").is_in([".", ".."])
    _report(path, groups.filter(~fits.fill_null(value=False)), "path", malformed)
    known = groups.filter(fits)
    first = known.with_columns(pl.col("line", "path").first().over("video", "frame").name.prefix("first_"))
    problem = pl.format(
        "frame {} of video '{}' has one path, '{}' came after '{}' (line {})",
        *("frame", "video", _shown("path"), _shown("first_path"), "first_line"),
    )
    malformed.add(path, first.filter(pl.col("path") != pl.col("first_path")).select("line", problem=problem))
    return known


def _report(path: Path, rows: pl.DataFrame, name: str, malformed: MalformedLines) -> None:
    problem = pl.format(f"{_EXPECTED[name]}, '{{}}' came", _shown(name))
    malformed.add(path, rows.select("line", problem=problem))


def _shown(name: str) -> pl.Expr:
    """A text short enough for a message."""
    return pl.col(name).str.slice(0, 80)
