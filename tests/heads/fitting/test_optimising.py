from itertools import pairwise

import pytest
import torch

from heads.fitting.config import FitConfig
from heads.fitting.optimising import Optimizer, WeightAverage
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel


def rates(training: FitConfig, n_steps: int, n_epochs: int) -> list[float]:
    """How far each step of a run of equal gradients moves, over the highest rate."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = Optimizer([weight], training, n_steps=n_steps, n_epochs=n_epochs)
    moved = []
    for _ in range(n_epochs * n_steps):
        before = weight.item()
        optimizer.step((weight * 3.0).sum())
        moved.append((before - weight.item()) / training.learning_rate)
    return moved


def test_the_rate_rises_and_falls_as_asked() -> None:
    # Of equal gradients AdamW moves by the rate itself; clipping cannot be seen, nor decay at 0.
    flat = rates(FitConfig(learning_rate=1e-3, weight_decay=0), 5, 2)
    assert flat == pytest.approx([1.0] * 10, rel=1e-3)
    training = FitConfig(learning_rate=1e-3, weight_decay=0, schedule="linear", warmup_epochs=1)
    linear = rates(training, 5, 4)
    assert linear[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], rel=1e-3)
    assert linear[5:] == pytest.approx([1 - step / 15 for step in range(15)], rel=1e-3)
    cosine = rates(FitConfig(learning_rate=1e-3, weight_decay=0, schedule="cosine"), 10, 2)
    assert cosine[0] == pytest.approx(1, rel=1e-3)
    assert cosine[10] == pytest.approx(0.5, rel=1e-3)
    assert all(later < earlier for earlier, later in pairwise(cosine[1:]))


def test_what_is_spared_does_not_decay() -> None:
    decayed, spared = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    training = FitConfig(learning_rate=0.1, weight_decay=0.5)
    optimizer = Optimizer([decayed], training, n_steps=1, n_epochs=1, undecayed=[spared])
    optimizer.step((decayed + spared).sum() * 0)
    assert decayed.item() == pytest.approx(0.95)
    assert spared.item() == 1


def test_gradients_are_clipped() -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = Optimizer([weight], FitConfig(gradient_clip=0.5), n_steps=1, n_epochs=1)
    optimizer.step((weight.square() / 2).sum())
    assert weight.grad is not None
    assert weight.grad.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_the_average_follows_the_weights_slower_and_slower() -> None:
    model = HeadModel(HeadConfig(temporal="none", joint=("v",)), {"mae": (4,)})
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        for parameter, other in zip(model.parameters(), average.model.parameters(), strict=True):
            parameter.fill_(1.0)
            other.zero_()
    seen = []
    for _ in range(60):
        average.update(model)
        seen.append(next(iter(average.model.parameters())).mean().item())
    assert all(later >= earlier for earlier, later in pairwise(seen))
    assert 0.8 < seen[0] < 1  # the first steps forget the start: 1 - 1/11 of the way
    assert seen[-1] == pytest.approx(1, abs=1e-3)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
