import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from featurestore.errors import ConfigError
from heads.calibration.calibrate import calibrate
from heads.calibration.calibration import Affine, Calibration
from heads.calibration.class_bias import fit_class_bias
from heads.calibration.config import PostConfig
from heads.calibration.smoothing import Smoothing
from heads.features.targets import Targets
from heads.scoring.metrics import f1_action_units
from heads.scoring.predictions import Predictions
from heads.scoring.scores import part_scores
from heads.tasks import TASKS

EVERYTHING = PostConfig(
    smoothing={"v": "box", "a": "gaussian", "expr": "exp"}, thresholds=True, class_bias=True, rescale=True
)


@dataclass(frozen=True)
class Case:
    """Labels that move slowly within videos, and the `logits` and `units` that they were drawn from."""

    targets: Targets
    video_ids: NDArray[np.int64]
    frame_numbers: NDArray[np.int64]
    logits: NDArray[np.float64]
    units: NDArray[np.float64]

    def predictions(
        self,
        *,
        noise: float = 0.0,
        scale: float = 1.0,
        offset: float = 0.0,
        bias: NDArray[np.float64] | None = None,
        unit_shift: float = 0.0,
        seed: int = 1,
    ) -> Predictions:
        """Of all rows: V and A as ``scale * label + offset``, everything with noise, logits shifted."""
        rng = np.random.default_rng(seed)
        n = len(self.targets)
        logits = self.logits + (0 if bias is None else bias) + 4 * noise * rng.normal(size=(n, 8))
        units = self.units + unit_shift + 4 * noise * rng.normal(size=(n, 12))
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return Predictions(
            rows=np.arange(n),
            valence=np.clip(scale * self.targets.valence + offset + noise * rng.normal(size=n), -1, 1),
            arousal=np.clip(scale * self.targets.arousal + offset + noise * rng.normal(size=n), -1, 1),
            expression=exponents / exponents.sum(axis=1, keepdims=True),
            action_units=1 / (1 + np.exp(-units)),
        )

    def half(self, predictions: Predictions, which: int) -> Predictions:
        """Of every second video: 0 to fit on, 1 to judge by."""
        return predictions.where(self.video_ids[predictions.rows] % 2 == which)

    def score(self, predictions: Predictions, task: str) -> float:
        """The task's part of P."""
        return part_scores(self.targets.take(predictions.rows), predictions)[TASKS[task].part]


def make_case(*, seed: int = 0, n_videos: int = 24, n_rows: int = 100, slow: int = 20) -> Case:
    rng = np.random.default_rng(seed)
    n = n_videos * n_rows
    video = np.repeat(np.arange(n_videos), n_rows)
    window = np.hanning(slow + 2)[1:-1]
    window /= np.sqrt((window**2).sum())

    def wander(width: int) -> NDArray[np.float64]:
        columns = [np.convolve(rng.normal(size=n + slow - 1), window, mode="valid") for _ in range(width)]
        return np.stack(columns, axis=1)

    latent, logits, units = wander(2), 2 * wander(8), 2 * wander(12) - 1
    targets = Targets(
        valence=np.tanh(latent[:, 0]).astype(np.float32),
        arousal=np.tanh(latent[:, 1]).astype(np.float32),
        expression=(logits + rng.gumbel(size=(n, 8)) * 0.5).argmax(axis=1),
        action_units=(units + rng.logistic(size=(n, 12)) * 0.5 > 0).astype(np.float32),
        valid_valence=rng.random(n) < 0.8,
        valid_arousal=rng.random(n) < 0.8,
        valid_expression=rng.random(n) < 0.8,
        valid_action_units=rng.random((n, 12)) < 0.8,
    )
    frames = np.concatenate([np.cumsum(rng.integers(1, 9, n_rows)) for _ in range(n_videos)])
    return Case(targets, video, frames, logits, units)


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case()


def fitted(case: Case, predictions: Predictions, config: PostConfig, *, fitted_on: str = "train") -> Calibration:
    """On the even videos."""
    return calibrate(
        case.half(predictions, 0),
        case.targets,
        config,
        video_ids=case.video_ids,
        frame_numbers=case.frame_numbers,
        fitted_on=fitted_on,
    )


def gain(case: Case, predictions: Predictions, calibration: Calibration, task: str) -> float:
    """What it brings on the odd videos, which it was not fitted on."""
    held = case.half(predictions, 1)
    after = calibration.apply(held, video_ids=case.video_ids, frame_numbers=case.frame_numbers)
    return case.score(after, task) - case.score(held, task)


def test_thresholds_undo_a_shift(case: Case) -> None:
    honest, shifted = case.predictions(), case.predictions(unit_shift=-2.2)
    calibration = fitted(case, shifted, PostConfig(thresholds=True))
    assert calibration.thresholds is not None
    assert np.median(calibration.thresholds) == pytest.approx(0.1)  # sigmoid(-2.2)
    assert gain(case, shifted, calibration, "au") > 0.1
    held = calibration.apply(case.half(shifted, 1), video_ids=case.video_ids, frame_numbers=case.frame_numbers)
    assert case.score(held, "au") == pytest.approx(case.score(case.half(honest, 1), "au"), abs=0.01)
    assert (held.of("au") == case.half(shifted, 1).of("au")).all()


def test_class_bias_undoes_a_prior(case: Case) -> None:
    bias = np.array([3.0, -2, -2, 0, 2, 0, 0, -2])
    shifted = case.predictions(bias=bias)
    calibration = fitted(case, shifted, PostConfig(class_bias=True))
    assert calibration.class_bias is not None
    assert np.abs(np.array(calibration.class_bias) + bias - bias.mean()).max() < 0.8
    assert gain(case, shifted, calibration, "expr") > 0.2
    held = calibration.apply(case.half(shifted, 1), video_ids=case.video_ids, frame_numbers=case.frame_numbers)
    assert case.score(held, "expr") == pytest.approx(case.score(case.half(case.predictions(), 1), "expr"), abs=0.02)
    assert held.of("expr").sum(axis=1) == pytest.approx(1)


def test_rescaling_undoes_an_affine(case: Case) -> None:
    bent = case.predictions(scale=0.3, offset=0.2)
    calibration = fitted(case, bent, PostConfig(rescale=True))
    for task in ("v", "a"):
        assert calibration.rescale[task].scale == pytest.approx(1 / 0.3, abs=1e-3)
        assert calibration.rescale[task].offset == pytest.approx(-0.2 / 0.3, abs=1e-3)
        held = calibration.apply(case.half(bent, 1), video_ids=case.video_ids, frame_numbers=case.frame_numbers)
        assert case.score(held, task) == pytest.approx(1, abs=1e-3)
        assert np.abs(held.of(task)).max() <= 1
    step = next(step for step in calibration.steps if step.of == "v")
    assert (step.name, step.is_kept) == ("rescale", True)
    assert step.before == pytest.approx(case.score(case.half(bent, 0), "v"))
    assert step.after == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", ["box", "gaussian", "exp"])
def test_smoothing_removes_noise(case: Case, kind: str) -> None:
    noisy = case.predictions(noise=0.5)
    config = PostConfig(
        smoothing=dict.fromkeys(TASKS, kind), widths=dict.fromkeys(TASKS, (900.0,)) if kind == "exp" else {}
    )
    calibration = fitted(case, noisy, config)
    assert set(calibration.smoothing) == set(TASKS)
    for task in TASKS:
        assert gain(case, noisy, calibration, task) > 0.05
    assert [step.is_kept for step in calibration.steps] == [True] * 4


def test_smoothing_and_rescaling_are_chosen_for_what_they_do_together() -> None:
    case = make_case(slow=40)
    noisy = case.predictions(noise=0.7, scale=0.6)
    alone = fitted(case, noisy, PostConfig(smoothing={"v": "box"}))
    together = fitted(case, noisy, PostConfig(smoothing={"v": "box"}, rescale=True))
    assert together.smoothing["v"].width > alone.smoothing["v"].width
    after_alone = fitted(
        case,
        alone.apply(noisy, video_ids=case.video_ids, frame_numbers=case.frame_numbers),
        PostConfig(rescale=True),
    )
    one_after_the_other = replace(after_alone, smoothing=alone.smoothing)
    assert gain(case, noisy, together, "v") > gain(case, noisy, one_after_the_other, "v") + 0.005
    assert gain(case, noisy, together, "v") > gain(case, noisy, alone, "v") + 0.05


@pytest.mark.parametrize(("task", "follows"), [("expr", "class_bias"), ("au", "thresholds")])
def test_smoothing_is_chosen_in_view_of_what_follows(case: Case, task: str, follows: str) -> None:
    """On probabilities that lean to one side smoothing does harm until what follows puts them upright."""
    leaning = case.predictions(noise=0.5, bias=3 * np.array([1.0, -1, -1, 0, 1, 0, 0, -1]), unit_shift=-3)
    smooth, shift = PostConfig(smoothing={task: "box"}), PostConfig(class_bias=True, thresholds=True)
    both = PostConfig(smoothing={task: "box"}, class_bias=follows == "class_bias", thresholds=follows == "thresholds")
    assert fitted(case, leaning, smooth).is_empty
    together = fitted(case, leaning, both)
    assert set(together.smoothing) == {task}
    one, other = (gain(case, leaning, each, task) for each in (together, fitted(case, leaning, shift)))
    assert one > other + 0.05


def test_a_step_follows_those_that_were_kept(case: Case) -> None:
    noisy = case.predictions(noise=0.5, bias=np.array([3.0, -2, -2, 0, 2, 0, 0, -2]), unit_shift=-1)
    asked = PostConfig(smoothing={"expr": "box", "au": "box"}, class_bias=True, thresholds=True)
    calibration = fitted(case, noisy, asked)
    assert set(calibration.smoothing) == {"expr", "au"}
    smoothed = Calibration(fitted_on="train", smoothing=calibration.smoothing).apply(
        case.half(noisy, 0), video_ids=case.video_ids, frame_numbers=case.frame_numbers
    )
    before = {step.of: step.before for step in calibration.steps if step.name in ("class bias", "threshold")}
    assert before.pop("expr") == pytest.approx(case.score(smoothed, "expr"))
    assert np.mean(list(before.values())) == pytest.approx(case.score(smoothed, "au"))


def test_nothing_is_kept_where_nothing_helps(case: Case) -> None:
    rng = np.random.default_rng(0)
    targets = case.targets
    n = len(targets)
    right = Predictions(
        rows=np.arange(n),
        valence=targets.valence.astype(np.float64),
        arousal=targets.arousal.astype(np.float64),
        expression=0.6 * np.eye(8)[targets.expression] + 0.4 * rng.dirichlet(np.ones(8), n),
        action_units=np.where(targets.action_units > 0.5, rng.uniform(0.51, 1, (n, 12)), rng.uniform(0, 0.5, (n, 12))),
    )
    calibration = fitted(case, right, EVERYTHING)
    assert calibration.is_empty
    assert len(calibration.steps) == 3 + 2 + 1 + 12
    assert not any(step.is_kept for step in calibration.steps)
    held = case.half(right, 1)
    same = calibration.apply(held, video_ids=case.video_ids, frame_numbers=case.frame_numbers)
    for task in TASKS:
        assert (same.of(task) == held.of(task)).all()
    assert same.thresholds is None


def test_pure_chance_is_not_learned(case: Case) -> None:
    rng = np.random.default_rng(1)
    n = len(case.targets)
    labels = replace(case.targets, action_units=(rng.random((n, 12)) < 0.5).astype(np.float32))
    chance = replace(case, targets=labels)
    predictions = Predictions(rows=np.arange(n), action_units=0.5 + 0.001 * rng.normal(size=(n, 12)))
    # Saying always is the best answer to chance; a threshold of .4 says it.
    calibration = fitted(chance, predictions, PostConfig(thresholds=True))
    assert calibration.thresholds is not None
    assert set(calibration.thresholds) == {0.4}
    assert gain(chance, predictions, calibration, "au") > 0.1


def every_video_its_own(seed: int) -> tuple[Case, Predictions]:
    """Six videos, each with another lean: what is fitted on some harms the others."""
    case = make_case(seed=seed, n_videos=6, n_rows=60)
    rng = np.random.default_rng(5 + seed)
    leans = 2.5 * rng.normal(size=(6, 8))[case.video_ids]
    predictions = case.predictions(bias=leans)
    shifts = rng.normal(size=(6, 12))[case.video_ids]
    units = np.clip(predictions.of("au") + 0.3 * shifts, 0, 1)
    return case, predictions.with_arrays({"au": units})


def fitted_on_all(case: Case, predictions: Predictions, config: PostConfig) -> Calibration:
    return calibrate(
        predictions,
        case.targets,
        config,
        video_ids=case.video_ids,
        frame_numbers=case.frame_numbers,
        fitted_on="train",
    )


def test_a_step_is_judged_on_videos_that_it_was_not_fitted_on() -> None:
    case, predictions = every_video_its_own(3)
    calibration = fitted_on_all(case, predictions, PostConfig(class_bias=True, n_folds=6))
    (step,) = calibration.steps
    # Fitted on all it would help these very videos; of unseen ones it makes less.
    bias = tuple(fit_class_bias(predictions.of("expr"), case.targets.expression).tolist())
    biased = Calibration(fitted_on="train", class_bias=bias).apply(
        predictions, video_ids=case.video_ids, frame_numbers=case.frame_numbers
    )
    assert case.score(biased, "expr") > step.before > step.after
    assert calibration.is_empty


def test_a_threshold_is_judged_on_videos_that_it_was_not_fitted_on() -> None:
    case, predictions = every_video_its_own(3)
    calibration = fitted_on_all(case, predictions, PostConfig(thresholds=True, n_folds=6))
    steps = {step.of: step for step in calibration.steps}
    limits = np.linspace(0.1, 0.9, 9)
    common = [
        f1_action_units(case.targets.action_units, predictions.of("au") > limit, valid=case.targets.valid_action_units)
        for limit in limits
    ]
    # No threshold does better than the best common one where none was fitted on the videos that it is judged on.
    assert np.mean([step.after for step in steps.values()]) < np.max(common, axis=0).mean() - 0.005


def test_smoothing_in_view_of_a_step_that_fails_is_not_kept() -> None:
    """A class bias fails on these videos, smoothed or not; it fails less on smoothed ones, which is no reason."""
    case, predictions = every_video_its_own(2)
    asked = PostConfig(smoothing={"expr": "box"}, class_bias=True, n_folds=6)
    calibration = fitted_on_all(case, predictions, asked)
    assert calibration.is_empty
    smoothing, bias = calibration.steps
    assert smoothing.before == pytest.approx(case.score(predictions, "expr"))
    assert bias.after < bias.before


def test_a_step_must_bring_what_is_asked_of_it(case: Case) -> None:
    noisy = case.predictions(noise=0.5, scale=0.5, bias=3 * np.eye(8)[0], unit_shift=-2)
    kept = fitted(case, noisy, EVERYTHING)
    assert kept.smoothing
    assert kept.class_bias
    assert kept.rescale
    dear = PostConfig.from_dict(EVERYTHING.to_dict() | {"least_gain": 1.0})
    calibration = fitted(case, noisy, dear)
    assert calibration.is_empty
    assert max(step.after - step.before for step in calibration.steps) > 0.1


def test_a_unit_keeps_half_where_another_threshold_brings_too_little(case: Case) -> None:
    shift = np.where(np.arange(12) < 4, -2.0, -0.2)  # sigmoid(-.2) = .45: .4 is a little better than .5
    leaning = case.predictions()
    logits = np.log(leaning.of("au")) - np.log1p(-leaning.of("au")) + shift
    leaning = leaning.with_arrays({"au": 1 / (1 + np.exp(-logits))})
    some, all_that_help = (
        fitted(case, leaning, PostConfig(thresholds=True, least_gain=least_gain)) for least_gain in (0.03, 0)
    )
    assert some.thresholds is not None
    assert all_that_help.thresholds is not None
    assert max(some.thresholds[:4]) <= 0.3
    kept = [step.is_kept for step in some.steps]
    assert 4 <= sum(kept) < sum(step.is_kept for step in all_that_help.steps)
    expected = [limit if keep else 0.5 for limit, keep in zip(all_that_help.thresholds, kept, strict=True)]
    assert list(some.thresholds) == expected


def test_labels_of_other_rows_are_not_read(case: Case) -> None:
    noisy = case.predictions(noise=0.5, bias=np.arange(8) / 3, scale=0.5, unit_shift=-1)
    calibration = fitted(case, noisy, EVERYTHING)
    assert not calibration.is_empty
    rng = np.random.default_rng(0)
    others = case.video_ids % 2 == 1
    targets = Targets(**{name: getattr(case.targets, name).copy() for name in Targets.__dataclass_fields__})
    for name in Targets.__dataclass_fields__:
        array = getattr(targets, name)
        array[others] = rng.permutation(array[others])
    assert fitted(replace(case, targets=targets), noisy, EVERYTHING) == calibration


def test_rows_without_prediction_are_passed_over(case: Case) -> None:
    noisy = case.predictions(noise=0.5, bias=np.arange(8) / 3, scale=0.5, unit_shift=-1)
    missing = np.random.default_rng(0).random(len(noisy)) < 0.1
    holes = noisy.with_arrays(
        {
            task: np.where(missing.reshape(-1, *[1] * (array.ndim - 1)), np.nan, array)
            for task, array in noisy.arrays().items()
        }
    )
    # Smoothing counts rows of the table: whether a row is empty or left out, its neighbours see the same.
    found, expected = fitted(case, holes, EVERYTHING), fitted(case, noisy.where(~missing), EVERYTHING)
    assert found.smoothing == expected.smoothing
    assert found.thresholds == expected.thresholds
    assert found.class_bias == expected.class_bias
    for task, affine in expected.rescale.items():
        assert found.rescale[task].scale == pytest.approx(affine.scale)
        assert found.rescale[task].offset == pytest.approx(affine.offset)
    after = found.apply(holes, video_ids=case.video_ids, frame_numbers=case.frame_numbers)
    for array in after.arrays().values():
        assert (np.isnan(array).reshape(len(array), -1).all(axis=1) == missing).all()


def test_tasks_that_are_not_joined_are_passed_over(case: Case) -> None:
    noisy = case.predictions(noise=0.5, scale=0.5)
    calibration = fitted(case, noisy.only(["v"]), EVERYTHING)
    assert {step.of for step in calibration.steps} == {"v"}
    whole = fitted(case, noisy, EVERYTHING)
    assert whole.thresholds is not None
    only = whole.apply(noisy.only(["a"]), video_ids=case.video_ids, frame_numbers=case.frame_numbers)
    assert only.joint == ("a",)
    assert only.thresholds is None


def test_the_order_is_smoothing_then_shifts_then_thresholds() -> None:
    calibration = Calibration(
        fitted_on="train",
        smoothing={
            "expr": Smoothing(kind="box", width=1, clip_rows=1),
            "v": Smoothing(kind="box", width=1, clip_rows=1),
        },
        class_bias=(2.0, *[0.0] * 7),
        rescale={"v": Affine(scale=2, offset=0.5)},
        thresholds=(0.3,) * 12,
    )
    expression = np.full((2, 8), 0.05)
    expression[0, 0], expression[1, 1] = 0.65, 0.65
    some = Predictions(
        rows=np.arange(2), valence=np.array([0.2, -0.4]), expression=expression, action_units=np.full((2, 12), 0.4)
    )
    got = calibration.apply(some, video_ids=np.zeros(2, dtype=np.int64), frame_numbers=np.arange(2))
    mean = expression.mean(axis=0) * np.exp([2, *[0] * 7])
    assert got.of("expr")[0] == pytest.approx(mean / mean.sum())
    assert got.of("v") == pytest.approx([2 * -0.1 + 0.5] * 2)
    assert got.active_units().all()
    assert (got.of("au") == 0.4).all()


def test_it_is_applied_video_by_video_at_true_frame_numbers(case: Case) -> None:
    noisy = case.predictions(noise=0.5)
    calibration = Calibration(
        fitted_on="train",
        smoothing={
            "v": Smoothing(kind="box", width=5, clip_rows=5),
            "expr": Smoothing(kind="exp", width=50, clip_rows=9),
        },
    )
    numbers = {"video_ids": case.video_ids, "frame_numbers": case.frame_numbers}
    whole = calibration.apply(noisy, **numbers)
    mine = case.video_ids == 7
    order = np.arange(len(noisy))
    order[~mine] = np.random.default_rng(0).permutation(order[~mine])
    shuffled = noisy.with_arrays({task: array[order] for task, array in noisy.arrays().items()})
    other, alone = calibration.apply(shuffled, **numbers), calibration.apply(noisy.where(mine), **numbers)
    apart = calibration.apply(noisy, video_ids=case.video_ids, frame_numbers=case.frame_numbers * 100)
    for task in ("v", "expr"):
        assert (other.of(task)[mine] == whole.of(task)[mine]).all()
        assert (alone.of(task) == whole.of(task)[mine]).all()
    assert (apart.of("v") == whole.of("v")).all()
    assert apart.of("expr") == pytest.approx(noisy.of("expr"))
    assert np.abs(whole.of("expr") - noisy.of("expr")).max() > 0.1


def test_what_it_was_fitted_on_is_told(case: Case) -> None:
    on_val = fitted(case, case.predictions(scale=0.5), PostConfig(rescale=True), fitted_on="val")
    assert on_val.in_sample_on == "val"
    assert on_val.in_sample("val")
    assert not on_val.in_sample("test")
    honest = replace(on_val, fitted_on="train, out of fold")
    assert honest.in_sample_on == "train"
    assert not honest.in_sample("val")
    assert honest.in_sample("train")


def test_there_and_back(case: Case) -> None:
    calibration = fitted(case, case.predictions(noise=0.5, scale=0.5, unit_shift=-1), EVERYTHING)
    assert calibration.smoothing
    assert calibration.rescale
    assert calibration.thresholds
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    with pytest.raises(ConfigError, match=r"A calibration has 12 thresholds, got 2"):
        Calibration(fitted_on="val", thresholds=(0.5, 0.5))
    with pytest.raises(ConfigError, match=r"There is no setting 'threshold'"):
        Calibration.from_dict({"fitted_on": "val", "threshold": [0.5]})


def test_nothing_asked_for_needs_no_videos(case: Case) -> None:
    one = case.predictions().where(case.video_ids == 0)

    def tried(config: PostConfig) -> Calibration:
        return calibrate(
            one, case.targets, config, video_ids=case.video_ids, frame_numbers=case.frame_numbers, fitted_on="val"
        )

    assert tried(PostConfig()) == Calibration(fitted_on="val")
    with pytest.raises(ConfigError, match=r"at least two videos"):
        tried(EVERYTHING)


def test_labels_of_no_task_lead_to_nothing(case: Case) -> None:
    nothing = replace(
        case.targets,
        **{
            name: np.zeros_like(getattr(case.targets, name)) for name in Targets.__dataclass_fields__ if "valid" in name
        },
    )
    calibration = fitted(replace(case, targets=nothing), case.predictions(noise=0.3), EVERYTHING)
    assert calibration.is_empty
    assert {(step.before, step.after) for step in calibration.steps} == {(0.0, 0.0)}
