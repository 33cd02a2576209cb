"""The encoders of this field by name: how each is built and fed, and where its weights come from.

A preset is a spec without weights. The licence is that of the weights, as their authors state it where they publish
them, or None where nothing is stated. File names are patterns, under which people have the weights on disk.

A size may stand behind the name, as in ``dinov2_giant_238``: the ABAW7 entry of SCU feeds DINOv2 with 238 px, 17 x 17
patches. A ViT's position embeddings are then resampled; ArcFace's networks take 112 px only.

Sources: MAE (He et al., 2022), MAE-Face (Ma et al., 2023), DINOv2 (Oquab et al., 2024), DINOv3 (Simeoni et al., 2025),
ConvNeXt (Liu et al., 2022), ArcFace (Deng et al., 2019), MobileFaceNet (Chen et al., 2018), DenseNet (Huang et al.,
2017), HSEmotion (Savchenko, 2022), VGG-Face (Parkhi et al., 2015).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from featurestore.errors import ConfigError

from .spec import EncoderSpec

_ARCFACE_MEAN_STD: Final = (0.5, 0.5, 0.5)
_WITH_SIZE: Final = re.compile(r"(?P<name>.+)_(?P<side>[1-9][0-9]{1,3})")

_FOAMLIU_MARK: Final = "gdconv.depthwise.weight"  # a layer of foamliu's form alone, as published

_FACEBOOK_MAE: Final = "https://github.com/facebookresearch/mae"
_MAE_FACE: Final = "https://github.com/FuxiVirtualHuman/MAE-Face"
_DINOV2: Final = "https://github.com/facebookresearch/dinov2"
_DINOV3: Final = "https://github.com/facebookresearch/dinov3"
_CONVNEXT: Final = "https://github.com/facebookresearch/ConvNeXt"
_ARCFACE: Final = "https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch"
_HSEMOTION: Final = "https://github.com/av-savchenko/face-emotion-recognition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """An encoder that people know by name.

    Attributes
    ----------
    name, what
        What it is called, and what it is, in a line.
    spec
        How it is built and fed; ``licence`` is that of the weights.
    dim
        Width of its embedding, with the scores if there are any.
    files
        Patterns of the names under which people have its weights, relative to the folder of weights.
    page
        Where the weights are found.
    hub_tag
        timm's name of the published weights, or None if no hub has them.
    size_step
        The input side may be a multiple of this many pixels; 0 if it may not change.
    marked_by, not_marked_by
        Name of a tensor that its files have, and of one that they have not, where other weights would fit as well.
    otherwise
        What to do with a file that is not so marked.
    is_pickled_whole
        Whether its authors publish the network as a pickle, and not its weights.
    """

    name: str
    what: str
    spec: EncoderSpec
    dim: int
    files: tuple[str, ...]
    page: str
    hub_tag: str | None = None
    size_step: int = 0
    marked_by: str | None = None
    not_marked_by: str | None = None
    otherwise: str = ""
    is_pickled_whole: bool = False

    def adoptable(self) -> EncoderSpec:
        """The spec under which a file of weights is adopted; its origin names the preset."""
        return self.spec.model_copy(update={"origin": {"preset": self.name}})

    def at_size(self, input_px: int) -> "Preset":
        """The same encoder for images of another size.

        Raises
        ------
        ConfigError
            If it does not take that size.
        """
        if input_px == self.spec.input_px:
            return self
        if not self.size_step:
            raise ConfigError(f"Preset {self.name} takes {self.spec.input_px} px only, not {input_px}.")
        if input_px < self.size_step or input_px % self.size_step:
            below = max(1, input_px // self.size_step) * self.size_step
            raise ConfigError(
                f"Preset {self.name} takes multiples of {self.size_step} px, not {input_px}. "
                f"Give {below} or {below + self.size_step}."
            )
        return replace(self, spec=self.spec.model_copy(update={"input_px": input_px}))


def _mae(
    name: str, what: str, architecture: str, dim: int, files: tuple[str, ...], *, of_faces: bool = False
) -> Preset:
    licence = "MIT (its repository's)" if of_faces else "CC BY-NC 4.0 (non-commercial)"
    return Preset(
        name=name,
        what=what,
        spec=EncoderSpec(architecture=architecture, input_px=224, pooling="fc_norm", licence=licence),
        dim=dim,
        files=files,
        page=_MAE_FACE if of_faces else _FACEBOOK_MAE,
        hub_tag=None if of_faces else f"{architecture}.mae",
        size_step=14 if "patch14" in architecture else 16,
    )


def _dinov2(size: str, letter: str, dim: int) -> Preset:
    return Preset(
        name=f"dinov2_{size}",
        what=f"DINOv2 ViT-{'g' if size == 'giant' else size[0].upper()}/14, class token",
        spec=EncoderSpec(architecture=f"vit_{size}_patch14_dinov2", input_px=224, pooling="cls", licence="Apache-2.0"),
        dim=dim,
        files=(f"dinov2_vit{letter}14_pretrain.pth",),
        page=_DINOV2,
        hub_tag=f"vit_{size}_patch14_dinov2.lvd142m",
        size_step=14,
    )


def _dinov3(size: str, file: str, dim: int) -> Preset:
    title = {"small": "S", "small_plus": "S+", "base": "B", "large": "L", "huge_plus": "H+", "7b": "7B"}[size]
    return Preset(
        name=f"dinov3_{size}",
        what=f"DINOv3 ViT-{title}/16, class token",
        # Without the projections' biases, which are zero in the published weights: timm's own form.
        spec=EncoderSpec(
            architecture=f"vit_{size}_patch16_dinov3", input_px=256, pooling="cls", licence="DINOv3 License"
        ),
        dim=dim,
        files=(f"dinov3_{file}_pretrain_lvd1689m*.pth",),
        page=_DINOV3,
        hub_tag=f"vit_{size}_patch16_dinov3.lvd1689m",
        size_step=16,
    )


def _convnext(size: str, dim: int, *, dinov3: bool) -> Preset:
    architecture = f"convnext_{size}"
    licence, tag = ("DINOv3 License", "dinov3_lvd1689m") if dinov3 else ("MIT", "fb_in22k_ft_in1k")
    facebook = f"dinov3_{architecture}_pretrain_lvd1689m*.pth" if dinov3 else f"{architecture}_22k_1k_224.pth"
    origin = "DINOv3, distilled" if dinov3 else "ImageNet-22k, then 1k"
    return Preset(
        name=f"dinov3_{architecture}" if dinov3 else architecture,
        what=f"ConvNeXt-{size[0].upper()}: {origin}",
        spec=EncoderSpec(architecture=architecture, input_px=224, pooling="default", licence=licence),
        dim=dim,
        files=(facebook,),
        page=_DINOV3 if dinov3 else _CONVNEXT,
        hub_tag=f"{architecture}.{tag}",
        size_step=32,
    )


def _iresnet(depth: int) -> Preset:
    published = (f"ms1mv3_arcface_r{depth}_fp16", f"glint360k_cosface_r{depth}_fp16_0.1", f"ms1mv2_arcface_r{depth}")
    return Preset(
        name=f"iresnet{depth}",
        what=f"ArcFace's IResNet-{depth}, face recognition",
        spec=EncoderSpec(
            architecture=f"iresnet{depth}",
            input_px=112,
            mean=_ARCFACE_MEAN_STD,
            std=_ARCFACE_MEAN_STD,
            interpolation="bilinear",
            pooling="default",
            licence="non-commercial research only",
        ),
        dim=512,
        # As single files, and in the folders in which they are published.
        files=(*(f"{each}*.pth" for each in published), *(f"{each}*/backbone.pth" for each in published)),
        page=_ARCFACE,
    )


def _hsemotion(name: str, n_scores: int, outputs: str, files: tuple[str, ...]) -> Preset:
    return Preset(
        name=name,
        what=f"EfficientNet-B0 of HSEmotion: 1280 features and {outputs}",
        spec=EncoderSpec(
            architecture="tf_efficientnet_b0",
            input_px=224,
            interpolation="bilinear",
            pooling="default",
            n_scores=n_scores,
            licence="not stated (its code: Apache-2.0)",
        ),
        dim=1280 + n_scores,
        files=files,
        page=_HSEMOTION,
        size_step=32,
        is_pickled_whole=True,
    )


_ALL: Final = (
    _mae(
        "mae",
        "MAE ViT-B/16, mean of patches, then fc_norm",
        "vit_base_patch16_224",
        768,
        ("mae_pretrain_vit_base*.pth", "mae_visualize_vit_base.pth"),
    ),
    _mae(
        "mae_large",
        "MAE ViT-L/16, mean of patches, then fc_norm",
        "vit_large_patch16_224",
        1024,
        ("mae_pretrain_vit_large*.pth", "mae_visualize_vit_large*.pth"),
    ),
    _mae(
        "mae_huge",
        "MAE ViT-H/14, mean of patches, then fc_norm",
        "vit_huge_patch14_224",
        1280,
        ("mae_pretrain_vit_huge*.pth",),
    ),
    _mae(
        "mae_face",
        "MAE-Face ViT-B/16: MAE pre-trained on faces",
        "vit_base_patch16_224",
        768,
        ("mae_face_pretrain_vit_base.pth", "mae_face_visualize_vit_base.pth"),
        of_faces=True,
    ),
    _dinov2("small", "s", 384),
    _dinov2("base", "b", 768),
    _dinov2("large", "l", 1024),
    _dinov2("giant", "g", 1536),
    _dinov3("small", "vits16", 384),
    _dinov3("small_plus", "vits16plus", 384),
    _dinov3("base", "vitb16", 768),
    _dinov3("large", "vitl16", 1024),
    _dinov3("huge_plus", "vith16plus", 1280),
    _dinov3("7b", "vit7b16", 4096),
    _convnext("tiny", 768, dinov3=True),
    _convnext("small", 768, dinov3=True),
    _convnext("base", 1024, dinov3=True),
    _convnext("large", 1536, dinov3=True),
    _convnext("tiny", 768, dinov3=False),
    _convnext("small", 768, dinov3=False),
    _convnext("base", 1024, dinov3=False),
    _convnext("large", 1536, dinov3=False),
    _iresnet(50),
    _iresnet(100),
    Preset(
        name="mobilefacenet",
        what="MobileFaceNet in InsightFace_Pytorch's form, face recognition",
        spec=EncoderSpec(
            architecture="mobilefacenet",
            input_px=112,
            mean=_ARCFACE_MEAN_STD,
            std=_ARCFACE_MEAN_STD,
            interpolation="bilinear",
            pooling="default",
            licence="MIT (its repository's)",
        ),
        dim=512,
        files=("model_mobilefacenet.pth",),
        page="https://github.com/TreB1eN/InsightFace_Pytorch",
        not_marked_by=_FOAMLIU_MARK,
        otherwise="They are in foamliu's form: take preset mobilefacenet_128.",
    ),
    Preset(
        name="mobilefacenet_128",
        what="MobileFaceNet in foamliu's form, face recognition",
        spec=EncoderSpec(
            architecture="mobilefacenet",
            arguments={"dim": 128, "form": "foamliu"},
            input_px=112,
            interpolation="bilinear",
            pooling="default",
            licence="Apache-2.0 (its repository's)",
        ),
        dim=128,
        files=("mobilefacenet.pt", "mobilefacenet_112.onnx"),
        page="https://github.com/foamliu/MobileFaceNet",
        marked_by=_FOAMLIU_MARK,
        otherwise="If they are in InsightFace_Pytorch's form, take preset mobilefacenet.",
    ),
    _hsemotion("efficientnet_b0", 10, "10 scores: 8 expressions, V, A", ("enet_b0_8_va_mtl*",)),
    _hsemotion("efficientnet_b0_8", 8, "8 expression scores", ("enet_b0_8_best_afew*", "enet_b0_8_best_vgaf*")),
    Preset(
        name="densenet121",
        what="DenseNet-121, ImageNet",
        spec=EncoderSpec(architecture="densenet121", input_px=224, pooling="default", licence="Apache-2.0"),
        dim=1024,
        files=("densenet121_ra*.pth",),
        page="https://huggingface.co/timm/densenet121.ra_in1k",
        hub_tag="densenet121.ra_in1k",
        size_step=32,
    ),
    Preset(
        name="vgg16",
        what="VGG-Face VGG-16, face recognition: fc7",
        # Its pixels are not scaled: the mean of 0..255, and a deviation of one grey level.
        spec=EncoderSpec(
            architecture="vgg16",
            input_px=224,
            mean=(129.186279296875 / 255, 104.76238250732422 / 255, 93.59396362304688 / 255),
            std=(1 / 255, 1 / 255, 1 / 255),
            interpolation="bilinear",
            pooling="default",
        ),
        dim=4096,
        files=("vgg_face_dag.pth",),
        page="https://www.robots.ox.ac.uk/~albanie/pytorch-models.html",
        marked_by="fc6.weight",
        otherwise="ImageNet's VGG-16 is timm:vgg16, and its files are added with --arch vgg16.",
    ),
)

PRESETS: Final[Mapping[str, Preset]] = {preset.name: preset for preset in _ALL}

# The size that most people mean: as wide as MAE's, and it runs anywhere.
ALIASES: Final[Mapping[str, str]] = {"dinov2": "dinov2_base", "dinov3": "dinov3_base", "convnext": "convnext_tiny"}


def find_preset(name: str) -> Preset | None:
    """The preset of a name, which may end in an input side, as in ``dinov2_giant_238``; None if there is none.

    Raises
    ------
    ConfigError
        If the preset does not take that size.
    """
    preset = PRESETS.get(ALIASES.get(name, name))
    if preset is not None:
        return preset
    sized = _WITH_SIZE.fullmatch(name)
    if sized is None:
        return None
    base = PRESETS.get(ALIASES.get(sized["name"], sized["name"]))
    return None if base is None else base.at_size(int(sized["side"]))


def is_preset_name(name: str) -> bool:
    """Whether a preset is meant by a name, with or without a size, even one that it does not take."""
    sized = _WITH_SIZE.fullmatch(name)
    return any(ALIASES.get(each, each) in PRESETS for each in (name, *([sized["name"]] if sized else [])))


def weight_names(preset: Preset, asked: str | None = None) -> set[str]:
    """The names, without suffix, under which a preset's weights may lie, beside those of `files`.

    They are its own, its short one, and the one that was asked for, which may end in a size.
    """
    short = {alias for alias, name in ALIASES.items() if name == preset.name}
    return {preset.name, *short, *([] if asked is None else [asked])}


def preset_of_file(path: Path) -> Preset | None:
    """The preset whose weights go by a file's name; None if there is none, or several."""
    name, within = path.name, f"{path.parent.name}/{path.name}"
    fitting = [
        preset
        for preset in PRESETS.values()
        if any(fnmatchcase(within if "/" in pattern else name, pattern) for pattern in preset.files)
    ]
    return fitting[0] if len(fitting) == 1 else None


def preset_names() -> Iterable[str]:
    """All names, short ones included."""
    return (*PRESETS, *ALIASES)
