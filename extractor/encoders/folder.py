"""An encoder on disk: a folder with `encoder.json` and, beside it, the weights in `model.safetensors` or `model.onnx`.

Such a folder is complete in itself: no code is unpickled, nothing is downloaded.
"""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, MissingFileError, StoreError

from .encoder import Encoder
from .onnxmodel import OnnxBackbone
from .spec import EncoderSpec
from .specfile import ONNX_FILE, SPEC_FILE, WEIGHTS_FILE, read_spec, weights_file

__all__ = ["ONNX_FILE", "SPEC_FILE", "WEIGHTS_FILE", "load_encoder", "read_spec", "save_encoder"]


def save_encoder(folder: Path, encoder: Encoder, spec: EncoderSpec) -> None:
    """Write an encoder folder; `encoder.json` comes last, so that a folder with one is whole.

    Parameters
    ----------
    folder
        Made if it is not there.
    encoder
        Its weights are written in their own precision; an ONNX model byte for byte.
    spec
        Written as `encoder.json`; usually the encoder's own with a fuller ``origin``.

    Raises
    ------
    ConfigError
        If the spec says ``onnx`` and the encoder is none, or the other way round.
    """
    is_onnx = isinstance(encoder.backbone, OnnxBackbone)
    if is_onnx != (spec.architecture == "onnx"):
        raise ConfigError(
            f"A spec of architecture {spec.architecture!r} does not describe a {type(encoder.backbone).__name__} "
            f"(folder: {folder}). Write the encoder with its own spec."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / weights_file(spec)) as partial:
        if isinstance(encoder.backbone, OnnxBackbone):
            partial.write_bytes(encoder.backbone.content)
        else:
            state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.backbone.state_dict().items()}
            save_file(state, partial)
    with replace_file(folder / SPEC_FILE) as partial:
        partial.write_text(spec.model_dump_json(indent=2) + "\n")


def load_encoder(folder: Path) -> Encoder:
    """Load an encoder folder, in eval mode on the CPU.

    Parameters
    ----------
    folder
        Holds `encoder.json`, and `model.safetensors` or `model.onnx`.

    Raises
    ------
    MissingFileError
        If one of the two files is missing.
    StoreError
        If a file is damaged, or the weights are not those of the architecture, name by name and shape by shape.
    ConfigError
        If it is an ONNX model and onnxruntime is not installed.
    """
    spec = read_spec(folder)
    weights = folder / weights_file(spec)
    if not weights.is_file():
        raise MissingFileError(f"Encoder folder {folder} has no {weights.name}. Make it again or copy the file there.")
    if spec.architecture == "onnx":
        output = spec.arguments.get("output")
        model = OnnxBackbone(weights, output=None if output is None else str(output), input_px=spec.input_px)
        return Encoder(spec, model).eval()
    encoder = Encoder(spec)
    try:
        state = load_file(weights)
        encoder.backbone.load_state_dict(state, strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise StoreError(
            f"The weights in {weights} are not a whole {spec.architecture}: {' '.join(str(error).split())} "
            "Nothing was loaded; make the encoder again."
        ) from error
    return encoder.eval()
