"""From what a person says of a file of weights to the spec under which it is adopted.

What is not said comes from the preset (the file's name may tell which), from timm, or is recognised from the file. An
ONNX file tells its input side and nothing of how pixels are normalised, so that must be said.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from featurestore.errors import ConfigError, unknown_name

from .finding import TIMM_PREFIX, TimmModel, find_encoder
from .preparing import Prepared, add_encoder, not_normalised
from .presets import PRESETS, find_preset, preset_names, preset_of_file
from .spec import IMAGENET_MEAN, IMAGENET_STD, EncoderSpec

if TYPE_CHECKING:
    from .recognise import Recognised

_FED: Final = ("mean", "std", "interpolation")
_OF_IMAGENET: Final = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is said of a file of weights; None where nothing is said.

    Attributes
    ----------
    preset, architecture
        At most one of the two.
    input_px, pooling, n_scores, licence
        As in `EncoderSpec`.
    mean, std
        ``imagenet``, or one or three numbers separated by commas, for pixels in [0, 1].
    interpolation
        bicubic or bilinear.
    output
        Name of an ONNX model's output.
    """

    preset: str | None = None
    architecture: str | None = None
    input_px: int | None = None
    pooling: str | None = None
    mean: str | None = None
    std: str | None = None
    interpolation: str | None = None
    n_scores: int | None = None
    output: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What is known of a file of weights before it is read whole.

    Attributes
    ----------
    spec
        Under which it is adopted; None to recognise all of it.
    assumed
        Fields of the spec that neither anybody nor a preset told; None where adopting finds that out.
    """

    spec: EncoderSpec | None = None
    assumed: tuple[str, ...] | None = None


def add_given(
    name: str, file: Path, encoders: Path, given: Given, *, allow_partial: bool = False, force: bool = False
) -> Prepared:
    """Adopt a file of weights under the spec that is said, see `preparing.add_encoder`.

    Raises
    ------
    ConfigError
        If what is said contradicts itself or the file.
    UnknownNameError
        If there is no such preset or architecture.
    """
    known = describe(file, given) if file.is_file() else Described()
    return add_encoder(
        name, file, encoders, spec=known.spec, assumed=known.assumed, allow_partial=allow_partial, force=force
    )


def describe(file: Path, given: Given) -> Described:
    """The spec under which a file is adopted, and what of it nobody told.

    Parameters
    ----------
    file
        Read only if neither a preset nor an architecture is said, and something else is.
    given
        What is said of it.
    """
    from .weightfile import is_onnx

    if given.preset is not None and given.architecture is not None:
        raise ConfigError("A preset has its architecture. Give --preset or --arch, not both.")
    said = _said(given)
    onnx = is_onnx(file)
    # Whoever says how an ONNX file is fed may know more of it than its name.
    is_told = given.preset is not None or given.architecture is not None or (onnx and {"mean", "std"} <= said.keys())
    if not is_told and (named := preset_of_file(file)) is not None:
        given = replace(given, preset=named.name)
    if onnx:
        return _of_onnx(file, given, said)
    if given.output is not None:
        raise ConfigError(f"--output names an output of an ONNX model, and {file} is none. Leave it out.")
    if given.preset is not None:
        return Described(spec=_checked(_of_preset(given.preset, given.input_px), said), assumed=())
    if given.architecture is not None:
        return Described(spec=_checked(_of_architecture(given.architecture), said), assumed=_untold(_FED, said))
    if not said:
        return Described()
    found = _recognised(file)
    return Described(spec=_checked(found.spec(), said), assumed=_untold(found.assumed, said))


def _untold(assumed: Iterable[str], said: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(field for field in assumed if field not in said)


def _of_onnx(file: Path, given: Given, said: Mapping[str, object]) -> Described:
    from .onnxmodel import OnnxBackbone

    if given.architecture not in (None, "onnx"):
        raise ConfigError(f"{file} is an ONNX model, which brings its architecture. Leave --arch out.")
    if given.n_scores:
        raise ConfigError(f"{file} is an ONNX model, whose output is taken as it is. Leave --scores out.")
    if given.pooling is not None:
        raise ConfigError(
            f"{file} is an ONNX model, whose output is pooled as its exporter chose. Leave --pooling out."
        )
    base = None if given.preset is None else _of_preset(given.preset, given.input_px)
    if base is None and not {"mean", "std"} <= said.keys():
        raise ConfigError(not_normalised(file))
    side = given.input_px if base is None else given.input_px or base.input_px
    model = OnnxBackbone(file, output=given.output, input_px=side)
    found = EncoderSpec(
        architecture="onnx",
        arguments={} if given.output is None and len(model.outputs) == 1 else {"output": model.output},
        input_px=model.input_px,
        mean=base.mean if base else IMAGENET_MEAN,
        std=base.std if base else IMAGENET_STD,
        interpolation=base.interpolation if base else "bilinear",
        pooling="tokens" if len(model.row_shape) == 2 else "default",
        licence=base.licence if base else None,
        origin=base.origin if base else {},
    )
    return Described(spec=_checked(found, said), assumed=() if base else _untold(_FED, said))


def _of_preset(name: str, input_px: int | None) -> EncoderSpec:
    preset = find_preset(name)
    if preset is None:
        raise unknown_name("preset", name, preset_names())
    return (preset if input_px is None else preset.at_size(input_px)).adoptable()


def _of_architecture(name: str) -> EncoderSpec:
    """A face network's spec is that of its preset; a timm model's is timm's."""
    from .architectures import OWN_ARCHITECTURES

    if name in OWN_ARCHITECTURES:
        like = PRESETS.get(name, PRESETS["iresnet50"]).spec  # ArcFace's networks of all depths are fed alike
        return like.model_copy(update={"architecture": name, "licence": None})
    found = find_encoder(name if name.startswith(TIMM_PREFIX) else f"{TIMM_PREFIX}{name}", None)
    if not isinstance(found, TimmModel):
        raise unknown_name("architecture", name, OWN_ARCHITECTURES)
    return found.spec.model_copy(update={"licence": None})


def _recognised(file: Path) -> "Recognised":
    from .recognise import recognise
    from .weightfile import read_weights

    return recognise(read_weights(file).state, file_name=file.name)


def _said(given: Given) -> dict[str, object]:
    """What is said, by the names of the spec's fields."""
    plain = {
        "input_px": given.input_px,
        "pooling": given.pooling,
        "interpolation": given.interpolation,
        "n_scores": given.n_scores,
        "licence": given.licence,
        "mean": None if given.mean is None else _per_channel("mean", given.mean),
        "std": None if given.std is None else _per_channel("std", given.std),
    }
    return {name: value for name, value in plain.items() if value is not None}


def _per_channel(what: str, text: str) -> tuple[float, float, float]:
    if text.strip().lower() == "imagenet":
        return _OF_IMAGENET[what]
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    red, green, blue = values * 3 if len(values) == 1 else values if len(values) == 3 else (-1.0, -1.0, -1.0)
    # The habit of 0..255 is caught here: nobody's pixels in [0, 1] have such a mean.
    if not all(0 <= value <= 1 for value in (red, green, blue)) or (what == "std" and 0 in (red, green, blue)):
        raise ConfigError(
            f"--{what} is imagenet, or one or three numbers for pixels from 0 to 1, such as 0.5,0.5,0.5, not {text!r}. "
            "Divide values for pixels from 0 to 255 by 255."
        )
    return red, green, blue


def _checked(spec: EncoderSpec, said: Mapping[str, object]) -> EncoderSpec:
    try:
        return EncoderSpec.model_validate(spec.model_dump() | dict(said))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors()]
        raise ConfigError("; ".join(problems) + ". Correct these options.") from error
