import argparse
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from extractor.encoders.adopting import adopt
from extractor.encoders.architectures import build_backbone
from extractor.encoders.folder import load_encoder, save_encoder
from extractor.encoders.matching import MatchReport
from extractor.encoders.renaming import own_names
from extractor.encoders.spec import EncoderSpec
from featurestore.errors import ConfigError, MissingFileError, StoreError, UnknownNameError
from featurestore.provenance import file_digest

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
TINY_SPEC = EncoderSpec(architecture="vit_tiny_patch16_224", arguments=TINY, input_px=32)


HALF = (0.5, 0.5, 0.5)


def random_state(spec: EncoderSpec) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {
        name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in build_backbone(spec).state_dict().items()
    }


def test_a_mae_file_becomes_an_encoder_that_says_where_it_came_from(tmp_path: Path) -> None:
    """Nothing is given but the file: a ViT-Ti with facebook's names, options and decoder."""
    state = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    path = tmp_path / "checkpoint-799.pth"
    full = {**state, "mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 192)}
    torch.save({"model": full, "args": argparse.Namespace(lr=1), "epoch": 799}, path)
    adopted = adopt(path)
    assert (adopted.form, adopted.assumed) == (
        "facebook MAE, with decoder", ("pooling", "num_heads"),
    )  # fmt: skip
    assert not adopted.encoder.training
    spec = adopted.encoder.spec
    assert (spec.architecture, spec.pooling, spec.input_px) == ("vit_tiny_patch16_224", "fc_norm", 224)
    assert torch.equal(adopted.encoder.backbone.fc_norm.weight, state["norm.weight"])
    origin = spec.origin
    assert (origin["kind"], origin["file"], origin["digest"]) == ("adopted", path.name, file_digest(path))
    assert (origin["form"], origin["entry"], origin["partial"]) == (adopted.form, "model", False)
    assert MatchReport.from_json(origin) == adopted.report
    save_encoder(tmp_path / "e", adopted.encoder, spec)
    assert load_encoder(tmp_path / "e").spec == spec


def test_every_container_and_wrapping_of_the_same_weights_is_the_same_encoder(tmp_path: Path) -> None:
    state = random_state(TINY_SPEC)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "ddp.pth")
    torch.save({f"model.main.{name}": tensor for name, tensor in state.items()}, tmp_path / "tuned.pt")
    torch.save(state, tmp_path / "timm.bin")
    safetensors.torch.save_file(state, tmp_path / "timm.safetensors")
    for name in ("ddp.pth", "tuned.pt", "timm.bin", "timm.safetensors"):
        adopted = adopt(tmp_path / name, TINY_SPEC)
        assert adopted.report is not None
        assert adopted.report.matched == len(state)
        assert adopted.form == "as given"
        own = adopted.encoder.backbone.state_dict()
        assert all(torch.equal(own[each], tensor) for each, tensor in state.items()), name


def test_arcface_files_are_recognised_and_loaded(tmp_path: Path) -> None:
    spec = EncoderSpec(architecture="iresnet18", input_px=112, pooling="default", arguments={"dim": 4})
    state = random_state(spec)
    torch.save(state, tmp_path / "backbone.pth")
    encoder = adopt(tmp_path / "backbone.pth").encoder
    assert (encoder.spec.architecture, encoder.spec.mean, encoder.dim) == ("iresnet18", (0.5, 0.5, 0.5), 4)
    assert torch.equal(encoder.backbone.state_dict()["layer4.1.prelu.weight"], state["layer4.1.prelu.weight"])


def test_a_face_networks_own_arguments_follow_the_file(tmp_path: Path) -> None:
    """foamliu's names, written out; the preset says no more than 'mobilefacenet'."""
    spec = EncoderSpec(
        architecture="mobilefacenet", input_px=112, pooling="default", arguments={"dim": 8, "form": "foamliu"}
    )
    own = random_state(spec)
    places = ["conv_23", *(f"conv_3.model.{n}" for n in range(4)), "conv_34", *(f"conv_4.model.{n}" for n in range(6)),
              "conv_45", *(f"conv_5.model.{n}" for n in range(2))]  # fmt: skip
    parts = {
        "conv.conv": "conv.0.0", "conv.bn": "conv.0.1", "conv_dw.conv": "conv.1.0", "conv_dw.bn": "conv.1.1",
        "project.conv": "conv.2", "project.bn": "conv.3",
    }  # fmt: skip
    pairs = {
        f"{place}.{ours}": f"features.{n}.{theirs}" for n, place in enumerate(places) for ours, theirs in parts.items()
    }
    pairs |= {"conv1.conv": "conv1.0", "conv1.bn": "conv1.1", "conv_6_sep.conv": "conv2.0", "conv_6_sep.bn": "conv2.1"}
    pairs |= {"conv2_dw.conv": "dw_conv.depthwise", "conv2_dw.bn": "dw_conv.bn1", "conv2_pw.conv": "dw_conv.pointwise"}
    pairs |= {"conv2_pw.bn": "dw_conv.bn2", "conv_6_dw.conv": "gdconv.depthwise", "conv_6_dw.bn": "gdconv.bn"}
    pairs |= {"linear": "conv3", "bn": "bn"}
    published = {}
    for name, tensor in own.items():
        module, _, leaf = name.rpartition(".")
        published[f"{pairs[module]}.{leaf}"] = tensor[:, :, None, None] if name == "linear.weight" else tensor
    assert "features.12.conv.1.1.running_mean" in published
    torch.save(published, tmp_path / "mobilefacenet.pt")
    preset = EncoderSpec(architecture="mobilefacenet", input_px=112, pooling="default")
    with pytest.raises(
        StoreError, match=r"looks like MobileFaceNet \(foamliu\), .*mean 0\.485.*fed with mean 0\.5.*mobilefacenet_128"
    ):
        adopt(tmp_path / "mobilefacenet.pt", preset.model_copy(update={"mean": HALF, "std": HALF}))
    said = preset.model_copy(update={"mean": HALF, "arguments": {"form": "foamliu"}})
    assert adopt(tmp_path / "mobilefacenet.pt", said).encoder.spec.mean == HALF
    adopted = adopt(tmp_path / "mobilefacenet.pt", preset)
    assert (adopted.form, adopted.assumed) == ("MobileFaceNet (foamliu)", ())
    assert adopted.encoder.spec.arguments == {"dim": 8, "form": "foamliu"}
    filled = adopted.encoder.backbone.state_dict()
    assert all(torch.equal(filled[name], tensor) for name, tensor in own.items())


def test_vgg_face_and_a_classifier_in_a_sequential_are_renamed() -> None:
    layers = {f"conv{n}_{m}": None for n, many in enumerate((2, 2, 3, 3, 3), start=1) for m in range(1, many + 1)}
    with torch.device("meta"):
        vgg = timm.create_model("vgg16", num_classes=2622).state_dict()
    convolutions = [tensor for name, tensor in vgg.items() if name.startswith("features") and name.endswith("weight")]
    published = {f"{name}.weight": tensor for name, tensor in zip(layers, convolutions, strict=True)}
    published |= {"fc6.weight": torch.empty(4096, 25088, device="meta"), "fc8.weight": vgg["head.fc.weight"]}
    published |= {"fc7.weight": torch.empty(4096, 4096, device="meta")}
    renamed = own_names(published)
    weights = {name: tuple(tensor.shape) for name, tensor in vgg.items() if name.endswith("weight")}
    assert {name: tuple(tensor.shape) for name, tensor in renamed.items()} == weights
    assert [name for name in renamed if name.startswith("features")] == [n for n in weights if n.startswith("features")]
    wrapped = own_names({"conv_stem.weight": torch.ones(1), "classifier.0.weight": torch.ones(2)})
    assert wrapped.keys() == {"conv_stem.weight", "classifier.weight"}


def test_a_spec_that_does_not_fit_is_told_what_the_file_looks_like(tmp_path: Path) -> None:
    torch.save(
        random_state(EncoderSpec(architecture="mobilefacenet", input_px=112, pooling="default")), tmp_path / "w.pth"
    )
    with pytest.raises(StoreError, match=r"None of the .*The file looks like MobileFaceNet \(.*\): mobilefacenet\."):
        adopt(tmp_path / "w.pth", TINY_SPEC)


def test_a_partial_load_is_marked_in_the_origin(tmp_path: Path) -> None:
    state = random_state(TINY_SPEC)
    del state["blocks.0.attn.qkv.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(StoreError, match=r"1 missing \(blocks\.0\.attn\.qkv\.bias\)"):
        adopt(tmp_path / "w.pth", TINY_SPEC)
    origin = adopt(tmp_path / "w.pth", TINY_SPEC, allow_partial=True).encoder.spec.origin
    assert (origin["partial"], origin["missing"]) == (True, ["blocks.0.attn.qkv.bias"])


def test_what_is_left_random_is_the_same_for_the_same_file(tmp_path: Path) -> None:
    state = random_state(TINY_SPEC)
    del state["blocks.0.attn.qkv.weight"]
    torch.save(state, tmp_path / "w.pth")
    torch.save({**state, "norm.bias": torch.ones(32)}, tmp_path / "other.pth")
    drawn = []
    for seed, name in ((1, "w.pth"), (2, "w.pth"), (2, "other.pth")):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        backbone = adopt(tmp_path / name, TINY_SPEC, allow_partial=True).encoder.backbone
        drawn.append(backbone.state_dict()["blocks.0.attn.qkv.weight"])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_other_sets_of_weights_in_a_file_are_told(tmp_path: Path) -> None:
    state = random_state(TINY_SPEC)
    torch.save({"model": state, "model_ema": state, "optimizer": {"state": {}}}, tmp_path / "w.pth")
    adopted = adopt(tmp_path / "w.pth", TINY_SPEC)
    assert adopted.encoder.spec.origin["others"] == ["model_ema"]
    assert adopted.report is not None
    assert adopted.report.rows()[-1] == ("other sets", 1, "model_ema: weights in the file too, not taken")


def test_a_twin_of_the_same_shapes_is_refused_where_the_file_tells(tmp_path: Path) -> None:
    spec = EncoderSpec(architecture="tf_efficientnet_b0", input_px=64, pooling="default", n_scores=8)
    state = random_state(spec)
    named = {name.replace("classifier.", "classifier.0."): tensor for name, tensor in state.items()}
    torch.save(named, tmp_path / "w.pth")
    assert adopt(tmp_path / "w.pth", spec).form == "HSEmotion"
    twin = spec.model_copy(update={"architecture": "efficientnet_b0"})
    with pytest.raises(StoreError, match=r"was to be of efficientnet_b0, .*HSEmotion: tf_efficientnet_b0, .*the same"):
        adopt(tmp_path / "w.pth", twin)
    torch.save(state, tmp_path / "w.pth")  # a classifier as timm names it could be anyone's
    assert adopt(tmp_path / "w.pth", twin).form == "as given"


def test_vgg_face_is_not_fed_as_imagenets_vgg(tmp_path: Path) -> None:
    """Albanie's file, of one number a tensor: 57 times too large an input would fit as well."""
    widths = {1: (3, 64, 64), 2: (64, 128, 128), 3: (128, 256, 256, 256), 4: (256, *[512] * 3), 5: (512, *[512] * 3)}
    shapes = {"fc6": (4096, 25088), "fc7": (4096, 4096), "fc8": (2622, 4096)} | {
        f"conv{n}_{m}": (wide[m], wide[m - 1], 3, 3) for n, wide in widths.items() for m in range(1, len(wide))
    }
    state = {f"{name}.weight": torch.ones(1).expand(shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": torch.ones(1).expand(shape[0]) for name, shape in shapes.items()}
    torch.save(state, tmp_path / "vgg_face_dag.pth")
    given = EncoderSpec(architecture="vgg16", input_px=224, pooling="default")
    with pytest.raises(StoreError, match=r"looks like VGG-Face .*std 0\.003922,.*fed with mean 0\.485,.*\(vgg16\)"):
        adopt(tmp_path / "vgg_face_dag.pth", given)


def test_another_input_side_is_resampled_and_kept(tmp_path: Path) -> None:
    torch.save(random_state(TINY_SPEC), tmp_path / "w.pth")
    larger = TINY_SPEC.model_copy(update={"arguments": {**TINY, "img_size": 48}, "input_px": 48})
    encoder = adopt(tmp_path / "w.pth", larger).encoder
    assert encoder.spec.origin["reinitialised"] == {"pos_embed": "resampled from a grid of 4 x 4 to 6 x 6 patches"}
    with torch.inference_mode():
        assert encoder(torch.zeros(1, 3, 48, 48)).shape == (1, 32)


def tiny_onnx(path: Path) -> None:
    """Mean of each channel, twice over: (n, 3, 16, 16) -> (n, 3)."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["y"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [takes], [gives]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, path)


def test_onnx_comes_with_its_network(tmp_path: Path) -> None:
    tiny_onnx(tmp_path / "face.onnx")
    adopted = adopt(tmp_path / "face.onnx")
    assert adopted.report is None
    assert (adopted.form, adopted.assumed) == ("ONNX", ("mean", "std", "interpolation"))
    spec = adopted.encoder.spec
    assert (spec.architecture, spec.pooling, spec.input_px) == ("onnx", "default", 16)
    assert (spec.origin["form"], spec.origin["digest"]) == ("ONNX", file_digest(tmp_path / "face.onnx"))
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(adopted.encoder(images), images.mean(dim=(2, 3)))
    given = EncoderSpec(architecture="mobilefacenet", input_px=16, mean=(0.5, 0.5, 0.5), pooling="default")
    assert adopt(tmp_path / "face.onnx", given).encoder.spec.mean == (0.5, 0.5, 0.5)
    named = given.model_copy(update={"architecture": "onnx", "arguments": {"output": "y"}})
    assert adopt(tmp_path / "face.onnx", named).encoder.spec.arguments == {"output": "y"}
    with pytest.raises(UnknownNameError, match=r"'z'.* y\b"):
        adopt(tmp_path / "face.onnx", named.model_copy(update={"arguments": {"output": "z"}}))


def test_refusals_come_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no weights file .*nowhere\.onnx"):
        adopt(tmp_path / "nowhere.onnx")
    torch.save(random_state(TINY_SPEC), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="timm cannot build"):
        adopt(tmp_path / "w.pth", TINY_SPEC.model_copy(update={"arguments": {**TINY, "num_heads": 5}}))
