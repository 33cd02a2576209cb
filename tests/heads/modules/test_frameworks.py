import torch
from torch import Tensor, nn

from heads.modules.config import HeadConfig
from heads.modules.frameworks import PerTask, ShareBottom, ShareEncoder
from heads.modules.model import HeadModel

WIDTH = 6


def model_of(head: HeadConfig, seed: int = 0) -> HeadModel:
    torch.manual_seed(seed)
    return HeadModel(head, dict.fromkeys(head.encoders, (WIDTH,))).eval()


def moved_by(loss: Tensor, model: nn.Module) -> set[str]:
    """Names of the parameters that a loss has a gradient for."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {name for name, each in zip(names, gradients, strict=True) if each is not None and each.abs().sum() > 0}


def named(model: nn.Module, *parts: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if any(part in name for part in parts)}


def test_share_encoder_shares_all_but_the_outputs() -> None:
    model = model_of(HeadConfig(fuse=("au",), hidden=(4,)))
    assert isinstance(model.framework, ShareEncoder)
    outputs = model([torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)])
    for task, output in outputs.items():
        moved = moved_by(output.sum(), model)
        assert moved == named(model, ".trunk.", f".outputs.{task}.")


def test_share_bottom_has_temporal_layers_in_common_and_of_each_tasks_own() -> None:
    head = HeadConfig(
        framework="share-bottom", temporal="gru", layers=2, own_layers=3, temporal_width=4, skip=False, hidden=()
    )
    model = model_of(head)
    assert isinstance(model.framework, ShareBottom)
    assert model.framework.trunk.temporal.gru.num_layers == 2
    assert {task: own.gru.num_layers for task, own in model.framework.own.items()} == dict.fromkeys(head.joint, 3)
    first = 3 * 4 * (WIDTH + 4 + 2)  # three gates; a GRU has two biases each
    other = 3 * 4 * (4 + 4 + 2)
    outputs = 4 * (12 + 8 + 1 + 1) + 22
    assert model.n_parameters() == (first + other) + 4 * 3 * other + outputs
    for task, output in model([torch.randn(2, 5, WIDTH)]).items():
        assert moved_by(output.sum(), model) == named(model, ".trunk.", f".own.{task}.", f".outputs.{task}.")


def test_own_layers_have_the_trunks_width_after_layers_that_read_both_ways() -> None:
    head = HeadConfig(
        framework="share-bottom", temporal="bigru", layers=1, own_layers=1, temporal_width=None, hidden=(3,)
    )
    model = model_of(head)
    assert isinstance(model.framework, ShareBottom)
    assert {own.out_width for own in model.framework.own.values()} == {2 * WIDTH}
    assert {output.output.in_features for output in model.framework.outputs.values()} == {3}


def test_per_task_is_a_head_a_task() -> None:
    head = HeadConfig(fuse=("au",), framework="per-task", hidden=(4,))
    model = model_of(head)
    assert isinstance(model.framework, PerTask)
    inputs = [torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)]
    outputs = model(inputs)
    for task, output in outputs.items():
        alone = model_of(HeadConfig(fuse=("au",), joint=(task,), hidden=(4,)))
        alone.framework.load_state_dict(model.framework.heads[task].state_dict())
        assert torch.equal(alone(inputs)[task], output)
        assert moved_by(output.sum(), model) == named(model, f".heads.{task}.")
    assert model.n_parameters() == sum(
        model_of(HeadConfig(fuse=("au",), joint=(task,), hidden=(4,))).n_parameters() for task in outputs
    )
