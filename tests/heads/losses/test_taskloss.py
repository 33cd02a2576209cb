import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featurestore.errors import ConfigError, ShapeError, UnknownNameError
from heads.losses.config import LossConfig
from heads.losses.masked import CCC_EPSILON
from heads.losses.statistics import LabelStatistics
from heads.losses.taskloss import TaskLosses

Array = NDArray[np.float64]

task_loss = TaskLosses(LossConfig())


def draw(*shape: int, seed: int = 0) -> tuple[Array, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.random(shape) < 0.6


def reference_bce(logits: Array, targets: Array, valid: NDArray[np.bool_]) -> float:
    p = 1 / (1 + np.exp(-logits))
    return float(-(targets * np.log(p) + (1 - targets) * np.log(1 - p))[valid].mean())


def reference_ce(logits: Array, targets: NDArray[np.int64], valid: NDArray[np.bool_]) -> float:
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return float(-np.log(np.take_along_axis(p, targets[..., None], axis=-1)[..., 0])[valid].mean())


def reference_ccc(x: Array, y: Array, valid: NDArray[np.bool_]) -> float:
    x, y = x[valid], y[valid]
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return float(1 - 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2 + CCC_EPSILON))


def loss_of(task: str, outputs: Array, targets: NDArray[np.generic], valid: NDArray[np.bool_]) -> float:
    return float(task_loss(task, torch.from_numpy(outputs), torch.from_numpy(targets), torch.from_numpy(valid)))


@pytest.mark.parametrize("shape", [(7,), (3, 5)])
def test_action_units_against_numpy(shape: tuple[int, ...]) -> None:
    logits, valid = draw(*shape, 12)
    targets = (np.random.default_rng(1).random((*shape, 12)) < 0.3).astype(np.float64)
    assert loss_of("au", logits, targets, valid) == pytest.approx(reference_bce(logits, targets, valid), abs=1e-12)


@pytest.mark.parametrize("shape", [(9,), (3, 5)])
def test_expression_against_numpy(shape: tuple[int, ...]) -> None:
    logits, _ = draw(*shape, 8)
    _, valid = draw(*shape, seed=2)
    targets = np.random.default_rng(1).integers(0, 8, shape)
    assert loss_of("expr", logits, targets, valid) == pytest.approx(reference_ce(logits, targets, valid), abs=1e-12)


@pytest.mark.parametrize("task", ["v", "a"])
@pytest.mark.parametrize("shape", [(30,), (3, 9)])
def test_concordance_against_numpy(task: str, shape: tuple[int, ...]) -> None:
    prediction, valid = draw(*shape)
    targets = draw(*shape, seed=3)[0]
    expected = reference_ccc(prediction, targets, valid)
    assert loss_of(task, prediction, targets, valid) == pytest.approx(expected, abs=1e-12)
    assert loss_of(task, prediction[..., None], targets, valid) == pytest.approx(expected, abs=1e-12)


def test_concordance_does_not_cancel_in_float32() -> None:
    rng = np.random.default_rng(0)
    x = 0.9 + 1e-4 * rng.normal(size=500)
    y = x + 1e-5 * rng.normal(size=500)
    valid = np.ones(500, dtype=bool)
    got = task_loss("v", torch.from_numpy(x).float(), torch.from_numpy(y).float(), torch.from_numpy(valid))
    assert float(got) == pytest.approx(reference_ccc(x, y, valid), abs=2e-3)


CASES = {"au": (12, torch.float32), "expr": (8, torch.int64), "v": (1, torch.float32), "a": (1, torch.float32)}


EVERY_LOSS = (
    LossConfig(),
    LossConfig(au="focal", expr="focal", v="mse", a="smooth_l1"),
    LossConfig(
        au="asymmetric",
        v="ccc+0.5*mse",
        a="0.1*ccc+mse+smooth_l1",
        au_balance=5,
        class_balance=True,
        label_smoothing=0.1,
        logit_adjustment=1,
    ),
    LossConfig(au="asymmetric", asymmetric_gammas=(0.5, 0.5), asymmetric_clip=0.5, focal_gamma=0.5, expr="focal"),
)
STATISTICS = LabelStatistics(
    au_positive=np.arange(12.0), au_negative=np.full(12, 20.0), expressions=np.array([50.0, 0, 3, 4, 5, 6, 7, 8])
)


def losses_of(config: LossConfig) -> TaskLosses:
    return TaskLosses(config, STATISTICS)


def batch(task: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n_outputs, dtype = CASES[task]
    outputs = torch.randn(4, 5, n_outputs, generator=torch.Generator().manual_seed(0)).requires_grad_()
    shape = (4, 5, 12) if task == "au" else (4, 5)
    return outputs, torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=torch.bool)


@pytest.mark.parametrize("config", EVERY_LOSS)
@pytest.mark.parametrize("task", CASES)
def test_nothing_valid_costs_nothing_and_keeps_the_graph(task: str, config: LossConfig) -> None:
    outputs, targets, valid = batch(task)
    loss = losses_of(config)(task, outputs, targets, valid)
    loss.backward()
    assert float(loss.detach()) == 0
    assert outputs.grad is not None
    assert not outputs.grad.any()


@pytest.mark.parametrize("task", ["v", "a"])
def test_one_valid_element_has_no_concordance(task: str) -> None:
    outputs, targets, valid = batch(task)
    valid[1, 2] = True
    loss = task_loss(task, outputs, targets, valid)
    loss.backward()
    assert float(loss.detach()) == 0
    assert outputs.grad is not None
    assert not outputs.grad.any()


@pytest.mark.parametrize("config", EVERY_LOSS)
@pytest.mark.parametrize("task", CASES)
def test_what_is_masked_changes_neither_value_nor_gradient(task: str, config: LossConfig) -> None:
    outputs, targets, valid = batch(task)
    valid[:2] = True
    loss_of_task = losses_of(config)
    loss = loss_of_task(task, outputs, targets, valid)
    loss.backward()
    spoilt = outputs.detach().clone()
    spoilt[2:] = float("nan")
    spoilt.requires_grad_()
    other = targets.clone()
    other[2:] = 7
    if other.is_floating_point():
        other[2:] = float("nan")
    again = loss_of_task(task, spoilt, other, valid)
    again.backward()
    assert float(again.detach()) == float(loss.detach())
    assert outputs.grad is not None
    assert spoilt.grad is not None
    assert torch.equal(spoilt.grad[:2], outputs.grad[:2])
    assert not spoilt.grad[2:].any()


def test_a_mixture_is_the_sum_of_its_parts() -> None:
    outputs, _, valid = batch("v")
    targets = torch.rand(4, 5, generator=torch.Generator().manual_seed(1))
    valid[:3] = True

    def cost(mixture: str) -> float:
        return float(TaskLosses(LossConfig(v=mixture))("v", outputs, targets, valid).detach())

    assert cost("0.25*ccc+mse+3*smooth_l1") == pytest.approx(
        0.25 * cost("ccc") + cost("mse") + 3 * cost("smooth_l1"), rel=1e-6
    )
    assert TaskLosses(LossConfig(a="mse"))("v", outputs, targets, valid) == cost("ccc")


def test_a_constant_prediction_costs_one() -> None:
    flat = torch.full((10,), 0.3)
    assert float(task_loss("v", flat, flat, torch.ones(10, dtype=torch.bool))) == pytest.approx(1)


@pytest.mark.parametrize("config", EVERY_LOSS)
@pytest.mark.parametrize("task", CASES)
def test_half_precision_is_computed_in_float32(task: str, config: LossConfig) -> None:
    outputs, targets, valid = batch(task)
    coarse = outputs.bfloat16()
    loss = losses_of(config)(task, coarse, targets, valid | True)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == float(losses_of(config)(task, coarse.float(), targets, valid | True).detach())


@pytest.mark.parametrize("config", EVERY_LOSS)
@pytest.mark.parametrize("task", CASES)
def test_certainty_has_a_gradient_that_is_a_number(task: str, config: LossConfig) -> None:
    outputs, targets, valid = batch(task)
    with torch.no_grad():
        outputs[0] = 200.0
        outputs[1] = -200.0
        outputs[2, :, 0] = 200.0  # as certain of class 0 as can be
        outputs[3] = 0.0
    for label in (0, 1):
        outputs.grad = None
        losses_of(config)(task, outputs, targets + label, valid | True).backward()
        assert outputs.grad is not None
        assert torch.isfinite(outputs.grad).all()


def test_shapes_and_names_are_checked() -> None:
    outputs, targets, valid = batch("au")
    with pytest.raises(ShapeError, match=r"task 'au' must agree, got \(4, 5, 12\), \(4, 5, 3\)"):
        task_loss("au", outputs, targets[..., :3], valid)
    with pytest.raises(ShapeError, match="task 'expr' must agree"):
        task_loss("expr", batch("expr")[0], torch.zeros(4, 4, dtype=torch.int64), torch.zeros(4, 4, dtype=torch.bool))
    with pytest.raises(UnknownNameError, match="no task 'va'"):
        task_loss("va", outputs, targets, valid)


def test_what_is_balanced_by_labels_needs_their_statistics() -> None:
    for config in (LossConfig(au_balance=2), LossConfig(class_balance=True), LossConfig(logit_adjustment=0.5)):
        with pytest.raises(ConfigError, match=r"need the statistics of the train rows, got none\. Give `statistics`"):
            TaskLosses(config)
