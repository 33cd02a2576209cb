"""The MAE encoder against its definition, in plain PyTorch: He et al. (2022), blocks of Dosovitskiy et al. (2021)."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from extractor.encoders.adopting import adopt
from extractor.encoders.spec import EncoderSpec, Pooling

WIDTH, DEPTH, HEADS, PATCH, SIDE = 48, 3, 4, 8, 32
ARGUMENTS = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}


def facebook_checkpoint() -> dict[str, Tensor]:
    """Random weights under the names of facebook's MAE, its decoder with them."""
    draw = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=draw)

    state = {
        "cls_token": weight(1, 1, WIDTH),
        "pos_embed": weight(1, 1 + (SIDE // PATCH) ** 2, WIDTH),
        "patch_embed.proj.weight": weight(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": weight(WIDTH),
    }
    for block in (f"blocks.{number}" for number in range(DEPTH)):
        for norm in ("norm1", "norm2"):
            state |= {f"{block}.{norm}.weight": 1 + weight(WIDTH), f"{block}.{norm}.bias": weight(WIDTH)}
        for layer, n_out, n_in in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            state |= {f"{block}.{layer}.weight": weight(n_out, n_in), f"{block}.{layer}.bias": weight(n_out)}
    state |= {"norm.weight": 1 + weight(WIDTH), "norm.bias": weight(WIDTH)}
    decoder = {
        "mask_token": weight(1, 1, 16),
        "decoder_embed.weight": weight(16, WIDTH),
        "decoder_norm.bias": weight(16),
    }
    return (
        state | decoder | {"decoder_blocks.0.attn.qkv.weight": weight(48, 16), "decoder_pos_embed": weight(1, 17, 16)}
    )


def layer_norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def tokens_of(images: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Tokens behind the last block, before any norm; (n, 1 + n_patches, WIDTH)."""
    n, grid = len(images), SIDE // PATCH
    cut = images.reshape(n, 3, grid, PATCH, grid, PATCH).permute(0, 2, 4, 1, 3, 5).reshape(n, grid * grid, -1)
    patches = cut @ state["patch_embed.proj.weight"].reshape(WIDTH, -1).T + state["patch_embed.proj.bias"]
    x = torch.cat([state["cls_token"].expand(n, -1, -1), patches], dim=1) + state["pos_embed"]
    for block in (f"blocks.{number}" for number in range(DEPTH)):
        qkv = linear(layer_norm(x, state, f"{block}.norm1"), state, f"{block}.attn.qkv")
        q, k, v = qkv.reshape(n, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1)
        mixed = (attention @ v).transpose(1, 2).reshape(n, -1, WIDTH)
        x = x + linear(mixed, state, f"{block}.attn.proj")
        hidden = linear(layer_norm(x, state, f"{block}.norm2"), state, f"{block}.mlp.fc1")
        gelu = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        x = x + linear(gelu, state, f"{block}.mlp.fc2")
    return x


@pytest.mark.parametrize("pooling", ["fc_norm", "cls", "mean", "cls+mean", "tokens"])
def test_an_adopted_mae_computes_what_its_definition_says(pooling: Pooling, tmp_path: Path) -> None:
    state = facebook_checkpoint()
    torch.save({"model": state, "args": argparse.Namespace(model="mae"), "epoch": 799}, tmp_path / "mae.pth")
    spec = EncoderSpec(architecture="vit_base_patch16_224", arguments=ARGUMENTS, input_px=SIDE, pooling=pooling)
    encoder = adopt(tmp_path / "mae.pth", spec).encoder
    images = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))

    x = tokens_of(images, state)
    normed = layer_norm(x, state, "norm")
    expected = {
        "fc_norm": layer_norm(x[:, 1:].mean(dim=1), state, "norm"),  # a raw MAE's norm, behind the mean
        "cls": normed[:, 0],
        "mean": normed[:, 1:].mean(dim=1),
        "cls+mean": torch.cat([normed[:, 0], normed[:, 1:].mean(dim=1)], dim=1),
        "tokens": normed[:, 1:],
    }[pooling]
    with torch.inference_mode():
        computed = encoder(images)
    assert computed.shape == (3, *encoder.row_shape)
    torch.testing.assert_close(computed, expected, rtol=0, atol=1e-5)
