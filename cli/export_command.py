"""`abaw export`: a run as one ONNX file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import HEAD_PANEL, ForceOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heads.recipes.system import System
    from heads.runs.run import Run

_HERE = Path()


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("export", rich_help_panel=HEAD_PANEL)(export)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run or system by name, or its folder.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The ONNX file, such as head.onnx.")],
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Without the run's post-processing.")] = False,
    force: ForceOption = False,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Write a run as one ONNX file: a video's embeddings in, predictions of its rows out, post-processing included.

    For example: abaw export my-run head.onnx
    """
    from heads.export.export import check_place, export_run

    from .console import print_json, stdout
    from .workspace import open_workspace

    check_place(file, force=force)
    made = export_run(_load(open_workspace(workspace).find_run(run)), file, raw=raw, force=force)
    if json_:
        print_json(
            {
                "file": str(made.path),
                "bytes": made.file_bytes,
                "opset": made.opset,
                "inputs": _listed(made.inputs),
                "outputs": _listed(made.outputs),
                "difference": made.difference,
            }
        )
        return
    stdout.print(f"{made.path}: {made.file_bytes:,} bytes, ONNX opset {made.opset}", markup=False)
    for what, tensors in (("in ", made.inputs), ("out", made.outputs)):
        for name, shape in tensors.items():
            stdout.print(f"  {what}  {name} ({', '.join(map(str, shape))})", markup=False)
    stdout.print(f"onnxruntime gives what the run gives, to {made.difference:.1g}")


def _load(folder: Path) -> "Run | System":
    from heads.recipes.system import System
    from heads.recipes.systemrecord import SYSTEM_FILE
    from heads.runs.run import Run

    return System.load(folder) if (folder / SYSTEM_FILE).is_file() else Run.load(folder)


def _listed(tensors: "Mapping[str, tuple[int | str, ...]]") -> dict[str, list[int | str]]:
    return {name: list(shape) for name, shape in tensors.items()}
