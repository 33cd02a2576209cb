"""Readouts against timm's own forward pass, and against arithmetic written out."""

import pytest
import timm
import torch
from torch import Tensor

from extractor.encoders.encoder import Encoder
from extractor.encoders.readout import Readout
from extractor.encoders.spec import EncoderSpec, Pooling
from featurestore.errors import ConfigError


def vit(pooling: Pooling, **arguments: int | bool | str) -> Encoder:
    torch.manual_seed(0)
    tiny = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    spec = EncoderSpec(architecture="vit_tiny_patch16_224", arguments=tiny | arguments, input_px=32, pooling=pooling)
    encoder = Encoder(spec).eval()
    with torch.no_grad():
        for name, parameter in encoder.backbone.named_parameters():
            if name.startswith(("norm", "fc_norm")):  # at their start they would hide which of them is used
                parameter.copy_(torch.rand_like(parameter) + 0.5)
    return encoder


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_poolings_of_a_vit(images: Tensor) -> None:
    encoder = vit("cls")
    backbone = encoder.backbone
    tokens = backbone.forward_features(images)  # (n, 1 + 16, dim), normed
    raw = torch.cat(
        backbone.forward_intermediates(
            images, indices=[2], norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )[0][::-1],
        dim=1,
    )
    expected = {
        "cls": tokens[:, 0],
        "mean": tokens[:, 1:].mean(dim=1),
        "cls+mean": torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1),
        "fc_norm": backbone.norm(raw[:, 1:].mean(dim=1)),
        "tokens": tokens[:, 1:],
        "default": backbone(images),
    }
    readouts = [Readout(pooling=pooling) for pooling in expected]  # type: ignore[arg-type]
    for readout, got in zip(readouts, encoder.read(images, readouts), strict=True):
        torch.testing.assert_close(got, expected[readout.pooling], rtol=0, atol=1e-6, msg=readout.pooling)
        assert encoder.with_readout(readout).row_shape == got.shape[1:]


@pytest.mark.parametrize("pooling", ["fc_norm", "mean", "cls"])
@torch.inference_mode()
def test_a_spec_with_a_pooling_is_timms_model_built_so(pooling: Pooling, images: Tensor) -> None:
    encoder = vit(pooling)
    torch.testing.assert_close(encoder(images), encoder.backbone(images), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_a_layer_is_read_as_though_the_model_ended_there(images: Tensor) -> None:
    encoder = vit("fc_norm")
    shorter = Encoder(encoder.spec.model_copy(update={"arguments": {**encoder.spec.arguments, "depth": 2}})).eval()
    shorter.backbone.load_state_dict(encoder.backbone.state_dict(), strict=False)
    second, last, end = encoder.read(images, [Readout(pooling="fc_norm", layer=at) for at in (2, 3, None)])
    assert torch.equal(second, shorter(images))
    assert torch.equal(last, end)
    assert not torch.allclose(second, last, atol=1e-2)
    with pytest.raises(ConfigError, match=r"VisionTransformer has no layer 4, only 1 to 3"):
        encoder.read(images, [Readout(pooling="fc_norm", layer=4)])


@torch.inference_mode()
def test_readouts_have_the_same_bits_alone_and_together(images: Tensor) -> None:
    encoder = vit("mean")
    readouts = [
        Readout(pooling="mean"),
        Readout(pooling="cls", layer=1),
        Readout(pooling="tokens", token_grid=(2, 2)),
        Readout(pooling="mean", flip=True),
    ]
    together = encoder.read(images, readouts)
    for readout, pooled in zip(readouts, together, strict=True):
        assert torch.equal(encoder.with_readout(readout)(images), pooled)


@torch.inference_mode()
def test_the_mirrored_view_is_averaged_in_place(images: Tensor) -> None:
    encoder = vit("mean")
    mean, tokens = encoder.read(images, [Readout(pooling=p, flip=True) for p in ("mean", "tokens")])  # type: ignore[arg-type]
    torch.testing.assert_close(mean, (encoder(images) + encoder(images.flip(-1))) / 2)
    mirrored, _ = encoder.read(images.flip(-1), [Readout(pooling="tokens", flip=True), Readout(pooling="mean")])
    grid, grid_mirrored = tokens.unflatten(1, (4, 4)), mirrored.unflatten(1, (4, 4))
    torch.testing.assert_close(grid, grid_mirrored.flip(2))  # a mirrored frame has mirrored tokens, and no others
    assert not torch.allclose(grid, grid_mirrored, atol=1e-3)


@torch.inference_mode()
def test_tokens_on_a_grid_are_averages_of_neighbours(images: Tensor) -> None:
    encoder = vit("cls")
    all_of_them, few = encoder.read(images, [Readout(pooling="tokens"), Readout(pooling="tokens", token_grid=(2, 4))])
    grid = all_of_them.unflatten(1, (4, 4))
    expected = (grid[:, 0::2] + grid[:, 1::2]) / 2  # rows in pairs, columns as they are
    torch.testing.assert_close(few.unflatten(1, (2, 4)), expected)
    with pytest.raises(ConfigError, match=r"has 4x4 patch tokens, which cannot be averaged to 5x4"):
        encoder.read(images, [Readout(pooling="tokens", token_grid=(5, 4))])


@torch.inference_mode()
def test_scores_stand_behind_the_features(images: Tensor) -> None:
    torch.manual_seed(0)
    spec = EncoderSpec(architecture="efficientnet_b0", input_px=32, pooling="default", n_scores=10)
    encoder = Encoder(spec).eval()
    embedding = encoder(images)
    assert encoder.row_shape == embedding.shape[1:] == (1280 + 10,)
    torch.testing.assert_close(embedding[:, 1280:], encoder.backbone(images), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_convolutional_network_has_stages_and_a_map(images: Tensor) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderSpec(architecture="resnet10t", input_px=32, pooling="default")).eval()
    reference = timm.create_model("resnet10t", num_classes=0).eval()
    reference.load_state_dict(encoder.backbone.state_dict())
    end, second, tokens = encoder.read(
        images, [Readout(pooling="default"), Readout(pooling="default", layer=2), Readout(pooling="tokens")]
    )
    stages = reference.forward_intermediates(images, intermediates_only=True)
    torch.testing.assert_close(end, reference(images))
    torch.testing.assert_close(second, stages[1].mean(dim=(2, 3)))
    torch.testing.assert_close(tokens.mean(dim=1), end)
    assert encoder.with_readout(Readout(pooling="tokens")).row_shape == (1, 512)
    with pytest.raises(ConfigError, match=r"ResNet has no class token.*default always works"):
        encoder.read(images, [Readout(pooling="cls")])
    with pytest.raises(ConfigError, match=r"ResNet has no stage 6, only 1 to 5"):
        encoder.read(images, [Readout(pooling="default", layer=6)])


@torch.inference_mode()
def test_register_tokens_are_no_patches() -> None:
    torch.manual_seed(0)
    arguments: dict[str, int | float | str | bool] = {"img_size": 28, "embed_dim": 32, "depth": 1, "num_heads": 2}
    spec = EncoderSpec(
        architecture="vit_small_patch14_reg4_dinov2", arguments=arguments, input_px=28, pooling="cls+mean"
    )
    encoder = Encoder(spec).eval()
    with_registers = encoder.backbone.forward_features(torch.ones(1, 3, 28, 28))  # (1, 1 + 4 + 4, dim)
    assert with_registers.shape[1] == 9
    pooled = encoder(torch.ones(1, 3, 28, 28))
    torch.testing.assert_close(pooled[:, :32], with_registers[:, 0])
    torch.testing.assert_close(pooled[:, 32:], with_registers[:, 5:].mean(dim=1))


@torch.inference_mode()
def test_the_last_map_is_what_the_model_ends_in(images: Tensor) -> None:
    torch.manual_seed(0)
    efficient = Encoder(EncoderSpec(architecture="efficientnet_b0", input_px=32, pooling="default")).eval()
    mean, default = efficient.read(images, [Readout(pooling="mean"), Readout(pooling="default")])
    assert mean.shape == (3, 1280)  # behind the last convolution, not the 320 channels before it
    torch.testing.assert_close(mean, default)


@torch.inference_mode()
def test_tokens_that_a_model_has_normalised_itself_in_either_layout(images: Tensor) -> None:
    torch.manual_seed(0)
    small: dict[str, int | float | str | bool] = {"img_size": 32, "patch_size": 4, "window_size": 2, "embed_dim": 12}
    swin = Encoder(
        EncoderSpec(architecture="swin_tiny_patch4_window7_224", arguments=small, input_px=32, pooling="default")
    ).eval()
    end = swin.backbone.forward_features(images)  # (n, rows, columns, dim)
    mean, tokens = swin.read(images, [Readout(pooling="mean"), Readout(pooling="tokens")])
    torch.testing.assert_close(mean, end.mean(dim=(1, 2)))
    torch.testing.assert_close(tokens, end.flatten(1, 2))
    arguments: dict[str, int | float | str | bool] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1}
    arguments["num_heads"] = 2
    beit = Encoder(
        EncoderSpec(architecture="beit_base_patch16_224", arguments=arguments, input_px=32, pooling="default")
    ).eval()
    end = beit.backbone.forward_features(images)  # (n, 1 + 16, dim)
    cls, mean = beit.read(images, [Readout(pooling="cls"), Readout(pooling="mean")])
    torch.testing.assert_close(cls, end[:, 0])
    torch.testing.assert_close(mean, end[:, 1:].mean(dim=1))


@torch.inference_mode()
def test_scores_are_of_the_features_that_the_classifier_takes(images: Tensor) -> None:
    vit = Encoder(
        EncoderSpec(
            architecture="vit_tiny_patch16_224",
            arguments={"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
            input_px=32,
            pooling="cls",
            n_scores=8,
        )
    )
    assert vit.row_shape == (32 + 8,)
    with pytest.raises(ConfigError, match=r"no scores of 64 features: its classifier takes the 32 of its own pooling"):
        vit.read(images, [Readout(pooling="cls+mean")])


class Tokens(torch.nn.Module):
    """As an ONNX file that puts out tokens: nobody knows where in the image they stand."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(2).transpose(1, 2)


@torch.inference_mode()
def test_tokens_of_unknown_places_are_neither_mirrored_nor_put_on_a_grid(images: Tensor) -> None:
    spec = EncoderSpec(architecture="onnx", input_px=32, pooling="tokens")
    encoder = Encoder(spec, Tokens())
    assert encoder(images).shape == (3, 1024, 3)
    for readout in (Readout(pooling="tokens", flip=True), Readout(pooling="tokens", token_grid=(1, 4))):
        with pytest.raises(ConfigError, match=r"can be neither mirrored nor put on a grid"):
            encoder.read(images, [readout])
