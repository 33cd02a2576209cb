"""MobileFaceNet: a face encoder of a million parameters, for aligned faces of 112 pixels.

Chen et al. (2018), "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices". Two
public PyTorch forms are built here, which differ in more than names:

``insightface``
    PReLU, as in the paper; 512 numbers. The module names are those of TreB1eN/InsightFace_Pytorch, which most others
    copied (face.evoLVe, py-feat, the face parts of DDAMFN). With `width` 2 it is what InsightFace's arcface_torch
    trains as "mbf"; `recognise` renames that one's modules. Pixels are brought to [-1, 1].
``foamliu``
    ReLU and ReLU6, and one pointwise convolution more after the first depthwise one; 128 numbers; ImageNet's mean and
    deviation. Its module names differ too; `recognise` renames them.

The embedding is not brought to length one, although InsightFace_Pytorch does that at its end: the length falls with the
quality of the face, and a head that wants directions divides by it itself.
"""

from typing import Final, Literal

from torch import Tensor, nn

Form = Literal["insightface", "foamliu"]
MOBILEFACENET_FORMS: Final[tuple[Form, ...]] = ("insightface", "foamliu")


class _Convolution(nn.Module):
    """Convolution, BatchNorm and, unless that is None, what `activation` names."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        activation: Literal["prelu", "relu6", "relu"] | None,
        *,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(n_out)
        self.prelu: nn.Module  # the published name, whatever it is
        match activation:
            case "prelu":
                self.prelu = nn.PReLU(n_out)
            case "relu6":
                self.prelu = nn.ReLU6()
            case "relu":
                self.prelu = nn.ReLU()
            case None:
                self.prelu = nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.prelu(self.bn(self.conv(maps)))
        return out


class _Bottleneck(nn.Module):
    """Widen to `n_hidden`, a depthwise 3x3, and a linear projection; a shortcut where the shape stays."""

    def __init__(
        self, n_in: int, n_out: int, activation: Literal["prelu", "relu6"], *, n_hidden: int, stride: int
    ) -> None:
        super().__init__()
        self.conv = _Convolution(n_in, n_hidden, activation)
        self.conv_dw = _Convolution(n_hidden, n_hidden, activation, kernel=3, stride=stride, padding=1, groups=n_hidden)
        self.project = _Convolution(n_hidden, n_out, None)
        self.has_shortcut = stride == 1

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.project(self.conv_dw(self.conv(maps)))
        return maps + out if self.has_shortcut else out


class _Stage(nn.Module):
    """Bottlenecks of one shape, in a row."""

    def __init__(self, n_channels: int, activation: Literal["prelu", "relu6"], *, n_blocks: int, n_hidden: int) -> None:
        super().__init__()
        blocks = [_Bottleneck(n_channels, n_channels, activation, n_hidden=n_hidden, stride=1) for _ in range(n_blocks)]
        self.model = nn.Sequential(*blocks)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.model(maps)
        return out


class MobileFaceNet(nn.Module):
    """The network of table 1 of the paper.

    Parameters
    ----------
    dim
        Length of the embedding: 128 in the paper, 512 in most public weights.
    width
        Factor on the channels between the bottlenecks; what they widen to stays.
    form
        Which of the two public networks; see the module's text.
    """

    def __init__(self, *, dim: int = 512, width: int = 1, form: Form = "insightface") -> None:
        super().__init__()
        self.num_features = dim
        low, high = 64 * width, 128 * width
        is_paper = form == "insightface"
        activation: Literal["prelu", "relu6"] = "prelu" if is_paper else "relu6"
        self.conv1 = _Convolution(3, low, activation, kernel=3, stride=2, padding=1)
        self.conv2_dw = _Convolution(low, low, "prelu" if is_paper else "relu", kernel=3, padding=1, groups=64)
        self.conv2_pw = nn.Identity() if is_paper else _Convolution(low, low, "relu")
        self.conv_23 = _Bottleneck(low, low, activation, n_hidden=128, stride=2)
        self.conv_3 = _Stage(low, activation, n_blocks=4, n_hidden=128)
        self.conv_34 = _Bottleneck(low, high, activation, n_hidden=256, stride=2)
        self.conv_4 = _Stage(high, activation, n_blocks=6, n_hidden=256)
        self.conv_45 = _Bottleneck(high, high, activation, n_hidden=512, stride=2)
        self.conv_5 = _Stage(high, activation, n_blocks=2, n_hidden=256)
        self.conv_6_sep = _Convolution(high, 512, activation)
        self.conv_6_dw = _Convolution(512, 512, None, kernel=7, groups=512)  # a learned weight for each place
        self.linear = nn.Linear(512, dim, bias=not is_paper)
        self.bn = nn.BatchNorm1d(dim)

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map.

        Parameters
        ----------
        images : shape (n, 3, 112, 112), RGB, normalised

        Returns
        -------
        shape (n, 512, 7, 7)
        """
        maps = self.conv2_pw(self.conv2_dw(self.conv1(images)))  # (n, 64, 56, 56)
        maps = self.conv_3(self.conv_23(maps))  # (n, 64, 28, 28)
        maps = self.conv_4(self.conv_34(maps))  # (n, 128, 14, 14)
        maps = self.conv_5(self.conv_45(maps))  # (n, 128, 7, 7)
        out: Tensor = self.conv_6_sep(maps)
        return out

    def forward_head(self, maps: Tensor, pre_logits: bool = True) -> Tensor:
        """The embedding of a feature map; `pre_logits` is there because timm's models have it: no classifier follows.

        Returns
        -------
        shape (n, dim), not normalised to length one
        """
        embedding: Tensor = self.bn(self.linear(self.conv_6_dw(maps).flatten(1)))
        return embedding

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of normalised faces, shape (n, dim)."""
        return self.forward_head(self.forward_features(images))
