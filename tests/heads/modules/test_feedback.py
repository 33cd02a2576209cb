from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featurestore.errors import ConfigError, UnknownNameError
from heads.modules.config import HeadConfig
from heads.modules.feedback import HiddenFeedback, LabelFeedback
from heads.modules.model import HeadModel

WIDTH = 6
HIDDEN = HeadConfig(
    framework="hidden-feedback",
    hidden=(5, 4),
    temporal="gru",
    layers=1,
    temporal_width=WIDTH,
    input_dropout=0.0,
    skip=False,
    feedback_from=("au", "v"),
)
LABEL = replace(HIDDEN, framework="label-feedback", hidden=(), label_width=3)
ALL = replace(LABEL, feedback_from=("au", "expr", "v"))


def model_of(head: HeadConfig) -> HeadModel:
    torch.manual_seed(0)
    return HeadModel(head, {"mae": (WIDTH,)}).eval()


def inputs() -> list[Tensor]:
    return [torch.randn(2, 5, WIDTH)]


def moved_by(loss: Tensor, model: nn.Module) -> set[str]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {name for name, each in zip(names, gradients, strict=True) if each is not None and each.abs().sum() > 0}


def named(model: nn.Module, *parts: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if any(part in name for part in parts)}


@pytest.mark.parametrize("head", [HIDDEN, LABEL], ids=["hidden", "label"])
def test_receivers_move_the_trunk_but_not_the_sources(head: HeadConfig) -> None:
    model = model_of(head)
    outputs = model(inputs())
    tables = [".tables."] if head is LABEL else []
    for task in ("expr", "a"):
        assert moved_by(outputs[task].sum(), model) == named(model, ".trunk.", f".outputs.{task}.", *tables)
    for task in ("au", "v"):
        assert moved_by(outputs[task].sum(), model) == named(model, ".trunk.", f".outputs.{task}.")


@pytest.mark.parametrize("head", [HIDDEN, LABEL], ids=["hidden", "label"])
def test_what_sources_predict_changes_what_receivers_do(head: HeadConfig) -> None:
    model, given = model_of(head), inputs()
    before = model(given)
    with torch.no_grad():
        for parameter in model.framework.outputs["v"].parameters():
            parameter += 1
    after = model(given)
    for task in ("expr", "a", "v"):
        assert not torch.allclose(after[task], before[task])
    assert torch.equal(after["au"], before["au"])


@pytest.mark.parametrize("head", [HIDDEN, LABEL], ids=["hidden", "label"])
def test_receivers_can_be_named(head: HeadConfig) -> None:
    model = model_of(replace(head, feedback_to=("a",)))
    firsts = {task: next(output.parameters()) for task, output in model.framework.outputs.items()}
    fed = 2 * 4 if head is HIDDEN else 2 * 3
    widths = {task: parameter.shape[1] for task, parameter in firsts.items()}
    assert widths == {"au": WIDTH, "expr": WIDTH, "v": WIDTH, "a": WIDTH + fed}
    outputs = model(inputs())
    assert moved_by(outputs["expr"].sum(), model) == named(model, ".trunk.", ".outputs.expr.")


def test_hidden_feedback_feeds_the_last_hidden_layers_in_task_order() -> None:
    model, given = model_of(HIDDEN), inputs()
    framework = model.framework
    assert isinstance(framework, HiddenFeedback)
    states = framework.trunk(given)
    hidden = [framework.outputs[task].read(states)[1] for task in ("au", "v")]
    expected = torch.tanh(framework.outputs["a"](torch.cat([states, *hidden], dim=-1)))
    assert torch.equal(model(given)["a"], expected)


def test_hidden_feedback_is_what_it_is_in_steps_too() -> None:
    model, given = model_of(HIDDEN), inputs()
    stepped, _ = model.step(given, None)
    for task, output in model(given).items():
        assert torch.allclose(stepped[task], output, atol=1e-6)


def test_label_feedback_weighs_tables_by_predictions() -> None:
    model, given = model_of(ALL), inputs()
    framework = model.framework
    assert isinstance(framework, LabelFeedback)
    states = framework.trunk(given)
    logits = {task: framework.outputs[task](states) for task in ("au", "expr", "v")}
    weights = {
        "au": logits["au"].sigmoid(),
        "expr": logits["expr"].softmax(dim=-1),
        "v": (torch.tanh(logits["v"]) + 1) / 2,
    }
    fed = [weights[task] @ framework.tables[task].weight.T for task in weights]
    expected = torch.tanh(framework.outputs["a"](torch.cat([states, *fed], dim=-1)))
    assert torch.allclose(model(given)["a"], expected, atol=1e-6)


def true_labels(where: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Labels of two windows of five rows, and where they are fed: at random in a share of them."""
    targets = {
        "au": torch.randint(0, 2, (2, 5, 12)).float(),
        "expr": torch.randint(0, 8, (2, 5)),
        "v": torch.rand(2, 5) * 2 - 1,
    }
    return {task: (values, torch.rand(values.shape) < where) for task, values in targets.items()}


@pytest.mark.parametrize("task", ["au", "expr", "v"])
def test_true_labels_stand_where_they_are_told_and_predictions_elsewhere(task: str) -> None:
    framework = model_of(ALL).framework.train()
    assert isinstance(framework, LabelFeedback)
    labels = true_labels(0.5)
    true, where = labels[task]
    logits = torch.randn(2, 5, {"au": 12, "expr": 8, "v": 1}[task], requires_grad=True)
    predicted = framework.fed_weights(task, logits, None)
    fed = framework.fed_weights(task, logits, labels)
    facts = {"au": true, "expr": torch.eye(8)[true.long()], "v": ((true + 1) / 2).unsqueeze(-1)}[task]
    assert where.any()
    assert not where.all()
    assert torch.equal(fed[where], facts[where])
    assert torch.equal(fed[~where], predicted[~where])
    assert not fed.requires_grad
    assert torch.equal(framework.eval().fed_weights(task, logits, labels), predicted)


def test_evaluation_never_looks_at_labels() -> None:
    model, given, labels = model_of(ALL), inputs(), true_labels(1.0)
    assert torch.equal(model(given, labels=labels)["a"], model(given)["a"])
    model.train()
    fed = model(given, labels=labels)
    assert not torch.allclose(fed["a"], model(given)["a"])
    assert torch.equal(fed["v"], model(given)["v"])


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"last hidden layers, but hidden is \(\): set it, to 512, 256"):
        HeadConfig(framework="hidden-feedback", hidden=())
    with pytest.raises(ConfigError, match=r"of au, v those fed back are au, v, and \(none\) receive"):
        HeadConfig(framework="label-feedback", joint=("au", "v"))
    with pytest.raises(ConfigError, match=r"of expr, a those fed back are \(none\), and expr, a receive"):
        HeadConfig(framework="label-feedback", joint=("expr", "a"))
    with pytest.raises(ConfigError, match=r"feedback_to must not name tasks that are fed back, got v in both"):
        HeadConfig(framework="label-feedback", feedback_to=("v", "a"))
    with pytest.raises(ConfigError, match=r"stateful does not work with label-feedback"):
        HeadConfig(framework="label-feedback", stateful=True)
    with pytest.raises((ConfigError, UnknownNameError), match=r"no task 'arousal'"):
        HeadConfig(framework="label-feedback", feedback_to=("arousal",))
