"""Whole systems: each recipe fits, and what is fitted to predictions looks at train out of fold and at nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from featurestore.errors import ConfigError, UnknownNameError
from featurestore.frames import FrameTable
from heads.arrays import IntArray
from heads.calibration.config import PostConfig
from heads.calibration.folding import balanced_folds
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.folds import video_folds
from heads.fitting.outoffold import OUT_OF_FOLD
from heads.light.config import LightConfig
from heads.modules.config import HeadConfig
from heads.recipes.blending import blend_held_out, piece_blend
from heads.recipes.catalogue import find_recipe, recipe_names
from heads.recipes.fitting import FitStep, fit_recipe
from heads.recipes.member import BlendPlan, Member
from heads.recipes.plan import SystemConfig
from heads.recipes.recipe import Recipe
from heads.recipes.system import system_name
from heads.recipes.told import Need
from heads.scoring.predictions import Predictions

NEEDS = {name: Need(what=name, dim=16) for name in ("mae", "au", "expr", "v", "a")}

SMALL = {
    "temporal_width": 8,
    "feedforward": 16,
    "attention_heads": 2,
    "query_width": 8,
    "query_heads": 2,
    "query_feedforward": 16,
}
"""Sizes at which every model of every recipe is fitted here; `test_catalogue` builds them at their own."""


SOME_MODELS = {
    "aim3": ("share-lstm", "share-gru", "feedback-transformer"),
    "sun-gao": ("frame-gated", "tcn", "lightgbm"),
    "cprl": ("au-own", "expr-own", "v-own", "v-all", "a-own"),
}
"""Those of large systems that are fitted here."""


def small(member: Member) -> Member:
    """The same model, narrow."""
    if isinstance(member.head, LightConfig):
        return member
    width, hidden = member.head.width and 8, (8,) * len(member.head.hidden)
    return replace(member, head=replace(member.head, width=width, hidden=hidden, **SMALL))  # type: ignore[arg-type]


def linear(name: str, *, encoder: str = "mae", tasks: tuple[str, ...] = ("v",), **training: object) -> Member:
    head = HeadConfig(encoder=encoder, joint=tasks, temporal="none", seq=1, normalise=False, hidden=())
    return Member(name=name, tasks=tasks, head=head, training=FitConfig.from_dict({"epochs": 3, **training}))  # type: ignore[dict-item]


def recipe_of(*models: Member, **rest: object) -> Recipe:
    used = {role for model in models for role in model.head.encoders}
    needs = {role: NEEDS[role] for role in used}
    return Recipe(name="r", title="t", models=models, needs=needs, **rest)  # type: ignore[arg-type]


SOLVED = Member(name="solved", tasks=("v",), head=LightConfig(estimator="ridge", joint=("v",)))
"""One that has no epochs, and nothing to pick."""


def same(one: Predictions, other: Predictions) -> bool:
    pairs = zip(one.arrays().values(), other.arrays().values(), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_fits(name: str, small_features: FeatureSet, stand_ins: Mapping[str, Mapping[str, str]]) -> None:
    recipe = find_recipe(name)
    models = [each for each in recipe.models if each.name in SOME_MODELS.get(name, (each.name,))]
    calibrates = not recipe.post.is_empty and name != "aim3"  # whose folds would bring nothing that the others' do not
    fitted = fit_recipe(
        small_features,
        replace(
            recipe,
            models=tuple(map(small, models)),
            folds=2 if calibrates or recipe.blend.looks_at_train else None,
        ),
        roles=stand_ins.get(name, {}),
        epochs=1,
        calibrate_on="train" if calibrates else "none",
    )
    assert fitted.scores.p is not None
    assert fitted.raw_predictions.joint == ("au", "expr", "v", "a")
    assert (fitted.calibration is not None) == calibrates
    assert fitted.blend.fitted_on in ("", OUT_OF_FOLD)
    for weights in fitted.blend.weights.values():
        assert sum(weights.values()) == pytest.approx(1)


class TestPlan:
    def test_a_seed_is_a_fit_of_its_own(self) -> None:
        light = Member(name="light", tasks=("v",), head=LightConfig(estimator="ridge", joint=("v",)))
        config = SystemConfig(recipe=recipe_of(linear("one"), light, seeds=2), roles={}, seed=5, epochs=2)
        assert [piece.name for piece in config.pieces()] == ["one", "one.seed2", "light", "light.seed2"]
        assert [piece.training.seed for piece in config.pieces()] == [5, 6, 5, 6]
        assert config.pieces()[0].training.epochs == 2
        lights = [piece.head for piece in config.pieces()[2:]]
        assert [head.seed for head in lights if isinstance(head, LightConfig)] == [5, 6]

    def test_an_epoch_a_task_is_one_fit_of_several_pieces(self) -> None:
        model = replace(linear("one", tasks=("expr", "v")), epoch_per_task=True)
        (fit,) = SystemConfig(recipe=recipe_of(model), roles={}).fits()
        assert [(piece.name, piece.tasks, piece.training.select) for piece in fit] == [
            ("one.expr", ("expr",), "expr"),
            ("one.v", ("v",), "v"),
        ]

    @pytest.mark.parametrize(
        ("rest", "calibrate_on", "folds", "wanted"),
        [
            ({}, "train", None, None),
            ({}, "train", 3, 3),
            ({"folds": 6}, "train", None, 6),
            ({"folds": 6}, "train", 2, 2),
            ({"post": PostConfig(thresholds=True)}, "train", None, 5),
            ({"post": PostConfig(thresholds=True)}, "val", None, None),
            ({"post": PostConfig(thresholds=True)}, "none", None, None),
            ({"blend": BlendPlan(how="fitted")}, "val", None, 5),
            ({"blend": BlendPlan(how="best")}, "none", None, 5),
        ],
    )
    def test_folds_are_fitted_where_something_needs_them(
        self, rest: dict[str, object], calibrate_on: str, folds: int | None, wanted: int | None
    ) -> None:
        recipe = recipe_of(linear("one"), linear("two", encoder="au"), **rest)
        assert SystemConfig(recipe=recipe, roles={}, calibrate_on=calibrate_on, folds=folds).n_folds == wanted

    @pytest.mark.parametrize(
        ("rest", "asked", "options"),
        [
            ({}, {"calibrate_on": "val"}, ()),
            ({"post": PostConfig(thresholds=True)}, {"calibrate_on": "val"}, ("val",)),
            ({"post": PostConfig(thresholds=True)}, {"calibrate_on": "none"}, ("none",)),
            ({"post": PostConfig(thresholds=True)}, {"folds": 5}, ()),
            ({}, {"folds": 5}, ("folds5",)),
            ({"folds": 4}, {"folds": 4}, ()),
            ({}, {"epochs": 3}, ()),  # the model's own
            ({}, {"epochs": 2, "select_on_folds": True}, ("epochs2", "selected-on-folds")),
            ({"models": (linear("one", select_on="last"),)}, {"select_on_folds": True}, ()),
            ({"models": (SOLVED,)}, {"epochs": 2, "select_on_folds": True}, ()),
            ({"models": (SOLVED, linear("one"))}, {"epochs": 2}, ("epochs2",)),
        ],
    )
    def test_what_changes_nothing_is_no_option(
        self, rest: dict[str, object], asked: dict[str, object], options: tuple[str, ...]
    ) -> None:
        recipe = replace(recipe_of(linear("one")), **rest)  # type: ignore[arg-type]
        config = SystemConfig(recipe=recipe, roles={}, **asked)  # type: ignore[arg-type]
        assert config.options == options
        assert config.effective().effective() == config.effective()
        assert system_name(config) == "-".join(["r_seed1", *options])

    def test_what_cannot_be_planned_is_refused(self) -> None:
        fusing = Member(
            name="one", tasks=("v",), head=HeadConfig(fuse=("au",), joint=("v",)), training=FitConfig(select="v")
        )
        recipe = recipe_of(fusing)
        with pytest.raises(ConfigError, match=r"'au' would play mae, au\. Give another encoder for one"):
            SystemConfig(recipe=recipe, roles={"mae": "au"})
        with pytest.raises(UnknownNameError, match=r"no role in recipe 'r' 'maa'. Did you mean 'mae'"):
            SystemConfig(recipe=recipe, roles={"maa": "au"})
        with pytest.raises(UnknownNameError, match=r"no split to calibrate on 'test'"):
            SystemConfig(recipe=recipe, roles={}, calibrate_on="test")
        with pytest.raises(ConfigError, match=r"folds must be at least 2, got 1\. epochs must be at least 1, got 0"):
            SystemConfig(recipe=recipe, roles={}, folds=1, epochs=0)

    def test_two_models_may_have_one_encoder_in_different_roles(self) -> None:
        recipe = recipe_of(linear("one"), linear("two", encoder="au")).on({"au": "mae"})
        assert recipe.encoders == ("mae",)


class TestBlend:
    def test_models_that_answer_one_task_are_averaged(self, small_features: FeatureSet) -> None:
        one, two = linear("one"), linear("two", encoder="au")
        fitted = fit_recipe(small_features, recipe_of(one, two))
        alone = [fit_recipe(small_features, recipe_of(each)).raw_predictions.of("v") for each in (one, two)]
        assert fitted.blend.weights == {"v": {"one": 0.5, "two": 0.5}}
        assert np.allclose(fitted.raw_predictions.of("v"), sum(alone) / 2)

    def test_given_weights_are_kept_and_seeds_share_them(self, small_features: FeatureSet) -> None:
        plan = BlendPlan(weights={"v": {"one": 3.0, "two": 1.0}})
        recipe = recipe_of(linear("one"), linear("two", encoder="au"), blend=plan, seeds=2)
        weights = fit_recipe(small_features, recipe, epochs=1).blend.weights["v"]
        assert weights == {"one": 0.375, "one.seed2": 0.375, "two": 0.125, "two.seed2": 0.125}

    def test_the_best_on_train_answers(
        self, new_features: Callable[..., FeatureSet], make_frames: Callable[..., FrameTable]
    ) -> None:
        frames = make_frames({f"t{i}": ("train", 40) for i in range(4)} | {"val": ("val", 40)}, unlabelled=0.0)
        valence = frames.data["valence"].to_numpy()[:, None]
        noise = np.random.default_rng(0).normal(size=(len(frames), 4))
        is_train = (frames.data["split"] == "train").to_numpy()[:, None]
        knows = np.concatenate([valence, noise[:, 1:]], axis=1)
        # The one knows valence on train alone, the other on val alone: only train may have a say.
        features = new_features(
            frames,
            {
                "mae": np.where(is_train, knows, noise).astype(np.float32),
                "au": np.where(is_train, noise, knows).astype(np.float32),
            },
        )
        models = [linear(name, encoder=name, learning_rate=0.05) for name in ("mae", "au")]
        for how in ("best", "fitted"):
            fitted = fit_recipe(features, recipe_of(*models, blend=BlendPlan(how=how), folds=2))
            weights = fitted.blend.weights["v"]
            assert weights["mae"] > 0.9, how
            assert fitted.blend.fitted_on == OUT_OF_FOLD
            assert not fitted.blend.in_sample("val")
            assert fitted.blend.ways["v"] in ("best member", "fitted weights")
            assert ("best member" in fitted.blend.scores.get("v", {})) == (how == "fitted")

    @pytest.mark.parametrize("how", ["best", "fitted"])
    def test_a_fold_is_blended_with_weights_of_the_others(self, how: str, small_features: FeatureSet) -> None:
        """Labels of a fold, whatever they become, do not move what its own rows are blended to."""
        recipe = recipe_of(linear("one"), linear("two", encoder="au"), blend=BlendPlan(how=how))
        pieces = SystemConfig(recipe=recipe, roles={}).pieces()
        frames = small_features.frames
        rows, folds = frames.rows("train"), video_folds(frames, 2)
        truth = frames.data["valence"].fill_null(0.0).to_numpy()[rows]
        noise = np.random.default_rng(0).uniform(-1, 1, len(rows))
        first = folds[rows] == 0
        # Each knows one fold: all weights lead to the one that is wrong where they are used.
        held_out = {
            "one": Predictions(rows=rows, valence=np.where(first, truth, noise)),
            "two": Predictions(rows=rows, valence=np.where(first, noise, truth)),
        }
        blended = blend_held_out(small_features, recipe, pieces, held_out, folds)
        assert np.allclose(blended.of("v"), noise)
        whole = piece_blend(small_features, recipe, pieces, held_out)
        assert not np.allclose(whole.apply(held_out).of("v"), noise)

    def test_too_few_videos_for_weights_are_blended_evenly(
        self, new_features: Callable[..., FeatureSet], make_frames: Callable[..., FrameTable]
    ) -> None:
        frames = make_frames({"t0": ("train", 9), "t1": ("train", 9), "val": ("val", 8)}, unlabelled=0.0)
        features = new_features(frames, {name: np.zeros((len(frames), 4), np.float32) for name in ("mae", "au")})
        recipe = recipe_of(linear("one"), linear("two", encoder="au"), blend=BlendPlan(how="fitted"))
        rows = frames.rows("train")
        held_out = {
            name: Predictions(rows=rows, valence=np.full(len(rows), value))
            for name, value in (("one", 0.0), ("two", 1.0))
        }
        pieces = SystemConfig(recipe=recipe, roles={}).pieces()
        blended = blend_held_out(features, recipe, pieces, held_out, video_folds(frames, 2))
        assert np.allclose(blended.of("v"), 0.5)

    def test_errors_of_models_that_answer_one_task_are_compared(self, small_features: FeatureSet) -> None:
        fitted = fit_recipe(small_features, recipe_of(linear("one"), linear("two", encoder="au")))
        assert fitted.errors is not None
        assert fitted.errors.select("task", "first", "second", "rows").row(0) == ("v", "one", "two", "val")
        folded = fit_recipe(small_features, recipe_of(linear("one"), linear("two", encoder="au")), folds=2, epochs=1)
        assert folded.errors is not None
        assert folded.errors["rows"].unique().to_list() == [OUT_OF_FOLD]
        assert fit_recipe(small_features, recipe_of(linear("one"))).errors is None


def test_two_people_of_one_clip_share_a_fold(
    new_features: Callable[..., FeatureSet], make_frames: Callable[..., FrameTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of the blend, and what is calibrated, are judged by clips that they were not fitted on."""
    videos = {f"t{i}_{side}": ("train", 12) for i in range(3) for side in ("left", "right")} | {"v": ("val", 20)}
    frames = make_frames(videos, unlabelled=0.0)
    drawn = np.random.default_rng(0).normal(size=(2, len(frames), 4)).astype(np.float32)
    features = new_features(frames, dict(zip(("mae", "au"), drawn, strict=True)))
    dealt: list[IntArray] = []

    def deal(ids: IntArray, n_folds: int, *, seed: int) -> IntArray:
        dealt.append(balanced_folds(ids, n_folds, seed=seed))
        return dealt[-1]

    for module in ("blend", "calibrate"):
        monkeypatch.setattr(f"heads.calibration.{module}.balanced_folds", deal)
    post = PostConfig(rescale=True, least_gain=0.0)
    recipe = recipe_of(linear("one"), linear("two", encoder="au"), blend=BlendPlan(how="fitted"), post=post)
    fit_recipe(features, recipe, folds=3, epochs=1)
    whole = [folds for folds in dealt if len(folds) == 72]  # the blend's and the calibration's, of all rows of train
    assert len(whole) == 2
    clips = features.clip_ids[frames.rows("train")]
    for folds in whole:
        assert [len(set(folds[clips == clip].tolist())) for clip in np.unique(clips)] == [1, 1, 1]


class TestRefusals:
    """What would be refused after the fits is refused before the first."""

    def test_a_calibration_on_one_video(
        self, new_features: Callable[..., FeatureSet], make_frames: Callable[..., FrameTable]
    ) -> None:
        frames = make_frames({"t0": ("train", 20), "t1": ("train", 20), "v": ("val", 20)}, unlabelled=0.0)
        features = new_features(frames, {"mae": np.zeros((len(frames), 4), np.float32)})
        recipe, steps = recipe_of(linear("one"), post=PostConfig(rescale=True)), list[FitStep]()
        with pytest.raises(ConfigError, match=r"val has embeddings of 1\. Calibrate on train, or leave it out"):
            fit_recipe(features, recipe, calibrate_on="val", on_step=steps.append)
        assert steps == []

    def test_a_second_model_that_val_cannot_judge(
        self, new_features: Callable[..., FeatureSet], make_frames: Callable[..., FrameTable]
    ) -> None:
        frames = make_frames({"t0": ("train", 20), "t1": ("train", 20), "v": ("val", 20)}, unlabelled=0.0)
        no_arousal = pl.when(pl.col("split") == "val").then(None).otherwise(pl.col("arousal")).alias("arousal")
        frames = FrameTable(frames.data.with_columns(no_arousal))
        features = new_features(frames, {"mae": np.zeros((len(frames), 4), np.float32)})
        steps: list[FitStep] = []
        with pytest.raises(
            ConfigError, match=r"too few have both an embedding and a label of a \(0; at least 2 needed"
        ):
            fit_recipe(features, recipe_of(linear("one"), linear("two", tasks=("a",))), on_step=steps.append)
        assert steps == []


class TestCalibration:
    RECIPE = recipe_of(linear("all", tasks=("au", "expr", "v", "a")), post=PostConfig(thresholds=True, least_gain=0.0))

    def test_it_is_fitted_to_train_out_of_fold(self, small_features: FeatureSet) -> None:
        on_train = fit_recipe(small_features, self.RECIPE, folds=2)
        assert on_train.calibration is not None
        assert on_train.calibration.fitted_on == OUT_OF_FOLD
        assert on_train.out_of_fold is not None
        assert on_train.out_of_fold.n_frames == 36

    def test_labels_of_val_have_no_part_in_it(self, small_features: FeatureSet, small_frames: FrameTable) -> None:
        is_val = pl.col("split") == "val"
        flipped = small_frames.data.with_columns(
            pl.when(is_val).then(1 - pl.col(name)).otherwise(pl.col(name)).alias(name) for name in ("au1", "au2")
        )
        moved = replace(small_features, frames=FrameTable(flipped))
        recipe = replace(self.RECIPE, models=(linear("all", tasks=("au", "expr", "v", "a"), select_on="last"),))
        found = [fit_recipe(each, recipe, folds=2).calibration for each in (small_features, moved)]
        assert found[0] == found[1]
        assert small_features.labels_digest != moved.labels_digest

    def test_on_val_it_is_marked(self, small_features: FeatureSet) -> None:
        fitted = fit_recipe(small_features, self.RECIPE, calibrate_on="val", epochs=1)
        assert fitted.calibration is not None
        assert fitted.calibration.in_sample("val")
        assert fitted.out_of_fold is None

    def test_on_nothing_there_is_none(self, small_features: FeatureSet) -> None:
        fitted = fit_recipe(small_features, self.RECIPE, calibrate_on="none", epochs=1)
        assert fitted.calibration is None
        assert same(fitted.predictions, fitted.raw_predictions)
        assert fitted.scores == fitted.raw_scores


def test_folds_may_pick_the_epochs(small_features: FeatureSet) -> None:
    recipe = recipe_of(linear("one", tasks=("v", "a")))
    fitted = fit_recipe(small_features, recipe, folds=2, select_on_folds=True)
    (made,) = fitted.made.values()
    assert made.fitted.selected_on == "last"
    assert made.out_of_fold is not None


def test_the_same_seed_gives_the_same_bits(small_features: FeatureSet) -> None:
    recipe = recipe_of(linear("one", tasks=("expr", "v")))
    one, again, other = (fit_recipe(small_features, recipe, seed=seed) for seed in (1, 1, 2))
    assert same(one.predictions, again.predictions)
    assert not same(one.predictions, other.predictions)


@pytest.mark.parametrize("on_folds", [False, True], ids=["whole-first", "folds-first"])
def test_every_step_is_told(small_features: FeatureSet, on_folds: bool) -> None:
    """Folds keep the epoch of the whole, which then comes first; or the whole keeps theirs, and comes last."""
    steps: list[FitStep] = []
    recipe = recipe_of(linear("one", select_on="val"), linear("two", encoder="au", select_on="val"))
    fit_recipe(small_features, recipe, folds=2, epochs=2, select_on_folds=on_folds, on_step=steps.append)
    order = (1, 2, None) if on_folds else (None, 1, 2)
    assert {step.n_fits for step in steps} == {6}
    fits = [("one", fold) for fold in order] + [("two", fold) for fold in order]
    ends = [(step.model, step.fold, step.done) for step in steps if step.epoch == step.n_epochs]
    assert ends == [(*each, done) for done, each in enumerate(fits, start=1)]
    assert all(earlier.done <= later.done for earlier, later in pairwise(steps))
    if not on_folds:
        assert [(step.fold, step.epoch, step.n_epochs) for step in steps[:2]] == [(None, 1, 2), (None, 2, 2)]
