import pytest
import torch
from torch import nn

from extractor.encoders.architectures import build_backbone, embedding_dim
from extractor.encoders.spec import EncoderSpec, Pooling
from featurestore.errors import ConfigError, UnknownNameError

TINY = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def build(architecture: str, input_px: int = 224, **fields: object) -> nn.Module:
    """On "meta": names, shapes and counts only."""
    with torch.device("meta"):
        return build_backbone(EncoderSpec(architecture=architecture, input_px=input_px, **fields))


@pytest.mark.parametrize(
    ("architecture", "pooling", "has"),
    [
        ("vit_tiny_patch16_224", "fc_norm", "fc_norm"),
        ("vit_tiny_patch16_224", "mean", "norm"),
        ("vit_tiny_patch16_224", "cls", "norm"),
        ("vit_tiny_patch16_224", "cls+mean", "norm"),
        ("vit_tiny_patch16_224", "tokens", "norm"),
        ("vit_tiny_patch16_224", "default", "norm"),
        ("vit_small_patch16_dinov3", "fc_norm", "fc_norm"),
        ("vit_small_patch16_dinov3", "cls", "norm"),
        ("vit_small_patch16_dinov3", "tokens", "norm"),
        ("eva02_tiny_patch14_224", "mean", "norm"),
    ],
)
def test_the_last_norm_stands_where_the_pooling_wants_it(architecture: str, pooling: Pooling, has: str) -> None:
    names = build(architecture, pooling=pooling).state_dict().keys()
    assert {"norm.weight", "fc_norm.weight"} & names == {f"{has}.weight"}


@pytest.mark.parametrize("architecture", ["resnet10t", "mobilenetv3_small_050"])
def test_families_without_these_arguments_are_built_as_they_are(architecture: str) -> None:
    plain = build(architecture, pooling="default").state_dict().keys()
    assert build(architecture, pooling="mean").state_dict().keys() == plain
    assert build(architecture, pooling="tokens").state_dict().keys() == plain


def test_mean_of_a_family_that_takes_the_class_token_by_habit_is_its_mean() -> None:
    assert build("xcit_nano_12_p8_224", pooling="mean").global_pool == "avg"
    assert build("xcit_nano_12_p8_224", pooling="default").global_pool == "token"


@pytest.mark.parametrize("pooling", ["cls", "fc_norm", "cls+mean"])
def test_a_network_without_class_token_refuses_its_poolings(pooling: Pooling) -> None:
    with pytest.raises(ConfigError, match=r"timm cannot build 'resnet10t' with .*Change the encoder's pooling"):
        build("resnet10t", pooling=pooling)


def test_another_input_size_moves_the_position_grid() -> None:
    small = build("vit_small_patch14_dinov2", 238, pooling="tokens")
    assert small.pos_embed.shape == (1, 1 + 17 * 17, 384)
    assert build("vit_tiny_patch16_224", 224, pooling="cls").pos_embed.shape == (1, 197, 192)
    stated = build("vit_tiny_patch16_224", 32, pooling="cls", arguments={"img_size": 64})
    assert stated.pos_embed.shape == (1, 17, 192)
    build("resnet10t", 96, pooling="mean")  # takes any size, and knows no img_size


def test_a_kept_classifier_leaves_the_features_within_reach() -> None:
    backbone = build_backbone(
        EncoderSpec(architecture="vit_tiny_patch16_224", arguments=TINY, input_px=32, pooling="cls", n_scores=8)
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        features = backbone.forward_head(backbone.forward_features(images), pre_logits=True)
        assert features.shape == (2, 32) == (2, embedding_dim(backbone))
        torch.testing.assert_close(backbone(images), backbone.get_classifier()(features))
        assert backbone(images).shape == (2, 8)


def test_dimensions_without_running_them() -> None:
    assert embedding_dim(build("iresnet50", 112, pooling="default")) == 512
    assert embedding_dim(build("mobilefacenet", 112, pooling="default", arguments={"dim": 128})) == 128
    assert embedding_dim(build("vgg16", pooling="default")) == 4096
    assert embedding_dim(build("tf_efficientnet_b0", pooling="default", n_scores=10)) == 1280
    assert embedding_dim(nn.Identity()) is None


def test_unknown_names_are_corrected_over_timms_and_our_own() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'vit_tiny_patch16_224'"):
        build("vit_tiny_patch16_22")
    with pytest.raises(UnknownNameError, match="Did you mean 'iresnet100'"):
        build("iresnet_100")
    with pytest.raises(UnknownNameError, match="Did you mean 'mobilefacenet'"):
        build("mobilefacenets")


def test_refused_arguments() -> None:
    with pytest.raises(ConfigError, match=r"timm cannot build .*no_such.*Change the encoder's pooling or arguments"):
        build("vit_tiny_patch16_224", arguments={"no_such": 1})
    with pytest.raises(ConfigError, match=r"ONNX encoder is read from its file"):
        build("onnx", pooling="default")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "cls"}, r"'default' .* or 'tokens' .*, not 'cls'"),
        ({"pooling": "default", "input_px": 128}, r"faces of 112 pixels, not of 128"),
        ({"pooling": "default", "n_scores": 8}, r"no classifier, so no 8 scores"),
        ({"pooling": "default", "arguments": {"width": 2}}, r"takes the arguments dim .*got \{'width': 2\}"),
        ({"pooling": "default", "arguments": {"dim": 0}}, r"got \{'dim': 0\}"),
        ({"pooling": "default", "arguments": {"dim": True}}, r"got \{'dim': True\}"),
    ],
)
def test_face_networks_refuse_what_they_cannot_be(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("iresnet50", **{"input_px": 112, **fields})
    if "arguments" not in fields:
        return
    with pytest.raises(ConfigError, match=r"form is one of insightface, foamliu.*'form': 'x'"):
        build("mobilefacenet", 112, pooling="default", arguments={"form": "x"})
