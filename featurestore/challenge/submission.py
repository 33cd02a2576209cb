"""A submission to the multi-task challenge: the annotation files' own format, answering a test list row for row.

Every listed row is answered in the listed order, duplicates included, with its path exactly as listed. A frame
without a prediction, for want of a readable image, takes that of the nearest frame of its video.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, ShapeError
from featurestore.labels import AU_COLUMNS, EXPRESSIONS, LABEL_COLUMNS

from .headers import ANNOTATION_HEADER

N_DECIMALS: Final = 6
"""Decimals of valence and arousal."""

_TASK_COLUMNS: Final = {"v": ("valence",), "a": ("arousal",), "expr": ("expression",), "au": AU_COLUMNS}
_KEY: Final = ("video", "frame")
_MAX_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionReport:
    """What was written.

    Attributes
    ----------
    path
        The file.
    rows
        Rows under its header: as many as were listed.
    filled
        Those of them that took the prediction of a neighbour.
    farthest_frames
        The greatest distance to such a neighbour, in source frames.
    """

    path: Path
    rows: int
    filled: int
    farthest_frames: int


def write_submission(path: Path, listed: pl.DataFrame, predictions: pl.DataFrame) -> SubmissionReport:
    """Write predictions as the challenge asks for them; the file is there as a whole or not at all.

    Parameters
    ----------
    path
        The file to write; its folder exists.
    listed : columns `video`, `frame`, `path`
        Every row to answer, in order: what `read_list` returns.
    predictions : columns `video`, `frame`, `valence`, `arousal`, `expression`, `au1` ... `au26`
        One row a frame, in any order. Valence and arousal are clipped to [-1, 1]; `expression` is a class number,
        action units are 0 or 1. A row with a null or NaN counts as no prediction.

    Raises
    ------
    ConfigError
        If a task is not predicted, or a listed video has no prediction at all.
    ShapeError
        If a frame is predicted twice, or a value is outside what it may be.
    StorageFullError
        If there was no space for the file.
    """
    known = _known(predictions)
    nearest, distance = _nearest(listed, known)
    labels = known[nearest].select(
        *(_rounded(name) for name in ("valence", "arousal")),
        pl.col(LABEL_COLUMNS[2:]).cast(pl.Int8),
    )
    lines = pl.concat([listed.select("path"), labels], how="horizontal")
    # A path may hold any character but a comma, and no reader of these files unquotes.
    text = lines.write_csv(include_header=False, float_precision=N_DECIMALS, quote_style="never")
    with replace_file(path) as partial:
        partial.write_bytes(f"{ANNOTATION_HEADER}\n{text}".encode())
    return SubmissionReport(
        path=path,
        rows=lines.height,
        filled=int(np.count_nonzero(distance)),
        farthest_frames=int(distance.max(initial=0)),
    )


def _rounded(name: str) -> pl.Expr:
    # Adding 0 turns -0 into 0.
    return pl.col(name).clip(-1, 1).round(N_DECIMALS) + 0.0


def _known(predictions: pl.DataFrame) -> pl.DataFrame:
    """The predictions without gaps, checked, as float64, sorted by video and frame."""
    if absent := [name for name in _KEY if name not in predictions.columns]:
        raise ShapeError(f"Predictions have the columns video and frame; {', '.join(absent)} is not there. Add it.")
    values = predictions.select(
        "video",
        pl.col("frame").cast(pl.Int64),
        *(pl.col(name).cast(pl.Float64).fill_nan(None) for name in LABEL_COLUMNS if name in predictions.columns),
    )
    unpredicted = [
        task
        for task, columns in _TASK_COLUMNS.items()
        if any(name not in values.columns or not values[name].count() for name in columns)
    ]
    if unpredicted:
        raise ConfigError(
            f"A submission answers the tasks {', '.join(_TASK_COLUMNS)}; there are no predictions for "
            f"{', '.join(unpredicted)} ({predictions.height:,} frames). Join those tasks, or merge the predictions "
            "of one head a task."
        )
    if twice := values.filter(pl.struct(_KEY).is_duplicated()).height:
        raise ShapeError(f"A frame is predicted once, {twice:,} rows are of frames that came twice. Drop the repeats.")
    known = values.drop_nulls().sort(_KEY)
    _check_classes(known)
    return known


def _check_classes(known: pl.DataFrame) -> None:
    n_values = {"expression": len(EXPRESSIONS), **dict.fromkeys(AU_COLUMNS, 2)}
    for name, n in n_values.items():
        wrong = known.filter(~pl.col(name).is_in([float(value) for value in range(n)]))
        if wrong.height:
            first = wrong.row(0, named=True)
            raise ShapeError(
                f"{name!r} is predicted as an integer in 0..{n - 1}, {first[name]} came (video {first['video']!r}, "
                f"frame {first['frame']}). Take the most probable class, or apply the thresholds, first."
            )


def _nearest(listed: pl.DataFrame, known: pl.DataFrame) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For every listed row, the row of `known` nearest in its video, the earlier of two, and how many frames away."""
    numbers = known.select("video").unique(maintain_order=True).with_row_index("number")
    wanted = listed.select("video", "frame").join(numbers, on="video", how="left", maintain_order="left")
    _check_videos(wanted)
    keys = _sort_keys(known.select("video", "frame").join(numbers, on="video", how="left", maintain_order="left"))
    targets = _sort_keys(wanted)
    after = np.searchsorted(keys, targets, side="left").clip(max=len(keys) - 1)  # (n_listed,), at or after the target
    before = np.searchsorted(keys, targets, side="right").clip(min=1) - 1  # (n_listed,), at or before the target
    # Another video is at least 2**31 away, so it is never the nearer one.
    distances = np.stack([np.abs(targets - keys[before]), np.abs(targets - keys[after])])  # (2, n_listed)
    nearest = np.where(distances[0] <= distances[1], before, after)
    return nearest.astype(np.int64), distances.min(axis=0)


def _sort_keys(rows: pl.DataFrame) -> npt.NDArray[np.int64]:
    """One number a row, in the order of (video, frame)."""
    # Frames fit 31 bits; the spare bits keep videos farther apart than any two frames of one.
    return (rows["number"].cast(pl.Int64) * 2**33 + rows["frame"].cast(pl.Int64)).to_numpy()


def _check_videos(wanted: pl.DataFrame) -> None:
    unknown = wanted.filter(pl.col("number").is_null())["video"].unique(maintain_order=True).to_list()
    if unknown:
        more = f" and {len(unknown) - _MAX_NAMED:,} more" if len(unknown) > _MAX_NAMED else ""
        raise ConfigError(
            f"Every listed video needs a predicted frame to fill its others from; {len(unknown):,} have none: "
            f"{', '.join(unknown[:_MAX_NAMED])}{more}. Predict the split of this list, and see with `abaw frames` "
            "whether those videos have images."
        )
