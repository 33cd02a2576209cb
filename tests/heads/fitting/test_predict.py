from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featurestore.errors import ConfigError
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.features.windows import window_index
from heads.fitting.predict import predict
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel

MakeFrames = Callable[..., FrameTable]
MakeVectors = Callable[..., NDArray[np.float32]]
AddEncoder = Callable[..., None]


def model_for(head: HeadConfig) -> HeadModel:
    torch.manual_seed(0)
    return HeadModel(head, dict.fromkeys(head.encoders, (16,)))


def test_overlapping_windows_are_averaged(features: FeatureSet) -> None:
    head = HeadConfig(fuse=("au",), seq=8, window=3)
    model = model_for(head).eval()
    got = predict(model, features, batch_frames=24)
    assert got.valence is not None
    assert got.expression is not None
    assert got.action_units is not None
    seen: dict[int, list[tuple[float, np.ndarray, np.ndarray]]] = {}
    index = window_index(features.frames.segments("val"), length=8, step=3)
    with torch.no_grad():
        for rows, mask in zip(index.rows, index.mask, strict=True):
            out = model([features.embeddings[name][rows].float()[None] for name in ("mae", "au")])
            for place, row in enumerate(rows[mask]):
                seen.setdefault(int(row), []).append(
                    (
                        float(out["v"][0, place, 0]),
                        out["expr"][0, place].softmax(0).numpy(),
                        out["au"][0, place].sigmoid().numpy(),
                    )
                )
    assert max(map(len, seen.values())) == 3
    for position, row in enumerate(got.rows):
        values, probabilities, units = zip(*seen[int(row)], strict=True)
        assert got.valence[position] == pytest.approx(np.mean(values), abs=1e-6)
        assert got.expression[position] == pytest.approx(np.mean(probabilities, axis=0), abs=1e-6)
        assert got.action_units[position] == pytest.approx(np.mean(units, axis=0), abs=1e-6)
    assert got.rows.tolist() == features.frames.rows("val").tolist()
    assert got.expression.sum(axis=1) == pytest.approx(1)


def test_batches_bound_memory_and_not_the_result(features: FeatureSet) -> None:
    head = HeadConfig(seq=10, window=5)
    model = model_for(head)
    small, large = (predict(model, features, split="train", batch_frames=n) for n in (1, 100_000))
    assert small.arousal == pytest.approx(large.arousal, abs=1e-6)


def test_the_mode_is_put_back_and_dropout_is_off(features: FeatureSet) -> None:
    head = HeadConfig(fuse=("au",), temporal="none", seq=1, joint=("v",))
    model = model_for(head).train()
    first, second = predict(model, features), predict(model, features)
    assert model.training
    assert first.valence is not None
    assert second.valence is not None
    assert (first.valence == second.valence).all()
    assert first.expression is first.action_units is first.arousal is None


def test_rows_without_embedding_have_no_prediction(
    tmp_path: Path, make_frames: MakeFrames, label_vectors: MakeVectors, add_encoder: AddEncoder
) -> None:
    frames = make_frames({"a": ("train", 30), "b": ("val", 30)})
    made = FeatureStore.create(tmp_path / "features", frames)
    add_encoder(made, "mae", label_vectors(frames), failures={35: "unreadable"})
    features = FeatureSet.load(made, ("mae",), device="cpu")
    head = HeadConfig(seq=5)
    got = predict(model_for(head), features)
    assert np.flatnonzero(~got.predicted()).tolist() == [5]
    with pytest.raises(ConfigError, match="the frame table has no 'test' rows"):
        predict(model_for(head), features, split="test")
