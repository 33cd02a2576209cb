from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from featurestore.errors import ConfigError, ShapeError
from featurestore.frames import FrameTable
from featurestore.labels import EXPRESSIONS
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.fitting.parts import Parts
from heads.light.boosted import BoostedClassifier, BoostedRegressor
from heads.light.config import ESTIMATORS, LAYERED, LightConfig
from heads.light.fit import FittedLight, TaskReport, fit_light
from heads.light.layers import Layers
from heads.light.model import LightModel
from heads.light.probes import ProbeClassifier, ProbeRegressor
from heads.light.trees import Trees
from heads.tasks import TASKS

Build = Callable[[FrameTable, Mapping[str, NDArray[np.float32]]], FeatureSet]
MakeFrames = Callable[..., FrameTable]
MakeVectors = Callable[..., NDArray[np.float32]]
AddEncoder = Callable[..., None]

VIDEOS = {f"{split[0]}{i}": (split, 80) for split, n in (("train", 8), ("val", 4)) for i in range(n)}
TWO = ("expr", "a")
"""Tasks that stand for all where each is fitted on its own."""


def config(estimator: str, **changes: object) -> LightConfig:
    """Small and quick."""
    fast = LightConfig(
        estimator=estimator,
        n_estimators=12,
        n_leaves=8,
        min_leaf_rows=5,
        learning_rate=0.3 if estimator == "lightgbm" else 0.03,
        epochs=15,
        batch_rows=128,
        hidden=(16,),
        C=0.1,
    )
    return replace(fast, **changes)  # type: ignore[arg-type]


def same(first: LightModel, second: LightModel) -> bool:
    """Whether two models are the same to the bit, in the first one's tasks."""
    for task, numbers in first.numbers.items():
        other = second.numbers[task]
        pairs = zip(numbers.arrays().values(), other.arrays().values(), strict=True)
        if not all(np.array_equal(one, two) for one, two in pairs):
            return False
        if isinstance(numbers, Trees) and (not isinstance(other, Trees) or numbers.texts != other.texts):
            return False
    return all(np.array_equal(array, second.design.arrays()[name]) for name, array in first.design.arrays().items())


def with_targets(features: FeatureSet, **changes: NDArray[np.generic]) -> FeatureSet:
    """The same features with other labels."""
    made = replace(features)
    made.__dict__["targets"] = replace(features.targets, **changes)  # type: ignore[arg-type]
    return made


@pytest.fixture(scope="module")
def learnable(
    make_frames: MakeFrames,
    label_vectors: MakeVectors,
    add_encoder: AddEncoder,
    tmp_path_factory: pytest.TempPathFactory,
) -> FeatureSet:
    frames = make_frames(VIDEOS, smooth=5)
    made = FeatureStore.create(tmp_path_factory.mktemp("light") / "features", frames)
    add_encoder(made, "mae", label_vectors(frames, dim=32))
    return FeatureSet.load(made, ("mae",), device="cpu")


@pytest.fixture(scope="module")
def fits(learnable: FeatureSet) -> dict[str, FittedLight]:
    return {estimator: fit_light(learnable, config(estimator)) for estimator in ESTIMATORS}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_learns_every_task(fits: dict[str, FittedLight], estimator: str) -> None:
    fitted = fits[estimator]
    assert fitted.scores.p is not None
    assert fitted.scores.p.score > fitted.scores.p.trivial + 0.8
    for part in fitted.scores.parts.values():
        assert part is not None
        assert part.low > part.trivial
    assert [report.task for report in fitted.reports] == list(TASKS)
    assert fitted.selected_on == ("a fold of train" if estimator in ("lightgbm", *LAYERED) else "last")
    assert fitted.predictions.joint == tuple(TASKS)


def test_outputs_are_probabilities_and_values(fits: dict[str, FittedLight]) -> None:
    for fitted in fits.values():
        made = fitted.predictions
        assert made.expression is not None
        assert made.action_units is not None
        assert made.valence is not None
        np.testing.assert_allclose(made.expression.sum(axis=1), 1)
        assert ((made.action_units >= 0) & (made.action_units <= 1)).all()
        assert (np.abs(made.valence) <= 1).all()


def test_parameters_are_counted(fits: dict[str, FittedLight]) -> None:
    linear = (32 + 1) * (12 + 8 + 1 + 1)
    assert fits["logistic"].n_parameters == fits["svm"].n_parameters == fits["linear"].n_parameters == linear
    assert fits["mlp"].n_parameters == 4 * (32 * 16 + 16) + (16 + 1) * 22
    trees = fits["lightgbm"].model.numbers["v"]
    assert isinstance(trees, Trees)
    dumped = [tree["num_leaves"] for tree in trees.boosters[0].dump_model()["tree_info"]]
    assert trees.n_parameters() == sum(dumped)
    assert len(dumped) == fits["lightgbm"].reports[2].rounds[0]


def test_tasks_are_reported_as_they_come(learnable: FeatureSet) -> None:
    seen: list[TaskReport] = []
    fitted = fit_light(learnable, config("lightgbm", joint=("a", "au")), on_task=seen.append)
    assert tuple(seen) == fitted.reports
    assert [(each.task, each.index, each.n_tasks, len(each.rounds)) for each in seen] == [
        ("au", 1, 2, 12),
        ("a", 2, 2, 1),
    ]
    assert fitted.predictions.joint == ("au", "a")


@pytest.mark.parametrize("estimator", ["lightgbm", "mlp", "svm"])
def test_val_labels_have_no_part_in_the_fit(
    learnable: FeatureSet, fits: dict[str, FittedLight], estimator: str
) -> None:
    val = learnable.frames.rows("val")
    scrambled = np.random.default_rng(0).permutation(val)
    targets = learnable.targets
    changed = {}
    for name in ("valence", "arousal", "expression", "action_units"):
        for field in (name, f"valid_{name}"):
            values = getattr(targets, field).copy()
            values[val] = values[scrambled]
            changed[field] = values
    again = fit_light(with_targets(learnable, **changed), config(estimator, joint=TWO))
    assert same(again.model, fits[estimator].model)
    assert again.scores.parts["ccc_arousal"] != fits[estimator].scores.parts["ccc_arousal"]


@pytest.mark.parametrize("estimator", ["lightgbm", "mlp", "ridge"])
def test_what_is_not_labelled_has_no_part_in_the_fit(
    learnable: FeatureSet, fits: dict[str, FittedLight], estimator: str
) -> None:
    targets, rng = learnable.targets, np.random.default_rng(0)
    filled = {
        "valence": np.where(targets.valid_valence, targets.valence, 9).astype(np.float32),
        "arousal": np.where(targets.valid_arousal, targets.arousal, 9).astype(np.float32),
        "expression": np.where(targets.valid_expression, targets.expression, rng.integers(0, 8, len(targets))),
        "action_units": np.where(targets.valid_action_units, targets.action_units, 1).astype(np.float32),
    }
    joint = ("v",) if estimator == "mlp" else tuple(TASKS)
    again = fit_light(with_targets(learnable, **filled), config(estimator, joint=joint))
    assert same(again.model, fits[estimator].model)


@pytest.mark.parametrize("estimator", ["lightgbm", "linear"])
def test_the_same_seed_gives_the_same_bits(learnable: FeatureSet, fits: dict[str, FittedLight], estimator: str) -> None:
    assert same(fit_light(learnable, config(estimator, joint=TWO)).model, fits[estimator].model)
    assert not same(fit_light(learnable, config(estimator, joint=TWO, seed=2)).model, fits[estimator].model)


def test_a_task_is_fitted_as_the_estimator_fits_it(learnable: FeatureSet, fits: dict[str, FittedLight]) -> None:
    rows = learnable.frames.rows("train")
    targets, videos = learnable.targets.take(rows), learnable.video_ids[rows]
    X = learnable.embeddings["mae"].float().numpy()[rows]  # type: ignore[index]
    units = np.where(targets.valid_action_units, targets.action_units, np.nan)
    boosting = {
        "n_estimators": 12,
        "n_leaves": 8,
        "min_leaf_rows": 5,
        "learning_rate": 0.3,
        "refit": True,
        "random_state": 1,
    }
    for balance in (0.0, 10.0):
        trees = BoostedClassifier(**boosting, balance=balance).fit(X, units, groups=videos)  # type: ignore[arg-type]
        asked = config("lightgbm", joint=("au",), au_balance=balance, au_balance_power=1.0)
        mine = fit_light(learnable, asked).model.numbers["au"]
        assert isinstance(mine, Trees)
        np.testing.assert_allclose(mine.outputs(X), trees.decision_function(X), atol=1e-6)
    valid = targets.valid_valence
    values = BoostedRegressor(**boosting).fit(X[valid], targets.valence[valid], groups=videos[valid])  # type: ignore[arg-type]
    assert values.score(X[valid], targets.valence[valid]) > 0.3
    scaled = fits["linear"].model.design.transform(learnable, learnable.frames.segments("train")).X
    descent = {"learning_rate": 0.03, "epochs": 15, "batch_rows": 128, "refit": True, "random_state": 1}
    valid = targets.valid_expression
    probe = ProbeClassifier(**descent, balance=1.0).fit(scaled[valid], targets.expression[valid], groups=videos[valid])  # type: ignore[arg-type]
    layers = fits["linear"].model.numbers["expr"]
    assert isinstance(layers, Layers)
    np.testing.assert_array_equal(probe.numbers_.weights[0], layers.weights[0])
    valid = targets.valid_arousal
    line = ProbeRegressor(**descent).fit(scaled[valid], targets.arousal[valid], groups=videos[valid])  # type: ignore[arg-type]
    layers = fits["linear"].model.numbers["a"]
    assert isinstance(layers, Layers)
    np.testing.assert_array_equal(line.numbers_.weights[0], layers.weights[0])


def test_scores_of_an_encoder_are_inputs(new_features: Build, make_frames: MakeFrames) -> None:
    frames = make_frames(VIDEOS, unlabelled=0, smooth=5)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(frames), 24)).astype(np.float32)
    affect = frames.data.select("valence", "arousal").to_numpy()
    scores = (affect @ rng.normal(size=(2, 10)) + 0.05 * rng.normal(size=(len(frames), 10))).astype(np.float32)
    features = new_features(frames, {"hse": np.concatenate([noise, scores], axis=1)})
    asked = config("linear", encoder="hse", joint=("v", "a"), columns={"hse": (-10, None)}, learning_rate=0.1)
    fitted = fit_light(features, asked)
    assert fitted.n_parameters == 2 * (10 + 1)
    assert fitted.scores.parts["ccc_valence"] is not None
    assert fitted.scores.parts["ccc_valence"].score > 0.95
    blind = fit_light(features, replace(asked, columns={"hse": (0, 24)}))
    assert blind.scores.parts["ccc_valence"] is not None
    assert blind.scores.parts["ccc_valence"].score < 0.3


def test_windows_see_what_a_frame_does_not(new_features: Build, make_frames: MakeFrames) -> None:
    frames = make_frames(VIDEOS, unlabelled=0)
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(len(frames), 3)).astype(np.float32)
    around = np.zeros(len(frames))
    for start, stop in frames.segments():
        for row in range(start, stop):
            around[row] = signal[max(start, row - 3) : min(stop, row + 4), 0].mean()
    table = FrameTable(frames.data.with_columns(pl.Series("valence", np.clip(around, -1, 1).astype(np.float32))))
    features = new_features(table, {"mae": signal})
    single, windows = (
        fit_light(features, config("ridge", joint=("v",), statistics=widths)).scores.parts["ccc_valence"]
        for widths in ((), (3,))
    )
    assert single is not None
    assert windows is not None
    assert single.score < 0.5
    assert windows.score > 0.99


def test_a_fold_of_train_may_judge(learnable: FeatureSet, fits: dict[str, FittedLight]) -> None:
    folds = np.where(learnable.frames.data["split"] == "train", learnable.video_ids % 2, -1)
    parts = Parts.of_fold(learnable, folds, 0)
    fitted = fit_light(learnable, config("lightgbm", joint=("v",)), parts=parts)
    assert fitted.predictions.rows.tolist() == np.flatnonzero(folds == 0).tolist()
    assert fitted.scores.parts["ccc_valence"] is not None
    assert fitted.scores.parts["ccc_valence"].score > 0.2
    # The rows that judge taught nothing.
    values = learnable.targets.valence.copy()
    values[folds == 0] = 0.7
    again = fit_light(with_targets(learnable, valence=values), config("lightgbm", joint=("v",)), parts=parts)
    assert same(again.model, fitted.model)


@pytest.mark.parametrize("estimator", ["lightgbm", "logistic", "ridge", "mlp"])
def test_classes_and_units_that_train_lacks(learnable: FeatureSet, estimator: str) -> None:
    targets = learnable.targets
    train = learnable.frames.rows("train")
    rare = targets.valid_expression.copy()
    rare[train] &= targets.expression[train] < 2  # only two of eight are left
    units = targets.action_units.copy()
    units[train, 3] = 1
    labels = targets.valid_action_units.copy()
    labels[train, 4] = False
    changed = with_targets(learnable, valid_expression=rare, action_units=units, valid_action_units=labels)
    made = fit_light(changed, config(estimator, joint=("au", "expr"))).predictions
    assert made.expression is not None
    assert made.action_units is not None
    assert made.expression.shape == (320, len(EXPRESSIONS))
    assert (made.expression[:, 2:] < 1e-20).all()
    assert set(made.expression_classes()) == {0, 1}
    assert (made.action_units[:, 3] > 0.9).all()
    assert np.isfinite(made.action_units).all()
    assert (made.action_units[:, 4] == 0.5).all()
    one = targets.valid_expression.copy()
    one[train] &= targets.expression[train] == 5
    alone = fit_light(with_targets(learnable, valid_expression=one), config(estimator, joint=("expr",)))
    assert (alone.predictions.expression_classes() == 5).all()


def test_balance_finds_more_of_the_rare(learnable: FeatureSet) -> None:
    rng = np.random.default_rng(0)
    units = learnable.targets.action_units.copy()
    units[:, :] *= rng.random(units.shape) < 0.2
    changed = with_targets(learnable, action_units=units)
    for estimator in ("lightgbm", "logistic", "linear"):
        plain, half, lifted = (
            fit_light(changed, config(estimator, joint=("au",), refit=False, au_balance=cap, au_balance_power=power))
            .predictions.active_units()
            .mean()
            for cap, power in ((0.0, 1.0), (21.0, 0.5), (21.0, 1.0))
        )
        assert lifted > plain + 0.1
        assert plain < half < lifted


def test_refusals(
    learnable: FeatureSet, new_features: Build, make_frames: MakeFrames, label_vectors: MakeVectors
) -> None:
    bare = with_targets(learnable, valid_arousal=np.zeros(len(learnable.targets), dtype=np.bool_))
    with pytest.raises(ConfigError, match=r"of 640 train rows none has both an embedding and a label of a"):
        fit_light(bare, config("ridge"))
    hidden = np.ones(len(learnable.targets), dtype=np.bool_)
    hidden[learnable.frames.rows("val")] = False
    with pytest.raises(ConfigError, match=r"judged on val, but of its 320 rows none has both .* a label of v"):
        fit_light(with_targets(learnable, valid_valence=hidden), config("ridge", joint=("v",)))
    frames = make_frames({"a": ("train", 30), "b": ("val", 10)})
    single = new_features(frames, {"mae": label_vectors(frames)})
    with pytest.raises(ShapeError, match=r"needs two of them; got 1 .*early_stopping_rounds=0"):
        fit_light(single, config("lightgbm", joint=("v",)))
    assert fit_light(single, config("lightgbm", joint=("v",), early_stopping_rounds=0)).selected_on == "last"
