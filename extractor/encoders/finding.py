"""What a name means: an encoder of the workspace, one of `abaw.toml`, a preset, a path, or a timm model, in this order.

Weights on this machine come first: those of a preset are looked for in the workspace's folder of weights, under the
names that people have them under, and as NAME.safetensors (.pth, .pt, .bin, .onnx).
"""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from featurestore.errors import ConfigError, MissingFileError, unknown_name

from .presets import ALIASES, Preset, find_preset, is_preset_name, preset_names, preset_of_file, weight_names
from .spec import EncoderSpec
from .specfile import SPEC_FILE

WEIGHTS_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin", ".onnx")
TIMM_PREFIX: Final = "timm:"


@dataclass(frozen=True, slots=True)
class Folder:
    """An encoder folder, ready to be loaded."""

    path: Path


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file of weights whose architecture is recognised from what it holds."""

    path: Path


@dataclass(frozen=True, slots=True)
class PresetFound:
    """A preset, and its weights if they are on this machine."""

    preset: Preset
    weights: Path | None


@dataclass(frozen=True, slots=True)
class TimmModel:
    """A model of timm's; ``tag`` names its published weights, and ``weights`` is a file of them on this machine."""

    spec: EncoderSpec
    tag: str | None
    weights: Path | None


Found = Folder | WeightsFile | PresetFound | TimmModel


def find_encoder(
    name: str, folder: Path | None, table: Mapping[str, Path] | None = None, *, weights: Path | None = None
) -> Found:
    """What `name` means.

    Parameters
    ----------
    name
        An encoder of the workspace, a name in `table`, a preset, a path to an encoder folder or a file of weights, or
        a timm model (``timm:NAME`` for one that a preset is named like).
    folder
        The workspace's encoders, one folder each; None outside of a workspace.
    table
        Further names and their encoder folders or files of weights, from `abaw.toml`.
    weights
        The folder in which the weights of presets are looked for.

    Raises
    ------
    UnknownNameError
        If there is no such encoder; it suggests the nearest name.
    ConfigError
        If the name means two things at once.
    MissingFileError
        If `table` names a place at which nothing is.
    """
    own = own_encoders(folder)
    elsewhere = dict(table or {})
    if name in own and name in elsewhere and (elsewhere[name] / SPEC_FILE).is_file():
        raise ConfigError(
            f"Encoder {name!r} is in two places: {own[name]} and, in abaw.toml, {elsewhere[name]}. Rename one of them."
        )
    if name in own:
        return Folder(own[name])
    if name not in elsewhere and (made := own.get(ALIASES.get(name, ""))) is not None:
        return Folder(made)  # a short name, and the preset was made under its long one
    if name in elsewhere:
        found = _at_path(elsewhere[name])
        if found is None:
            raise MissingFileError(
                f"Encoder {name!r} of abaw.toml is neither an encoder folder nor a file of weights: {elsewhere[name]}. "
                f"Correct the path; a file ends in {', '.join(WEIGHTS_SUFFIXES)}."
            )
        return found
    preset = find_preset(name)
    if preset is not None:
        return PresetFound(preset, find_weights(weights, weight_names(preset, name), preset.files))
    if (found := _at_path(Path(name))) is not None:
        return found
    if (timm_model := _timm_model(name, weights)) is not None:
        return timm_model
    raise _unknown(name, own.keys() | elsewhere.keys())


def own_encoders(folder: Path | None) -> dict[str, Path]:
    """The encoders of a workspace: name -> folder."""
    if folder is None:
        return {}
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"[!.]*/{SPEC_FILE}"))}


def local_name(name: str) -> str:
    """The name under which an encoder is kept, in the workspace and in the store.

    Of a path it is the last part; a model of timm's that a preset is named like is kept as ``timm_NAME``.
    """
    if name.startswith(TIMM_PREFIX):
        plain = name.removeprefix(TIMM_PREFIX)
        return f"timm_{plain}" if is_preset_name(plain) else plain
    path = Path(name)
    return path.stem if path.suffix.lower() in WEIGHTS_SUFFIXES else path.name


def find_weights(folder: Path | None, names: Collection[str], patterns: Iterable[str] = ()) -> Path | None:
    """The file of weights in a folder that has one of the names, or fits one of the patterns; None if there is none.

    Raises
    ------
    ConfigError
        If there are two, and nothing says which of them is meant.
    """
    found = candidate_weights(folder, names, patterns)
    if len(found) > 1:
        listing = ", ".join(str(path.relative_to(folder or "")) for path in found)
        raise ConfigError(
            f"{len(found)} files in {folder} could be the weights of {min(names, key=len)!r}: {listing}. Move all "
            "but one, or give one a name of its own: abaw encoders add NAME FILE."
        )
    return next(iter(found), None)


def candidate_weights(folder: Path | None, names: Iterable[str], patterns: Iterable[str] = ()) -> list[Path]:
    """All files of weights in a folder that have one of the names, or fit one of the patterns."""
    if folder is None or not folder.is_dir():
        return []
    plain = [folder / f"{name}{suffix}" for name in names for suffix in WEIGHTS_SUFFIXES]
    return sorted({path for path in plain if path.is_file()} | set(_matching(folder, patterns)))


def _matching(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.is_file() and path.suffix.lower() in WEIGHTS_SUFFIXES:
                yield path


def _at_path(path: Path) -> Found | None:
    if (path / SPEC_FILE).is_file():
        return Folder(path)
    if path.suffix.lower() not in WEIGHTS_SUFFIXES or not path.is_file():
        return None
    preset = preset_of_file(path)
    return WeightsFile(path) if preset is None else PresetFound(preset, path)


def _timm_model(name: str, weights: Path | None) -> TimmModel | None:
    """A model of timm's by its name, which may end in the tag of weights: ``resnet18.a1_in1k``."""
    plain = name.removeprefix(TIMM_PREFIX)
    architecture, _, tag = plain.partition(".")
    if not architecture.replace("_", "").isalnum():
        return None  # nothing that timm, which takes seconds to import, could know
    import timm

    if not timm.is_model(architecture):
        if name == plain:
            return None
        raise unknown_name("timm model", architecture, timm.list_models())
    published = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in published:
        raise unknown_name(f"published weights of timm's {architecture}", tag, published)
    tag = tag or getattr(timm.get_pretrained_cfg(architecture), "tag", None) or ""
    tagged = f"{architecture}.{tag}" if tag else architecture
    config = timm.get_pretrained_cfg(tagged)
    # A file that is named like a preset is the preset's.
    names = {each for each in (local_name(name), plain, tagged) if not is_preset_name(each)}
    file = find_weights(weights, names)
    if config is None:
        return TimmModel(EncoderSpec(architecture=architecture, input_px=224, pooling="default"), None, file)
    spec = EncoderSpec(
        architecture=architecture,
        input_px=int(config.input_size[-1]),
        mean=_rgb(config.mean),
        std=_rgb(config.std),
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        pooling="default",
        licence=config.license,
    )
    return TimmModel(spec, tagged if tag in published else None, file)


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _unknown(name: str, workspace: Iterable[str]) -> Exception:
    own = sorted(workspace)
    looks_like_path = "/" in name or Path(name).suffix.lower() in WEIGHTS_SUFFIXES
    if looks_like_path and not Path(name).exists():
        return MissingFileError(f"There is no encoder folder and no file of weights at {name}. Correct the path.")
    if looks_like_path:
        return ConfigError(
            f"{name} is neither an encoder folder (it has no {SPEC_FILE}) nor a file of weights "
            f"({', '.join(WEIGHTS_SUFFIXES)}). Name one of these."
        )
    known = own if difflib.get_close_matches(name, own, n=1, cutoff=0.5) else [*own, *preset_names()]
    error = unknown_name("encoder", name, known)
    error.args = (
        f"{error} Make one with `abaw pretrain` or `abaw finetune`, take a preset (`abaw encoders` lists them) or any "
        "timm model, or name an encoder folder or a file of weights.",
    )
    return error
