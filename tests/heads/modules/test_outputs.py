import torch
from torch import nn

from heads.modules.config import HeadConfig
from heads.modules.outputs import TaskOutput, in_range

AIM3 = HeadConfig(hidden=(512, 256), hidden_dropout=0.3, au_linear_share=0.0)


def test_without_hidden_layers_it_is_one_linear() -> None:
    output = TaskOutput("expr", 5, HeadConfig(hidden=()))
    states = torch.randn(2, 3, 5)
    assert sum(parameter.numel() for parameter in output.parameters()) == 5 * 8 + 8
    assert torch.equal(output(states), states @ output.output.weight.T + output.output.bias)
    assert torch.equal(output.read(states)[1], states)
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
    logits, hidden = output.read(states)
    assert hidden.shape == (2, 3, 4)
    assert hidden.min() >= 0
    assert torch.equal(output.output(hidden), logits)
    assert torch.equal(output(states), logits)


def test_only_action_units_with_hidden_layers_have_a_linear_path() -> None:
    assert TaskOutput("au", 6, HeadConfig()).linear is not None
    assert TaskOutput("expr", 6, HeadConfig()).linear is None
    assert TaskOutput("au", 6, HeadConfig(hidden=())).linear is None
    assert TaskOutput("au", 6, AIM3).linear is None


def test_action_units_are_the_weighted_mean_of_both_paths() -> None:
    output = TaskOutput("au", 6, HeadConfig(hidden=(5,), au_linear_share=0.6), linear_columns=slice(2, 6)).eval()
    states = torch.randn(2, 3, 6)
    assert output.linear is not None
    assert output.linear.in_features == 4
    nonlinear = output.output(output.layers(states))
    torch.testing.assert_close(output(states), 0.4 * nonlinear)  # the linear path starts at 0
    nn.init.normal_(output.linear.weight)
    nn.init.normal_(output.linear.bias)
    linear = 4 * output.linear(states[..., 2:])
    torch.testing.assert_close(output(states), 0.6 * linear + 0.4 * nonlinear)


def test_the_linear_path_is_centred() -> None:
    output = TaskOutput("au", 6, HeadConfig(hidden=(5,), au_linear_share=0.6), linear_columns=slice(2, 6)).eval()
    assert output.linear is not None
    nn.init.normal_(output.linear.weight)
    states, mean = torch.randn(2, 3, 6), torch.randn(4)
    before, moved = output(states), torch.cat([torch.zeros(2), mean])
    output.centre(mean)
    through_hidden = 0.4 * (output.output(output.layers(states + moved)) - output.output(output.layers(states)))
    torch.testing.assert_close(output(states + moved), before + through_hidden)


def test_in_training_each_row_takes_one_path() -> None:
    torch.manual_seed(1)
    config = HeadConfig(hidden=(5,), hidden_dropout=0.0, au_linear_share=0.7)
    output = TaskOutput("au", 6, config).train()
    states = torch.randn(40, 50, 6)
    logits, hidden = output.read(states)
    assert output.linear is not None
    is_linear = (logits == 0).all(dim=-1)  # the linear path starts at 0
    is_nonlinear = (logits == output.output(hidden)).all(dim=-1)
    assert bool((is_linear ^ is_nonlinear).all())
    assert 0.65 < float(is_linear.float().mean()) < 0.75  # 2,000 draws: a deviation of .05 is five standard errors


def test_only_valence_and_arousal_are_bounded() -> None:
    logits = {task: torch.tensor([[[3.0, -0.5]]]) for task in ("au", "expr", "v", "a")}
    for task, values in in_range(logits).items():
        assert torch.equal(values, torch.tanh(logits[task]) if task in ("v", "a") else logits[task])
