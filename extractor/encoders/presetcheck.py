"""Whether weights are what they are said to be, where their shapes fit and their numbers would be wrong.

ImageNet's VGG-16 fits VGG-Face's network, whose images are 57 times as bright; MobileFaceNet's two forms have one name;
an ONNX file says of its output only how wide it is; a ViT leaves out the pixels behind its last whole patch.
"""

from collections.abc import Iterable
from pathlib import Path

from featurestore.errors import ConfigError, StoreError

from .encoder import Encoder
from .onnxmodel import OnnxBackbone
from .presets import PRESETS, Preset
from .spec import EncoderSpec


def preset_of_spec(spec: EncoderSpec | None) -> Preset | None:
    """The preset under which weights are adopted, as the spec's origin names it."""
    return None if spec is None else PRESETS.get(str(spec.origin.get("preset")))


def check_form(file: Path, preset: Preset) -> None:
    """Refuse a torch or safetensors file in which a tensor tells that it is of another form than the preset.

    Raises
    ------
    ConfigError
        If it is.
    """
    if preset.marked_by is None and preset.not_marked_by is None:
        return
    from .weightfile import read_weights

    names = read_weights(file).state.keys()
    marked = preset.marked_by is None or _has(names, preset.marked_by)
    if marked and (preset.not_marked_by is None or not _has(names, preset.not_marked_by)):
        return
    told = f"there is no {preset.marked_by}" if not marked else f"there is {preset.not_marked_by}"
    raise ConfigError(
        f"{file} does not hold the weights of preset {preset.name!r} ({preset.what}): {told} among its "
        f"{len(names)} tensors. They would fit the network and be fed with the wrong numbers. {preset.otherwise}"
    )


def check_output(file: Path, model: OnnxBackbone, preset: Preset) -> None:
    """Refuse an ONNX file whose output is not as wide as the preset's embedding.

    Raises
    ------
    ConfigError
        If it is not; the file's outputs are listed.
    """
    width = model.row_shape[-1]
    if width == preset.dim:
        return
    raise ConfigError(
        f"Preset {preset.name!r} puts out {preset.dim:,} numbers ({preset.what}), but output {model.output!r} of "
        f"{file} puts out {width:,}. Its outputs: {', '.join(model.outputs)}. Name another with --output; or add the "
        "file as what it is, with --mean and --std instead of the preset."
    )


def check_size(encoder: Encoder) -> None:
    """Refuse an input side that is no multiple of the patches' side.

    Raises
    ------
    ConfigError
        If it is not: the last pixels of every row and column would not be seen.
    """
    patches = getattr(getattr(encoder.backbone, "patch_embed", None), "patch_size", None)
    patch = patches[0] if isinstance(patches, tuple) else patches
    side = encoder.spec.input_px
    if not isinstance(patch, int) or side % patch == 0:
        return
    below = max(1, side // patch) * patch
    raise ConfigError(
        f"{encoder.spec.described()} sees patches of {patch} px and takes multiples of that, not {side}. "
        f"Give {below} or {below + patch}."
    )


def advise_on_code(error: StoreError, file: Path, preset: Preset) -> None:
    """Add to the refusal of a pickled network how weights are saved from it, where they are published in this way."""
    if not preset.is_pickled_whole or "carries code" not in str(error):
        return
    saved = file.with_name(f"{file.stem}_weights.pth")
    line = (
        f"import torch; torch.save(torch.load({str(file)!r}, map_location='cpu', weights_only=False).state_dict(), "
        f"{str(saved)!r})"
    )
    error.args = (
        f'{error} {preset.name} is published so; where the timm that its page names is installed: python -c "{line}"',
    )


def _has(names: Iterable[str], mark: str) -> bool:
    """Whether there is such a tensor, whatever words wrap the names."""
    return any(name == mark or name.endswith(f".{mark}") for name in names)
