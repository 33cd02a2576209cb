"""The files of an encoder folder, and its `encoder.json`; nothing here imports torch, so that a list is quick."""

import re
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from featurestore.errors import ConfigError, MissingFileError, StoreError

from .spec import EncoderSpec

SPEC_FILE: Final = "encoder.json"
WEIGHTS_FILE: Final = "model.safetensors"
ONNX_FILE: Final = "model.onnx"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")


def check_name(name: str) -> None:
    """Refuse (ConfigError) what cannot name an encoder, of which a folder and a group of the store are made."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name an encoder: use letters, digits and . _ @ + -, a letter or digit first."
        )


def weights_file(spec: EncoderSpec) -> str:
    """Name of the file that holds the weights of such an encoder."""
    return ONNX_FILE if spec.architecture == "onnx" else WEIGHTS_FILE


def read_spec(folder: Path) -> EncoderSpec:
    """Read and check the `encoder.json` of an encoder folder.

    Raises
    ------
    MissingFileError
        If there is none.
    StoreError
        If it does not describe an encoder; all that is wrong is named.
    """
    path = folder / SPEC_FILE
    if not path.is_file():
        raise MissingFileError(f"No encoder in {folder}: it has no {SPEC_FILE}. Name a folder that holds one.")
    try:
        return EncoderSpec.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
        raise StoreError(f"{path} does not describe an encoder: {problems}. Restore or rewrite it.") from error
