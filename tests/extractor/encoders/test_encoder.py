from pathlib import Path

import pytest
import timm
import torch

from extractor.encoders.encoder import Encoder, weights_digest
from extractor.encoders.folder import load_encoder, save_encoder
from extractor.encoders.spec import EncoderSpec
from featurestore.errors import ConfigError, UnknownNameError


def test_fc_norm_pooling_is_the_mean_of_patch_tokens_then_layer_norm(tiny_encoder: Encoder) -> None:
    vit = tiny_encoder.backbone
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        tokens = vit.patch_embed(images)
        tokens = torch.cat([vit.cls_token.expand(2, -1, -1), tokens], dim=1) + vit.pos_embed
        for block in vit.blocks:
            tokens = block(tokens)
        expected = torch.nn.functional.layer_norm(
            tokens[:, 1:].mean(dim=1), (32,), vit.fc_norm.weight, vit.fc_norm.bias, vit.fc_norm.eps
        )
        torch.testing.assert_close(tiny_encoder(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("pooling", "same_as"), [("cls", "token"), ("mean", "avg")])
def test_other_poolings_are_timms_own(tiny_spec: EncoderSpec, pooling: str, same_as: str) -> None:
    encoder = Encoder(tiny_spec.model_copy(update={"pooling": pooling})).eval()
    plain = timm.create_model(
        tiny_spec.architecture, num_classes=0, global_pool=same_as, fc_norm=False, **tiny_spec.arguments
    ).eval()
    plain.load_state_dict(encoder.backbone.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(images), plain(images))


def test_digest_follows_every_weight_and_nothing_else(tiny_encoder: Encoder, tmp_path: Path) -> None:
    before = weights_digest(tiny_encoder)
    save_encoder(tmp_path / "e", tiny_encoder, tiny_encoder.spec)
    assert weights_digest(load_encoder(tmp_path / "e")) == before
    with torch.no_grad():
        tiny_encoder.backbone.cls_token[0, 0, 5] += 1e-6
    assert weights_digest(tiny_encoder) != before


def test_unknown_architecture_and_impossible_arguments(tiny_spec: EncoderSpec) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'vit_tiny_patch16_224'"):
        Encoder(tiny_spec.model_copy(update={"architecture": "vit_tiny_patch16_22"}))
    with pytest.raises(ConfigError, match="timm cannot build"):
        Encoder(tiny_spec.model_copy(update={"arguments": {"no_such": 1}}))


@pytest.mark.parametrize(
    "architecture", ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224"]
)
def test_dim_is_the_width_of_what_comes_out(architecture: str) -> None:
    encoder = Encoder(EncoderSpec(architecture=architecture, input_px=224, pooling="default")).eval()
    with torch.inference_mode():
        assert encoder(torch.zeros(1, 3, 224, 224)).shape == (1, encoder.dim)
