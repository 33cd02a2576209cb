"""Several readouts from one forward pass of a backbone.

Every readout is computed from the raw tokens (or the map) of its depth by the same few operations, whichever others
are read beside it: so an embedding has the same bits when it is extracted alone, and when it is resumed.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers.format import Format
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
        classifier = self.backbone.get_classifier()
        if features.shape[1] != getattr(classifier, "in_features", features.shape[1]):
            raise self._refuse(
                f"scores of {features.shape[1]} features: its classifier takes the {classifier.in_features} of its own "
                "pooling"
            )
        return torch.cat([features, classifier(features)], dim=1)

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
    """Any other timm model: it ends in a map, or in tokens that it has normalised itself."""

    def pooled(self, images: Tensor, readouts: Sequence[Readout]) -> list[Tensor]:
        if any(readout.pooling == "fc_norm" for readout in readouts):
            raise self._refuse("norm behind a mean of patch tokens")
        layers = sorted({readout.layer for readout in readouts if readout.layer is not None})
        stages: Mapping[int, Tensor] = {}
        if layers:
            end, stages = self._with_stages(images, layers)
        else:
            end = self.backbone.forward_features(images)
        return [
            self._at_end(end, readout) if readout.layer is None else self._of_stage(stages[readout.layer], readout)
            for readout in readouts
        ]

    def _with_stages(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, Mapping[int, Tensor]]:
        """What the model ends in, and the maps (n, channels, rows, columns) of some stages."""
        if not hasattr(self.backbone, "forward_intermediates"):
            raise self._refuse("stages that can be read")
        n_stages = len(self.backbone.feature_info)
        if layers[-1] > n_stages:
            raise self._refuse(f"stage {layers[-1]}, only 1 to {n_stages}")
        indices = [layer - 1 for layer in layers]
        end, maps = self.backbone.forward_intermediates(images, indices=indices, output_fmt="NCHW")
        return end, dict(zip(layers, maps, strict=True))

    def _of_stage(self, stage: Tensor, readout: Readout) -> Tensor:
        if readout.pooling in ("cls", "cls+mean"):
            raise self._refuse("class token at a stage that can be read")
        return stage.permute(0, 2, 3, 1) if readout.pooling == "tokens" else stage.mean(dim=(2, 3))

    def _at_end(self, end: Tensor, readout: Readout) -> Tensor:
        if readout.pooling == "default":
            return self._with_scores(self.backbone.forward_head(end, pre_logits=True))
        prefix, places = self._places(end)  # (n, n_prefix, dim), (n, rows, columns, dim)
        if readout.pooling == "tokens":
            return places
        mean = places.mean(dim=(1, 2))
        if readout.pooling == "mean":
            return self._with_scores(mean)
        if not prefix.shape[1]:
            raise self._refuse("class token")
        return self._with_scores(prefix[:, 0] if readout.pooling == "cls" else torch.cat([prefix[:, 0], mean], dim=1))

    def _places(self, end: Tensor) -> tuple[Tensor, Tensor]:
        """What stands before the places, and the places; of tokens in no known grid one row."""
        if end.ndim == 4:
            channels_first = end.shape[1] == self.backbone.num_features and getattr(
                self.backbone, "output_fmt", "NCHW"
            ) in ("NCHW", Format.NCHW)
            places = end.permute(0, 2, 3, 1) if channels_first else end
            return places.new_empty(len(places), 0, places.shape[-1]), places
        n_prefix = getattr(self.backbone, "num_prefix_tokens", 0)
        prefix, tokens = end[:, :n_prefix], end[:, n_prefix:]
        rows, columns = getattr(getattr(self.backbone, "patch_embed", None), "grid_size", (1, tokens.shape[1]))
        if rows * columns != tokens.shape[1]:
            rows, columns = 1, tokens.shape[1]
        return prefix, tokens.reshape(len(tokens), rows, columns, -1)


class _OutputReader(_Reader):
    """A model of which only the output is known, such as an ONNX file."""

    def pooled(self, images: Tensor, readouts: Sequence[Readout]) -> list[Tensor]:
        if any(readout.layer is not None for readout in readouts):
            raise self._refuse("layers that can be read")
        if odd := {readout.pooling for readout in readouts} - {"default", "tokens"}:
            raise self._refuse(f"pooling {', '.join(sorted(odd))}: it puts out what it puts out")
        if any(readout.flip or readout.token_grid for readout in readouts if readout.pooling == "tokens"):
            raise self._refuse("places for its tokens that are known: they can be neither mirrored nor put on a grid")
        output: Tensor = self.backbone(images)  # (n, dim) or (n, n_tokens, dim)
        return [self._checked(output, readout) for readout in readouts]

    def _checked(self, output: Tensor, readout: Readout) -> Tensor:
        if (readout.pooling == "tokens") != (output.ndim == 3):
            raise self._refuse(f"{readout.pooling} output: it puts out {tuple(output.shape[1:])} a frame")
        return output.unsqueeze(1) if output.ndim == 3 else output  # tokens without a known grid: one row of them
