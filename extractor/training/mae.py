"""A masked autoencoder around a timm Vision Transformer.

He et al. (2022), "Masked Autoencoders Are Scalable Vision Learners": the encoder sees a quarter of the patches, a
small decoder draws the rest, and the loss is the squared error on the masked patches, each normalised to zero mean
and unit variance. Only the encoder is kept.
"""

import math
from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from extractor.encoders.encoder import Encoder
from featurestore.errors import ConfigError


class MaskedAutoencoder(nn.Module):
    """An encoder under pre-training and its throw-away decoder.

    Parameters
    ----------
    encoder
        A ViT with a class token; its last norm, wherever timm put it, is the encoder's output norm.
    mask_ratio
        Share of patches that are hidden, in (0, 1).
    decoder_dim, decoder_depth, decoder_heads
        The decoder's width, blocks and attention heads.

    Raises
    ------
    ConfigError
        If the encoder is no plain ViT, or the mask ratio is outside (0, 1).
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
    ) -> None:
        super().__init__()
        vit = encoder.backbone
        if not isinstance(vit, VisionTransformer) or vit.cls_token is None or vit.num_prefix_tokens != 1:
            raise ConfigError(
                "Masked pre-training needs a plain ViT with one class token, but the architecture is "
                f"{encoder.spec.architecture!r}. Choose one such as vit_base_patch16_224."
            )
        if not 0 < mask_ratio < 1:
            raise ConfigError(f"The mask ratio must be in (0, 1), but is {mask_ratio}. The paper's is .75.")
        if encoder.spec.input_px % int(vit.patch_embed.patch_size[0]):
            raise ConfigError(
                f"Images are cut into whole patches, but {encoder.spec.input_px} pixels are no multiple of a patch's "
                f"{int(vit.patch_embed.patch_size[0])}. Change the input side or the patch side."
            )
        self.encoder = encoder
        self.mask_ratio = mask_ratio
        self.patch_px = int(vit.patch_embed.patch_size[0])
        n_patches = int(vit.patch_embed.num_patches)
        self.enter = nn.Linear(encoder.dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_dim) * 0.02)
        self.positions: Tensor
        self.register_buffer("positions", sine_positions(math.isqrt(n_patches), decoder_dim), persistent=False)
        self.decoder = nn.Sequential(
            *[Block(decoder_dim, decoder_heads, qkv_bias=True) for _ in range(decoder_depth)],
            nn.LayerNorm(decoder_dim),
            nn.Linear(decoder_dim, self.patch_px**2 * 3),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruction loss of one batch.

        Parameters
        ----------
        images : shape (n, 3, side, side), normalised

        Returns
        -------
        scalar: mean squared error of the hidden patches in units of their own variance.
        """
        vit: Any = self.encoder.backbone  # a VisionTransformer, whose attributes torch types as Tensor | Module
        tokens = vit.patch_embed(images)  # (n, n_patches, dim)
        n, n_patches, dim = tokens.shape
        tokens = tokens + vit.pos_embed[:, 1:]

        order = torch.rand(n, n_patches, device=images.device).argsort(dim=1)
        restore = order.argsort(dim=1)
        n_seen = max(1, round(n_patches * (1 - self.mask_ratio)))
        seen = tokens.gather(1, order[:, :n_seen, None].expand(-1, -1, dim))

        cls = (vit.cls_token + vit.pos_embed[:, :1]).expand(n, -1, -1)
        latent = vit.fc_norm(vit.norm(vit.blocks(torch.cat([cls, seen], dim=1))))  # (n, 1 + n_seen, dim)

        entered = self.enter(latent)
        hidden = self.mask_token.to(entered.dtype).expand(n, n_patches - n_seen, -1)
        full = torch.cat([entered[:, 1:], hidden], dim=1)
        full = full.gather(1, restore[:, :, None].expand(-1, -1, full.shape[2])) + self.positions
        drawn = self.decoder(torch.cat([entered[:, :1], full], dim=1))[:, 1:]  # (n, n_patches, patch_px^2 * 3)

        target = patches(images, self.patch_px)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        error = (drawn.float() - target).square().mean(dim=-1)  # (n, n_patches)
        masked = (restore >= n_seen).float()
        loss: Tensor = (error * masked).sum() / masked.sum()
        return loss


def initialise(model: MaskedAutoencoder) -> None:
    """Set fresh weights as the paper's code does: Xavier for matrices, sine-cosine positions of unit size.

    timm's own start (normal, .02) is meant for wide models and long schedules; a narrow one hardly leaves it.
    """
    vit: Any = model.encoder.backbone
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(vit.patch_embed.proj.weight.view(vit.embed_dim, -1))
    side = math.isqrt(vit.patch_embed.num_patches)
    with torch.no_grad():
        vit.pos_embed.zero_()
        vit.pos_embed[:, 1:] = sine_positions(side, vit.embed_dim)


def patches(images: Tensor, patch_px: int) -> Tensor:
    """Cut images into flat patches, row by row: (n, 3, H, W) -> (n, n_patches, patch_px * patch_px * 3)."""
    n, channels, height, width = images.shape
    rows, columns = height // patch_px, width // patch_px
    cut = images.reshape(n, channels, rows, patch_px, columns, patch_px)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(n, rows * columns, patch_px * patch_px * channels)


def sine_positions(side: int, dim: int) -> Tensor:
    """Fixed 2-D sine-cosine position embeddings of a square grid, shape (1, side * side, dim).

    Raises
    ------
    ConfigError
        If `dim` is not a multiple of four.
    """
    if dim % 4:
        raise ConfigError(f"The decoder's width must be a multiple of 4, but is {dim}.")
    frequency = 1.0 / 10000 ** (torch.arange(dim // 4) / (dim / 4))
    angle = torch.arange(side)[:, None] * frequency[None, :]  # (side, dim / 4)
    line = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, dim / 2)
    down = line[:, None, :].expand(side, side, -1)
    across = line[None, :, :].expand(side, side, -1)
    return torch.cat([across, down], dim=2).reshape(1, side * side, dim)
