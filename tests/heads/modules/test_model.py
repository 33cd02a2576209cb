import pytest
import torch

from featurestore.errors import ConfigError, UnknownNameError
from heads.modules.config import HeadConfig
from heads.modules.fusion import make_fusion
from heads.modules.model import HeadModel
from heads.modules.temporal import make_temporal


def _model(head: HeadConfig, dim: int) -> HeadModel:
    return HeadModel(head, dict.fromkeys(head.encoders, (dim,)))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_papers_module_sizes_at_768() -> None:
    model = _model(HeadConfig(fuse=("au", "v")), 768)
    assert count(model.fusion) == 1_181_184
    assert count(model.temporal) == 9_449_472
    assert count(model.outputs) == 769 * (12 + 8 + 1 + 1)
    assert model.n_parameters() == 1_181_184 + 9_449_472 + 769 * 22


def test_defaults_are_the_papers() -> None:
    config = HeadConfig(fuse=("au",)).resolved()
    assert (config.encoder, config.fusion, config.temporal, config.seq, config.window) == ("mae", "sum", "lstm", 20, 20)
    assert count(_model(HeadConfig(temporal="none", seq=1, joint=("v",)), 768)) == 769


@pytest.mark.parametrize("temporal", ["lstm", "none"])
def test_outputs(temporal: str) -> None:
    model = _model(HeadConfig(fuse=("au",), temporal=temporal), 16)
    outputs = model([10 * torch.randn(3, 20, 16), 10 * torch.randn(3, 20, 16)])
    assert {task: tuple(x.shape) for task, x in outputs.items()} == {
        "au": (3, 20, 12),
        "expr": (3, 20, 8),
        "v": (3, 20, 1),
        "a": (3, 20, 1),
    }
    assert outputs["v"].abs().max() <= 1
    assert outputs["a"].abs().max() <= 1


def test_sum_fusion_is_the_perceptron_of_the_sum() -> None:
    fusion = make_fusion("sum", 4, n_inputs=3).eval()
    x = [torch.randn(2, 5, 4) for _ in range(3)]
    assert torch.allclose(fusion(x), fusion([sum(x[1:], x[0])]))
    assert not torch.allclose(fusion(x), fusion(x[:2]))
    base = torch.randn(2, 5, 4)
    assert make_fusion("none", 4, n_inputs=1)([base]) is base


def test_padding_never_reaches_a_valid_row() -> None:
    model = _model(HeadConfig(fuse=("au",), seq=8), 16).eval()
    x = torch.randn(2, 8, 16)
    spoilt = x.clone()
    spoilt[:, 5:] = 1e3
    for task, output in model([x, x]).items():
        assert torch.equal(output[:, :5], model([spoilt, spoilt])[task][:, :5])
        assert not torch.equal(output[:, 5:], model([spoilt, spoilt])[task][:, 5:])


def test_unknown_modules() -> None:
    with pytest.raises(UnknownNameError, match=r"no fusion 'summ'\. Did you mean 'sum'"):
        make_fusion("summ", 4, n_inputs=1)
    with pytest.raises(UnknownNameError, match="no temporal module 'gru'"):
        make_temporal("gru", 4)
    with pytest.raises(ConfigError, match="takes the base embedding alone, got 2"):
        make_fusion("none", 4, n_inputs=2)
