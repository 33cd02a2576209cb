"""From an encoder's spec to its network: timm's architectures, and the face networks that timm does not have.

What a pooling means is told to timm as arguments, and only to families that know them: Vision Transformers have
``global_pool`` and a switch for the norm behind it. A convolutional network averages its last map anyway, so that
``mean`` and ``tokens`` need no argument there.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import timm
import torch
from torch import nn

from featurestore.errors import ConfigError, unknown_name

from .iresnet import IRESNET_BLOCKS, IResNet
from .mobilefacenet import MOBILEFACENET_FORMS, MobileFaceNet
from .spec import EncoderSpec

OWN_ARCHITECTURES: Final = (*IRESNET_BLOCKS, "mobilefacenet")
ONNX_ARCHITECTURE: Final = "onnx"

_FACE_PX: Final = 112
_OWN_DEFAULTS: Final[Mapping[str, int | str]] = {"dim": 512, "width": 1, "form": "insightface"}
_Argument = int | float | str | bool
_GLOBAL_POOL: Final[Mapping[str, str]] = {
    "fc_norm": "avg", "mean": "avg", "cls": "token", "cls+mean": "token", "tokens": "avg",
}  # fmt: skip


def build_backbone(spec: EncoderSpec) -> nn.Module:
    """The network that a spec describes, with random weights, in train mode, on the default device.

    It maps images (n, 3, input_px, input_px) to (n, dim), or to (n, n_scores) if scores are kept; `forward_features`
    and ``forward_head(..., pre_logits=True)`` give the tokens or map, and the features of `dim`, in either case.

    Parameters
    ----------
    spec
        Architecture, arguments, pooling, input size and number of scores count.

    Raises
    ------
    UnknownNameError
        If neither timm nor abaw has such an architecture.
    ConfigError
        If it cannot be built with this pooling, these arguments or scores.
    """
    name = spec.architecture
    if name == ONNX_ARCHITECTURE:
        raise ConfigError(
            "An ONNX encoder is read from its file and not built from a spec. Load its folder, or adopt the file."
        )
    if name in OWN_ARCHITECTURES:
        return _build_own(spec)
    if not timm.is_model(name):
        raise unknown_name("timm architecture", name, (*timm.list_models(), *OWN_ARCHITECTURES))
    known = _constructor(name)
    arguments: dict[str, Any] = {**_pooling_arguments(spec.pooling, known), **_size_argument(spec, known)}
    arguments |= spec.arguments
    try:
        backbone: nn.Module = timm.create_model(name, num_classes=spec.n_scores, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"timm cannot build {name!r} with {arguments}: {error}. Change the encoder's pooling or arguments."
        ) from error
    return backbone


def embedding_dim(backbone: nn.Module) -> int | None:
    """Length of the embedding that a backbone computes, without scores; None if it does not say."""
    # Some families widen the features once more before the classifier, and that is what they put out.
    widest = "head_hidden_size" if hasattr(backbone, "head_hidden_size") else "num_features"
    dim: int | None = getattr(backbone, widest, None)
    return None if dim is None else int(dim)


@cache
def plain_model(name: str) -> nn.Module:
    """A timm architecture without classifier and without memory for weights ("meta"): its class, names and shapes."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, num_classes=0)
    return model


def native_px(name: str) -> int:
    """Side of the square input that a timm architecture is made for, in pixels."""
    config: Any = plain_model(name).pretrained_cfg  # a timm mapping, whose values are of all types
    return int(config["input_size"][-1])


def _constructor(name: str) -> Mapping[str, inspect.Parameter]:
    """What the class behind a timm name takes; the functions in front of it swallow everything."""
    return inspect.signature(type(plain_model(name)).__init__).parameters


def _pooling_arguments(pooling: str, known: Mapping[str, inspect.Parameter]) -> dict[str, _Argument]:
    if pooling == "default":
        return {}
    # timm's two names for one switch: the last norm stands behind the pooling instead of before it.
    switch = next((name for name in ("fc_norm", "use_fc_norm") if name in known), None)
    if switch is not None:
        return {"global_pool": _GLOBAL_POOL[pooling], switch: pooling == "fc_norm"}
    if pooling == "fc_norm":
        return {"global_pool": "avg", "fc_norm": True}  # refused by timm, which says why
    if pooling in ("cls", "cls+mean"):
        return {"global_pool": "token"}
    own = known.get("global_pool")
    return {"global_pool": "avg"} if own is not None and own.default == "token" else {}


def _size_argument(spec: EncoderSpec, known: Mapping[str, inspect.Parameter]) -> dict[str, _Argument]:
    """Transformers have one position embedding a patch, so they are told another size; the others take any."""
    size = known.get("img_size")
    if size is None or size.default is None or "img_size" in spec.arguments:
        return {}
    return {} if spec.input_px == native_px(spec.architecture) else {"img_size": spec.input_px}


def _build_own(spec: EncoderSpec) -> nn.Module:
    name = spec.architecture
    if spec.pooling not in ("default", "tokens"):
        raise ConfigError(
            f"{name!r} ends in a layer over its whole 7 x 7 map, so its pooling is 'default' (the published embedding) "
            f"or 'tokens' (the map), not {spec.pooling!r}. Change the encoder's pooling."
        )
    if spec.input_px != _FACE_PX:
        raise ConfigError(
            f"{name!r} takes faces of {_FACE_PX} pixels, not of {spec.input_px}: its last layer is as large as that "
            f"map. Set the encoder's input_px to {_FACE_PX}; frames of any size are resized to it."
        )
    if spec.n_scores:
        raise ConfigError(f"{name!r} has no classifier, so no {spec.n_scores} scores. Set the encoder's n_scores to 0.")
    dim, width, form = (spec.arguments.get(each, default) for each, default in _OWN_DEFAULTS.items())
    takes = ("dim",) if name != "mobilefacenet" else tuple(_OWN_DEFAULTS)
    if set(spec.arguments) - set(takes) or form not in MOBILEFACENET_FORMS or not _are_counts(dim, width):
        raise ConfigError(
            f"{name!r} takes the arguments {' and '.join(takes)} (whole numbers; form is one of "
            f"{', '.join(MOBILEFACENET_FORMS)}), and got {spec.arguments}. Change the encoder's arguments."
        )
    if name != "mobilefacenet":
        return IResNet(IRESNET_BLOCKS[name], dim=int(dim))
    return MobileFaceNet(dim=int(dim), width=int(width), form="foamliu" if form == "foamliu" else "insightface")


def _are_counts(*values: _Argument) -> bool:
    return all(type(value) is int and value > 0 for value in values)
