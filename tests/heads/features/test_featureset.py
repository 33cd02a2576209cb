from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from featurestore.errors import (
    ConfigError,
    EncoderMismatchError,
    FrameMismatchError,
    MissingEmbeddingsError,
    ShapeError,
    UnknownNameError,
)
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet

MakeFrames = Callable[..., FrameTable]
MakeVectors = Callable[..., NDArray[np.float32]]
AddEncoder = Callable[..., None]
Build = Callable[[FrameTable, Mapping[str, NDArray[np.float32]]], FeatureSet]


def test_loads_in_place_as_stored(store: FeatureStore) -> None:
    features = FeatureSet.load(store, ("mae", "au", "mae"), device="cpu")
    assert features.names == ("mae", "au")
    assert features.embeddings["au"].dtype == torch.float16
    assert np.array_equal(features.embeddings["au"].numpy(), store.embedding("au").load())
    assert features.usable(("mae", "au")).all()
    assert features.fingerprints["v"] == store.embedding("v").provenance.fingerprint
    target, valid = features.target_tensors["au"]
    assert target.shape == valid.shape == (len(store.frames), 12)


def test_failed_rows_are_zeroed_and_unusable(
    tmp_path: Path, make_frames: MakeFrames, label_vectors: MakeVectors, add_encoder: AddEncoder
) -> None:
    frames = make_frames({"a": ("train", 70), "b": ("val", 30)})
    made = FeatureStore.create(tmp_path / "features", frames)
    add_encoder(made, "mae", label_vectors(frames), failures={3: "unreadable", 99: "unreadable"})
    add_encoder(made, "au", label_vectors(frames), failures={5: "unreadable"})
    features = FeatureSet.load(made, ("mae", "au"), device="cpu")
    assert np.flatnonzero(~features.usable(("mae",))).tolist() == [3, 99]
    assert np.flatnonzero(~features.usable(("mae", "au"))).tolist() == [3, 5, 99]
    assert not features.embeddings["mae"][3].any()
    assert torch.isfinite(features.embeddings["mae"]).all()


def test_what_is_missing_is_said_with_the_command(
    tmp_path: Path, store: FeatureStore, make_frames: MakeFrames, label_vectors: MakeVectors
) -> None:
    with pytest.raises(MissingEmbeddingsError, match=r"(?s)'ua'.*abaw extract --encoder ua"):
        FeatureSet.load(store, ("mae", "ua"), device="cpu")
    frames = make_frames({"a": ("train", 70)})
    made = FeatureStore.create(tmp_path / "features", frames)
    vectors = label_vectors(frames)
    with made.writer("mae", store.embedding("mae").provenance, row_shape=(16,), chunk_rows=64) as writer:
        writer.append(0, vectors[:10])
    with pytest.raises(MissingEmbeddingsError, match=r"10 of 70 rows .*abaw extract --encoder mae"):
        FeatureSet.load(made, ("mae",), device="cpu")


def test_shapes(store: FeatureStore, features: FeatureSet) -> None:
    assert features.shapes(("mae", "wide")) == {"mae": (16,), "wide": (24,)}
    assert FeatureSet.load(store, ("tokens",), device="cpu").shapes(("tokens",)) == {"tokens": (3, 4)}
    with pytest.raises(UnknownNameError, match="no loaded encoder 'ae'"):
        features.shapes(("ae",))


def test_gaps_are_frames_since_the_row_before(new_features: Build, make_frames: MakeFrames) -> None:
    frames = make_frames({"a": ("train", 4), "b": ("val", 3)})
    data = frames.data.with_columns(pl.Series("frame", [1, 2, 9, 10, 5, 6, 30], dtype=frames.data["frame"].dtype))
    features = new_features(FrameTable(data), {"mae": np.zeros((7, 2), dtype=np.float32)})
    assert features.gaps.tolist() == [0, 1, 7, 1, 0, 1, 24]
    assert features.segment_ids.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_origin_is_checked(features: FeatureSet) -> None:
    mine = {"au": features.fingerprints["au"]}
    frames = features.frames.fingerprint
    features.check_origin(mine, frames=frames, shapes={"au": (16,), "mea": (16,)}, fitted="x")
    with pytest.raises(EncoderMismatchError, match=r"Head 'x' was fitted on embeddings of encoder 'au' .* 123"):
        features.check_origin({"au": "123"}, frames=frames, shapes={"au": (16,), "mea": (16,)}, fitted="x")
    with pytest.raises(ShapeError, match="'au' have 16 columns, but head 'x' was fitted on 768 columns"):
        features.check_origin(mine, frames=frames, shapes={"au": (768,)}, fitted="x")
    with pytest.raises(FrameMismatchError, match="fitted on frames 456"):
        features.check_origin(mine, frames="456", shapes={"au": (16,), "mea": (16,)}, fitted="x")
    with pytest.raises(UnknownNameError, match=r"no loaded encoder 'mea'\. Did you mean 'mae'"):
        features.check_origin({"mea": "1"}, frames=None, shapes={"au": (16,), "mea": (16,)}, fitted="x")


def test_devices(store: FeatureStore) -> None:
    with pytest.raises(ConfigError, match="'cuda:99' is not on this machine"):
        FeatureSet.load(store, ("mae",), device="cuda:99")
    with pytest.raises(ConfigError, match="got 'gpu'"):
        FeatureSet.load(store, ("mae",), device="gpu")
