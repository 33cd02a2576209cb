"""The frame table: one row for every frame of every video, in the one order that all else counts in.

Every video is one run of rows, its frames ascending and unique, so a window of a video is a slice, and embeddings are
a matrix with the same rows. A new table has its videos sorted; videos that come later are appended, and no row's number
ever changes. Labels are null where a frame has none; the annotation files' sentinels went no further than
`featurestore.challenge.annotations`. The fingerprint covers which frames there are and where their images lie, not the
labels: correcting a label does not make embeddings of the same pixels stale.
"""

import io
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import xxhash

from .atomic import replace_file
from .errors import FrameMismatchError, MissingFileError, ShapeError, StoreError, unknown_name
from .labels import AU_COLUMNS, EXPRESSIONS, SPLITS

FRAME_SCHEMA: Final = pl.Schema(
    {
        "video": pl.String,
        "frame": pl.Int32,
        "path": pl.String,
        "split": pl.String,
        "fold": pl.Int8,
        "valence": pl.Float32,
        "arousal": pl.Float32,
        "expression": pl.Int8,
        **dict.fromkeys(AU_COLUMNS, pl.Int8),
    }
)
"""Names, order and types of a frame table's columns."""

_DIGEST: Final = "abaw.digest"
_KEY_COLUMNS: Final = ("video", "frame", "path", "split")


class FrameTable:
    """Every frame of every video with its labels, video by video, frames ascending.

    Parameters
    ----------
    data
        Columns as in `FRAME_SCHEMA`; `split` is train, val or test; labels are null where a frame has none,
        otherwise valence and arousal lie in [-1, 1], `expression` in 0..7, action units are 0 or 1.

    Raises
    ------
    ShapeError
        If columns, order, uniqueness or a value are other than that.
    """

    def __init__(self, data: pl.DataFrame) -> None:
        _check_schema(data)
        _check_order(data)
        _check_values(data)
        self._data = data

    @property
    def data(self) -> pl.DataFrame:
        """The table itself."""
        return self._data

    def __len__(self) -> int:
        return self._data.height

    def __repr__(self) -> str:
        return f"FrameTable({len(self)} frames of {self._data['video'].n_unique()} videos, {self.fingerprint})"

    @cached_property
    def fingerprint(self) -> str:
        """The xxh3-128, in hexadecimal, of video, frame and path of every row, in row order."""
        return self.fingerprint_of(len(self))

    def fingerprint_of(self, n_rows: int) -> str:
        """The fingerprint of the table's first rows alone: what it was before others were appended."""
        return _digest(self._data.select("video", "path", "frame").head(n_rows))

    def head(self, n_rows: int) -> "FrameTable":
        """The table's first rows."""
        return FrameTable(self._data.head(n_rows))

    def continued_by(self, newer: "FrameTable") -> "FrameTable":
        """`newer` in this table's order: this one's rows first, then the videos that only `newer` has.

        Parameters
        ----------
        newer
            A table of the same frames, with other labels perhaps, and of further videos.

        Raises
        ------
        FrameMismatchError
            If it lacks a frame, has another path for one, or further frames of a video that is here.
        """
        keys = ["video", "frame", "path"]
        known = self._data.select(keys).with_row_index("row")
        rows = newer.data.join(known, on=keys, how="left", maintain_order="left")
        n_gone = len(self) - rows["row"].count()
        videos = self._data["video"].unique()
        inserted = rows.filter(pl.col("row").is_null() & pl.col("video").is_in(videos.implode()))
        if n_gone or inserted.height:
            gone = known.join(newer.data.select(keys), on=keys, how="anti", maintain_order="left")
            shown = [f"{video}/{frame}" for video, frame in pl.concat([gone[keys], inserted[keys]])[:5, :2].iter_rows()]
            raise FrameMismatchError(
                f"A frame table keeps its {len(self):,} rows, and grows by whole videos; of these frames "
                f"{n_gone:,} are missing or have another path, {inserted.height:,} are further frames of its videos "
                f"(for example {', '.join(shown)}). Make a store in another folder for them, or "
                "remove the embeddings with `abaw store rm` first."
            )
        appended = rows.filter(pl.col("row").is_null())
        return FrameTable(pl.concat([rows.drop_nulls("row").sort("row"), appended]).drop("row"))

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Row numbers of one split, ascending.

        Raises
        ------
        UnknownNameError
            If there is no such split.
        """
        _check_split(split)
        return np.flatnonzero((self._data["split"] == split).to_numpy()).astype(np.int64)

    def segments(self, split: str | None = None) -> npt.NDArray[np.int64]:
        """The maximal runs of rows of one video and one split: what a window must not cross.

        Parameters
        ----------
        split
            Only the runs of this split.

        Returns
        -------
        shape (n_segments, 2), rows [start, stop), ascending.

        Raises
        ------
        UnknownNameError
            If there is no such split.
        """
        if split is not None:
            _check_split(split)
        if not len(self):
            return np.empty((0, 2), dtype=np.int64)
        changes = _changes(self._data["video"]) | _changes(self._data["split"])
        starts = np.flatnonzero(changes).astype(np.int64)
        runs = np.stack([starts, np.append(starts[1:], len(self))], axis=1)  # (n_segments, 2)
        if split is None:
            return runs
        wanted: npt.NDArray[np.bool_] = (self._data["split"].gather(starts) == split).to_numpy()
        return runs[wanted]

    def video_ids(self) -> npt.NDArray[np.int64]:
        """A number for every row's video, shape (n_frames,), dense, in order of appearance."""
        return np.cumsum(_changes(self._data["video"]), dtype=np.int64) - 1

    def write(self, path: Path) -> None:
        """Write the table as Parquet, with a digest of it; the file is there as a whole or not at all.

        Raises
        ------
        StorageFullError
            If there was no space for it.
        """
        with replace_file(path) as partial:
            partial.write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The table as Parquet, with a digest of it."""
        buffer = io.BytesIO()
        self._data.write_parquet(buffer, metadata={_DIGEST: _digest(self._data)})
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> "FrameTable":
        """Read a table that `write` wrote.

        Raises
        ------
        MissingFileError
            If there is no such file.
        StoreError
            If it is damaged, or holds no frame table.
        """
        if not path.is_file():
            raise MissingFileError(f"A frame table is a Parquet file; {path} is not there. Run `abaw frames` first.")
        # Not by its name, in which polars would expand [ and *.
        return cls.from_bytes(path.read_bytes(), where=str(path))

    @classmethod
    def from_bytes(cls, raw: bytes, *, where: str) -> "FrameTable":
        """A table from what `to_bytes` gave; `where` it was, for the error, a StoreError if it is damaged."""
        try:
            table = cls(pl.read_parquet(io.BytesIO(raw)))
            recorded = pl.read_parquet_metadata(io.BytesIO(raw)).get(_DIGEST)
            # Parquet alone lets a flipped bit of a label through. A table made by another tool has no digest.
            if recorded is not None and recorded != _digest(table.data):
                raise ShapeError("its content is not what was written")
            return table
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ShapeError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise StoreError(
                f"A frame table was expected, but the file cannot be read as one: {reason} (file: {where}). "
                "Run `abaw frames` again, which writes it anew from the annotation files."
            ) from error


def _digest(data: pl.DataFrame) -> str:
    """The xxh3-128 of every value, the same on every machine."""
    digest = xxhash.xxh3_128()
    for column in data:
        if column.dtype == pl.String:
            # The lengths keep ("ab", "c") and ("a", "bc") apart.
            digest.update(column.str.len_bytes().to_numpy().astype("<u4").tobytes())
            digest.update("".join(column.to_list()).encode())
        else:
            digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
            values = column.fill_null(0).to_numpy()
            digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _changes(column: pl.Series) -> npt.NDArray[np.bool_]:
    """Where a column's value differs from the row before; the first row does."""
    return column.ne_missing(column.shift(1)).to_numpy()


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)


def _check_schema(data: pl.DataFrame) -> None:
    for position, (name, dtype) in enumerate(FRAME_SCHEMA.items()):
        found = data.columns[position] if position < data.width else "nothing"
        if found != name:
            raise ShapeError(
                f"Column {position} of a frame table is {name!r}, not {found!r}; the columns are "
                f"{', '.join(FRAME_SCHEMA)}. Select them in this order."
            )
        if data.schema[name] != dtype:
            raise ShapeError(f"Column {name!r} of a frame table is {dtype}, not {data.schema[name]}. Cast it first.")
    if data.width > len(FRAME_SCHEMA):
        extra = ", ".join(data.columns[len(FRAME_SCHEMA) :])
        raise ShapeError(f"A frame table has {len(FRAME_SCHEMA)} columns; {extra} came besides. Drop the rest.")
    for name in _KEY_COLUMNS:
        if n_null := data[name].null_count():
            raise ShapeError(f"Column {name!r} of a frame table has no nulls, {n_null} came. Fill or drop those rows.")


def _check_order(data: pl.DataFrame) -> None:
    video, frame = pl.col("video"), pl.col("frame")
    same = video == video.shift(1)
    within = data.select((same & (frame <= frame.shift(1))).fill_null(value=False).arg_true().alias("row"))["row"]
    # A video begins once: where it does so a second time, its rows are in two places.
    begins = data.lazy().with_row_index("row").filter((~same).fill_null(value=True)).select("row", "video").collect()
    again = begins.filter(~pl.col("video").is_first_distinct())["row"]
    wrong = sorted([*within.head(1), *again.head(1)])
    if not wrong:
        return
    row = int(wrong[0])
    first, second = (data.row(number, named=True) for number in (row - 1, row))
    raise ShapeError(
        "A frame table has each video in one place, its frames ascending, each once; "
        f"({second['video']!r}, {second['frame']}) came after ({first['video']!r}, {first['frame']}) (row {row}). "
        "Drop the duplicates and sort."
    )


def _check_values(data: pl.DataFrame) -> None:
    allowed: dict[str, tuple[pl.Expr, str]] = {
        "frame": (pl.col("frame") >= 0, "a number from 0"),
        "split": (pl.col("split").is_in(SPLITS), "train, val or test"),
        "valence": (pl.col("valence").is_between(-1, 1), "in [-1, 1]"),
        "arousal": (pl.col("arousal").is_between(-1, 1), "in [-1, 1]"),
        "expression": (pl.col("expression").is_between(0, len(EXPRESSIONS) - 1), "in 0..7"),
        **{name: (pl.col(name).is_between(0, 1), "0 or 1") for name in AU_COLUMNS},
    }
    # Neither `all` nor `filter` minds a null, which is no label.
    fit = data.select(fits.all().alias(name) for name, (fits, _) in allowed.items()).row(0, named=True)
    for name, (fits, expected) in allowed.items():
        if fit[name]:
            continue
        first = data.filter(~fits).row(0, named=True)
        raise ShapeError(
            f"{name!r} of a frame is {expected}, {first[name]!r} came (video {first['video']!r}, frame "
            f"{first['frame']}). Correct it; a missing label is null."
        )
