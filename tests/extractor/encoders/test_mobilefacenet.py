from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from extractor.encoders.mobilefacenet import MOBILEFACENET_FORMS, MobileFaceNet
from extractor.encoders.renaming import own_names

REAL_ONNX = Path(__file__).parents[4] / "shared" / "real" / "mobilefacenet_112.onnx"


def test_the_papers_network_has_a_million_parameters_and_insightfaces_names() -> None:
    with torch.device("meta"):
        state = MobileFaceNet().state_dict()
        n_parameters = sum(parameter.numel() for parameter in MobileFaceNet().parameters())
        small = sum(parameter.numel() for parameter in MobileFaceNet(dim=128).parameters())
    assert n_parameters == 1_200_512
    assert small == n_parameters - 384 * (512 + 2)
    assert next(iter(state)) == "conv1.conv.weight"
    assert {"conv2_dw.prelu.weight", "conv_3.model.3.project.bn.bias", "conv_45.conv_dw.conv.weight"} <= state.keys()
    assert {"conv_4.model.5.conv.prelu.weight", "conv_6_sep.bn.weight", "conv_6_dw.conv.weight"} <= state.keys()
    assert "conv_6_dw.prelu.weight" not in state
    assert "linear.bias" not in state
    assert not any(name.startswith("conv2_pw") for name in state)
    assert state["conv_6_dw.conv.weight"].shape == (512, 1, 7, 7)


@pytest.mark.parametrize("form", ["insightface", "foamliu"])
def test_the_map_has_49_places_and_the_embedding_is_read_from_it(form: str) -> None:
    net = MobileFaceNet(dim=16, form=form).eval()  # type: ignore[arg-type]
    images = torch.randn(2, 3, 112, 112)
    with torch.inference_mode():
        maps = net.forward_features(images)
        assert maps.shape == (2, 512, 7, 7)
        torch.testing.assert_close(net(images), net.forward_head(maps, pre_logits=True))
    assert net(images).shape == (2, net.num_features) == (2, 16)


def test_the_two_forms_differ_in_what_they_cut_off() -> None:
    with torch.device("meta"):
        kinds = {
            form: Counter(type(module) for module in MobileFaceNet(form=form).modules()) for form in MOBILEFACENET_FORMS
        }
    n_bottlenecks = 15
    paper, foamliu = kinds["insightface"], kinds["foamliu"]
    assert (paper[nn.PReLU], paper[nn.ReLU], paper[nn.ReLU6]) == (2 * n_bottlenecks + 3, 0, 0)
    assert (foamliu[nn.PReLU], foamliu[nn.ReLU], foamliu[nn.ReLU6]) == (0, 2, 2 * n_bottlenecks + 2)


def named_as_arcface_torch(net: MobileFaceNet) -> dict[str, torch.Tensor]:
    """A state as arcface_torch writes it, built from its modules' order: numbered layers of numbered layers."""

    def layers(*modules: nn.Module) -> nn.Module:
        holder = nn.Module()
        holder.layers = nn.Sequential(*modules)
        return holder

    def convolution(part: nn.Module) -> nn.Module:
        ends = [part.conv, part.bn, *([part.prelu] if isinstance(part.prelu, nn.PReLU) else [])]
        return layers(*ends)

    def bottleneck(part: nn.Module) -> nn.Module:
        return layers(convolution(part.conv), convolution(part.conv_dw), convolution(part.project))

    root = layers(
        convolution(net.conv1),
        convolution(net.conv2_dw),
        bottleneck(net.conv_23),
        layers(*(bottleneck(block) for block in net.conv_3.model)),
        bottleneck(net.conv_34),
        layers(*(bottleneck(block) for block in net.conv_4.model)),
        bottleneck(net.conv_45),
        layers(*(bottleneck(block) for block in net.conv_5.model)),
    )
    root.conv_sep = convolution(net.conv_6_sep)
    root.features = layers(convolution(net.conv_6_dw), nn.Flatten(), net.linear, net.bn)
    return root.state_dict()


def test_arcface_torchs_names_become_these() -> None:
    with torch.device("meta"):
        net = MobileFaceNet(width=2)
    published = named_as_arcface_torch(net)
    assert "layers.3.layers.2.layers.1.layers.2.weight" in published
    renamed = own_names(published)
    assert {name: tuple(tensor.shape) for name, tensor in renamed.items()} == {
        name: tuple(tensor.shape) for name, tensor in net.state_dict().items()
    }
    for name, tensor in net.state_dict().items():
        assert renamed[name] is tensor or renamed[name].data_ptr() == tensor.data_ptr()


@pytest.mark.skipif(not REAL_ONNX.is_file(), reason="the real model lies beside the checkout of some machines only")
def test_foamlius_form_computes_what_its_published_onnx_computes() -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    graph = onnx.load(REAL_ONNX).graph
    tensors = {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer}
    folded = [(tensors[node.input[1]], tensors[node.input[2]]) for node in graph.node if node.op_type == "Conv"]
    net = MobileFaceNet(dim=128, form="foamliu").eval()
    convolutions = [module for module in net.modules() if {"conv", "bn", "prelu"} == set(dict(module.named_children()))]
    assert len(convolutions) == len(folded) - 1
    with torch.no_grad():
        for module, (weight, bias) in zip(convolutions, folded[:-1], strict=True):
            module.conv.weight.copy_(weight)
            module.bn.bias.copy_(bias)
            module.bn.running_var.fill_(1 - module.bn.eps)  # the exporter folded the norm into the convolution
        net.linear.weight.copy_(folded[-1][0].flatten(1))
        net.linear.bias.copy_(folded[-1][1])
        net.bn.running_var.fill_(1 - net.bn.eps)
    images = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(REAL_ONNX, options, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {graph.input[0].name: images.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(net(images), torch.from_numpy(expected), rtol=0, atol=2e-5)
