"""ArcFace's residual network for aligned faces of 112 pixels: 512 numbers a face.

Deng et al. (2019), "ArcFace: Additive Angular Margin Loss for Deep Face Recognition". timm has no such network. Module
names and shapes are those of the PyTorch weights that InsightFace publishes, so that their files load as they are. It
differs from an image-net ResNet: no stride in the stem, BatchNorm before the first convolution of a block and none
after the sum, PReLU, and a fully connected layer over the whole 7 x 7 map, because aligned faces have their parts in
fixed places.
"""

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

_MAP_SIDE: Final = 7  # of the last feature map, for an input of 112 pixels
_STAGE_WIDTHS: Final = (64, 128, 256, 512)

IRESNET_BLOCKS: Final[Mapping[str, tuple[int, int, int, int]]] = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}


class _Block(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3, BN, plus the input; the stride sits in the second convolution."""

    def __init__(self, n_in: int, n_out: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.prelu = nn.PReLU(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = maps if self.downsample is None else self.downsample(maps)
        maps = self.prelu(self.bn2(self.conv1(self.bn1(maps))))
        total: Tensor = self.bn3(self.conv2(maps)) + shortcut
        return total


class IResNet(nn.Module):
    """An ArcFace backbone.

    Parameters
    ----------
    blocks
        Residual blocks of each of the four stages; see `IRESNET_BLOCKS`.
    dim
        Length of the embedding.
    """

    def __init__(self, blocks: tuple[int, int, int, int], *, dim: int = 512) -> None:
        super().__init__()
        self.num_features = dim
        self.conv1 = nn.Conv2d(3, _STAGE_WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STAGE_WIDTHS[0])
        self.prelu = nn.PReLU(_STAGE_WIDTHS[0])
        self.layer1 = _stage(_STAGE_WIDTHS[0], _STAGE_WIDTHS[0], blocks[0])
        self.layer2 = _stage(_STAGE_WIDTHS[0], _STAGE_WIDTHS[1], blocks[1])
        self.layer3 = _stage(_STAGE_WIDTHS[1], _STAGE_WIDTHS[2], blocks[2])
        self.layer4 = _stage(_STAGE_WIDTHS[2], _STAGE_WIDTHS[3], blocks[3])
        self.bn2 = nn.BatchNorm2d(_STAGE_WIDTHS[3])
        self.fc = nn.Linear(_STAGE_WIDTHS[3] * _MAP_SIDE**2, dim)
        self.features = nn.BatchNorm1d(dim)
        # ArcFace keeps the last scale at one: it would only stretch single coordinates of a direction.
        self.features.weight.requires_grad = False
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map.

        Parameters
        ----------
        images : shape (n, 3, 112, 112), RGB, in [-1, 1]

        Returns
        -------
        shape (n, 512, 7, 7), normalised
        """
        maps = self.prelu(self.bn1(self.conv1(images)))  # (n, 64, 112, 112)
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))  # (n, 512, 7, 7)
        normalised: Tensor = self.bn2(maps)
        return normalised

    def forward_head(self, maps: Tensor, pre_logits: bool = True) -> Tensor:
        """The embedding of a feature map; `pre_logits` is there because timm's models have it: no classifier follows.

        Returns
        -------
        shape (n, dim), not normalised to length one
        """
        embedding: Tensor = self.features(self.fc(maps.flatten(1)))
        return embedding

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of normalised faces, shape (n, dim)."""
        return self.forward_head(self.forward_features(images))


def _stage(n_in: int, n_out: int, n_blocks: int) -> nn.Sequential:
    """One stage; its first block halves the map."""
    return nn.Sequential(_Block(n_in, n_out, stride=2), *(_Block(n_out, n_out, stride=1) for _ in range(n_blocks - 1)))
