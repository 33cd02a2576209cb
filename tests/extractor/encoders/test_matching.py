import json

import pytest
import timm
import torch
from torch import Tensor, nn

from extractor.encoders.architectures import build_backbone
from extractor.encoders.matching import MatchReport, fit_weights
from extractor.encoders.spec import EncoderSpec, Pooling
from featurestore.errors import StoreError

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def vit(pooling: Pooling = "fc_norm", n_scores: int = 0, **arguments: int) -> nn.Module:
    side = arguments.get("img_size", 32)
    return build_backbone(
        EncoderSpec(
            architecture="vit_tiny_patch16_224",
            arguments={**TINY, **arguments},
            input_px=side,
            pooling=pooling,
            n_scores=n_scores,
        )
    ).eval()


def random_state(pooling: Pooling = "cls", **arguments: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn_like(tensor) for name, tensor in vit(pooling, **arguments).state_dict().items()}


def test_a_raw_mae_fills_everything_and_fc_norm_comes_from_norm() -> None:
    state = random_state()
    extra = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_embed.weight": torch.zeros(8, 32),
        "decoder_pos_embed": torch.zeros(1),
    }
    backbone = vit("fc_norm")
    report = fit_weights(backbone, {**state, **extra})
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[name.replace("fc_norm", "norm")]), name
    n_own = len(backbone.state_dict())
    assert (report.matched, report.total) == (n_own - 2, n_own)
    assert set(report.reinitialised) == {"fc_norm.weight", "fc_norm.bias"}
    assert "from norm" in report.reinitialised["fc_norm.bias"]
    assert report.dropped == {"decoder of the pre-training": 2, "mask token": 1}
    assert report.missing == report.unexpected == ()
    assert not report.is_partial


def test_a_file_with_both_norms_keeps_its_own_fc_norm() -> None:
    state = {**random_state(), "fc_norm.weight": torch.full((32,), 3.0), "fc_norm.bias": torch.full((32,), 4.0)}
    backbone = vit("fc_norm")
    report = fit_weights(backbone, state)
    assert torch.equal(backbone.fc_norm.weight, torch.full((32,), 3.0))
    assert report.reinitialised == {}
    assert report.dropped == {"norm, in whose place fc_norm stands": 2}


def test_the_norm_of_a_file_tuned_with_fc_norm_is_not_invented() -> None:
    with pytest.raises(
        StoreError, match=r"2 missing \(norm\.weight, norm\.bias\).*trained with pooling fc_norm: choose"
    ):
        fit_weights(vit("cls"), random_state("fc_norm"))


def test_prefixes_and_what_lies_outside_them() -> None:
    state = {f"module.model.main.{name}": tensor for name, tensor in random_state().items()}
    report = fit_weights(vit("cls"), {**state, "module.au_head.weight": torch.zeros(12, 32)})
    assert report.prefix == "module.model.main."
    assert report.dropped == {"outside 'module.model.main.'": 1}


def test_what_the_backbone_wants_is_taken_from_beside_the_prefix() -> None:
    beside = {"fc_norm.weight": torch.full((32,), 3.0), "fc_norm.bias": torch.full((32,), 4.0)}
    state = {f"module.backbone.{name}": tensor for name, tensor in random_state().items()}
    for around in ("module.", ""):
        backbone = vit("fc_norm")
        report = fit_weights(backbone, {**state, **{f"{around}{name}": tensor for name, tensor in beside.items()}})
        assert torch.equal(backbone.fc_norm.weight, beside["fc_norm.weight"])
        assert (report.matched, report.reinitialised) == (report.total, {})
    with pytest.raises(StoreError, match=r"2 missing \(fc_norm\.weight, fc_norm\.bias\)"):
        fit_weights(vit("fc_norm"), {**state, **{f"neck.{name}": tensor for name, tensor in beside.items()}})


def test_of_teacher_and_student_the_teacher_is_taken() -> None:
    teacher, student = random_state(), {name: tensor + 1 for name, tensor in random_state().items()}
    state = {f"teacher.{name}": tensor for name, tensor in teacher.items()}
    state |= {f"student.{name}": tensor for name, tensor in student.items()} | {"student.mask_token": torch.ones(1)}
    backbone = vit("cls")
    assert fit_weights(backbone, state).prefix == "teacher."
    assert torch.equal(backbone.norm.bias, teacher["norm.bias"])


@pytest.mark.parametrize(
    "architecture",
    [
        "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "convnext_tiny",
        "tf_efficientnet_b0", "densenet121", "vgg16", "convnextv2_atto", "efficientvit_b0", "caformer_s18",
    ],
)  # fmt: skip
def test_published_weights_with_their_classifier_fit(architecture: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(architecture, num_classes=7).state_dict()
        backbone = build_backbone(EncoderSpec(architecture=architecture, input_px=224, pooling="default"))
        report = fit_weights(backbone, state)
    assert (report.matched, report.unexpected) == (report.total, ())
    assert report.dropped == {"classifier": len(state) - report.total}
    part = next(name for name in reversed(backbone.state_dict()) if "." in name)
    with pytest.raises(StoreError, match="more in the file"):
        fit_weights(backbone, {**state, f"{part.rpartition('.')[0]}.more": torch.ones(1)})


@pytest.mark.parametrize("name", ["log_vars", "logit_scale", "queue", "pos_weight"])
def test_a_parameter_of_the_training_is_unexpected_and_no_error(name: str) -> None:
    assert fit_weights(vit("cls"), {**random_state(), name: torch.ones(3)}).unexpected == (name,)


def test_positions_are_resampled_and_it_is_said() -> None:
    state = random_state("cls", img_size=64)
    backbone = vit("cls")
    report = fit_weights(backbone, state)
    assert report.reinitialised == {"pos_embed": "resampled from a grid of 8 x 8 to 4 x 4 patches"}
    expected = timm.layers.resample_abs_pos_embed(state["pos_embed"], [4, 4])
    torch.testing.assert_close(backbone.pos_embed.data, expected)
    assert torch.equal(backbone.pos_embed[:, 0], state["pos_embed"][:, 0])
    assert report.matched == report.total


def test_another_patch_size_is_not_resampled_in_silence() -> None:
    with pytest.raises(StoreError, match=r"patch_embed\.proj\.weight: \(32, 3, 4, 4\) in the file, \(32, 3, 8, 8\) in"):
        fit_weights(vit("cls"), random_state("cls", patch_size=4))


def test_less_than_all_of_the_backbone_is_an_error_that_says_what() -> None:
    state = random_state()
    del state["blocks.1.mlp.fc1.weight"], state["norm.bias"]
    state["blocks.0.norm1.bias"] = torch.zeros(7)
    backbone = vit("cls")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(
        StoreError,
        match=r"(?s)27 of 30 tensors of VisionTransformer are in w\.pth; 2 missing \(blocks\.1\.mlp\.fc1\.weight, "
        r"norm\.bias\); 1 of another shape \(blocks\.0\.norm1\.bias: \(7,\) in the file, \(32,\).*--allow-partial",
    ):
        fit_weights(backbone, state, where="w.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    report = fit_weights(backbone, state, allow_partial=True)
    assert report.is_partial
    assert report.missing == ("blocks.1.mlp.fc1.weight", "norm.bias")
    assert set(report.mismatched) == {"blocks.0.norm1.bias"}
    kept = {*report.missing, *report.mismatched}
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name] if name in kept else state[name]), name


@pytest.mark.parametrize(
    "surplus", ["blocks.2.norm1.weight", "blocks.0.ls1.gamma", "norm_pre.weight", "reg_token", "dist_token"]
)
def test_a_file_with_more_inside_the_backbone_is_another_network(surplus: str) -> None:
    state = {**random_state(), surplus: torch.ones(32)}
    with pytest.raises(StoreError, match=rf"30 of 30 tensors .*1 more in the file \({surplus}\)"):
        fit_weights(vit("cls"), state)
    assert fit_weights(vit("cls"), state, allow_partial=True).unexpected == (surplus,)


def test_heads_beside_the_backbone_are_unexpected_or_dropped_and_no_error() -> None:
    state = {**random_state(), "head.weight": torch.ones(5, 32), "au_head.weight": torch.ones(12, 32)}
    report = fit_weights(vit("cls"), state)
    assert report.dropped == {"classifier": 1}
    assert report.unexpected == ("au_head.weight",)


def test_kept_scores_need_a_classifier_of_their_number() -> None:
    state = {**random_state(), "head.weight": torch.ones(8, 32), "head.bias": torch.ones(8)}
    backbone = vit("cls", n_scores=8)
    assert fit_weights(backbone, state).dropped == {}
    assert torch.equal(backbone.head.bias, torch.ones(8))
    with pytest.raises(
        StoreError, match=r"head\.weight: \(8, 32\) in the file, \(10, 32\).*set the encoder's n_scores"
    ):
        fit_weights(vit("cls", n_scores=10), state)


def test_a_file_of_something_else() -> None:
    with pytest.raises(StoreError, match=r"None of the 30 tensors of VisionTransformer is in the file, whose .* x\.y"):
        fit_weights(vit("cls"), {"x.y": torch.ones(1)}, allow_partial=True)


def test_values_that_cannot_be_weights() -> None:
    state = random_state()
    state["norm.bias"][3] = torch.nan
    with pytest.raises(StoreError, match=r"not finite, in norm\.bias\. Take an earlier"):
        fit_weights(vit("cls"), state)
    state["norm.bias"] = torch.ones(32, dtype=torch.int8)
    with pytest.raises(StoreError, match=r"norm\.bias: int8 in the file, which is quantised"):
        fit_weights(vit("cls"), state)
    state["norm.bias"] = torch.ones(32).to(torch.float8_e4m3fn)
    with pytest.raises(StoreError, match=r"norm\.bias: float8_e4m3fn in the file, which is quantised"):
        fit_weights(vit("cls"), state)


def test_half_precision_files_fill_float32() -> None:
    state = {name: tensor.half() for name, tensor in random_state().items()}
    backbone = vit("cls")
    fit_weights(backbone, state)
    assert backbone.norm.bias.dtype == torch.float32
    assert torch.equal(backbone.norm.bias.data, state["norm.bias"].float())


def test_counts_of_training_steps_may_be_absent() -> None:
    backbone = build_backbone(EncoderSpec(architecture="resnet10t", input_px=64, pooling="default"))
    state = {n: torch.randn_like(t) for n, t in backbone.state_dict().items() if "num_batches_tracked" not in n}
    report = fit_weights(backbone, {**state, "fc.weight": torch.ones(10, 512)})
    assert not report.is_partial
    assert report.dropped == {"classifier": 1}
    assert all(name.endswith("num_batches_tracked") for name in report.reinitialised)
    assert report.matched == len(state)


def dinov2(**arguments: int | float | str | bool) -> nn.Module:
    return build_backbone(
        EncoderSpec(
            architecture="vit_small_patch14_reg4_dinov2",
            input_px=56,
            pooling="cls",
            arguments={"embed_dim": 32, "depth": 1, "num_heads": 2, **arguments},
        )
    ).eval()


def test_facebooks_dinov2_names_are_converted() -> None:
    """The class token's position is added to it: timm gives it none where there are registers."""
    torch.manual_seed(2)
    backbone = dinov2()
    own = {name: torch.randn_like(tensor) for name, tensor in backbone.state_dict().items()}
    facebook = {name: tensor for name, tensor in own.items() if name not in ("reg_token", "pos_embed", "cls_token")}
    positions = torch.randn(1, 1 + 16, 32)
    facebook |= {"register_tokens": own["reg_token"], "mask_token": torch.zeros(1, 32), "pos_embed": positions}
    facebook["cls_token"] = own["cls_token"]
    report = fit_weights(backbone, facebook)
    filled = backbone.state_dict()
    assert torch.equal(filled["reg_token"], own["reg_token"])
    assert torch.equal(filled["pos_embed"], positions[:, 1:])
    assert torch.equal(filled["cls_token"], own["cls_token"] + positions[:, :1])
    assert torch.equal(filled["blocks.0.ls1.gamma"], own["blocks.0.ls1.gamma"])
    assert report.dropped == {"mask token": 1}
    assert report.matched == report.total


def dinov3() -> nn.Module:
    return build_backbone(
        EncoderSpec(
            architecture="vit_small_patch16_dinov3",
            input_px=64,
            pooling="cls",
            arguments={"embed_dim": 32, "depth": 1, "num_heads": 2},
        )
    ).eval()


def test_facebooks_dinov3_loses_biases_only_where_they_are_zero(capsys: pytest.CaptureFixture[str]) -> None:
    backbone = dinov3()
    names = {
        "reg_token": "storage_tokens",
        "blocks.0.gamma_1": "blocks.0.ls1.gamma",
        "blocks.0.gamma_2": "blocks.0.ls2.gamma",
    }
    state = {names.get(name, name): torch.randn_like(tensor) for name, tensor in backbone.state_dict().items()}
    state |= {
        "mask_token": torch.zeros(1, 32),
        "rope_embed.periods": torch.ones(4),
        "blocks.0.attn.qkv.bias": torch.zeros(96),
    }
    report = fit_weights(backbone, state)
    assert report.matched == report.total
    assert report.unexpected == ()
    assert torch.equal(backbone.reg_token.data, state["storage_tokens"])
    state["blocks.0.attn.qkv.bias"][0] = 1
    with pytest.raises(StoreError, match=r"1 more in the file \(blocks\.0\.attn\.qkv\.bias\)"):
        fit_weights(dinov3(), state)
    assert capsys.readouterr().out == ""


def test_the_report_survives_json_and_prints_as_a_table() -> None:
    report = MatchReport(
        matched=4, total=9, prefix="module.", missing=("a", "b"), mismatched={"c": "(1,) in the file"},
        unexpected=("x",), reinitialised={"d": "from norm", "e": "from norm"}, dropped={"mask token": 1},
        others=("model_ema",),
    )  # fmt: skip
    stored = json.loads(json.dumps({**report.to_json(), "kind": "adopted"}))
    assert MatchReport.from_json(stored) == report
    assert report.rows() == [
        ("matched", 4, "of 9, under 'module.'"),
        ("re-initialised", 2, "d, e: from norm"),
        ("missing", 2, "a, b"),
        ("of another shape", 1, "c: (1,) in the file"),
        ("unexpected", 1, "x"),
        ("dropped", 1, "mask token"),
        ("other sets", 1, "model_ema: weights in the file too, not taken"),
    ]
    with pytest.raises(StoreError, match=r"'missing' as a list of names, not 3"):
        MatchReport.from_json({**stored, "missing": 3})
