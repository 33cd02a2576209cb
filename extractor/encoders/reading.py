"""Several readouts from one forward pass of a backbone.

Every readout is computed from the raw tokens (or the map) of its depth by the same few operations, whichever others
are read beside it: so an embedding has the same bits when it is extracted alone, and when it is resumed.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from featurestore.errors import ConfigError

from .readout import Grid, Readout


def read(backbone: nn.Module, images: Tensor, readouts: Sequence[Readout]) -> list[Tensor]:
    """Run a backbone once (twice, where mirrored views are wanted) and read from it.

    Parameters
    ----------
    backbone
        What `architectures.build_backbone` makes.
    images : shape (n, 3, side, side), normalised
    readouts
        What to read; principal components are left to the caller, who keeps them.

    Returns
    -------
    One a readout: shape (n, dim), or (n, n_tokens, dim) for tokens.

    Raises
    ------
    ConfigError
        If the architecture has no such layer, or no class token.
    """
    reader = _reader_of(backbone)
    upright = reader.pooled(images, readouts)
    mirrored = [readout for readout in readouts if readout.flip]
    if mirrored:
        others = iter(reader.pooled(images.flip(-1), mirrored))
        upright = [
            _mean_of_views(pooled, next(others)) if readout.flip else pooled
            for readout, pooled in zip(readouts, upright, strict=True)
        ]
    return [_on_grid(pooled, readout.token_grid) for pooled, readout in zip(upright, readouts, strict=True)]


def row_shape(backbone: nn.Module, readout: Readout) -> tuple[int, ...] | None:
    """Shape of what `read` makes of one frame, where it can be told without running the backbone.

    Raises
    ------
    ConfigError
        If it can be told that there is nothing to read.
    """
    if not isinstance(backbone, VisionTransformer | Eva):
        return None
    _TokenReader(backbone).check(readout)
    if backbone.num_classes or readout.pooling == "default":
        return None
    if readout.pooling == "tokens":
        grid = _possible(readout.token_grid, backbone.patch_embed.grid_size)
        return grid[0] * grid[1], backbone.embed_dim
    return (2 * backbone.embed_dim if readout.pooling == "cls+mean" else backbone.embed_dim,)


def _possible(grid: Grid | None, there: Grid) -> Grid:
    """The grid that tokens are averaged to, out of those that are there."""
    if grid is None:
        return there
    if grid[0] > there[0] or grid[1] > there[1]:
        raise ConfigError(
            f"The model has {there[0]}x{there[1]} patch tokens, which cannot be averaged to {grid[0]}x{grid[1]}. "
            "Choose a coarser grid."
        )
    return grid


def _mean_of_views(pooled: Tensor, mirrored: Tensor) -> Tensor:
    if pooled.ndim == 4:
        mirrored = mirrored.flip(2)  # each token meets that of its own place
    return (pooled + mirrored) / 2


def _on_grid(pooled: Tensor, grid: Grid | None) -> Tensor:
    """Tokens (n, rows, columns, dim) -> (n, n_tokens, dim), averaged to a coarser grid if one is given."""
    if pooled.ndim != 4:
        return pooled
    if grid is not None:
        grid = _possible(grid, (pooled.shape[1], pooled.shape[2]))
        pooled = functional.adaptive_avg_pool2d(pooled.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
    return pooled.flatten(1, 2)


def _reader_of(backbone: nn.Module) -> "_Reader":
    if isinstance(backbone, VisionTransformer | Eva):
        return _TokenReader(backbone)
    if hasattr(backbone, "forward_features"):
        return _MapReader(backbone)
    return _OutputReader(backbone)


class _Reader(ABC):
    """How one kind of backbone is run and read."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone: Any = backbone  # timm's models have no common type that names what is used here

    @abstractmethod
    def pooled(self, images: Tensor, readouts: Sequence[Readout]) -> list[Tensor]:
        """One a readout: (n, dim), or tokens in their places, (n, rows, columns, dim)."""

    def _with_scores(self, features: Tensor) -> Tensor:
        """The features and, behind them, the outputs of the classifier if one is kept."""
        if not getattr(self.backbone, "num_classes", 0):
            return features
        return torch.cat([features, self.backbone.get_classifier()(features)], dim=1)

    def _refuse(self, what: str) -> ConfigError:
        return ConfigError(
            f"{type(self.backbone).__name__} has no {what}. Choose another --pooling (default always works), or layers."
        )


class _TokenReader(_Reader):
    """A Vision Transformer."""

    def pooled(self, images: Tensor, readouts: Sequence[Readout]) -> list[Tensor]:
        for readout in readouts:
            self.check(readout)
        depth = len(self.backbone.blocks)
        layers = [depth if readout.layer is None else readout.layer for readout in readouts]
        wanted = sorted(set(layers))
        at_depth = self.backbone.forward_intermediates(
            images,
            indices=[layer - 1 for layer in wanted],
            return_prefix_tokens=True,
            norm=False,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        raw = dict(zip(wanted, at_depth, strict=True))
        return [self._pool(raw[layer], readout) for layer, readout in zip(layers, readouts, strict=True)]

    def check(self, readout: Readout) -> None:
        """Refuse (ConfigError) what this model has not."""
        depth = len(self.backbone.blocks)
        if readout.layer is not None and readout.layer > depth:
            raise self._refuse(f"layer {readout.layer}, only 1 to {depth}")
        if readout.pooling in ("cls", "cls+mean") and self.backbone.cls_token is None:
            raise self._refuse("class token")

    def _pool(self, raw: tuple[Tensor, Tensor] | Tensor, readout: Readout) -> Tensor:
        # (n, n_patches, dim), (n, n_prefix, dim)
        patches, prefix = raw if isinstance(raw, tuple) else (raw, raw[:, :0])
        norm = self.backbone.norm if isinstance(self.backbone.fc_norm, nn.Identity) else self.backbone.fc_norm
        match readout.pooling:
            case "default":
                tokens = torch.cat([prefix, patches], dim=1)
                pooled: Tensor = self.backbone.forward_head(self.backbone.norm(tokens), pre_logits=True)
            case "fc_norm":
                pooled = norm(patches.mean(dim=1))
            case "mean":
                pooled = norm(patches).mean(dim=1)
            case "cls":
                pooled = norm(prefix[:, 0])
            case "cls+mean":
                pooled = torch.cat([norm(prefix[:, 0]), norm(patches).mean(dim=1)], dim=1)
            case "tokens":
                rows, columns = self.backbone.patch_embed.grid_size
                return norm(patches).unflatten(1, (rows, columns))  # type: ignore[no-any-return]
        return self._with_scores(pooled)


class _MapReader(_Reader):
    """A network that ends in a map, (n, channels, rows, columns)."""

    def pooled(self, images: Tensor, readouts: Sequence[Readout]) -> list[Tensor]:
        if any(readout.pooling in ("cls", "cls+mean", "fc_norm") for readout in readouts):
            raise self._refuse("class token and no tokens to norm")
        layers = sorted({readout.layer for readout in readouts if readout.layer is not None})
        plain = all(readout.layer is None and readout.pooling == "default" for readout in readouts)
        if plain or not hasattr(self.backbone, "forward_intermediates"):
            if layers:
                raise self._refuse("stages that can be read")
            end = self.backbone.forward_features(images)
            return [self._pool(end, {None: end}, readout) for readout in readouts]
        n_stages = len(self.backbone.feature_info)
        if layers and layers[-1] > n_stages:
            raise self._refuse(f"stage {layers[-1]}, only 1 to {n_stages}")
        wanted = sorted({*(layer - 1 for layer in layers), n_stages - 1})
        end, maps = self.backbone.forward_intermediates(images, indices=wanted, output_fmt="NCHW")
        stages: dict[int | None, Tensor] = {stage + 1: each for stage, each in zip(wanted, maps, strict=True)}
        stages[None] = stages[n_stages]
        return [self._pool(end, stages, readout) for readout in readouts]

    def _pool(self, end: Tensor, stages: Mapping[int | None, Tensor], readout: Readout) -> Tensor:
        if readout.pooling == "tokens":
            return stages[readout.layer].permute(0, 2, 3, 1)
        if readout.layer is not None or readout.pooling == "mean":
            pooled = stages[readout.layer].mean(dim=(2, 3))
            return pooled if readout.layer is not None else self._with_scores(pooled)
        return self._with_scores(self.backbone.forward_head(end, pre_logits=True))


class _OutputReader(_Reader):
    """A model of which only the output is known, such as an ONNX file."""

    def pooled(self, images: Tensor, readouts: Sequence[Readout]) -> list[Tensor]:
        if any(readout.layer is not None for readout in readouts):
            raise self._refuse("layers that can be read")
        if odd := {readout.pooling for readout in readouts} - {"default", "tokens"}:
            raise self._refuse(f"pooling {', '.join(sorted(odd))}: it puts out what it puts out")
        output: Tensor = self.backbone(images)  # (n, dim) or (n, n_tokens, dim)
        return [self._checked(output, readout) for readout in readouts]

    def _checked(self, output: Tensor, readout: Readout) -> Tensor:
        if (readout.pooling == "tokens") != (output.ndim == 3):
            raise self._refuse(f"{readout.pooling} output: it puts out {tuple(output.shape[1:])} a frame")
        return output.unsqueeze(1) if output.ndim == 3 else output  # tokens without a known grid: one row of them
