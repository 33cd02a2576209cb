"""What network a file's weights are of, from their names and shapes alone.

A file tells the architecture, and how large its input was where there is one position embedding a patch. It does not
tell how pixels were normalised, and often not which tokens were pooled: what is taken for those is the habit of the
form, and listed as assumed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, Final, Literal, TypeVar

from torch import Tensor

from featurestore.errors import StoreError

from .architectures import native_px, plain_model
from .iresnet import IRESNET_BLOCKS
from .matching import surplus_names
from .renaming import own_names, query_or_value_biases, timm_names, without_prefix, wrapping_prefixes
from .spec import IMAGENET_MEAN, IMAGENET_STD, EncoderSpec, Pooling

_Size = TypeVar("_Size", bound=tuple[int, ...])
_HALF: Final = (0.5, 0.5, 0.5)
_MAX_NAMES: Final = 8

# Forms that tell how their pixels were normalised, or what they compute.
VGG_FACE: Final = "VGG-Face (Albanie)"
HSEMOTION: Final = "HSEmotion"
FOAMLIU: Final = "MobileFaceNet (foamliu)"
# Of pixels that are not scaled, in 0..255, with a deviation of one grey level.
_VGG_FACE_MEAN: Final = (129.186279296875 / 255, 104.76238250732422 / 255, 93.59396362304688 / 255)

# (width, blocks, patch side in pixels) -> timm name
_PLAIN_VITS: Final[Mapping[tuple[int, int, int], str]] = {
    (192, 12, 16): "vit_tiny_patch16_224",
    (384, 12, 16): "vit_small_patch16_224",
    (384, 12, 32): "vit_small_patch32_224",
    (384, 12, 8): "vit_small_patch8_224",
    (768, 12, 16): "vit_base_patch16_224",
    (768, 12, 32): "vit_base_patch32_224",
    (768, 12, 8): "vit_base_patch8_224",
    (1024, 24, 16): "vit_large_patch16_224",
    (1024, 24, 32): "vit_large_patch32_224",
    (1280, 32, 14): "vit_huge_patch14_224",
}
_DINOV2_SIZES: Final[Mapping[tuple[int, int, int], str]] = {
    (384, 12, 14): "small",
    (768, 12, 14): "base",
    (1024, 24, 14): "large",
    (1536, 40, 14): "giant",
}
_DINOV3_SIZES: Final[Mapping[tuple[int, int, int, bool], str]] = {  # the last: a gated MLP
    (384, 12, 16, False): "small",
    (384, 12, 16, True): "small_plus",
    (768, 12, 16, False): "base",
    (1024, 24, 16, False): "large",
    (1280, 32, 16, True): "huge_plus",
    (4096, 40, 16, True): "7b",
}
_CONVOLUTIONAL: Final[Mapping[str, tuple[str, ...]]] = {  # a name that only this family has -> its members
    "features.denseblock1.": ("densenet121", "densenet169", "densenet201", "densenet161"),
    "conv_stem.weight": ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"),
    "stem.0.weight": tuple(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    "downsample_layers.0.0.weight": tuple(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    "features.0.weight": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "layer1.0.conv1.weight": tuple(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
}
# Same names and shapes, other padding and epsilon: only HSEmotion's way to keep its classifier tells which.
_TWINS: Final[Mapping[str, str]] = {f"efficientnet_b{n}": f"tf_efficientnet_b{n}" for n in range(4)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognised:
    """What a file's weights are."""

    form: str  # whose names they have, for people: "facebook MAE, with decoder"
    prefix: str  # wrapping words before every name, "" if none
    architecture: str
    arguments: Mapping[str, int | float | str | bool]
    input_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"]
    pooling: Pooling
    assumed: tuple[str, ...]  # of these fields, and of num_heads, those that the file does not tell

    def spec(self) -> EncoderSpec:
        """The encoder that it makes, without scores."""
        return EncoderSpec(
            architecture=self.architecture,
            arguments=dict(self.arguments),
            input_px=self.input_px,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            pooling=self.pooling,
        )


def recognise(state: Mapping[str, Tensor], *, file_name: str = "") -> Recognised:
    """Recognise weights.

    Parameters
    ----------
    state
        Name -> tensor as in the file; the tensors may be without memory ("meta").
    file_name
        Tells MAE-Face from MAE, whose names are the same.

    Raises
    ------
    StoreError
        If they are not recognised, or could be of several architectures.
    """
    for prefix in wrapping_prefixes(state):
        inner = own_names(without_prefix(state, prefix))
        found = _transformer(inner, prefix, file_name) or _face_network(state, inner, prefix)
        found = found or _convolutional(inner, prefix, _published_form(without_prefix(state, prefix), file_name))
        if found is not None:
            return found
    first = ", ".join(f"{name} {_shape(tensor)}" for name, tensor in list(state.items())[:_MAX_NAMES])
    raise StoreError(
        f"These weights are of no architecture that is recognised ({len(state)} tensors: {first or 'none'}, ...). "
        "Name one with --preset, or a timm architecture with --arch."
    )


def _transformer(state: Mapping[str, Tensor], prefix: str, file_name: str) -> Recognised | None:
    patches = state.get("patch_embed.proj.weight")
    if patches is None or "blocks.0.norm1.weight" not in state or "cls_token" not in state or patches.ndim != 4:
        return None
    if "blocks.0.attn.qkv.weight" not in state:
        return None
    width, patch = int(patches.shape[0]), int(patches.shape[-1])
    size = (width, _count(state, "blocks."), patch)
    has_scale = "blocks.0.ls1.gamma" in state
    if "storage_tokens" in state or ("blocks.0.gamma_1" in state and "reg_token" in state and "pos_embed" not in state):
        return _dinov3(state, prefix, size)
    if has_scale and (patch == 14 or "mask_token" in state):
        return _dinov2(state, prefix, size)
    if has_scale or "blocks.0.gamma_1" in state or "norm_pre.weight" in state or "pos_embed" not in state:
        return None
    return _plain_vit(state, prefix, size, file_name)


def _plain_vit(state: Mapping[str, Tensor], prefix: str, size: tuple[int, int, int], file_name: str) -> Recognised:
    architecture = _known_size(_PLAIN_VITS, size, "a Vision Transformer")
    has_head = any(name in state for name in ("head.weight", "head.0.weight"))
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    pooling: Pooling = "fc_norm"
    # Attention in 6 heads or in 12 has weights of one shape: MoCo-v3's ViT-S has 12, where timm's has 6.
    assumed: tuple[str, ...] = ("mean", "std", "pooling", "num_heads")
    if "decoder_embed.weight" in state:
        form, assumed = "facebook MAE, with decoder", ("pooling", "num_heads")
    elif "fc_norm.weight" in state:
        form, assumed = "ViT fine-tuned with fc_norm, as from facebook MAE", ("mean", "std", "num_heads")
    elif has_head:
        form, pooling = "timm ViT with classifier", "cls"
        mean, std = _habits(architecture)[:2]
    else:
        form = "ViT without head, as facebook MAE publishes them"
    if "mae_face" in file_name.lower().replace("-", "_"):
        form = form.replace("facebook MAE", "MAE-Face")
    return Recognised(
        form=form, prefix=prefix, architecture=architecture, arguments={}, input_px=_side(state, size[2], n_prefix=1),
        mean=mean, std=std, interpolation="bicubic", pooling=pooling, assumed=assumed,
    )  # fmt: skip


def _dinov2(state: Mapping[str, Tensor], prefix: str, size: tuple[int, int, int]) -> Recognised:
    is_facebooks = "mask_token" in state or "register_tokens" in state
    registers = "_reg4" if "register_tokens" in state or "reg_token" in state else ""
    # timm gives models with registers no position for the class token.
    n_prefix = 0 if "reg_token" in state else 1
    return Recognised(
        form=f"DINOv2 ({'facebook' if is_facebooks else 'timm'})",
        prefix=prefix,
        architecture=f"vit_{_known_size(_DINOV2_SIZES, size, 'DINOv2')}_patch14{registers}_dinov2",
        arguments={},
        input_px=_side(state, size[2], n_prefix=n_prefix),
        mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic", pooling="cls", assumed=("pooling",),
    )  # fmt: skip


def _dinov3(state: Mapping[str, Tensor], prefix: str, size: tuple[int, int, int]) -> Recognised:
    is_gated = any(f"blocks.0.mlp.{name}.weight" in state for name in ("w1", "w3", "fc1_g"))
    name = f"vit_{_known_size(_DINOV3_SIZES, (*size, is_gated), 'DINOv3')}_patch16_dinov3"
    # In some sizes the published biases of queries and values are all zero; timm has a network with and one without.
    biases = "_qkvb" if query_or_value_biases(state) else ""
    return Recognised(
        form=f"DINOv3 ({'facebook' if 'storage_tokens' in state else 'timm'})",
        prefix=prefix,
        architecture=f"{name}{biases}",
        arguments={},
        input_px=native_px(name),  # positions are rotary: any size
        mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic", pooling="cls",
        assumed=("input_px", "mean", "std", "pooling"),
    )  # fmt: skip


def _face_network(original: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str) -> Recognised | None:
    arguments: dict[str, int | float | str | bool] = {}
    mean, std = _HALF, _HALF
    if "layer1.0.prelu.weight" in state and "features.weight" in state and state.get("fc.weight") is not None:
        blocks = tuple(_count(state, f"layer{stage}.") for stage in (1, 2, 3, 4))
        names = [name for name, each in IRESNET_BLOCKS.items() if each == blocks]
        if not names or state["fc.weight"].shape[1] != 512 * 49:
            raise StoreError(
                f"An ArcFace IResNet of {blocks} blocks and a last layer {_shape(state['fc.weight'])} is not known; "
                f"known are {', '.join(IRESNET_BLOCKS)} for 112 pixels. Give one of these."
            )
        form, architecture, dim = "ArcFace IResNet", names[0], int(state["fc.weight"].shape[0])
    elif "conv2_dw.conv.weight" in state and "conv_6_dw.conv.weight" in state and "linear.weight" in state:
        form, architecture = "MobileFaceNet (InsightFace_Pytorch)", "mobilefacenet"
        dim = len(state["linear.weight"])
        if "conv2_pw.conv.weight" in state:
            form, arguments, mean, std = FOAMLIU, {"form": "foamliu"}, IMAGENET_MEAN, IMAGENET_STD
        elif f"{prefix}conv_sep.layers.0.weight" in original:
            form = "MobileFaceNet (arcface_torch)"
        if (width := len(state["conv1.conv.weight"]) // 64) != 1:
            arguments["width"] = width
    else:
        return None
    if dim != 512:
        arguments["dim"] = dim
    return Recognised(
        form=form, prefix=prefix, architecture=architecture, arguments=arguments, input_px=112,
        mean=mean, std=std, interpolation="bilinear", pooling="default", assumed=("mean", "std"),
    )  # fmt: skip


def _published_form(state: Mapping[str, Tensor], file_name: str) -> str:
    """Whose file of a convolutional network it is, by names that others do not use; empty if it could be anyone's."""
    if {"conv1_1.weight", "fc6.weight"} <= state.keys():
        return VGG_FACE
    if "conv_stem.weight" in state and ("classifier.0.weight" in state or file_name.startswith("enet_b")):
        return HSEMOTION
    return ""


def _convolutional(state: Mapping[str, Tensor], prefix: str, form: str) -> Recognised | None:
    """The member of a family whose every tensor is there, in its shape, and that has all that computes in the file."""
    family = next((known for mark, known in _CONVOLUTIONAL.items() if any(name.startswith(mark) for name in state)), ())
    architecture = next((name for name in family if _is_whole(name, state)), None)
    if architecture is None:
        return None
    if form == HSEMOTION:
        architecture = _TWINS.get(architecture, architecture)
    if architecture in _TWINS:
        raise StoreError(
            f"These weights are of {architecture!r} or of {_TWINS[architecture]!r}, whose names and shapes are the "
            "same and which compute different things. Say which with --arch (HSEmotion's are the second)."
        )
    mean, std, interpolation = _habits(architecture)
    assumed: tuple[str, ...] = ("input_px", "mean", "std", "interpolation")
    if form == VGG_FACE:
        mean, std, assumed = _VGG_FACE_MEAN, (1 / 255, 1 / 255, 1 / 255), ("input_px", "interpolation")
    elif form == HSEMOTION:
        mean, std, interpolation, assumed = IMAGENET_MEAN, IMAGENET_STD, "bilinear", ("input_px", "interpolation")
    return Recognised(
        form=form or f"timm {architecture}", prefix=prefix, architecture=architecture, arguments={},
        input_px=native_px(architecture), mean=mean, std=std, interpolation=interpolation, pooling="default",
        assumed=assumed,
    )  # fmt: skip


def _is_whole(architecture: str, state: Mapping[str, Tensor]) -> bool:
    model = plain_model(architecture)
    try:
        converted = timm_names(state, model)
    except StoreError:
        return False
    return not surplus_names(converted, model) and all(
        name in converted and converted[name].shape == tensor.shape
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )


def _habits(
    architecture: str,
) -> tuple[tuple[float, float, float], tuple[float, float, float], Literal["bicubic", "bilinear"]]:
    """Mean, deviation and interpolation of timm's own weights of an architecture."""
    config: Any = plain_model(architecture).pretrained_cfg  # a timm mapping, whose values are of all types
    mean, std = (tuple(float(value) for value in config[name]) for name in ("mean", "std"))
    interpolation: Literal["bicubic", "bilinear"] = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), interpolation


def _count(state: Iterable[str], prefix: str) -> int:
    """How many numbered parts there are under a prefix."""
    return len({name[len(prefix) :].split(".", 1)[0] for name in state if name.startswith(prefix)})


def _side(state: Mapping[str, Tensor], patch: int, *, n_prefix: int) -> int:
    """Side of the input in pixels, from the number of position embeddings."""
    n_patches = int(state["pos_embed"].shape[1]) - n_prefix
    grid = isqrt(n_patches)
    if grid * grid != n_patches:
        raise StoreError(
            f"Position embeddings of a square grid were expected, not {_shape(state['pos_embed'])}. "
            "Only encoders of square images can be used."
        )
    return grid * patch


def _known_size(known: Mapping[_Size, str], size: _Size, what: str) -> str:
    if size in known:
        return known[size]
    sizes = ", ".join(f"{width} x {depth} with patches of {patch}" for width, depth, patch, *_ in known)
    raise StoreError(
        f"These weights are of {what} of width {size[0]} with {size[1]} blocks and patches of {size[2]} pixels; "
        f"recognised are {sizes}. The number of heads is not in a file: give the architecture and its arguments."
    )


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.shape)) + ")"
