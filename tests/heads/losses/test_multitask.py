import numpy as np
import pytest
import torch

from featurestore.errors import ConfigError, UnknownNameError
from heads.losses.config import LossConfig
from heads.losses.multitask import MultiTaskLoss
from heads.losses.statistics import LabelStatistics
from heads.losses.taskloss import TaskLosses
from heads.tasks import TASKS

CPU = torch.device("cpu")
Batch = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    outputs = {task: torch.randn(4, 5, TASKS[task].n_outputs, generator=generator) for task in TASKS}
    targets = {
        "au": (torch.rand(4, 5, 12, generator=generator) < 0.3).float(),
        "expr": torch.randint(0, 8, (4, 5), generator=generator),
        "v": torch.rand(4, 5, generator=generator),
        "a": torch.rand(4, 5, generator=generator),
    }
    return outputs, targets, {task: torch.rand(each.shape, generator=generator) < 0.7 for task, each in targets.items()}


def test_the_total_is_the_weighted_sum() -> None:
    outputs, targets, valid = batch()
    total, parts = MultiTaskLoss(weights={"au": 2.0, "v": 0.0, "a": 0.5})(outputs, targets, valid)
    expected = 2 * parts["au"] + parts["expr"] + 0.5 * parts["a"]
    assert float(total) == pytest.approx(float(expected))
    assert list(parts) == ["au", "expr", "v", "a"]
    only, some = MultiTaskLoss()({"v": outputs["v"]}, targets, valid)
    assert list(some) == ["v"]
    assert float(only) == float(some["v"])


@pytest.mark.parametrize("weighting", ["normalised", "uncertainty", "dwa"])
def test_weights_stand_before_a_weighting(weighting: str) -> None:
    outputs, targets, valid = batch()
    for logits in outputs.values():
        logits.requires_grad_()
    weights = {"au": 3.0, "expr": 0.0, "v": 0.5}
    loss = MultiTaskLoss(weights=weights, config=LossConfig(weighting=weighting))
    loss.prepare(tuple(TASKS), CPU)
    total, parts = loss(outputs, targets, valid)
    terms = {"normalised": 1.0, "uncertainty": parts["au"], "dwa": parts["au"]}
    half = 0.5 if weighting == "uncertainty" else 1.0
    affect = 2 * [1.0] if weighting == "normalised" else [half * parts["v"], half * parts["a"]]
    assert float(total.detach()) == pytest.approx(float(3 * terms[weighting] + 0.5 * affect[0] + affect[1]))
    total.backward()
    assert not outputs["expr"].grad.any()  # type: ignore[union-attr]
    assert outputs["au"].grad.any()  # type: ignore[union-attr]
    for task, parameter in zip(TASKS, loss.parameters(), strict=False):
        assert bool(parameter.grad.any()) == (task != "expr")  # type: ignore[union-attr]


def test_statistics_reach_the_losses() -> None:
    outputs, targets, valid = batch()
    counts = np.arange(1.0, 9.0)
    statistics = LabelStatistics(au_positive=np.arange(12.0) + 1, au_negative=np.full(12, 30.0), expressions=counts)
    config = LossConfig(au_balance=10, class_balance=True, logit_adjustment=0.7)
    _, parts = MultiTaskLoss(config=config, statistics=statistics)(outputs, targets, valid)
    ratios = torch.from_numpy(np.minimum(30 / (np.arange(12.0) + 1), 10)).float()
    elements = torch.nn.BCEWithLogitsLoss(reduction="none", pos_weight=ratios)(outputs["au"], targets["au"])
    assert float(parts["au"]) == pytest.approx(float(elements[valid["au"]].mean()))
    adjusted = outputs["expr"] + 0.7 * torch.from_numpy(np.log(counts / counts.sum())).float()
    weights = torch.from_numpy(counts.sum() / (8 * counts)).float()
    criterion = torch.nn.CrossEntropyLoss(reduction="none", weight=weights)
    rows = criterion(adjusted[valid["expr"]], targets["expr"][valid["expr"]])
    assert float(parts["expr"]) == pytest.approx(float(rows.mean()))


def test_logit_adjustment_finds_the_balanced_bayes_rule() -> None:
    """Fitted to the minimum, the logits rank classes by p(x | y), whatever their shares."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 30, size=(8, 5)) * np.array([[20], [1], [2], [4], [10], [1], [8], [5]])
    label, kind = (each.ravel() for each in np.indices((8, 5)))  # five kinds of frames x, seen `counts` times each
    labels = torch.from_numpy(np.repeat(label, counts.ravel()))
    kinds = torch.from_numpy(np.repeat(kind, counts.ravel()))
    shares = counts.sum(axis=1)
    statistics = LabelStatistics(au_positive=np.ones(12), au_negative=np.ones(12), expressions=shares.astype(float))
    losses = TaskLosses(LossConfig(logit_adjustment=1), statistics)
    table = torch.zeros(5, 8, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([table], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = losses("expr", table[kinds], labels, torch.ones_like(labels, dtype=torch.bool))
        loss.backward()
        return loss

    optimizer.step(closure)
    found = table.detach().softmax(dim=-1).numpy()  # what the head says without the adjustment
    likelihood = counts / shares[:, None]  # p(x | y)
    assert np.allclose(found, (likelihood / likelihood.sum(axis=0)).T, atol=2e-3)
    assert (found.argmax(axis=1) == likelihood.argmax(axis=0)).all()
    assert (found.argmax(axis=1) != counts.argmax(axis=0)).any()  # not the plain posterior's


def test_a_state_is_taken_over() -> None:
    first, second = (MultiTaskLoss(config=LossConfig(weighting="dwa")) for _ in range(2))
    for loss in (first, second):
        loss.prepare(("v", "a"), CPU)
    first.end_epoch({"v": 1.0, "a": 1.0})
    first.end_epoch({"v": 0.5, "a": 1.0})
    second.load_state(first.state())
    outputs, targets, valid = batch()
    pair = {task: outputs[task] for task in ("v", "a")}
    total, parts = second(pair, targets, valid)
    assert float(total) == float(first(pair, targets, valid)[0])
    assert float(total) != pytest.approx(float(parts["v"] + parts["a"]))


def test_what_cannot_be_summed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"weight of task 'au' must be a number of at least 0, got -1"):
        MultiTaskLoss(weights={"au": -1.0})
    with pytest.raises(UnknownNameError, match=r"no task 'va'"):
        MultiTaskLoss(weights={"va": 1.0})
    with pytest.raises(ConfigError, match=r"No task to sum over"):
        MultiTaskLoss()({}, {}, {})
