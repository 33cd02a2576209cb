import torch
from torch import nn

from heads.modules.config import HeadConfig
from heads.modules.outputs import TaskOutput, in_range

AIM3 = HeadConfig(hidden=(512, 256), hidden_dropout=0.3)


def test_without_hidden_layers_it_is_one_linear() -> None:
    output = TaskOutput("expr", 5, HeadConfig(hidden=()))
    states = torch.randn(2, 3, 5)
    assert sum(parameter.numel() for parameter in output.parameters()) == 5 * 8 + 8
    assert torch.equal(output(states), states @ output.output.weight.T + output.output.bias)
    assert torch.equal(output.hidden(states), states)
    assert output.hidden_width == 5


def test_the_hidden_layers_are_aim3s() -> None:
    output = TaskOutput("au", 1024, AIM3)
    kinds = [type(layer) for layer in output.layers]
    assert kinds == [nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout]
    assert {layer.p for layer in output.layers if isinstance(layer, nn.Dropout)} == {0.3}
    n_parameters = (1024 + 1) * 512 + (512 + 1) * 256 + (256 + 1) * 12
    assert sum(parameter.numel() for parameter in output.parameters()) == n_parameters
    assert output.hidden_width == 256


def test_by_default_there_is_one_hidden_layer() -> None:
    output = TaskOutput("v", 20, HeadConfig())
    assert [type(layer) for layer in output.layers] == [nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout]
    assert {layer.p for layer in output.layers if isinstance(layer, nn.Dropout)} == {0.5}
    assert sum(parameter.numel() for parameter in output.parameters()) == (20 + 1) * 256 + (256 + 1)


def test_the_logits_come_of_the_last_hidden_layer() -> None:
    output = TaskOutput("v", 6, HeadConfig(hidden=(5, 4))).eval()
    states = torch.randn(2, 3, 6)
    hidden = output.hidden(states)
    assert hidden.shape == (2, 3, 4)
    assert hidden.min() >= 0
    assert torch.equal(output.output(hidden), output(states))


def test_only_valence_and_arousal_are_bounded() -> None:
    logits = {task: torch.tensor([[[3.0, -0.5]]]) for task in ("au", "expr", "v", "a")}
    for task, values in in_range(logits).items():
        assert torch.equal(values, torch.tanh(logits[task]) if task in ("v", "a") else logits[task])
