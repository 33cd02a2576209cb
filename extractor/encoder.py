"""An encoder: a timm model without its classifier, and everything that fixes what it computes.

`EncoderSpec` is `encoder.json`; the weights lie beside it in `model.safetensors`. Together they are an encoder
folder, complete in itself: no code is unpickled, nothing is downloaded. Pooling is left to timm's own
constructor arguments, so a stored encoder is always exactly a timm model.

Pooling (ViT names): ``fc_norm`` averages the patch tokens and then applies LayerNorm, as MAE's fine-tuning does
(He et al., 2022, "Masked Autoencoders Are Scalable Vision Learners"; also the ABAW7 winner's encoder); ``mean``
averages normalised patch tokens; ``cls`` takes the class token. ``default`` is whatever the architecture does.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import timm
import torch
import xxhash
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from featurestore.atomic import replace_file
from featurestore.errors import AbawError, ConfigError, MissingFileError, StoreError, unknown_name

SPEC_FILE: Final = "encoder.json"
WEIGHTS_FILE: Final = "model.safetensors"

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

Pooling = Literal["fc_norm", "mean", "cls", "default"]

_POOLING_ARGUMENTS: Final[Mapping[str, Mapping[str, str | bool]]] = {
    "fc_norm": {"global_pool": "avg", "fc_norm": True},
    "mean": {"global_pool": "avg", "fc_norm": False},
    "cls": {"global_pool": "token"},
    "default": {},
}


class EncoderSpec(BaseModel):
    """What `encoder.json` holds: the architecture, the preprocessing, and where the weights came from.

    Attributes
    ----------
    architecture
        A timm model name.
    arguments
        Further arguments of `timm.create_model`, such as ``img_size``, ``depth``.
    input_px
        Side of the square input, in pixels.
    mean, std
        Per RGB channel, for pixels in [0, 1].
    pooling
        How tokens become one embedding (see the module's text).
    origin
        How the weights came to be: kind, parent, task, options, score of each epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    architecture: str
    arguments: dict[str, int | float | str | bool] = Field(default_factory=dict)
    input_px: int = Field(gt=0)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    pooling: Pooling = "fc_norm"
    origin: dict[str, JsonValue] = Field(default_factory=dict)

    def described(self) -> str:
        """The architecture with its arguments: weights of one shape may compute different things."""
        arguments = ", ".join(f"{name}={value}" for name, value in sorted(self.arguments.items()))
        return f"{self.architecture}({arguments})" if arguments else self.architecture

    def preprocessing(self) -> dict[str, int | str | list[float]]:
        """The part of the provenance that says how a frame becomes the model's input."""
        return {
            "input_px": self.input_px,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }


class Encoder(nn.Module):
    """A timm model without classifier, and its spec.

    Parameters
    ----------
    spec
        What to build. The weights are random until they are loaded.

    Raises
    ------
    UnknownNameError
        If timm knows no such architecture.
    ConfigError
        If timm refuses the arguments.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        if not timm.is_model(spec.architecture):
            raise unknown_name("timm architecture", spec.architecture, timm.list_models())
        arguments: dict[str, Any] = {**_POOLING_ARGUMENTS[spec.pooling], **spec.arguments}
        try:
            self.backbone: nn.Module = timm.create_model(spec.architecture, num_classes=0, **arguments)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"timm cannot build {spec.architecture!r} with {arguments}: {error}. "
                "Change the encoder's pooling or arguments."
            ) from error
        # Some families widen the features once more before the classifier, and that is what they put out.
        widest = "head_hidden_size" if hasattr(self.backbone, "head_hidden_size") else "num_features"
        self.dim = int(getattr(self.backbone, widest))

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of normalised images.

        Parameters
        ----------
        images : shape (n, 3, input_px, input_px), normalised by the spec's mean and std

        Returns
        -------
        shape (n, dim)
        """
        embedding: Tensor = self.backbone(images)  # (n, dim)
        return embedding


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


def weights_digest(encoder: Encoder) -> str:
    """Digest of all weights: names, shapes, types and values, whatever file they came from.

    Returns
    -------
    xxh3-128, 32 hex digits.
    """
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(encoder.backbone.state_dict().items()):
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def find_encoder(name: str, folder: Path, table: Mapping[str, Path] | None = None) -> Path:
    """The encoder folder that `name` means.

    Parameters
    ----------
    name
        An encoder of the workspace, a name in `table`, or a path to an encoder folder.
    folder
        The workspace's encoders, one folder each.
    table
        Further names and their folders, from `abaw.toml`.

    Raises
    ------
    UnknownNameError
        If there is no such encoder; it suggests the nearest name.
    ConfigError
        If both the workspace and `table` have one of that name.
    """
    own = {path.parent.name: path.parent for path in folder.glob(f"[!.]*/{SPEC_FILE}")}
    elsewhere = dict(table or {})
    if name in own and name in elsewhere:
        raise ConfigError(
            f"Encoder {name!r} is in two places: {own[name]} and, in abaw.toml, {elsewhere[name]}. Rename one of them."
        )
    known = own | elsewhere
    if name in known:
        return known[name]
    if (Path(name) / SPEC_FILE).is_file():
        return Path(name)
    error: AbawError = unknown_name("encoder", name, known)
    error.args = (f"{error} Make one with `abaw pretrain` or `abaw finetune`, or name an encoder folder.",)
    raise error
