"""`abaw evaluate` and `predict`: what works on fitted heads and cached embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .features import load_features
from .options import HEAD_PANEL, DeviceOption, ForceOption, JsonOption, MemoryOption, WorkspaceOption

if TYPE_CHECKING:
    from pydantic import JsonValue

_HERE = Path()

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name in runs/, or its folder.")]
SplitOption = Annotated[str, typer.Option(help="train, val or test.")]
RawOption = Annotated[bool, typer.Option("--raw", help="Without the run's post-processing.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for name, command in (
        ("evaluate", evaluate),
        ("predict", predict),
    ):
        app.command(name, rich_help_panel=HEAD_PANEL)(command)


def evaluate(
    run: RunArgument,
    *,
    split: SplitOption = "val",
    raw: RawOption = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also every expression and action unit.")] = False,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Score a run: P and its parts, each with a 95 % interval from resampling videos, beside the trivial references.

    For example: abaw evaluate my-run --split val --json
    """
    from heads.recipes.opening import open_fitted
    from heads.runs.run import Run

    from .console import print_json, stdout
    from .render import details_table, scores_table
    from .workspace import open_workspace

    opened = open_workspace(workspace)
    fitted = open_fitted(opened.find_run(run))
    features = load_features(opened.open_store(), fitted.encoders, device, memory)
    scores = fitted.evaluate(features, split=split, raw=raw)
    probe = fitted.probe(features, split=split) if isinstance(fitted, Run) else None
    # Raw predictions have not seen what the post-processing was calibrated on.
    in_sample = None if raw and split != "train" else fitted.record.in_sample(split)
    selected_on = fitted.record.selected_on
    selected_here = split == selected_on if isinstance(selected_on, str) else split in selected_on
    if json_:
        standing: dict[str, JsonValue] = {"in_sample": in_sample, "epoch_selected_here": selected_here}
        standing["probe"] = None if probe is None else dict(probe)
        print_json({"run": fitted.name, "split": split, "raw": raw, **standing} | scores.as_dict())
        return
    title = f"{fitted.name}, {split}{', without post-processing' if raw else ''}"
    stdout.print(scores_table(scores, title=title, probe=probe))
    if per_class:
        stdout.print(details_table(scores, title=title))
    if in_sample is not None:
        stdout.print(f"in-sample: {in_sample}")
    elif selected_here:
        stdout.print("the epoch was selected on this split")


def predict(
    run: RunArgument,
    *,
    split: SplitOption = "test",
    out: Annotated[Path, typer.Option(help="The submission file.")] = Path("predictions.txt"),
    raw: RawOption = False,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    force: ForceOption = False,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Write a submission file in the challenge's format, row for row with the split's list.

    For example: abaw predict my-run --split test --out predictions.txt
    """
    from featurestore.challenge.submission import write_submission
    from featurestore.errors import FileExistsAlreadyError
    from heads.recipes.opening import open_fitted
    from heads.scoring.tabulate import prediction_table

    from .console import print_json, stdout, warn
    from .workspace import open_workspace

    if out.exists() and not force:
        raise FileExistsAlreadyError(f"{out} is there already. Give another --out, or --force to replace it.")
    opened = open_workspace(workspace)
    listed = opened.read_listed(split)
    fitted = open_fitted(opened.find_run(run))
    features = load_features(opened.open_store(), fitted.encoders, device, memory)
    predictions = fitted.predict(features, split=split, raw=raw)
    report = write_submission(out, listed, prediction_table(features.frames, predictions))
    if json_:
        print_json({"file": str(report.path), "rows": report.rows, "filled": report.filled})
        return
    stdout.print(f"{out}: {report.rows:,} rows")
    if report.filled:
        warn(f"listed rows without an embedding, filled from the nearest frame of their video: {report.filled:,}")
