from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from featurestore.errors import ConfigError, MissingFileError, ShapeError
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.light.config import ESTIMATORS, LightConfig
from heads.light.fit import FittedLight, fit_light
from heads.light.model import LightModel
from heads.scoring.predictions import Predictions


def asked(estimator: str) -> LightConfig:
    return LightConfig(
        estimator=estimator,
        fuse=("wide",),
        columns={"wide": (0, 5)},
        statistics=(2,),
        components=3,
        n_estimators=5,
        min_leaf_rows=5,
        epochs=3,
        hidden=(8, 4),
    )


@pytest.fixture(scope="module")
def fits(features: FeatureSet) -> dict[str, FittedLight]:
    return {estimator: fit_light(features, asked(estimator)) for estimator in ESTIMATORS}


def arrays(predictions: Predictions) -> list[NDArray[np.float64]]:
    found = (predictions.valence, predictions.arousal, predictions.expression, predictions.action_units)
    return [each for each in found if each is not None]


def saved(fitted: FittedLight, folder: Path) -> Path:
    folder.mkdir()
    fitted.model.save(folder)
    return folder


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_save_and_load_give_the_same_predictions(
    tmp_path: Path, features: FeatureSet, fits: dict[str, FittedLight], estimator: str
) -> None:
    fitted = fits[estimator]
    folder = saved(fitted, tmp_path / "light")
    loaded = LightModel.load(folder, fitted.config, fitted.shapes)
    for mine, theirs in zip(arrays(loaded.predict(features)), arrays(fitted.predictions), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert loaded.n_parameters() == fitted.n_parameters
    texts = [path.name for path in folder.iterdir() if path.suffix == ".txt"]
    assert len(texts) == (15 if estimator == "lightgbm" else 0)
    assert sorted(path.suffix for path in folder.iterdir()) == [".safetensors", *[".txt"] * len(texts)]


def test_segments_and_splits_are_predicted_alike(
    features: FeatureSet, fits: dict[str, FittedLight], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fits["logistic"].model
    whole = model.predict(features, split="train")
    assert whole.rows.tolist() == features.frames.rows("train").tolist()
    segments = features.frames.segments("train")
    some = model.predict(features, segments=segments[1:])
    keep = whole.rows >= segments[1, 0]
    # However many rows are read, or go through the layers, at once.
    monkeypatch.setattr("heads.light.model.SEGMENT_ROWS", 80)
    monkeypatch.setattr("heads.light.model.BLOCK_ROWS", 7)
    monkeypatch.setattr("heads.light.design.BLOCK_ROWS", 11)
    again = model.predict(features, split="train")
    for mine, piece, blocked in zip(arrays(whole), arrays(some), arrays(again), strict=True):
        np.testing.assert_allclose(mine[keep], piece, atol=1e-12)
        np.testing.assert_allclose(mine, blocked, atol=1e-12)


def test_rows_without_an_embedding_have_no_prediction(
    tmp_path: Path,
    fits: dict[str, FittedLight],
    features: FeatureSet,
    add_encoder: Callable[..., None],
    label_vectors: Callable[..., NDArray[np.float32]],
) -> None:
    made = FeatureStore.create(tmp_path / "features", features.frames)
    row = int(features.frames.rows("val")[3])
    add_encoder(made, "mae", label_vectors(features.frames), failures={row: "unreadable"})
    add_encoder(made, "wide", label_vectors(features.frames, dim=24))
    holed = FeatureSet.load(made, ("mae", "wide"), device="cpu")
    for estimator in ("lightgbm", "mlp"):
        predicted = fits[estimator].model.predict(holed)
        assert np.flatnonzero(~predicted.predicted()).tolist() == [3]


def test_what_cannot_be_predicted(features: FeatureSet, store: FeatureStore, fits: dict[str, FittedLight]) -> None:
    model = fits["ridge"].model
    with pytest.raises(ConfigError, match="There is nothing to predict"):
        model.predict(features, segments=np.empty((0, 2), dtype=np.int64))
    narrow = LightModel(model.config, {"mae": (16,), "wide": (20,)}, model.design, model.numbers)
    with pytest.raises(ShapeError, match=r"'wide' have shape \(24,\), but this light head was fitted on \(20,\)"):
        narrow.predict(features)


def test_files_that_are_not_a_models(tmp_path: Path, fits: dict[str, FittedLight]) -> None:
    fitted = fits["lightgbm"]
    config, shapes = fitted.config, fitted.shapes
    with pytest.raises(MissingFileError, match=r"has a file light\.safetensors; it is missing"):
        LightModel.load(tmp_path, config, shapes)
    folder = saved(fitted, tmp_path / "light")
    text = (folder / "trees_au_4.txt").read_text()
    (folder / "trees_au_4.txt").unlink()
    with pytest.raises(MissingFileError, match=r"trees_au_4\.txt; it is missing"):
        LightModel.load(folder, config, shapes)
    (folder / "trees_au_4.txt").write_text("<html>not found</html>")
    with pytest.raises(ConfigError, match="trees cannot be read"):
        LightModel.load(folder, config, shapes)
    (folder / "trees_au_4.txt").write_text((folder / "trees_expr_0.txt").read_text())
    with pytest.raises(ConfigError, match="do not belong together"):
        LightModel.load(folder, config, shapes)
    (folder / "trees_au_4.txt").write_text(text)
    with pytest.raises(ConfigError, match="arrays were expected"):
        LightModel.load(folder, LightConfig(estimator="lightgbm"), {"mae": (16,)})
    (folder / "light.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="arrays were expected"):
        LightModel.load(folder, config, shapes)


def test_layers_that_do_not_follow_on_each_other(tmp_path: Path, fits: dict[str, FittedLight]) -> None:
    fitted = fits["mlp"]
    folder = saved(fitted, tmp_path / "light")
    held = load_file(folder / "light.safetensors")
    for name, changed in (("v.weight.1", np.zeros((4, 9))), ("au.bias.2", np.zeros(11))):
        save_file(held | {name: changed}, folder / "light.safetensors")
        with pytest.raises(ConfigError, match="do not follow on each other"):
            LightModel.load(folder, fitted.config, fitted.shapes)
    del held["expr.bias.0"]
    save_file(held, folder / "light.safetensors")
    with pytest.raises(ConfigError, match=r"cannot be read: 'bias\.0'"):
        LightModel.load(folder, fitted.config, fitted.shapes)
