"""A system on disk: it predicts what it predicted when it was fitted, and never for other embeddings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import ConfigError, EncoderMismatchError, FileExistsAlreadyError, MissingFileError
from heads.calibration.config import PostConfig
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.outoffold import OUT_OF_FOLD
from heads.light.config import LightConfig
from heads.modules.config import HeadConfig
from heads.recipes.fitting import FittedSystem, fit_recipe
from heads.recipes.member import BlendPlan, Member
from heads.recipes.recipe import Recipe
from heads.recipes.system import System, prepare_system_folder
from heads.recipes.systemrecord import read_system
from heads.recipes.told import Need
from heads.scoring.predictions import Predictions

RECIPE = Recipe(
    name="two",
    title="a neural head and a light one",
    models=(
        Member(
            name="frames",
            tasks=("au", "expr", "v", "a"),
            head=HeadConfig(encoder="arcface", fuse=("mae",), temporal="none", seq=1),
            training=FitConfig(epochs=2),
        ),
        Member(name="ridge", tasks=("v",), head=LightConfig(estimator="ridge", encoder="mae", joint=("v", "a"))),
    ),
    needs={"arcface": Need(what="faces", dim=16), "mae": Need(what="MAE", dim=768)},
    blend=BlendPlan(weights={"v": {"frames": 0.25, "ridge": 0.75}}),
    post=PostConfig(thresholds=True, least_gain=0.0),
)
ROLES = {"arcface": "au"}


def same(one: Predictions, other: Predictions) -> bool:
    pairs = zip(one.arrays().values(), other.arrays().values(), strict=True)
    limits = np.array_equal(one.active_above(), other.active_above())
    return limits and all(np.allclose(a, b, rtol=0, atol=1e-6, equal_nan=True) for a, b in pairs)


@pytest.fixture(scope="module")
def fitted(small_features: FeatureSet) -> FittedSystem:
    return fit_recipe(small_features, RECIPE, roles=ROLES, folds=2)


@pytest.fixture(scope="module")
def saved(fitted: FittedSystem, small_features: FeatureSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a system; nobody changes it."""
    folder = tmp_path_factory.mktemp("runs") / "two_seed1"
    System.from_fit(fitted, small_features).save(folder)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "two_seed1"))


def test_a_saved_system_predicts_the_same(saved: Path, fitted: FittedSystem, small_features: FeatureSet) -> None:
    system = System.load(saved)
    assert same(system.predict(small_features), fitted.predictions)
    assert same(system.predict(small_features, raw=True), fitted.raw_predictions)
    assert not same(fitted.predictions, fitted.raw_predictions)
    found, wanted = system.evaluate(small_features).p, fitted.scores.p
    assert found is not None
    assert wanted is not None
    assert found.as_dict() == pytest.approx(wanted.as_dict())
    assert len(system.predict(small_features, split="test")) == 8


def test_a_record_of_an_earlier_version_is_read_as_it_was_fitted(copied: Path) -> None:
    path = copied / "system.json"
    values = json.loads(path.read_text())
    frames, ridge = values["config"]["recipe"]["model"]
    for name in ("skip", "input_dropout", "temporal_width"):  # not written before these settings were there
        del frames["head"][name]
    del ridge["light"]["au_balance_power"]
    path.write_text(json.dumps(values))
    head, light = (each.head for each in read_system(copied).config.recipe.models)
    assert isinstance(head, HeadConfig)
    assert (head.skip, head.input_dropout, head.temporal_width) == (False, 0.0, 0)
    assert isinstance(light, LightConfig)
    assert light.au_balance_power == 1.0


def test_its_record_says_what_it_is(saved: Path, small_features: FeatureSet) -> None:
    record = read_system(saved)
    assert record.config.recipe == RECIPE
    assert record.config.roles == ROLES
    assert set(record.encoders) == {"au", "mae"}
    assert record.stand_ins == ("arcface=au", "mae (16 columns for 768)")
    assert record.calibrated_on == OUT_OF_FOLD
    assert record.selected_on[0] == "val"
    assert record.in_sample("val") is None
    assert record.in_sample("train") == "the models were trained on these frames"
    assert (record.frames, record.labels) == (small_features.frames.fingerprint, small_features.labels_digest)
    assert json.loads((saved / "system.json").read_text())["kind"] == "system"


def test_its_metrics_hold_both_stages_and_the_folds(saved: Path) -> None:
    metrics = json.loads((saved / "metrics.json").read_text())
    assert metrics["calibrated_on"] == OUT_OF_FOLD
    assert metrics["in_sample"] is None
    assert metrics["uncalibrated"]["P"]["score"] != metrics["P"]["score"]
    assert metrics["out_of_fold"]["folds"] == 2
    assert metrics["stand_ins"] == ["arcface=au", "mae (16 columns for 768)"]


def test_calibrated_on_val_is_in_sample(small_features: FeatureSet) -> None:
    fitted = fit_recipe(small_features, RECIPE, roles=ROLES, calibrate_on="val", epochs=1)
    system = System.from_fit(fitted, small_features)
    assert system.record.in_sample("val") == "the post-processing was calibrated on these frames"
    assert system.metrics["in_sample"] == "the post-processing was calibrated on these frames"


def test_nothing_is_pickled(saved: Path) -> None:
    kinds = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".parquet", ".csv", ".png", ".txt"}, kinds


def test_another_system_is_not_overwritten(copied: Path, fitted: FittedSystem, small_features: FeatureSet) -> None:
    System.from_fit(fitted, small_features).save(copied)  # the same configuration
    light = replace(RECIPE, models=RECIPE.models[1:], needs={"mae": RECIPE.needs["mae"]}, blend=BlendPlan())
    other = System.from_fit(fit_recipe(small_features, replace(light, post=PostConfig()), seed=2), small_features)
    with pytest.raises(FileExistsAlreadyError, match=r"another configuration is in the way .*--force"):
        other.save(copied)
    with pytest.raises(FileExistsAlreadyError, match=r"another configuration"):
        prepare_system_folder(copied.parent, copied.name, other.record.config, small_features)
    other.save(copied, force=True)
    assert read_system(copied).config.seed == 2
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def test_a_folder_of_something_else_is_left_alone(
    fitted: FittedSystem, small_features: FeatureSet, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsAlreadyError, match=r"holds something that is not a system"):
        System.from_fit(fitted, small_features).save(tmp_path / "mine", force=True)


def test_embeddings_of_other_weights_are_refused(saved: Path, small_features: FeatureSet) -> None:
    prints = {**small_features.fingerprints, "mae": "0" * 32}
    with pytest.raises(
        EncoderMismatchError, match=r"Head 'two_seed1-folds2' was fitted on embeddings of encoder 'mae'"
    ):
        System.load(saved).predict(replace(small_features, fingerprints=prints))


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("system.json", MissingFileError, r"holds no system\.json"),
        ("predictions.parquet", MissingFileError, r"predictions\.parquet; it is missing"),
        ("calibration.json", MissingFileError, r"calibration\.json; it is missing"),
        ("members/ridge/config.json", MissingFileError, r"ridge holds no config\.json"),
    ],
)
def test_a_missing_file_is_told(copied: Path, name: str, error: type[Exception], told: str) -> None:
    (copied / name).unlink()
    with pytest.raises(error, match=told):
        System.load(copied)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("system.json", "{", r"record cannot be read"),
        ("system.json", '{"format": 9}', r"format 1 can be read, this one has format 9"),
        ("system.json", '{"format": 1}', r"config is missing"),
        ("metrics.json", "no", r"one of them cannot be read"),
        ("calibration.json", '{"x": 1}', r"There is no setting 'x'"),
        ("predictions.parquet", "no", r"one of them cannot be read"),
    ],
)
def test_a_damaged_file_is_told(copied: Path, name: str, content: str, told: str) -> None:
    (copied / name).write_text(content)
    with pytest.raises(ConfigError, match=told):
        System.load(copied)
