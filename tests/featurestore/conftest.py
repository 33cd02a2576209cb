"""Stores over made-up frames, for the tests of what is kept in them."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from featurestore.frames import FrameTable
from featurestore.labels import AU_COLUMNS
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

FramesMaker = Callable[..., FrameTable]


def build_frames(n_frames: int, *, video: str = "v") -> FrameTable:
    """`n_frames` unlabelled frames of videos of 7, numbered from 1 with gaps of 2."""
    rows = range(n_frames)
    videos = [f"{video}{row // 7:06d}" for row in rows]
    numbers = [1 + 2 * (row % 7) for row in rows]
    paths = [f"{name}/{number:05d}.jpg" for name, number in zip(videos, numbers, strict=True)]
    empty = [None] * n_frames
    return FrameTable(
        pl.DataFrame(
            {"video": videos, "frame": numbers, "path": paths, "split": ["train"] * n_frames, "fold": empty}
            | {"valence": empty, "arousal": empty, "expression": empty}
            | dict.fromkeys(AU_COLUMNS, empty),
            schema={"video": pl.String, "frame": pl.Int32, "path": pl.String, "split": pl.String, "fold": pl.Int8}
            | {"valence": pl.Float32, "arousal": pl.Float32, "expression": pl.Int8}
            | dict.fromkeys(AU_COLUMNS, pl.Int8),
        )
    )


@pytest.fixture(scope="session")
def make_frames() -> FramesMaker:
    return build_frames


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[[int], FeatureStore]:
    return lambda n_frames: FeatureStore.create(tmp_path / "features", build_frames(n_frames))


@pytest.fixture(scope="session")
def provenance() -> Provenance:
    return Provenance(
        architecture="vit_base_patch16_224",
        weights="0" * 32,
        preprocessing={"size_px": 224, "mean": (0.485, 0.456, 0.406), "interpolation": "bicubic"},
        pooling="fc_norm",
        precision="float32",
        versions={"torch": "2.8"},
        made_at="2025-01-01T00:00:00+00:00",
    )
