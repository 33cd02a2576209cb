import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featurestore.errors import ConfigError
from heads.losses.config import LossConfig
from heads.losses.weighting import DynamicAverage, Uncertainty, Weighting, make_weighting
from heads.tasks import TASKS

CPU = torch.device("cpu")
VALUES = st.floats(1e-3, 1e3)


def losses(*values: float) -> dict[str, Tensor]:
    return {task: torch.tensor(value, requires_grad=True) for task, value in zip(TASKS, values, strict=False)}


def prepared(name: str, tasks: tuple[str, ...] = tuple(TASKS)) -> Weighting:
    weighting = make_weighting(LossConfig(weighting=name))
    weighting.prepare(tasks, CPU)
    return weighting


@settings(max_examples=20, deadline=None)
@given(VALUES, VALUES)
def test_normalised_losses_pull_equally(first: float, second: float) -> None:
    given_losses = losses(first, second)
    terms = prepared("normalised")(given_losses)
    assert [float(term.detach()) for term in terms.values()] == pytest.approx([1, 1])
    torch.stack(list(terms.values())).sum().backward()
    for task, loss in given_losses.items():  # the gradient of log L
        assert loss.grad is not None
        assert float(loss.grad) == pytest.approx(1 / float(loss.detach()), rel=1e-5), task


def test_a_loss_of_nothing_stays_nothing() -> None:
    nothing = losses(0.0)
    for name in ("fixed", "normalised", "uncertainty", "dwa"):
        weighting = prepared(name, ("au",))
        term = weighting(nothing)["au"]
        term.backward()
        assert float(term.detach()) == 0
        for parameter in weighting.parameters():
            assert not parameter.grad.any()  # type: ignore[union-attr]


def test_uncertainty_is_kendalls() -> None:
    weighting = prepared("uncertainty")
    for number, parameter in enumerate(weighting.parameters()):
        parameter.data.fill_(0.3 * number - 0.4)
    given_losses = losses(0.7, 2.0, 0.5, 1.5)
    terms = weighting(given_losses)
    for number, (task, term) in enumerate(terms.items()):
        sigma = math.exp((0.3 * number - 0.4) / 2)
        times = 2 * sigma**2 if task in ("v", "a") else sigma**2  # regression, classification
        expected = float(given_losses[task].detach()) / times + math.log(sigma)
        assert float(term.detach()) == pytest.approx(expected, rel=1e-6), task


def test_learned_variances_settle_where_the_losses_are() -> None:
    weighting = prepared("uncertainty")
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.2)
    values = (0.7, 2.0, 0.5, 1.5)
    for _ in range(150):
        optimizer.zero_grad()
        torch.stack(list(weighting(losses(*values)).values())).sum().backward()
        optimizer.step()
    variances = [float(each.detach().exp()) for each in weighting.parameters()]
    assert variances == pytest.approx([1.4, 4.0, 0.5, 1.5], rel=1e-2)  # 2 L of a class, L of a number


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=2, max_size=4), st.floats(0.1, 10))
def test_dwa_weighs_by_the_last_two_epochs(epochs: list[tuple[float, float, float]], temperature: float) -> None:
    weighting = DynamicAverage(temperature)
    weighting.prepare(("au", "v", "a"), CPU)
    assert weighting.weights == {"au": 1, "v": 1, "a": 1}
    weighting.end_epoch(dict(zip(("au", "v", "a"), epochs[0], strict=True)))
    assert weighting.weights == {"au": 1, "v": 1, "a": 1}
    for epoch in epochs[1:]:
        weighting.end_epoch(dict(zip(("au", "v", "a"), epoch, strict=True)))
    ratios = torch.tensor(epochs[-1], dtype=torch.float64) / torch.tensor(epochs[-2], dtype=torch.float64)
    expected = 3 * torch.softmax(ratios / temperature, dim=0)
    assert list(weighting.weights.values()) == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-12)
    assert sum(weighting.weights.values()) == pytest.approx(3)
    terms = weighting({"v": torch.tensor(2.0)})
    assert float(terms["v"]) == pytest.approx(2 * weighting.weights["v"])


def test_a_loss_that_was_nothing_counts_as_unchanged() -> None:
    weighting = DynamicAverage(1.0)
    weighting.prepare(("au", "v"), CPU)
    weighting.end_epoch({"au": 0.0, "v": 1.0})
    weighting.end_epoch({"au": 3.0, "v": 1.0})
    assert weighting.weights == {"au": 1, "v": 1}


@pytest.mark.parametrize("name", ["fixed", "normalised", "uncertainty", "dwa"])
def test_a_state_goes_on_as_the_one_it_was_taken_from(name: str) -> None:
    weighting, other = prepared(name), prepared(name)
    for step, parameter in enumerate(weighting.parameters()):
        parameter.data.fill_(0.1 + step / 3)
    for epoch in ((1.0, 2, 3, 4), (0.9, 1.9, 1.5, 4.1), (0.8, 1.7, 1.4, 4.3)):
        weighting.end_epoch(dict(zip(TASKS, epoch, strict=True)))
    kept = list(other.parameters())
    other.load_state(weighting.state())
    assert other.state() == weighting.state()
    mine, theirs = other(losses(1.0, 2.0, 3.0, 4.0)), weighting(losses(1.0, 2.0, 3.0, 4.0))
    assert {task: float(term.detach()) for task, term in mine.items()} == {
        task: float(term.detach()) for task, term in theirs.items()
    }
    assert all(before is now for before, now in zip(kept, other.parameters(), strict=True))
    for each in (weighting, other):
        each.end_epoch(dict.fromkeys(TASKS, 0.5))
    assert other.state() == weighting.state()


def test_a_state_of_another_weighting_is_refused() -> None:
    for name in ("fixed", "normalised", "dwa"):
        with pytest.raises(ConfigError, match=r"cannot go on from this state: expected .* got .*'log_variances'"):
            prepared(name).load_state(prepared("uncertainty").state())
    with pytest.raises(ConfigError, match=r"uncertainty weighting cannot go on .*\['au', 'v'\].*\['v'\]"):
        prepared("uncertainty", ("au", "v")).load_state(prepared("uncertainty", ("v",)).state())


@pytest.mark.parametrize("name", ["uncertainty", "dwa"])
def test_what_was_not_prepared_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} weighting keeps something for each task, but task 'au' was not"):
        make_weighting(LossConfig(weighting=name))(losses(1.0))


def test_only_uncertainty_has_parameters() -> None:
    assert len(list(Uncertainty().parameters())) == 0
    assert {name: len(list(prepared(name).parameters())) for name in ("fixed", "normalised", "uncertainty", "dwa")} == {
        "fixed": 0,
        "normalised": 0,
        "uncertainty": 4,
        "dwa": 0,
    }
