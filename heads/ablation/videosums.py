"""What each row of a table scored by, video by video: the file beside its CSV that differences are resampled from.

`<table>_videos.parquet` has one row a finished row: its key, the part of P, and the part's sufficient statistics over
all videos of val (see `heads.scoring.intervals`). A row without an entry, such as one of a file that was deleted, keeps
its score; what is made of its videos is then unknown.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, cast

import numpy as np
import polars as pl

from featurestore.atomic import replace_file
from featurestore.errors import FileExistsAlreadyError
from heads.features.featureset import FeatureSet
from heads.scoring.intervals import VideoSums
from heads.scoring.predictions import Predictions
from heads.scoring.scores import video_sums
from heads.tasks import PARTS, TASKS, PartName

_NUMBERS: Final = pl.List(pl.Float64)
_SCHEMA: Final = pl.Schema([("key", pl.String), ("part", pl.String), ("shape", pl.List(pl.Int64)), ("sums", _NUMBERS)])


def row_sums(features: FeatureSet, task: str, predictions: Predictions) -> VideoSums:
    """The statistics of a task's score over all videos of val; of one without a scored row they are 0.

    Parameters
    ----------
    features
        Whose labels.
    task
        A predicted one.
    predictions
        Of val.
    """
    videos = np.unique(features.video_ids[features.frames.rows("val")])
    kept = predictions.where(predictions.predicted())
    video = np.searchsorted(videos, features.video_ids[kept.rows]).astype(np.int64)
    return video_sums(TASKS[task].part, features.targets.take(kept.rows), kept, video, len(videos))


def read_sums(path: Path) -> dict[str, VideoSums]:
    """Key -> statistics; empty if there is no file.

    Raises
    ------
    FileExistsAlreadyError
        If the file is damaged, or holds something else.
    """
    if not path.exists():
        return {}
    try:
        table = pl.read_parquet(path.read_bytes())
        if table.schema != _SCHEMA or not table["part"].is_in(PARTS).all():
            raise ValueError(f"its columns are {', '.join(table.columns[:5])} ...")
        return {
            key: VideoSums(cast("PartName", part), np.array(sums, dtype=np.float64).reshape(shape))
            for key, part, shape, sums in table.iter_rows()
        }
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise FileExistsAlreadyError(
            f"Statistics of an ablation's rows were expected, but the file in their place cannot be read as such: "
            f"{str(error).partition(chr(10))[0]} (file: {path}). Move it away; differences of the rows that it was "
            "of are then unknown, their scores stay."
        ) from error


def write_sums(path: Path, sums: Mapping[str, VideoSums], keys: Iterable[str]) -> None:
    """Write the statistics of the rows of these keys, the whole file or nothing; those of others are left out."""
    rows = [
        {
            "key": key,
            "part": sums[key].part,
            "shape": list(sums[key].sums.shape),
            "sums": sums[key].sums.ravel().tolist(),
        }
        for key in keys
        if key in sums
    ]
    with replace_file(path) as partial:
        pl.DataFrame(rows, schema=_SCHEMA, orient="row").write_parquet(partial)
