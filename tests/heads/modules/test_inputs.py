from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featurestore.errors import ConfigError
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.fitting.parts import segment_rows
from heads.modules import inputs
from heads.modules.config import HeadConfig
from heads.modules.inputs import STD_FLOOR, Inputs, Statistics, column_statistics, fit_inputs

Vectors = NDArray[np.float32]
NewFeatures = Callable[[FrameTable, Mapping[str, Vectors]], FeatureSet]
MakeFrames = Callable[..., FrameTable]

SHAPES = {"mae": (16,), "au": (16,), "wide": (24,)}


@pytest.fixture(params=["loaded", "streamed"])
def either(request: pytest.FixtureRequest, store: FeatureStore) -> FeatureSet:
    memory_bytes = None if request.param == "loaded" else 9000
    features = FeatureSet.load(store, ("mae", "wide", "tokens"), device="cpu", memory_bytes=memory_bytes)
    assert features.placement is not None
    assert features.placement.kind == request.param
    return features


def train_rows(features: FeatureSet) -> NDArray[np.int64]:
    return segment_rows(features.frames.segments("train"))


def test_columns_are_selected() -> None:
    columns = {"au": (3, 7), "wide": (-10, None)}
    config = HeadConfig(fuse=("au", "wide"), fusion="concat", columns=columns, normalise=False)
    embeddings = [torch.randn(2, 5, width) for width in (16, 16, 24)]
    read = Inputs(config, SHAPES)
    assert read.widths == (16, 4, 10)
    mae, au, wide = read(embeddings)
    assert torch.equal(mae, embeddings[0])
    assert torch.equal(au, embeddings[1][..., 3:7])
    assert torch.equal(wide, embeddings[2][..., 14:])
    assert not read.state_dict()


def test_it_starts_as_it_came() -> None:
    read = Inputs(HeadConfig(fuse=("wide",), fusion="concat", normalise=True), SHAPES)
    embeddings = [torch.randn(2, 5, 16), torch.randn(2, 5, 24)]
    assert all(torch.equal(found, given) for found, given in zip(read(embeddings), embeddings, strict=True))
    assert {name: tuple(each.shape) for name, each in read.state_dict().items()} == {
        "mean_0": (16,),
        "std_0": (16,),
        "mean_1": (24,),
        "std_1": (24,),
    }
    assert not list(read.parameters())


def test_statistics_are_of_the_rows_given(
    either: FeatureSet, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_BLOCK_BYTES", 8 * 40 * 7)  # 7 rows at once: the moments of many blocks merge
    rows = train_rows(either)[3:-5:2]
    found = column_statistics(either, ("mae", "wide"), rows)
    for name in ("mae", "wide"):
        values = store.embedding(name).load().astype(np.float64)[rows]
        assert found[name].mean.numpy() == pytest.approx(values.mean(axis=0), abs=1e-12)
        assert found[name].std.numpy() == pytest.approx(values.std(axis=0), abs=1e-12)
        assert found[name].mean.dtype == found[name].std.dtype == torch.float64


def test_normalised_train_rows_have_mean_0_and_variance_1(either: FeatureSet, store: FeatureStore) -> None:
    config = HeadConfig(fuse=("wide",), fusion="concat", columns={"wide": (-10, None)}, normalise=True)
    read, rows = Inputs(config, SHAPES), train_rows(either)
    fit_inputs(torch.nn.Sequential(read), either, rows)
    embeddings = [torch.from_numpy(store.embedding(name).load()[rows]).float()[None] for name in ("mae", "wide")]
    for values, width in zip(read(embeddings), (16, 10), strict=True):
        assert values.shape == (1, len(rows), width)
        assert values.mean(dim=(0, 1)).abs().max() < 1e-5
        assert values.std(dim=(0, 1), correction=0) == pytest.approx(np.ones(width), abs=1e-4)
    copy = Inputs(config, SHAPES)
    copy.load_state_dict(read.state_dict())
    assert torch.equal(copy(embeddings)[1], read(embeddings)[1])


def test_tokens_are_rows_of_their_columns(make_frames: MakeFrames, new_features: NewFeatures) -> None:
    frames = make_frames({"a": ("train", 9), "b": ("val", 4)})
    tokens = np.random.default_rng(0).normal(3, 2, (len(frames), 5, 4)).astype(np.float32)
    features = new_features(frames, {"patches": tokens})
    rows = np.arange(9)
    found = column_statistics(features, ("patches",), rows)["patches"]
    stored = tokens.astype(np.float16).astype(np.float64)[rows].reshape(-1, 4)
    assert found.mean.numpy() == pytest.approx(stored.mean(axis=0), abs=1e-12)
    assert found.std.numpy() == pytest.approx(stored.std(axis=0), abs=1e-12)
    config = HeadConfig(encoder="patches", framework="task-queries", temporal="none", normalise=True)
    read = Inputs(config, {"patches": (5, 4)})
    read.take({"patches": found})
    (values,) = read([torch.from_numpy(tokens[rows])[None]])
    assert values.shape == (1, 9, 5, 4)
    assert values.mean(dim=(0, 1, 2)).abs().max() < 1e-2


def test_a_column_that_does_not_vary_keeps_its_scale(make_frames: MakeFrames, new_features: NewFeatures) -> None:
    frames = make_frames({"a": ("train", 30), "b": ("val", 5)})
    vectors = np.random.default_rng(0).normal(size=(len(frames), 3)).astype(np.float32)
    vectors[:30, 1] = 0.1  # float16 holds .0999755859375
    vectors[30:, 1] = 5.0
    features = new_features(frames, {"mae": vectors})
    read = Inputs(HeadConfig(normalise=True), {"mae": (3,)})
    fit_inputs(read, features, np.arange(30))
    assert column_statistics(features, ("mae",), np.arange(30))["mae"].std[1] < STD_FLOOR
    (values,) = read([torch.from_numpy(vectors)[None]])
    assert values[0, :30, 1].abs().max() < 1e-3
    assert values[0, 30:, 1] == pytest.approx(np.full(5, 4.9), abs=1e-3)


def test_rows_that_were_not_embedded_do_not_count(
    store: FeatureStore,
    label_vectors: Callable[..., Vectors],
    add_encoder: Callable[..., None],
) -> None:
    made = FeatureStore.create(f"{store.location}-holes", store.frames)
    vectors = label_vectors(store.frames)
    add_encoder(made, "mae", vectors, failures={0: "unreadable", 5: "unreadable", 40: "unreadable"})
    for memory_bytes in (None, 7000):
        features = FeatureSet.load(made, ("mae",), device="cpu", memory_bytes=memory_bytes)
        rows = train_rows(features)
        kept = np.setdiff1d(rows, [0, 5, 40])
        values = vectors.astype(np.float16).astype(np.float64)[kept]
        found = column_statistics(features, ("mae",), rows)["mae"]
        assert found.mean.numpy() == pytest.approx(values.mean(axis=0), abs=1e-12)
        assert found.std.numpy() == pytest.approx(values.std(axis=0), abs=1e-12)
        with pytest.raises(ConfigError, match=r"'mae' has embedded none of these 2 \(store: .*\)\. Check"):
            column_statistics(features, ("mae",), np.array([0, 5]))


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_fit_normalises_by_the_rows_it_learns_from(features: FeatureSet, average: float) -> None:
    head = HeadConfig(encoder="wide", temporal="none", seq=4, joint=("v",), normalise=True)
    fitted = fit(features, head, FitConfig(epochs=1, average=average))
    learned = train_rows(features)
    values = features.embeddings["wide"].double().numpy()[learned]
    (read,) = (module for module in fitted.model.modules() if isinstance(module, Inputs))
    assert read.get_buffer("mean_0").numpy() == pytest.approx(values.mean(axis=0), abs=1e-6)
    assert read.get_buffer("std_0").numpy() == pytest.approx(values.std(axis=0), abs=1e-6)
    plain = fit(features, replace(head, normalise=False), FitConfig(epochs=1, average=average))
    assert not np.allclose(plain.predictions.valence, fitted.predictions.valence)


def test_a_row_that_was_not_embedded_stays_the_mean() -> None:
    inputs = Inputs(HeadConfig(normalise=True), {"mae": (3,)})
    inputs.take({"mae": Statistics(torch.full((3,), 5.0).double(), torch.full((3,), 0.1).double())})
    rows = torch.tensor([[[5.1, 5.0, 4.9], [0.0, 0.0, 0.0]]])
    (read,) = inputs([rows])
    assert torch.allclose(read[0, 0], torch.tensor([1.0, 0.0, -1.0]), atol=1e-4)
    assert read[0, 1].tolist() == [0, 0, 0]
