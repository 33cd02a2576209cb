"""A small store with features of a planted structure, made through the store's real API."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.labels import AU_COLUMNS
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet

DIM = 16


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # tiny products: threads cost more than they bring


def _frames(
    videos: Mapping[str, tuple[str, int]], *, seed: int = 0, unlabelled: float = 0.1, smooth: int = 1
) -> FrameTable:
    """Videos -> (split, rows); labels drawn at random, `smooth` rows alike, a share of them null."""
    rng = np.random.default_rng(seed)
    tables = []
    for video, (split, n) in sorted(videos.items()):

        def draw(values: NDArray[np.float64] | NDArray[np.int64], n: int = n) -> list[float | int | None]:
            held = np.repeat(values[: -(-n // smooth)], smooth)[:n]
            hidden = rng.random(n) < unlabelled
            return [None if hide else value for value, hide in zip(held.tolist(), hidden, strict=True)]

        columns: dict[str, list[object]] = {
            "video": [video] * n,
            "frame": list(range(1, n + 1)),
            "path": [f"{video}/{i:05d}.jpg" for i in range(1, n + 1)],
            "split": [split] * n,
            "fold": [None] * n,
            "valence": draw(rng.uniform(-1, 1, n)),
            "arousal": draw(rng.uniform(-1, 1, n)),
            "expression": draw(rng.integers(0, 8, n)),
            **{name: draw(rng.integers(0, 2, n)) for name in AU_COLUMNS},
        }
        tables.append(pl.DataFrame(columns, schema=FRAME_SCHEMA))
    return FrameTable(pl.concat(tables))


def _vectors(frames: FrameTable, *, dim: int = DIM, seed: int = 1, noise: float = 0.1) -> NDArray[np.float32]:
    """Embeddings that hold the labels, mixed at random, plus noise; (n, dim)."""
    rng = np.random.default_rng(seed)
    data = frames.data
    columns = [data[name].cast(pl.Float64).fill_null(0.0).to_numpy() for name in ("valence", "arousal", *AU_COLUMNS)]
    columns[2:] = [column - 0.5 for column in columns[2:]]
    expression = data["expression"].fill_null(0).to_numpy()
    facts = np.column_stack([*columns, np.eye(8)[expression]])  # (n, 22)
    mixing = np.random.default_rng(99).normal(size=(facts.shape[1], dim)) / 2
    return (facts @ mixing + noise * rng.normal(size=(len(frames), dim))).astype(np.float32)


def provenance(weights: str = "w") -> Provenance:
    return Provenance(
        architecture="test", weights=weights, preprocessing={"size_px": 8}, pooling="mean", precision="float32"
    )


def _add(
    store: FeatureStore,
    name: str,
    vectors: NDArray[np.float32],
    *,
    failures: Mapping[int, str] | None = None,
    weights: str = "w",
    chunk_rows: int = 64,
) -> None:
    failed = dict(failures or {})
    vectors = vectors.copy()
    vectors[list(failed)] = np.nan
    with store.writer(name, provenance(weights), row_shape=vectors.shape[1:], chunk_rows=chunk_rows) as writer:
        for _, first, stop in writer.pending():
            here = {row: why for row, why in failed.items() if first <= row < stop}
            writer.append(first, vectors[first:stop], here)


@pytest.fixture(scope="session")
def make_frames() -> Callable[..., FrameTable]:
    return _frames


@pytest.fixture(scope="session")
def label_vectors() -> Callable[..., NDArray[np.float32]]:
    return _vectors


@pytest.fixture(scope="session")
def add_encoder() -> Callable[..., None]:
    return _add


VIDEOS = {
    "a": ("train", 90),
    "b": ("train", 70),
    "c": ("train", 33),
    "d": ("val", 50),
    "e": ("val", 41),
    "f": ("val", 7),
    "g": ("test", 20),
}


@pytest.fixture(scope="session")
def frames() -> FrameTable:
    return _frames(VIDEOS)


@pytest.fixture(scope="session")
def store(frames: FrameTable, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Encoders mae, au, expr, v, a of dim 16; `wide` of 24; `tokens` in three dimensions."""
    made = FeatureStore.create(tmp_path_factory.mktemp("heads") / "features", frames)
    for seed, name in enumerate(("mae", "au", "expr", "v", "a")):
        _add(made, name, _vectors(frames, seed=seed, noise=0.3), weights=name)
    _add(made, "wide", _vectors(frames, dim=24), weights="wide")
    _add(made, "tokens", np.zeros((len(frames), 3, 4), dtype=np.float32), weights="tokens")
    return made


@pytest.fixture(scope="session")
def features(store: FeatureStore) -> FeatureSet:
    return FeatureSet.load(store, ("mae", "au", "expr", "v", "a", "wide"), device="cpu")


@pytest.fixture
def new_features(tmp_path: Path) -> Callable[[FrameTable, Mapping[str, NDArray[np.float32]]], FeatureSet]:
    def build(frames: FrameTable, encoders: Mapping[str, NDArray[np.float32]]) -> FeatureSet:
        made = FeatureStore.create(tmp_path / "features", frames)
        for name, vectors in encoders.items():
            _add(made, name, vectors, weights=name)
        return FeatureSet.load(made, tuple(encoders), device="cpu")

    return build


_SMALL_VIDEOS = {
    **{f"train{number}": ("train", 9) for number in range(4)},
    **{f"val{number}": ("val", 8) for number in range(2)},
    "test": ("test", 8),
}


@pytest.fixture(scope="session")
def small_frames(make_frames: Callable[..., FrameTable]) -> FrameTable:
    """60 rows, for whole systems."""
    return make_frames(_SMALL_VIDEOS)


@pytest.fixture(scope="session")
def fill_store(
    label_vectors: Callable[..., NDArray[np.float32]], add_encoder: Callable[..., None]
) -> Callable[[FeatureStore], None]:
    """Put encoders mae, au, expr, v, a of 16 columns into a store, and tokens, 3 of 4 columns."""

    def fill(store: FeatureStore) -> None:
        for seed, name in enumerate(("mae", "au", "expr", "v", "a")):
            add_encoder(store, name, label_vectors(store.frames, seed=seed, noise=0.3), weights=name)
        drawn = np.random.default_rng(0).normal(size=(len(store.frames), 3, 4))
        add_encoder(store, "tokens", drawn.astype(np.float32), weights="tokens")

    return fill


@pytest.fixture(scope="session")
def small_store(
    small_frames: FrameTable, fill_store: Callable[[FeatureStore], None], tmp_path_factory: pytest.TempPathFactory
) -> FeatureStore:
    """Nobody changes it."""
    made = FeatureStore.create(tmp_path_factory.mktemp("recipes") / "features", small_frames)
    fill_store(made)
    return made


@pytest.fixture(scope="session")
def small_features(small_store: FeatureStore) -> FeatureSet:
    return FeatureSet.load(small_store, small_store.names(), device="cpu")
