"""A weights file, whatever its form, becomes an encoder, and the account of it is kept in the encoder's spec."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import nn

from featurestore.errors import AbawError, MissingFileError, StoreError
from featurestore.provenance import file_digest

from .architectures import ONNX_ARCHITECTURE, OWN_ARCHITECTURES, build_backbone
from .encoder import Encoder
from .matching import MatchReport, fit_weights
from .recognise import FOAMLIU, HSEMOTION, VGG_FACE, Recognised, recognise
from .spec import EncoderSpec
from .weightfile import WeightFile, is_onnx, read_weights

_PRESET_OF_FORM: Final[Mapping[str, str]] = {FOAMLIU: "mobilefacenet_128", VGG_FACE: "vgg16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """An encoder made from a weights file."""

    encoder: Encoder  # in eval mode, on the CPU
    report: MatchReport | None  # None for ONNX, which comes with its network
    form: str  # whose file it is: "facebook MAE, with decoder", "ONNX"; "as given" if it is not recognised
    # Fields of the spec, and num_heads, that the file does not tell; none where a spec was given, which tells them.
    assumed: tuple[str, ...]


def adopt(weights: Path, spec: EncoderSpec | None = None, *, allow_partial: bool = False) -> Adopted:
    """Make an encoder of a weights file.

    Parameters
    ----------
    weights
        A safetensors, torch or ONNX file.
    spec
        What it is; None to recognise it. Of a face network of this package the arguments that it does not give (width,
        length of the embedding, form) are read from the file. Of an ONNX file it gives the normalisation, and may name
        the output.
    allow_partial
        Let parts of the backbone that the file does not have keep random weights; they are named in the report.

    Raises
    ------
    MissingFileError
        If there is no such file.
    StoreError
        If it cannot be read, is not recognised, does not fill the backbone, or is of a form that is known to be
        another network of the same names, or to be fed otherwise than the spec says.
    ConfigError, UnknownNameError
        If the spec cannot be built.
    """
    if not weights.is_file():
        raise MissingFileError(f"There is no weights file {weights}. Check the path.")
    if is_onnx(weights):
        return _adopt_onnx(weights, spec)
    file = read_weights(weights)
    found: Recognised | None
    assumed: tuple[str, ...] = ()
    if spec is None:
        found = recognise(file.state, file_name=weights.name)
        spec, assumed = found.spec(), found.assumed
    elif (found := _recognised_or_none(file)) is not None:
        _check_form(spec, found, weights)
        if spec.architecture in OWN_ARCHITECTURES and found.architecture == spec.architecture:
            spec = spec.model_copy(update={"arguments": {**found.arguments, **spec.arguments}})
    backbone = _build_seeded(spec, file.digest)
    try:
        report = fit_weights(backbone, file.state, allow_partial=allow_partial, where=str(weights))
    except StoreError as error:
        if found is not None and found.architecture != spec.architecture:
            error.args = (f"{error} The file looks like {found.form}: {found.architecture}.",)
        raise
    report = replace(report, others=file.others)
    form = found.form if found is not None and found.architecture == spec.architecture else "as given"
    kept = spec.model_copy(update={"origin": {**spec.origin, **_origin(file, form, report)}})
    return Adopted(encoder=_ready(kept, backbone), report=report, form=form, assumed=assumed)


def _check_form(spec: EncoderSpec, found: Recognised, weights: Path) -> None:
    """Refuse what fills every place, and is known to have been made for another network or for other pixels."""
    if found.form == HSEMOTION and f"tf_{spec.architecture}" == found.architecture:
        raise StoreError(
            f"{weights} was to be of {spec.architecture}, but it looks like {found.form}: {found.architecture}, whose "
            "names and shapes are the same and which computes something else. Choose that; or, where the weights are "
            f"of {spec.architecture}, save them without their classifier, under another name than enet_b*."
        )
    says_form = found.form == FOAMLIU and "form" in spec.arguments
    if found.form not in (FOAMLIU, VGG_FACE) or found.architecture != spec.architecture or says_form:
        return
    if not all(
        abs(given - own) < 0.01 for given, own in zip((*spec.mean, *spec.std), (*found.mean, *found.std), strict=True)
    ):
        told = f"mean {_rounded(found.mean)} and std {_rounded(found.std)}"
        raise StoreError(
            f"{weights} looks like {found.form}, whose pixels are normalised with {told}, but it was to be fed with "
            f"mean {_rounded(spec.mean)} and std {_rounded(spec.std)}. Choose the preset of that form "
            f"({_PRESET_OF_FORM[found.form]}), or leave preset and normalisation out."
        )


def _rounded(values: tuple[float, float, float]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def _build_seeded(spec: EncoderSpec, digest: str) -> nn.Module:
    """What the file does not fill is random, and the same for the same file, whatever else draws numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(digest[:15], 16))
        return build_backbone(spec)


def _origin(file: WeightFile, form: str, report: MatchReport) -> dict[str, object]:
    return {
        "kind": "adopted",
        "file": file.path.name,
        "digest": file.digest,
        "form": form,
        "entry": file.entry,
        **report.to_json(),
        "partial": report.is_partial,
    }


def _adopt_onnx(weights: Path, spec: EncoderSpec | None) -> Adopted:
    # onnxruntime is an extra; what else can be adopted needs none of it.
    from .onnxmodel import OnnxBackbone

    # Which of several outputs is the embedding is the one thing that may be said of the network itself.
    output = spec.arguments.get("output") if spec is not None and spec.architecture == ONNX_ARCHITECTURE else None
    backbone = OnnxBackbone(
        weights, output=None if output is None else str(output), input_px=None if spec is None else spec.input_px
    )
    pooling = "default" if backbone.num_features is not None else "tokens"
    if spec is None:
        spec = EncoderSpec(architecture=ONNX_ARCHITECTURE, input_px=backbone.input_px)
        assumed: tuple[str, ...] = ("mean", "std", "interpolation")
    else:
        assumed = ()
    origin = {"kind": "adopted", "file": weights.name, "digest": file_digest(weights), "form": "ONNX", "partial": False}
    kept = spec.model_copy(
        update={
            "architecture": ONNX_ARCHITECTURE,
            "arguments": {} if output is None else {"output": output},
            "n_scores": 0,
            "input_px": backbone.input_px,
            "pooling": pooling,
            "origin": {**spec.origin, **origin},
        }
    )
    return Adopted(encoder=_ready(kept, backbone), report=None, form="ONNX", assumed=assumed)


def _recognised_or_none(file: WeightFile) -> Recognised | None:
    try:
        return recognise(file.state, file_name=file.path.name)
    except AbawError:
        return None


def _ready(spec: EncoderSpec, backbone: nn.Module) -> Encoder:
    return Encoder(spec, backbone).eval()
