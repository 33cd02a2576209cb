import pytest
import torch

from heads.modules.config import HeadConfig
from heads.modules.feedback import HiddenFeedback
from heads.modules.late import LateFusion, member_configs
from heads.modules.model import HeadModel

SHAPES = {"mae": (6,), "ir.net": (9,)}
HEAD = HeadConfig(fuse=("ir.net",), fusion="late", temporal="gru", layers=1)


def model_of(head: HeadConfig) -> tuple[HeadModel, LateFusion]:
    torch.manual_seed(0)
    model = HeadModel(head, SHAPES).eval()
    assert isinstance(model.framework, LateFusion)
    return model, model.framework


def inputs() -> list[torch.Tensor]:
    return [torch.randn(2, 5, 6), torch.randn(2, 5, 9)]


def test_weights_are_a_share_of_each_encoder_and_task() -> None:
    _, late = model_of(HEAD)
    assert late.weights() == {task: {"mae": 0.5, "ir.net": 0.5} for task in ("au", "expr", "v", "a")}
    with torch.no_grad():
        late.shares.normal_()
    for weights in late.weights().values():
        assert sum(weights.values()) == pytest.approx(1)
        assert min(weights.values()) > 0
    assert len({weights["mae"] for weights in late.weights().values()}) == 4


def test_logits_are_mixed_before_tanh() -> None:
    model, late = model_of(HEAD)
    with torch.no_grad():
        late.shares.normal_()
    given = inputs()
    alone = [member([own]) for member, own in zip(late.members, given, strict=True)]
    for task, output in model(given).items():
        weights = late.weights()[task]
        mixed = weights["mae"] * alone[0][task] + weights["ir.net"] * alone[1][task]
        assert torch.allclose(output, torch.tanh(mixed) if task in ("v", "a") else mixed, atol=1e-6)


def test_weights_are_learned_with_the_rest() -> None:
    model, late = model_of(HEAD)
    outputs = model(inputs())
    outputs["v"].sum().backward()
    assert late.shares.grad is not None
    assert (late.shares.grad.abs().sum(dim=1) > 0).tolist() == [False, False, True, False]
    assert all(member.trunk.temporal.gru.weight_ih_l0.grad is not None for member in late.members)


def test_each_encoder_has_its_own_columns_and_width() -> None:
    head = HeadConfig(fuse=("ir.net",), fusion="late", width=4, columns={"ir.net": (-3, None)}, temporal="none")
    configs = member_configs(head.resolved())
    assert configs["mae"].columns == {}
    assert configs["ir.net"].columns == {"ir.net": (-3, None)}
    _, late = model_of(head)
    assert [member.trunk.inputs.widths for member in late.members] == [(6,), (3,)]
    assert [member.trunk.out_width for member in late.members] == [4, 4]


def test_any_framework_can_be_fused_late() -> None:
    head = HeadConfig(fuse=("ir.net",), fusion="late", framework="hidden-feedback", hidden=(4,))
    _, late = model_of(head)
    assert all(isinstance(member, HiddenFeedback) for member in late.members)
    per_task = HeadModel(HeadConfig(fuse=("ir.net",), fusion="late", framework="per-task"), SHAPES)
    assert all(
        isinstance(each, LateFusion) and each.joint == (task,) for task, each in per_task.framework.heads.items()
    )
