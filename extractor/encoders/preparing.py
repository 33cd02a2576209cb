"""From a name to an encoder folder of the workspace: weights are adopted once, and found ready ever after.

encoders/mae/encoder.json, model.safetensors     whole, or not there
encoders/.mae.adding-x7/                         while it is made, see placing.py
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from featurestore.errors import ConfigError, FileExistsAlreadyError, MissingFileError, StoreError
from featurestore.provenance import file_digest

from .finding import (
    Folder,
    Found,
    PresetFound,
    TimmModel,
    WeightsFile,
    candidate_weights,
    find_encoder,
    local_name,
)
from .placing import place_folder
from .presets import Preset, find_preset, weight_names
from .spec import EncoderSpec
from .specfile import SPEC_FILE, check_name, read_spec

if TYPE_CHECKING:
    from .adopting import Adopted
    from .matching import MatchReport

ADOPTED: Final = "adopted"  # what an adopted encoder's origin says of its kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An encoder folder that is ready to be loaded.

    Attributes
    ----------
    name
        Under which it is kept, in the workspace and in the store.
    folder, spec
        Where it stands, and what its `encoder.json` says.
    report
        What of the file was matched; None if nothing was made now, and for an ONNX file, which is taken whole.
    assumed
        Fields of the spec that neither the file nor anybody told.
    source
        The file of weights that it was made from now.
    was_there
        True if nothing was made.
    """

    name: str
    folder: Path
    spec: EncoderSpec
    report: "MatchReport | None" = None
    assumed: tuple[str, ...] = ()
    source: Path | None = None
    was_there: bool


def prepare_encoder(
    name: str,
    encoders: Path,
    *,
    weights: Path | None = None,
    table: Mapping[str, Path] | None = None,
    allow_partial: bool = False,
) -> Prepared:
    """The encoder folder of a name, made from local weights, or downloaded ones, if it is not there yet.

    Parameters
    ----------
    name, encoders, table, weights
        As `finding.find_encoder` takes them.
    allow_partial
        Weights that match only a part of the architecture are taken; the rest keeps its random start.

    Raises
    ------
    MissingFileError
        If its weights are not on this machine and no hub gives them; it says what to put where.
    FileExistsAlreadyError
        If the folder was made from another file than the one that stands for the name now.
    AbawError
        What finding and adopting raise.
    """
    found = find_encoder(name, encoders, table, weights=weights)
    kept_as = local_name(name)
    if isinstance(found, Folder):
        spec = read_spec(found.path)
        if found.path.parent == encoders:
            kept_as = found.path.name  # a short name's encoder may be kept under the long one
            _check_unchanged(found.path, spec, _files_of(name, weights, table))
        return Prepared(name=kept_as, folder=found.path, spec=spec, was_there=True)
    file = _file_of(found, kept_as, weights)
    if (encoders / kept_as / SPEC_FILE).is_file():  # the name was a path, or timm's
        spec = read_spec(encoders / kept_as)
        _check_unchanged(encoders / kept_as, spec, [file], must_be_adopted=True)
        return Prepared(name=kept_as, folder=encoders / kept_as, spec=spec, was_there=True)
    return add_encoder(kept_as, file, encoders, spec=_spec_of(found), allow_partial=allow_partial)


def add_encoder(
    name: str,
    file: Path,
    encoders: Path,
    *,
    spec: EncoderSpec | None = None,
    assumed: tuple[str, ...] | None = None,
    allow_partial: bool = False,
    force: bool = False,
) -> Prepared:
    """Adopt a file of weights as an encoder of the workspace.

    Parameters
    ----------
    name
        Its name from now on.
    file
        Weights of any form that `adopting.adopt` takes.
    encoders
        The workspace's encoders; made if it is not there.
    spec
        How it is built and fed; None to recognise it from the file. If its origin names a preset, the file is
        checked to be of it.
    assumed
        Fields of `spec` that nobody told; None for those that recognising assumes, and none of a spec.
    allow_partial
        As in `prepare_encoder`.
    force
        Replace an encoder of that name, once its successor is whole.

    Raises
    ------
    ConfigError
        If the name cannot be one, the file does not say how it is to be fed, or it is not what `spec` says.
    FileExistsAlreadyError
        If the name is taken, be it while this one is made.
    MissingFileError
        If there is no such file.
    """
    check_name(name)
    if not file.is_file():
        raise MissingFileError(f"There is no file of weights at {file}. Correct the path.")
    target = encoders / name
    if target.exists() and not force:
        raise FileExistsAlreadyError(f"Encoder {name!r} is there already ({target}). Give another name, or --force.")
    from .adopting import adopt  # torch: seconds to import
    from .folder import save_encoder
    from .presetcheck import advise_on_code, check_form, check_size, preset_of_spec
    from .weightfile import is_onnx

    if is_onnx(file):
        adopted = _adopt_onnx(file, spec)
    else:
        preset = preset_of_spec(spec)
        try:
            if preset is not None:
                check_form(file, preset)
            adopted = adopt(file, spec, allow_partial=allow_partial)
        except StoreError as error:
            if preset is not None:
                advise_on_code(error, file, preset)
            raise
        check_size(adopted.encoder)
    status = file.stat()
    known: dict[str, JsonValue] = {
        "dim": adopted.encoder.dim,
        "file_bytes": status.st_size,
        "file_mtime_ns": status.st_mtime_ns,
    }
    made = adopted.encoder.spec
    made = made.model_copy(update={"origin": {**made.origin, "kind": ADOPTED, **known}})
    is_new = place_folder(lambda folder: save_encoder(folder, adopted.encoder, made), target, force=force)
    if not is_new:
        return Prepared(name=name, folder=target, spec=read_spec(target), was_there=True)
    return Prepared(
        name=name,
        folder=target,
        spec=read_spec(target),
        report=adopted.report,
        assumed=assumed if assumed is not None else adopted.assumed if spec is None else (),
        source=file,
        was_there=False,
    )


def _adopt_onnx(file: Path, spec: EncoderSpec | None) -> "Adopted":
    """An ONNX model brings its architecture, and not how its images are normalised."""
    from .adopting import Adopted
    from .encoder import Encoder
    from .onnxmodel import OnnxBackbone
    from .presetcheck import check_output, preset_of_spec

    if spec is None:
        raise ConfigError(not_normalised(file))
    output = spec.arguments.get("output") if spec.architecture == "onnx" else None
    model = OnnxBackbone(file, output=None if output is None else str(output), input_px=spec.input_px)
    if (preset := preset_of_spec(spec)) is not None:
        check_output(file, model, preset)
    changed: dict[str, object] = {
        "architecture": "onnx",
        "arguments": {} if output is None and len(model.outputs) == 1 else {"output": model.output},
        "pooling": "tokens" if len(model.row_shape) == 2 else "default",
        "n_scores": 0,
        "origin": {**spec.origin, "file": file.name, "digest": model.digest, "form": "ONNX", "partial": False},
    }
    made = Encoder(spec.model_copy(update=changed), model).eval()
    return Adopted(encoder=made, report=None, form="ONNX", assumed=())


def not_normalised(file: Path) -> str:
    """What to do with an ONNX file of which nothing is said."""
    return (
        f"{file} does not say how its images are normalised, as no ONNX file does. Add it with --mean and --std "
        "(ArcFace's networks: 0.5,0.5,0.5 both; most others: imagenet), or with the --preset that it is: "
        f"abaw encoders add NAME {file} --preset PRESET"
    )


def _spec_of(found: Found) -> EncoderSpec | None:
    if isinstance(found, PresetFound):
        return found.preset.adoptable()
    return found.spec if isinstance(found, TimmModel) else None


def _file_of(found: PresetFound | TimmModel | WeightsFile, name: str, weights: Path | None) -> Path:
    """The file of weights of what was found; published ones are downloaded."""
    if isinstance(found, WeightsFile):
        return found.path
    if found.weights is not None:
        return found.weights
    tag = found.preset.hub_tag if isinstance(found, PresetFound) else found.tag
    advice = where_to_put(name, found.preset if isinstance(found, PresetFound) else None, weights)
    if tag is None:
        raise MissingFileError(
            f"The weights of encoder {name!r} are not on this machine, and no hub has them. {advice}"
        )
    from .hub import download_weights

    # A preset's weights are in timm's own repositories, so that timm need not be asked for the place.
    repository = f"timm/{tag}" if isinstance(found, PresetFound) else None
    return download_weights(tag, advice=advice, repository=repository)


def where_to_put(name: str, preset: Preset | None, weights: Path | None) -> str:
    """What to do for weights that are not on this machine, in a sentence or two.

    Parameters
    ----------
    name
        What was asked for.
    preset
        Which preset it is, if it is one.
    weights
        The workspace's folder of weights; None outside of a workspace.
    """
    if preset is None:
        first = "Download them elsewhere"
    else:
        first = f"Download weights such as {preset.files[0].replace('*', '')} from {preset.page}"
    if weights is None:
        return f"{first}, and name the file."
    return f"{first} and put the file into {weights}, under its own name or as {name}.pth (.safetensors, .onnx)."


def _files_of(name: str, weights: Path | None, table: Mapping[str, Path] | None) -> list[Path]:
    """The files of weights that stand for a name now."""
    if table and name in table:
        return [table[name]] if table[name].is_file() else []
    preset = find_preset(name)
    names = {name} if preset is None else weight_names(preset, name)
    return candidate_weights(weights, names, () if preset is None else preset.files)


def _check_unchanged(folder: Path, spec: EncoderSpec, files: list[Path], *, must_be_adopted: bool = False) -> None:
    """Refuse an adopted encoder beside whose name another file stands now."""
    if spec.origin.get("kind") != ADOPTED:
        if must_be_adopted:
            raise FileExistsAlreadyError(
                f"Encoder {folder.name!r} is there already ({folder}), and was not made from {files[0]}. "
                f"Give that file another name: abaw encoders add NAME {files[0]}"
            )
        return
    if not files or any(_is_source(file, spec) for file in files):
        return
    raise FileExistsAlreadyError(
        f"Encoder {folder.name!r} ({folder}) was made from other weights than those in {files[0]} now. To replace it: "
        f"abaw encoders add {folder.name} {files[0]} --force; to have both: give the file another name."
    )


def _is_source(file: Path, spec: EncoderSpec) -> bool:
    """Whether an encoder was made from a file; one that has its size and time is not read again."""
    status = file.stat()
    if (spec.origin.get("file_bytes"), spec.origin.get("file_mtime_ns")) == (status.st_size, status.st_mtime_ns):
        return True
    return spec.origin.get("digest") == file_digest(file)
