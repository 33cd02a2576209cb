"""An encoder on disk: a folder with `encoder.json` and, beside it, the weights in `model.safetensors`.

Such a folder is complete in itself: no code is unpickled, nothing is downloaded.
"""

from pathlib import Path
from typing import Final

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from featurestore.atomic import replace_file
from featurestore.errors import MissingFileError, StoreError

from .encoder import Encoder
from .spec import EncoderSpec

SPEC_FILE: Final = "encoder.json"
WEIGHTS_FILE: Final = "model.safetensors"


def save_encoder(folder: Path, encoder: Encoder, spec: EncoderSpec) -> None:
    """Write an encoder folder; `encoder.json` comes last, so that a folder with one is whole.

    Parameters
    ----------
    folder
        Made if it is not there.
    encoder
        Its weights are written in their own precision.
    spec
        Written as `encoder.json`; usually the encoder's own with a fuller ``origin``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.backbone.state_dict().items()}
    with replace_file(folder / WEIGHTS_FILE) as partial:
        save_file(state, partial)
    with replace_file(folder / SPEC_FILE) as partial:
        partial.write_text(spec.model_dump_json(indent=2) + "\n")


def load_encoder(folder: Path) -> Encoder:
    """Load an encoder folder, in eval mode on the CPU.

    Parameters
    ----------
    folder
        Holds `encoder.json` and `model.safetensors`.

    Raises
    ------
    MissingFileError
        If one of the two files is missing.
    StoreError
        If a file is damaged, or the weights are not those of the architecture, name by name and shape by shape.
    """
    spec = read_spec(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise MissingFileError(f"Encoder folder {folder} has no {WEIGHTS_FILE}. Train it again or copy the file there.")
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


def read_spec(folder: Path) -> EncoderSpec:
    """Read and check the `encoder.json` of an encoder folder."""
    path = folder / SPEC_FILE
    if not path.is_file():
        raise MissingFileError(f"No encoder in {folder}: it has no {SPEC_FILE}. Name a folder that holds one.")
    try:
        return EncoderSpec.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
        raise StoreError(f"{path} does not describe an encoder: {problems}. Restore or rewrite it.") from error
