"""From the names that a weights file has to those of the backbone: wrappers, other forms, and timm's own filters.

A wrapper (DataParallel, Lightning, a model that holds the backbone) puts a word before each name. Public forms of one
network name its modules differently. timm converts the files of the networks that it took over; its filters are used
as they are, but two things that they do without a word are kept from them: a patch embedding of another patch size is
not resampled, and what DINOv3's filter prints goes nowhere.
"""

import contextlib
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from torch import Tensor, nn

from featurestore.errors import StoreError

_WRAPPERS: Final = (
    "module", "model", "main", "backbone", "encoder", "net", "network", "_orig_mod", "base_model", "base_encoder",
    "teacher", "student", "vit", "visual", "image_encoder", "feature_extractor",
)  # fmt: skip
_WRAPPED: Final = re.compile(rf"(?:(?:{'|'.join(_WRAPPERS)})\.)*")
_FILTER_NAMES: Final = ("checkpoint_filter_fn", "_filter_torchvision_pretrained", "_filter_fn")

_PARTS: Final = ("conv", "conv_dw", "project")  # of a MobileFaceNet bottleneck
_ENDS: Final = ("conv", "bn", "prelu")  # of one of its convolutions
_MBF_STAGES: Final = ("conv1", "conv2_dw", "conv_23", "conv_3", "conv_34", "conv_4", "conv_45", "conv_5")
_VGG_CONVOLUTIONS: Final[Mapping[str, int]] = {
    "1_1": 0, "1_2": 2, "2_1": 5, "2_2": 7, "3_1": 10, "3_2": 12, "3_3": 14,
    "4_1": 17, "4_2": 19, "4_3": 21, "5_1": 24, "5_2": 26, "5_3": 28,
}  # fmt: skip


def wrapping_prefixes(names: Iterable[str]) -> list[str]:
    """All runs of wrapping words that some names begin with, such as ``module.model.``, the empty one first.

    Of a teacher and its student the teacher is meant, however deep it is wrapped.
    """
    found = {""}
    for name in names:
        words = _matched(_WRAPPED, name).split(".")[:-1]
        found.update("".join(f"{word}." for word in words[:n]) for n in range(1, len(words) + 1))
    return sorted(found, key=lambda prefix: (_is_student(prefix), len(prefix), prefix))


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def best_prefix(state: Mapping[str, Tensor], backbone: nn.Module) -> str:
    """The prefix under which most of the backbone's names are found, once they are renamed."""
    wanted = backbone.state_dict().keys()

    def fitting(prefix: str) -> tuple[int, bool, int, int]:
        inner = without_prefix(state, prefix)
        n_found = len(wanted & inner.keys()) or len(wanted & own_names(inner).keys())
        # A student has more beside its backbone (masks, heads), which says nothing for it.
        return n_found, not _is_student(prefix), len(inner), len(prefix)

    return max(wrapping_prefixes(state), key=fitting)


def _is_student(prefix: str) -> bool:
    return "student" in prefix.split(".")


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The forms that timm has no filter for, under the names of this package's and timm's networks; others as given.

    These are InsightFace's and foamliu's MobileFaceNet, VGG-Face as Albanie converted it, and a classifier in a
    Sequential (HSEmotion).
    """
    rename: Callable[[str], str] | None = None
    if "conv_sep.layers.0.weight" in state:
        rename = _from_insightface
    elif "gdconv.depthwise.weight" in state:
        rename = _from_foamliu
    elif "conv1_1.weight" in state and "fc6.weight" in state:
        rename = _from_vgg_face
    elif {"classifier.0.weight", "conv_stem.weight"} <= state.keys():
        rename = _from_sequential_classifier
    if rename is None:
        return dict(state)
    return {(new := rename(name)): _shaped(new, tensor) for name, tensor in state.items()}


def timm_names(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """What timm's filter of the backbone's family makes of a state; position embeddings come out resampled.

    Raises
    ------
    StoreError
        If the filter fails: the file is of another network.
    """
    convert = _filter_of(backbone)
    if convert is None:
        return dict(state)
    kept_back = _other_patches(state, backbone)
    given = {name: tensor for name, tensor in state.items() if name not in kept_back}
    takes_model = len(inspect.signature(convert).parameters) > 1
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            converted = convert(given, backbone) if takes_model else convert(given)
    except (KeyError, RuntimeError, ValueError, AttributeError, IndexError) as error:
        raise StoreError(
            f"The weights do not fit {type(backbone).__name__}: timm's conversion stops at {error!r}. "
            "Name the architecture that the file was made with."
        ) from error
    return {**converted, **kept_back}


def _other_patches(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """A patch embedding of another patch size than the backbone's."""
    name = "patch_embed.proj.weight"
    own = backbone.state_dict().get(name)
    theirs = state.get(name)
    if own is None or theirs is None or theirs.ndim != 4 or own.shape[-2:] == theirs.shape[-2:]:
        return {}
    return {name: theirs}


def _filter_of(backbone: nn.Module) -> Callable[..., dict[str, Tensor]] | None:
    """A family's filter, which timm keeps beside its class."""
    module = sys.modules[type(backbone).__module__]
    if not module.__name__.startswith("timm."):
        return None
    found = (getattr(module, name, None) for name in _FILTER_NAMES)
    return next((each for each in found if each is not None), None)


def _matched(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.match(name)
    return "" if match is None else match.group()


def _from_insightface(name: str) -> str:
    """arcface_torch's "mbf": everything is a numbered layer of a numbered layer."""
    words = name.split(".")
    numbers = [int(word) for word in words[:-1] if word.isdigit()]
    match words[0], numbers:
        case "layers", [0 | 1 as stage, end]:
            return f"{_MBF_STAGES[stage]}.{_ENDS[end]}.{words[-1]}"
        case "layers", [stage, part, end]:
            return f"{_MBF_STAGES[stage]}.{_PARTS[part]}.{_ENDS[end]}.{words[-1]}"
        case "layers", [stage, block, part, end]:
            return f"{_MBF_STAGES[stage]}.model.{block}.{_PARTS[part]}.{_ENDS[end]}.{words[-1]}"
        case "conv_sep", [end]:
            return f"conv_6_sep.{_ENDS[end]}.{words[-1]}"
        case "features", [0, end]:
            return f"conv_6_dw.{_ENDS[end]}.{words[-1]}"
        case "features", [2 | 3 as end]:
            return f"{'linear' if end == 2 else 'bn'}.{words[-1]}"
    return name


def _from_foamliu(name: str) -> str:
    words = name.split(".")
    match words:
        case ["conv1" | "conv2" as first, "0" | "1" as end, leaf]:
            return f"{'conv1' if first == 'conv1' else 'conv_6_sep'}.{_ENDS[int(end)]}.{leaf}"
        case ["dw_conv", "depthwise" | "bn1" as end, leaf]:
            return f"conv2_dw.{'conv' if end == 'depthwise' else 'bn'}.{leaf}"
        case ["dw_conv", "pointwise" | "bn2" as end, leaf]:
            return f"conv2_pw.{'conv' if end == 'pointwise' else 'bn'}.{leaf}"
        case ["features", block, "conv", "0" | "1" as part, "0" | "1" as end, leaf]:
            return f"{_foamliu_block(int(block))}.{_PARTS[int(part)]}.{_ENDS[int(end)]}.{leaf}"
        case ["features", block, "conv", "2" | "3" as end, leaf]:
            return f"{_foamliu_block(int(block))}.project.{_ENDS[int(end) - 2]}.{leaf}"
        case ["gdconv", "depthwise" | "bn" as end, leaf]:
            return f"conv_6_dw.{'conv' if end == 'depthwise' else 'bn'}.{leaf}"
        case ["conv3", leaf]:
            return f"linear.{leaf}"
    return name


def _foamliu_block(number: int) -> str:
    """One list of fifteen bottlenecks; those that change the shape stand at 0, 5 and 12."""
    for first, alone, row in ((12, "conv_45", "conv_5"), (5, "conv_34", "conv_4"), (0, "conv_23", "conv_3")):
        if number >= first:
            return alone if number == first else f"{row}.model.{number - first - 1}"
    return ""


def _from_vgg_face(name: str) -> str:
    layer, _, leaf = name.partition(".")
    if layer.removeprefix("conv") in _VGG_CONVOLUTIONS:
        return f"features.{_VGG_CONVOLUTIONS[layer.removeprefix('conv')]}.{leaf}"
    return {"fc6": "pre_logits.fc1.", "fc7": "pre_logits.fc2.", "fc8": "head.fc."}.get(layer, f"{layer}.") + leaf


def _from_sequential_classifier(name: str) -> str:
    return name.replace("classifier.0.", "classifier.", 1)


def _shaped(name: str, tensor: Tensor) -> Tensor:
    """A linear layer and a convolution over a whole map are one thing in two shapes."""
    if name == "linear.weight":
        return tensor.flatten(1)
    if name == "pre_logits.fc1.weight" and tensor.ndim == 2:
        return tensor.reshape(len(tensor), -1, 7, 7)
    if name == "pre_logits.fc2.weight" and tensor.ndim == 2:
        return tensor.reshape(*tensor.shape, 1, 1)
    return tensor


def query_or_value_biases(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the attention biases that are not zero for queries or values; that for keys has no effect.

    timm leaves them out where a network has none, which changes nothing as long as they are zero. Of tensors without
    memory nothing is known, and none is named.
    """
    found = []
    for name, tensor in state.items():
        if tensor.is_meta or not name.startswith("blocks."):
            continue
        if name.endswith(("attn.q_bias", "attn.v_bias")) and bool(tensor.any()):
            found.append(name)
        elif name.endswith("attn.qkv.bias"):
            queries, _, values = tensor.chunk(3)
            if bool(queries.any()) or bool(values.any()):
                found.append(name)
    return found
