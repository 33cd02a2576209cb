"""A store whose videos are numbered, share frame numbers, and do not stand in alphabetical order."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.layout import FloatArray
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

VIDEOS = {"341": (1, 3, 66, 67), "10-60-1280x720_left": (1, 2), "34": (2, 66, 341), "140": (5,)}
NAMES = [f"{video}/{frame:05d}.jpg" for video, frames in VIDEOS.items() for frame in frames]

StoreMaker = Callable[..., FeatureStore]
Filler = Callable[..., FloatArray]


def frame_table(videos: Mapping[str, Sequence[int]], *, folder: str = "") -> FrameTable:
    """Unlabelled frames of some videos, in the order given."""
    rows = [(video, frame) for video, frames in videos.items() for frame in frames]
    data = pl.DataFrame(
        {
            "video": [video for video, _ in rows],
            "frame": [frame for _, frame in rows],
            "path": [f"{folder}{video}/{frame:05d}.jpg" for video, frame in rows],
            "split": ["train"] * len(rows),
        },
        schema={name: FRAME_SCHEMA[name] for name in ("video", "frame", "path", "split")},
    )
    others = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in FRAME_SCHEMA.items() if name not in data.columns]
    return FrameTable(data.with_columns(others).select(list(FRAME_SCHEMA)))


@pytest.fixture(scope="session")
def make_table() -> Callable[..., FrameTable]:
    """`make_table({"341": (1, 3)})`: unlabelled frames."""
    return frame_table


@pytest.fixture
def make_store(tmp_path: Path) -> StoreMaker:
    """`make_store("name")`: a store over VIDEOS, or over others."""

    def make(name: str = "features", videos: Mapping[str, Sequence[int]] = VIDEOS, *, folder: str = "") -> FeatureStore:
        return FeatureStore.create(tmp_path / name, frame_table(videos, folder=folder))

    return make


@pytest.fixture
def store(make_store: StoreMaker) -> FeatureStore:
    return make_store()


@pytest.fixture
def fill(provenance: Provenance) -> Filler:
    """`fill(store, "au")`: embeddings of an encoder, rows 2 and 5 of which failed; returns what was written."""

    def write(
        store: FeatureStore,
        encoder: str = "au",
        *,
        row_shape: tuple[int, ...] = (6,),
        dtype: str = "float16",
        failed: Sequence[int] = (2, 5),
        stop: int | None = None,
    ) -> FloatArray:
        rows = np.random.default_rng(7).standard_normal((store.n_frames, *row_shape)).astype(dtype)
        rows[list(failed)] = np.nan
        with store.writer(encoder, provenance, row_shape=row_shape, dtype=dtype, chunk_rows=4) as writer:
            for task in writer.pending():
                end = min(task.stop, store.n_frames if stop is None else stop)
                if task.start < end:
                    reasons = {row: "no such file" for row in failed if task.start <= row < end}
                    writer.append(task.start, rows[task.start : end], reasons)
        return rows

    return write


@pytest.fixture
def vectors() -> dict[str, FloatArray]:
    """A float32 vector of 6 for every frame of VIDEOS, keyed by its path, in another order than the table's."""
    rng = np.random.default_rng(5)
    shuffled = [NAMES[position] for position in rng.permutation(len(NAMES))]
    return {name: rng.standard_normal(6).astype(np.float32) for name in shuffled}
