"""A weights file, whatever its form, becomes an encoder, and the account of it is kept in the encoder's spec."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from featurestore.errors import AbawError, MissingFileError, StoreError
from featurestore.provenance import file_digest

from .architectures import ONNX_ARCHITECTURE, OWN_ARCHITECTURES, build_backbone
from .encoder import Encoder
from .matching import MatchReport, fit_weights
from .recognise import Recognised, recognise
from .spec import EncoderSpec
from .weightfile import WeightFile, is_onnx, read_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """An encoder made from a weights file."""

    encoder: Encoder  # in eval mode, on the CPU
    report: MatchReport | None  # None for ONNX, which comes with its network
    form: str  # whose file it is: "facebook MAE, with decoder", "ONNX", or "as given" if nobody had to recognise it
    assumed: tuple[str, ...]  # fields of the spec that the file does not tell, and nobody gave


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
        If it cannot be read, is not recognised, or does not fill the backbone.
    ConfigError, UnknownNameError
        If the spec cannot be built.
    """
    if not weights.is_file():
        raise MissingFileError(f"There is no weights file {weights}. Check the path.")
    if is_onnx(weights):
        return _adopt_onnx(weights, spec)
    file = read_weights(weights)
    found: Recognised | None = None
    if spec is None:
        found = recognise(file.state, file_name=weights.name)
        spec = found.spec()
    elif spec.architecture in OWN_ARCHITECTURES:
        found = _recognised_or_none(file)
        if found is not None and found.architecture == spec.architecture:
            spec = spec.model_copy(update={"arguments": {**found.arguments, **spec.arguments}})
    backbone = build_backbone(spec)
    try:
        report = fit_weights(backbone, file.state, allow_partial=allow_partial, where=str(weights))
    except StoreError as error:
        found = found or _recognised_or_none(file)
        if found is not None and found.architecture != spec.architecture:
            error.args = (f"{error} The file looks like {found.form}: {found.architecture}.",)
        raise
    form = "as given" if found is None else found.form
    kept = spec.model_copy(update={"origin": {**spec.origin, **_origin(file, form, report)}})
    return Adopted(
        encoder=_ready(kept, backbone), report=report, form=form, assumed=() if found is None else found.assumed
    )


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
