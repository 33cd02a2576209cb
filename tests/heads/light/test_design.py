from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from featurestore.errors import ConfigError
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.light.config import LightConfig
from heads.light.design import Design
from heads.light.statistics import STATISTICS, window_statistics

Build = Callable[[FrameTable, Mapping[str, NDArray[np.float32]]], FeatureSet]
MakeFrames = Callable[..., FrameTable]
AddEncoder = Callable[..., None]


def fitted(features: FeatureSet, config: LightConfig) -> tuple[Design, NDArray[np.float32]]:
    plain = Design.plain(config, features.shapes(config.encoders))
    design, table = plain.fitted(features, features.frames.segments("train"))
    return design, table.X


def embeddings(features: FeatureSet, name: str) -> NDArray[np.float32]:
    return features.embeddings[name].float().numpy()  # type: ignore[index,no-any-return]


def test_columns_are_chosen_and_stand_in_the_encoders_order(features: FeatureSet) -> None:
    config = LightConfig(
        estimator="ridge",
        encoder="wide",
        fuse=("mae", "au"),
        columns={"wide": (-10, None), "au": (2, 5)},
        normalise=False,
    )
    design, X = fitted(features, config)
    rows = features.frames.rows("train")
    wanted = [embeddings(features, "wide")[rows, -10:], embeddings(features, "mae")[rows]]
    np.testing.assert_array_equal(X, np.concatenate([*wanted, embeddings(features, "au")[rows, 2:5]], axis=1))
    assert design.n_columns == 10 + 16 + 3


def test_train_rows_are_brought_to_one_scale_and_others_by_the_same_numbers(features: FeatureSet) -> None:
    design, X = fitted(features, LightConfig(estimator="logistic", fuse=("v",)))
    np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(X.std(axis=0), 1, atol=1e-5)
    train = np.concatenate([embeddings(features, name)[features.frames.rows("train")] for name in ("mae", "v")], axis=1)
    val = np.concatenate([embeddings(features, name)[features.frames.rows("val")] for name in ("mae", "v")], axis=1)
    made = design.transform(features, features.frames.segments("val")).X
    np.testing.assert_allclose(made, (val - train.mean(0)) / train.std(0), atol=1e-4)
    trees, untouched = fitted(features, LightConfig(estimator="lightgbm", fuse=("v",)))
    np.testing.assert_array_equal(untouched, train)
    assert not trees.mean.any()


def test_a_column_without_spread_is_only_centred(new_features: Build, make_frames: MakeFrames) -> None:
    frames = make_frames({"a": ("train", 9), "b": ("val", 3)})
    vectors = np.arange(24, dtype=np.float32).reshape(12, 2)
    vectors[:, 1] = 5
    _, X = fitted(new_features(frames, {"mae": vectors}), LightConfig(estimator="ridge"))
    assert (X[:, 1] == 0).all()


def test_windows_end_where_videos_and_splits_end(new_features: Build, make_frames: MakeFrames) -> None:
    frames = make_frames({"a": ("train", 7), "b": ("train", 5), "c": ("val", 6), "d": ("train", 4)})
    vectors = np.random.default_rng(0).normal(size=(22, 3)).astype(np.float32)
    features = new_features(frames, {"mae": vectors})
    config = LightConfig(estimator="lightgbm", statistics=(2, 4))
    design, X = fitted(features, config)
    rows = features.frames.rows("train")
    stored = embeddings(features, "mae").astype(np.float64)
    wanted = np.concatenate(
        [
            window_statistics(stored[start:stop], np.ones(stop - start, dtype=np.bool_), (2, 4))
            for start, stop in ((0, 7), (7, 12), (18, 22))
        ]
    )
    np.testing.assert_array_equal(X[:, :3], stored[rows])
    np.testing.assert_array_equal(X[:, 3:], wanted)
    assert design.n_columns == 3 + 2 * len(STATISTICS) * 3
    # What another video holds changes nothing.
    features.embeddings["mae"][:7] += 3  # type: ignore[index]
    changed = fitted(features, config)[1]
    np.testing.assert_array_equal(changed[7:], X[7:])
    assert (changed[:7] != X[:7]).any()


def test_rows_without_an_embedding_are_in_no_window_and_in_no_mean(
    tmp_path: Path, make_frames: MakeFrames, add_encoder: AddEncoder
) -> None:
    frames = make_frames({"a": ("train", 30), "b": ("val", 10)})
    vectors = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    made = FeatureStore.create(tmp_path / "features", frames)
    add_encoder(made, "mae", vectors, failures={4: "unreadable", 5: "unreadable"})
    features = FeatureSet.load(made, ("mae",), device="cpu")
    config = LightConfig(estimator="ridge", statistics=(3,))
    design, X = fitted(features, config)
    usable = features.usable(("mae",))[:30]
    assert usable.sum() == 28
    np.testing.assert_allclose(X[usable].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(X[usable].std(axis=0), 1, atol=1e-4)
    stored = embeddings(features, "mae")[:30]
    raw = window_statistics(stored.astype(np.float64), usable, (3,))
    np.testing.assert_allclose((X * design.scale + design.mean)[usable, 3:], raw[usable], atol=1e-4)


def test_statistics_of_many_columns_are_of_their_principal_components(features: FeatureSet) -> None:
    config = LightConfig(estimator="lightgbm", statistics=(3,), components=4)
    design, X = fitted(features, config)
    assert design.n_columns == 16 + len(STATISTICS) * 4
    assert design.components is not None
    assert design.offset is not None
    rows = features.frames.rows("train")
    train = embeddings(features, "mae")[rows].astype(np.float64)
    scores = train @ design.components.T - design.offset
    # Principal: uncorrelated, in falling order, and together what numpy's own decomposition finds.
    standard = (train - train.mean(0)) / train.std(0)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-5)
    values = np.linalg.svd(standard, compute_uv=False)[:4] ** 2 / len(train)
    np.testing.assert_allclose(np.cov(scores.T, ddof=0), np.diag(values), atol=1e-4 * values[0])
    first = slice(*features.frames.segments("train")[0])
    stop = first.stop - first.start
    wanted = window_statistics(scores[:stop], np.ones(stop, dtype=np.bool_), (3,))
    np.testing.assert_allclose(X[:stop, 16:], wanted, atol=1e-5)


def test_nothing_is_fitted_on_val(features: FeatureSet, make_frames: MakeFrames, new_features: Build) -> None:
    frames = make_frames({"a": ("train", 40), "b": ("val", 20)})
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    built = new_features(frames, {"mae": vectors})
    config = LightConfig(estimator="logistic", statistics=(2,), components=3)
    before = fitted(built, config)[0].arrays()
    built.embeddings["mae"][40:] *= 100  # type: ignore[index]
    after = fitted(built, config)[0].arrays()
    assert before.keys() == after.keys() == {"mean", "scale", "components", "offset"}
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_streamed_embeddings_make_the_same_table(store: FeatureStore, features: FeatureSet) -> None:
    streamed = FeatureSet.load(store, ("mae", "v"), device="cpu", memory_bytes=12_000)
    assert streamed.stream_bytes is not None
    config = LightConfig(estimator="ridge", fuse=("v",), statistics=(3,), components=4)
    np.testing.assert_array_equal(fitted(streamed, config)[1], fitted(features, config)[1])


def test_refusals(store: FeatureStore, features: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = FeatureSet.load(store, ("tokens",), device="cpu")
    with pytest.raises(ConfigError, match="holds 3 tokens of 4"):
        Design.plain(LightConfig(estimator="ridge", encoder="tokens"), tokens.shapes(("tokens",)))
    with pytest.raises(ConfigError, match="Columns -20: of encoder 'mae' are not there: it has 16"):
        Design.plain(LightConfig(estimator="ridge", columns={"mae": (-20, None)}), features.shapes(("mae",)))
    monkeypatch.setattr("heads.light.design.host_free_bytes", lambda: 1000)
    with pytest.raises(ConfigError, match=r"193 rows of 16 columns take .* and 1kB are free"):
        fitted(features, LightConfig(estimator="ridge"))
