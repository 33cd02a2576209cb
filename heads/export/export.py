"""`abaw export`: a run or a system as one ONNX file, for onnxruntime and whatever else reads the format.

The file holds all that turns a video's embeddings into predictions (see video.py for what goes in and comes out): the
head, its windows, the averaging of those that overlap, the post-processing, and the names of what is predicted, which
also stand in the file's metadata. Before it is written it is checked against the format, and run: its numbers are those
of `Run.predict` to 1e-4, or there is no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, FileExistsAlreadyError, MissingFileError, StoreError
from heads.modules.model import HeadModel
from heads.recipes.system import System
from heads.runs.run import Run

from .graph import OPSET
from .subject import Subject
from .verify import verify
from .video import video_graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes
    ----------
    path
        The file.
    inputs, outputs
        Name -> shape, with ``"n_rows"`` where it is open.
    opset
        Of ONNX.
    file_bytes
        Its size.
    difference
        The largest difference of a probability or value from the run's, on made-up videos.
    """

    path: Path
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    opset: int
    file_bytes: int
    difference: float


def export_run(run: Run | System, path: Path, *, raw: bool = False, force: bool = False) -> Exported:
    """Write a run, or a system's members and their blend, as an ONNX file, all of it or nothing.

    Parameters
    ----------
    run
        Of neural or light heads; the models of neural ones are moved to the CPU.
    path
        The file; its folder exists.
    raw
        Without the run's post-processing.
    force
        Replace a file that is there.

    Raises
    ------
    FileExistsAlreadyError
        If the file is there.
    MissingFileError, StorageFullError
        If its folder is not there, or there is no space.
    ConfigError
        If a package is missing, or the head has no counterpart in ONNX.
    PrecisionError
        If the graph does not give what the run gives.
    """
    check_place(path, force=force)
    onnx_error = _missing_package()
    if onnx_error is not None:
        raise ConfigError(
            f"An ONNX file is made by onnx and tried by onnxruntime, but {onnx_error} is not installed. "
            "Install both: pip install 'abaw[onnx]'."
        )
    import onnx

    subject = Subject.of(run, raw=raw)
    for member in subject.members.values():
        if isinstance(member.model, HeadModel):
            member.model.cpu().eval()
    made = video_graph(subject)
    content = made.model.SerializeToString()
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StoreError(
            f"A graph that ONNX's checker passes was expected of run {run.name!r}, but: {reason}. Nothing was written. "
            "Report it with the run's config.json."
        ) from error
    largest = verify(content, subject)
    with replace_file(path) as partial:
        partial.write_bytes(content)
    return Exported(
        path=path,
        inputs=made.inputs,
        outputs=made.outputs,
        opset=OPSET,
        file_bytes=len(content),
        difference=largest,
    )


def check_place(path: Path, *, force: bool) -> None:
    """Refuse a file that is there, unless it may be replaced; a folder always, and one that would be in no folder.

    Raises
    ------
    FileExistsAlreadyError
        If something is in the way.
    MissingFileError
        If its folder is not there.
    """
    if path.is_dir():
        raise FileExistsAlreadyError(f"An export is one file, but {path} is a folder. Name a file in it.")
    if not path.parent.is_dir():
        raise MissingFileError(
            f"A file is written to a folder that is there; {path.parent} is not (file: {path.name}). "
            "Make the folder, or correct the path."
        )
    if path.exists() and not force:
        raise FileExistsAlreadyError(f"{path} is there already. Give another name, or --force to replace it.")


def _missing_package() -> str | None:
    """Which of the packages is not there."""
    from importlib.util import find_spec

    return next((name for name in ("onnx", "onnxruntime") if find_spec(name) is None), None)
