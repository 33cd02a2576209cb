import re
from collections.abc import Mapping

import pytest
import timm
import torch
from torch import Tensor

from extractor.encoders.architectures import build_backbone, native_px, plain_model
from extractor.encoders.recognise import recognise
from extractor.encoders.spec import IMAGENET_MEAN, EncoderSpec
from featurestore.errors import StoreError

HALF = (0.5, 0.5, 0.5)


def meta(architecture: str, input_px: int = 224, **fields: object) -> dict[str, Tensor]:
    """A state of this architecture as this project or timm names it, without memory."""
    plain = fields in ({"pooling": "cls"}, {"pooling": "default"}) and timm.is_model(architecture)
    if plain and input_px == native_px(architecture):
        return dict(plain_model(architecture).state_dict())  # the same, and made once
    with torch.device("meta"):
        return build_backbone(EncoderSpec(architecture=architecture, input_px=input_px, **fields)).state_dict()


def ones(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


@pytest.mark.parametrize(
    ("architecture", "width", "depth", "patch"),
    [
        ("vit_tiny_patch16_224", 192, 12, 16),
        ("vit_base_patch16_224", 768, 12, 16),
        ("vit_large_patch16_224", 1024, 24, 16),
        ("vit_huge_patch14_224", 1280, 32, 14),
    ],
)
def test_mae_with_its_decoder(architecture: str, width: int, depth: int, patch: int) -> None:
    state = {
        **{f"blocks.{number}.norm1.weight": ones(width) for number in range(depth)},
        **{"cls_token": ones(1, 1, width), "pos_embed": ones(1, 1 + (224 // patch) ** 2, width)},
        **{"patch_embed.proj.weight": ones(width, 3, patch, patch), "blocks.0.attn.qkv.weight": ones(3 * width, width)},
        **{"mask_token": ones(1, 1, 512), "decoder_embed.weight": ones(512, width)},
    }
    found = recognise(state)
    assert (found.form, found.architecture, found.pooling) == ("facebook MAE, with decoder", architecture, "fc_norm")
    assert (found.input_px, found.mean, found.prefix, found.assumed) == (
        224, IMAGENET_MEAN, "", ("pooling", "num_heads"),
    )  # fmt: skip
    assert found.spec().architecture == architecture


def test_a_vit_says_what_it_does_not_tell() -> None:
    bare = meta("vit_tiny_patch16_224", pooling="cls")
    assert recognise(bare).form == "ViT without head, as facebook MAE publishes them"
    assert recognise(bare).assumed == ("mean", "std", "pooling", "num_heads")
    assert recognise(bare, file_name="mae_face_pretrain_vit_base.pth").form == (
        "ViT without head, as MAE-Face publishes them"
    )
    tuned = recognise(meta("vit_tiny_patch16_224", pooling="fc_norm"))
    assert (tuned.form, tuned.pooling) == ("ViT fine-tuned with fc_norm, as from facebook MAE", "fc_norm")
    with_head = recognise({**bare, "head.weight": ones(1000, 192), "head.bias": ones(1000)})
    assert (with_head.form, with_head.pooling, with_head.mean) == ("timm ViT with classifier", "cls", HALF)


def test_position_embeddings_tell_the_side() -> None:
    assert recognise(meta("vit_tiny_patch16_224", 320, pooling="cls")).input_px == 320
    wide = {**meta("vit_tiny_patch16_224", pooling="cls"), "pos_embed": ones(1, 1 + 14 * 7, 192)}
    with pytest.raises(StoreError, match=r"square grid were expected, not \(1, 99, 192\)"):
        recognise(wide)


@pytest.mark.parametrize("prefix", ["module.", "model.", "main.", "module.model.main.", "_orig_mod.module.encoder."])
def test_wrapping_prefixes(prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in meta("vit_tiny_patch16_224", pooling="cls").items()}
    found = recognise({**state, f"{prefix.split('.')[0]}.au_head.weight": ones(12, 192)})
    assert (found.prefix, found.architecture) == (prefix, "vit_tiny_patch16_224")


def test_of_teacher_and_student_the_teacher_is_meant() -> None:
    state = meta("vit_tiny_patch16_224", pooling="cls")
    both = {f"{who}.backbone.{name}": tensor for who in ("student", "teacher") for name, tensor in state.items()}
    assert recognise(both).prefix == "teacher.backbone."


def test_a_student_is_not_taken_for_being_wrapped_less() -> None:
    state = meta("vit_tiny_patch16_224", pooling="cls")
    both = {f"{who}.{name}": tensor for who in ("student", "teacher.module.backbone") for name, tensor in state.items()}
    assert recognise(both).prefix == "teacher.module.backbone."


def facebook_dinov2(state: Mapping[str, Tensor], *, registers: int) -> dict[str, Tensor]:
    """As facebook's hub files name it: its own register, mask and (in the giant) MLP names."""
    named = {
        name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3") if "giant" in name else name: tensor
        for name, tensor in state.items()
    }
    named["mask_token"] = ones(1, 384)
    if registers:
        del named["reg_token"]
        named["register_tokens"] = ones(1, registers, 384)
        n_patches = named["pos_embed"].shape[1]
        named["pos_embed"] = ones(1, 1 + n_patches, 384)
    return named


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_of_facebook_and_of_timm(registers: int) -> None:
    name = f"vit_small_patch14{'_reg4' if registers else ''}_dinov2"
    state = meta(name, 518, pooling="cls")
    for form, named in (("timm", state), ("facebook", facebook_dinov2(state, registers=registers))):
        found = recognise(named)
        assert (found.form, found.architecture, found.input_px) == (f"DINOv2 ({form})", name, 518)
        assert (found.pooling, found.mean) == ("cls", IMAGENET_MEAN)


def test_dinov3_and_whether_its_biases_say_anything() -> None:
    state: dict[str, Tensor] = meta("vit_small_patch16_dinov3", 256, pooling="cls")
    assert recognise(state).architecture == "vit_small_patch16_dinov3"
    facebook = {
        name.replace("reg_token", "storage_tokens").replace("gamma_", "ls"): tensor for name, tensor in state.items()
    }
    bias = torch.zeros(3 * 384)
    bias[384:768] = 1  # of the keys: it moves all scores of a query alike
    found = recognise({**facebook, "mask_token": ones(1, 384), "blocks.0.attn.qkv.bias": bias})
    assert (found.form, found.architecture) == ("DINOv3 (facebook)", "vit_small_patch16_dinov3")
    bias[800] = 1
    assert recognise({**facebook, "blocks.0.attn.qkv.bias": bias}).architecture == "vit_small_patch16_dinov3_qkvb"


@pytest.mark.parametrize(
    ("architecture", "arguments", "form", "mean"),
    [
        ("iresnet50", {"dim": 256}, "ArcFace IResNet", HALF),
        ("mobilefacenet", {}, "MobileFaceNet (InsightFace_Pytorch)", HALF),
        ("mobilefacenet", {"width": 2}, "MobileFaceNet (InsightFace_Pytorch)", HALF),
        ("mobilefacenet", {"dim": 128, "form": "foamliu"}, "MobileFaceNet (foamliu)", IMAGENET_MEAN),
    ],
)
def test_face_networks(architecture: str, arguments: dict[str, int | str], form: str, mean: tuple[float, ...]) -> None:
    state = meta(architecture, 112, pooling="default", arguments=arguments)
    found = recognise({f"module.{name}": tensor for name, tensor in state.items()})
    assert (found.architecture, dict(found.arguments), found.form) == (architecture, arguments, form)
    assert (found.input_px, found.mean, found.pooling, found.prefix) == (112, mean, "default", "module.")
    rebuilt = meta(architecture, 112, pooling="default", arguments=found.arguments)
    assert {name: tensor.shape for name, tensor in rebuilt.items()} == {
        name: each.shape for name, each in state.items()
    }


def test_an_iresnet_of_other_depth_is_not_taken_for_the_nearest() -> None:
    state = meta("iresnet18", 112, pooling="default")
    deeper = {name.replace("layer4.1.", "layer4.2."): tensor for name, tensor in state.items()} | state
    with pytest.raises(StoreError, match=r"IResNet of \(2, 2, 2, 3\) blocks .*known are iresnet18, iresnet34"):
        recognise(deeper)


def test_convolutional_networks_by_every_name_and_shape() -> None:
    with torch.device("meta"):
        state = timm.create_model("vgg16", num_classes=7).state_dict()
    found = recognise({f"backbone.{name}": tensor for name, tensor in state.items()})
    assert (found.architecture, found.pooling, found.prefix) == ("vgg16", "default", "backbone.")
    assert recognise(meta("resnet18", pooling="default")).architecture == "resnet18"
    for change in ({"features.0.bias": ones(65)}, {"pre_logits.fc2.bias": None}):
        broken = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        with pytest.raises(StoreError, match="no architecture that is recognised"):
            recognise(broken)


@pytest.mark.parametrize("architecture", ["resnet34", "resnet101", "convnext_small", "vgg13"])
def test_a_larger_member_of_a_family_is_not_taken_for_a_smaller_one(architecture: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(architecture).state_dict()
    assert recognise(state).architecture == architecture


def test_more_blocks_than_any_member_has_are_not_recognised() -> None:
    state = meta("resnet18", pooling="default")
    deeper = {name.replace("layer4.1.", "layer4.2."): tensor for name, tensor in state.items()} | state
    with pytest.raises(StoreError, match="no architecture that is recognised"):
        recognise(deeper)


def test_published_forms_tell_how_their_pixels_are_normalised_and_which_twin_they_are() -> None:
    state = meta("efficientnet_b0", pooling="default")
    for found in (
        recognise({**state, "classifier.0.weight": ones(8, 1280), "classifier.0.bias": ones(8)}),
        recognise(state, file_name="enet_b0_8_best_vgaf.pt"),
    ):
        assert (found.form, found.architecture) == ("HSEmotion", "tf_efficientnet_b0")
        assert (found.mean, found.assumed) == (IMAGENET_MEAN, ("input_px", "interpolation"))
    places = [f"{n}_{m}" for n, many in enumerate((2, 2, 3, 3, 3), start=1) for m in range(1, many + 1)]
    renamed = {}
    vgg = meta("vgg16", pooling="default")
    convolutions = sorted({int(name.split(".")[1]) for name in vgg if name.startswith("features")})
    for place, number in zip(places, convolutions, strict=True):
        renamed |= {f"conv{place}.{leaf}": vgg[f"features.{number}.{leaf}"] for leaf in ("weight", "bias")}
    for n in (1, 2):
        renamed |= {f"fc{n + 5}.{leaf}": vgg[f"pre_logits.fc{n}.{leaf}"].flatten(1) if leaf == "weight"
                    else vgg[f"pre_logits.fc{n}.{leaf}"] for leaf in ("weight", "bias")}  # fmt: skip
    face = recognise({**renamed, "fc8.weight": ones(2622, 4096), "fc8.bias": ones(2622)})
    assert (face.form, face.architecture, face.std) == ("VGG-Face (Albanie)", "vgg16", (1 / 255,) * 3)
    assert recognise(vgg).form == "timm vgg16"


def test_facebooks_names_of_a_convnext() -> None:
    rules = {
        "stem.": "downsample_layers.0.",
        ".conv_dw": ".dwconv",
        "mlp.fc": "pwconv",
        "head.norm": "norm",
        ".blocks.": ".",
    }
    facebook = {}
    for name, tensor in meta("convnext_tiny", pooling="default").items():
        new = re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", name)
        for ours, theirs in rules.items():
            new = new.replace(ours, theirs)
        facebook[new] = tensor
    assert {"downsample_layers.3.1.weight", "stages.2.8.pwconv2.bias", "norm.weight"} <= facebook.keys()
    assert recognise({**facebook, "norms.3.weight": ones(768)}).architecture == "convnext_tiny"


def test_a_file_that_could_be_two_networks_is_not_guessed() -> None:
    with pytest.raises(StoreError, match=r"'efficientnet_b0' or of 'tf_efficientnet_b0'.*Say which with --arch"):
        recognise(meta("efficientnet_b0", pooling="default"))


def test_what_is_not_recognised_is_shown() -> None:
    with pytest.raises(StoreError, match=r"\(2 tensors: a\.w \(2, 3\), b \(1\), \.\.\.\)\. Name one with --preset"):
        recognise({"a.w": ones(2, 3), "b": ones(1)})
    odd = meta("vit_tiny_patch16_224", pooling="cls", arguments={"depth": 3})
    with pytest.raises(StoreError, match=r"width 192 with 3 blocks and patches of 16 pixels; recognised are 192 x 12"):
        recognise(odd)
