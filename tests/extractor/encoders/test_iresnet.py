import pytest
import torch

from extractor.encoders.iresnet import IRESNET_BLOCKS, IResNet

BLOCK = [
    *(f"bn1.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    "conv1.weight",
    *(f"bn2.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    "prelu.weight",
    "conv2.weight",
    *(f"bn3.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
]
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def published_names(blocks: tuple[int, ...]) -> list[str]:
    """The names in InsightFace's arcface_torch files, in their order."""
    names = ["conv1.weight", *(f"bn1.{leaf}" for leaf in NORM), "prelu.weight"]
    for stage, n_blocks in enumerate(blocks, start=1):
        for block in range(n_blocks):
            names += [f"layer{stage}.{block}.{name}" for name in BLOCK]
            if block == 0:
                names.append(f"layer{stage}.0.downsample.0.weight")
                names += [f"layer{stage}.0.downsample.1.{leaf}" for leaf in NORM]
    return [*names, *(f"bn2.{leaf}" for leaf in NORM), "fc.weight", "fc.bias", *(f"features.{leaf}" for leaf in NORM)]


@pytest.mark.parametrize(
    ("name", "blocks", "n_parameters"),
    [
        ("iresnet18", (2, 2, 2, 2), 24_025_600),
        ("iresnet34", (3, 4, 6, 3), 34_139_328),
        ("iresnet50", (3, 4, 14, 3), 43_590_848),
        ("iresnet100", (3, 13, 30, 3), 65_156_160),
    ],
)
def test_names_and_counts_are_arcfaces(name: str, blocks: tuple[int, ...], n_parameters: int) -> None:
    with torch.device("meta"):
        net = IResNet(IRESNET_BLOCKS[name])
    assert list(net.state_dict()) == published_names(blocks)
    assert sum(parameter.numel() for parameter in net.parameters()) == n_parameters
    assert net.state_dict()["fc.weight"].shape == (512, 512 * 7 * 7)
    assert net.state_dict()["layer3.0.downsample.0.weight"].shape == (256, 128, 1, 1)


def test_the_last_scale_is_fixed_to_one_and_norms_have_arcfaces_epsilon() -> None:
    with torch.device("meta"):
        net = IResNet((1, 1, 1, 1))
    assert [name for name, parameter in net.named_parameters() if not parameter.requires_grad] == ["features.weight"]
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    assert len(norms) == 1 + 4 * 4 + 2
    assert {norm.eps for norm in norms} == {1e-5}


def test_forward_is_the_published_order_of_layers() -> None:
    torch.manual_seed(0)
    net = IResNet((1, 1, 1, 2), dim=8).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    state = net.state_dict()
    images = torch.randn(2, 3, 112, 112)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        parts = (state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return torch.nn.functional.batch_norm(x, *parts, eps=1e-5)

    def prelu(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.where(x > 0, x, state[f"{name}.weight"][None, :, None, None] * x)

    conv = torch.nn.functional.conv2d
    with torch.inference_mode():
        x = prelu(norm(conv(images, state["conv1.weight"], padding=1), "bn1"), "prelu")
        for block in ("layer1.0", "layer2.0", "layer3.0", "layer4.0", "layer4.1"):
            stride = 2 if block.endswith(".0") else 1
            shortcut = x
            if stride == 2:
                shortcut = conv(x, state[f"{block}.downsample.0.weight"], stride=2)
                shortcut = norm(shortcut, f"{block}.downsample.1")
            x = norm(conv(norm(x, f"{block}.bn1"), state[f"{block}.conv1.weight"], padding=1), f"{block}.bn2")
            x = conv(prelu(x, f"{block}.prelu"), state[f"{block}.conv2.weight"], stride=stride, padding=1)
            x = norm(x, f"{block}.bn3") + shortcut
        maps = norm(x, "bn2")
        torch.testing.assert_close(net.forward_features(images), maps)
        expected = norm(maps.flatten(1) @ state["fc.weight"].T + state["fc.bias"], "features")
        torch.testing.assert_close(net(images), expected)
        torch.testing.assert_close(net.forward_head(maps, pre_logits=True), expected)
    assert maps.shape == (2, 512, 7, 7)
