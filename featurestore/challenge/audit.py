"""What the annotation files hold, counted, to be held against the published counts before anything is trained.

Counts of labels are over distinct rows; `rows` and the two counts of duplicates are over the files as they are. Gaps
are between consecutive rows of one video: a window of rows is not a window of time, and this says by how much.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import polars as pl

from featurestore.images.imagesource import ImageSource
from featurestore.labels import AU_COLUMNS, EXPRESSIONS, LABEL_COLUMNS

from .annotations import ChallengeFiles, unlabelled_rows

_KEY: Final = ("video", "frame")
_MAX_EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitAudit:
    """The counts of one split; labels of the test split are all unknown.

    Attributes
    ----------
    rows
        Lines of the file.
    duplicates
        Lines whose frame stood in an earlier one; these are dropped.
    distinct
        Frames: rows - duplicates.
    conflicting_duplicates
        Duplicates with other labels than the first line of their frame, which wins.
    videos
        Videos, by their exact names.
    valence, arousal, expression
        Frames with that label.
    au
        Frames with a label for at least one action unit.
    expression_counts
        Class -> frames, all eight.
    au_valid
        AU1 ... AU26 -> frames with that label.
    au_rates
        AU1 ... AU26 -> share of those in which it is active; None without any.
    missing_images
        Frames without an image.
    missing_examples
        Paths of the first few of them.
    rows_per_video
        min, median and max of a video's frames.
    adjacent_share
        Share of the gaps that are 1; None without gaps.
    gaps
        q25, median, q75, p95 and max of the gaps, in source frames; each None without gaps.
    videos_in_other_splits
        Videos that have frames in another split, too.
    """

    rows: int
    duplicates: int
    distinct: int
    conflicting_duplicates: int
    videos: int
    valence: int
    arousal: int
    expression: int
    au: int
    expression_counts: Mapping[str, int]
    au_valid: Mapping[str, int]
    au_rates: Mapping[str, float | None]
    missing_images: int
    missing_examples: tuple[str, ...]
    rows_per_video: Mapping[str, float]
    adjacent_share: float | None
    gaps: Mapping[str, int | None]
    videos_in_other_splits: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The counts of a challenge's files.

    Attributes
    ----------
    splits
        train, val, and test if there is a list.
    unlisted_images
        Images that no file lists; of a pack, those also that lay in its folder.
    """

    splits: Mapping[str, SplitAudit]
    unlisted_images: int

    def as_dict(self) -> dict[str, object]:
        """The splits' counts by name, then `unlisted_images`; ready for JSON."""
        return {**{name: asdict(split) for name, split in self.splits.items()}, "unlisted_images": self.unlisted_images}


def audit(files: ChallengeFiles, images: ImageSource) -> Audit:
    """Count what a challenge's files hold, and which of their images are there.

    Parameters
    ----------
    files
        The rows of the files.
    images
        The folder of the images, or a pack of them: the counts are the same.

    Raises
    ------
    MissingFileError
        If the images' folder, or the pack, is not there.
    """
    tables = {"train": files.train, "val": files.val}
    if files.test is not None:
        tables["test"] = unlabelled_rows(files.test)
    found = images.images()
    there = pl.DataFrame({"path": found.paths}, schema={"path": pl.String})
    videos = {name: set(table["video"].unique()) for name, table in tables.items()}
    splits = {
        name: _audit_split(table, there, set().union(*(videos[other] for other in videos if other != name)))
        for name, table in tables.items()
    }
    listed = pl.concat([table.select("path") for table in tables.values()])
    unlisted = there.join(listed, on="path", how="anti").height + found.n_left_out
    return Audit(splits=splits, unlisted_images=unlisted)


def _audit_split(rows: pl.DataFrame, there: pl.DataFrame, elsewhere: set[str]) -> SplitAudit:
    frames = rows.unique(_KEY, keep="first", maintain_order=True)
    missing = frames.join(there, on="path", how="anti", maintain_order="left")["path"]
    counts = frames.group_by("video").len()["len"]
    gaps = frames.sort(_KEY).select(pl.col("frame").diff().over("video")).to_series().drop_nulls()
    classes = frames["expression"].drop_nulls()
    units = {f"AU{name.removeprefix('au')}": frames[name].drop_nulls() for name in AU_COLUMNS}
    return SplitAudit(
        rows=rows.height,
        duplicates=rows.height - frames.height,
        distinct=frames.height,
        conflicting_duplicates=_conflicting(rows),
        videos=counts.len(),
        valence=frames["valence"].count(),
        arousal=frames["arousal"].count(),
        expression=classes.len(),
        au=frames.select(pl.any_horizontal(pl.col(AU_COLUMNS).is_not_null()).sum()).item(),
        expression_counts={name: int((classes == number).sum()) for number, name in enumerate(EXPRESSIONS)},
        au_valid={name: values.len() for name, values in units.items()},
        au_rates={name: float(values.sum()) / values.len() if values.len() else None for name, values in units.items()},
        missing_images=missing.len(),
        missing_examples=tuple(missing[:_MAX_EXAMPLES]),
        rows_per_video=_rows_per_video(counts),
        adjacent_share=float((gaps == 1).sum()) / gaps.len() if gaps.len() else None,
        gaps=_gap_quantiles(gaps),
        videos_in_other_splits=tuple(sorted(elsewhere.intersection(frames["video"]))),
    )


def _conflicting(rows: pl.DataFrame) -> int:
    """Rows with other labels than the first row of the same frame."""
    again = rows.filter(pl.struct(_KEY).is_duplicated())
    labels = pl.col(LABEL_COLUMNS)
    differs = pl.any_horizontal(labels.ne_missing(labels.first().over(_KEY)))
    return int(again.select(differs.sum()).item())


def _rows_per_video(counts: pl.Series) -> dict[str, float]:
    ordered = counts.sort()
    return {"min": ordered[0], "median": ordered.quantile(0.5, "linear") or 0.0, "max": ordered[-1]}


def _gap_quantiles(gaps: pl.Series) -> dict[str, int | None]:
    quantiles = {"q25": 0.25, "median": 0.5, "q75": 0.75, "p95": 0.95, "max": 1.0}
    # Nearest, so that each is a gap that occurs.
    values = {name: gaps.quantile(share, "nearest") for name, share in quantiles.items()}
    return {name: None if value is None else int(value) for name, value in values.items()}
