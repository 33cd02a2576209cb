import numpy as np
import pytest
import torch

from extractor.encoders.encoder import Encoder
from extractor.encoders.spec import EncoderSpec
from extractor.training.mae import MaskedAutoencoder, patches, sine_positions
from featurestore.errors import ConfigError


def small(encoder: Encoder, **options: float) -> MaskedAutoencoder:
    torch.manual_seed(1)
    return MaskedAutoencoder(encoder, decoder_dim=16, decoder_depth=1, decoder_heads=2, **options)


def test_patches_are_cut_row_by_row() -> None:
    images = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    cut = patches(images, 2)
    assert cut.shape == (2, 6, 12)
    for number, (row, column) in enumerate(np.ndindex(2, 3)):
        block = images[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(cut[1, number].reshape(2, 2, 3), block.permute(1, 2, 0))


def test_positions_tell_every_patch_apart() -> None:
    positions = sine_positions(7, 32)[0]
    distances = torch.cdist(positions, positions) + torch.eye(49)
    assert distances.min() > 0.1


def test_only_hidden_patches_count_and_are_not_seen(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(tiny_encoder).eval()
    noise = torch.rand(1, 16)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: noise)
    seen = noise.argsort(dim=1)[0, :4]
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    latent_inputs: list[torch.Tensor] = []
    model.encoder.backbone.blocks.register_forward_pre_hook(lambda _, inputs: latent_inputs.append(inputs[0]))
    model(images)
    assert latent_inputs[0].shape == (1, 1 + 4, 32)
    influence = torch.autograd.grad(latent_inputs[0].square().sum(), images)[0]
    touched = patches(influence, 8)[0].abs().sum(dim=1) > 0
    assert sorted(touched.nonzero().flatten().tolist()) == sorted(seen.tolist())


def test_the_loss_ignores_brightness_and_contrast_of_the_target(tiny_encoder: Encoder) -> None:
    model = small(tiny_encoder)
    with torch.no_grad():  # a decoder that draws nothing: the loss is the variance of normalised patches
        model.decoder[-1].weight.zero_()
        model.decoder[-1].bias.zero_()
    images = torch.randn(2, 3, 32, 32)
    for scaled in (images, images * 3 + 2):
        assert float(model(scaled).detach()) == pytest.approx(1.0, abs=0.02)


def test_it_learns_to_draw(tiny_encoder: Encoder) -> None:
    model = small(tiny_encoder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ramp = torch.linspace(-1, 1, 32)
    images = (ramp[None, None, :, None] * ramp.roll(7)[None, None, None, :]).expand(8, 3, 32, 32)
    losses = []
    for _ in range(120):
        loss = model(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.9
    assert losses[-1] < 0.3


def test_what_cannot_be_pretrained_is_said(tiny_encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match=r"mask ratio must be in \(0, 1\), but is 1\.0"):
        small(tiny_encoder, mask_ratio=1.0)
    convolutional = Encoder(EncoderSpec(architecture="resnet10t", input_px=32, pooling="default"))
    with pytest.raises(ConfigError, match=r"needs a plain ViT.*'resnet10t'"):
        small(convolutional)


def test_images_that_are_not_whole_patches_are_refused() -> None:
    arguments = {"img_size": 33, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    spec = EncoderSpec(architecture="vit_tiny_patch16_224", arguments=arguments, input_px=33)
    with pytest.raises(ConfigError, match="33 pixels are no multiple of a patch's 8"):
        MaskedAutoencoder(Encoder(spec), decoder_dim=32, decoder_depth=1, decoder_heads=2)
