"""`abaw fit-heads`, `evaluate`, `predict`, `ablate`: everything that works on cached embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import HEAD_PANEL, DeviceOption, ForceOption, JsonOption, MemoryOption, SeedOption, WorkspaceOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurestore.store import FeatureStore
    from heads.features.featureset import FeatureSet
    from heads.fitting.epochs import EpochReport

_HERE = Path()

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name in runs/, or its folder.")]
SplitOption = Annotated[str, typer.Option(help="train, val or test.")]
EpochsOption = Annotated[int, typer.Option(min=1, help="Passes over the train windows; the best one is kept.")]
RateOption = Annotated[float, typer.Option(help="Learning rate of AdamW, constant.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for name, command in (
        ("fit-heads", fit_heads),
        ("evaluate", evaluate),
        ("predict", predict),
        ("ablate", ablate),
    ):
        app.command(name, rich_help_panel=HEAD_PANEL)(command)


def fit_heads(
    *,
    encoder: Annotated[str, typer.Option(help="The base embedding.")] = "mae",
    fuse: Annotated[str, typer.Option(help="Embeddings to add to it, such as au,v.")] = "",
    joint: Annotated[str, typer.Option(help="Tasks that are predicted together.")] = "au,expr,v,a",
    fusion: Annotated[str, typer.Option(help="auto (sum where something is fused), sum or none.")] = "auto",
    temporal: Annotated[str, typer.Option(help="lstm or none.")] = "lstm",
    seq: Annotated[int, typer.Option(help="Rows in a window (S).")] = 20,
    window: Annotated[int | None, typer.Option(help="Rows between windows (W).", show_default="seq")] = None,
    task: Annotated[str, typer.Option(help="Which score picks the epoch: p, au, expr, v or a.")] = "p",
    weights: Annotated[str, typer.Option(help="Weights of the tasks' losses, such as au=1,expr=0.5.")] = "",
    epochs: EpochsOption = 20,
    lr: RateOption = 1e-3,
    batch_frames: Annotated[int, typer.Option(min=1, help="Rows a step, over all windows of the batch.")] = 1024,
    seed: SeedOption = 1,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="from the options")] = None,
    force: ForceOption = False,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Fit a head on the cached embeddings: fusion, time, and one output a joined task.

    For example: abaw fit-heads --fuse au,v --seq 20
    """
    from heads.fitting.config import FitConfig
    from heads.fitting.fit import fit
    from heads.modules.config import HeadConfig
    from heads.runs.record import run_name
    from heads.runs.run import Run, prepare_folder
    from heads.tasks import parse_names, parse_tasks, parse_weights

    from .console import print_json, progress_bar, stdout
    from .render import scores_table
    from .workspace import open_workspace

    head = HeadConfig(
        encoder=encoder,
        fuse=parse_names(fuse),
        joint=parse_tasks(joint),
        fusion=fusion,
        temporal=temporal,
        seq=seq,
        window=window,
    )
    training = FitConfig(
        epochs=epochs,
        batch_frames=batch_frames,
        learning_rate=lr,
        weights=parse_weights(weights),
        select=task.lower(),
        seed=seed,
        device=device,
    )
    opened = open_workspace(workspace)
    features = load_features(opened.open_store(), head.encoders, device, memory)
    name = run_name(head, training) if name is None else name
    folder = prepare_folder(opened.config.runs, name, head, training, features, force=force)
    with progress_bar("fit", "epochs") as update:

        def on_epoch(report: "EpochReport") -> None:
            update(report.epoch, report.n_epochs, f"loss {report.loss:.3f}, {task} {report.selected:.4f}")

        fitted = fit(features, head, training, on_epoch=on_epoch)
    run = Run.from_fit(fitted, features, name=name)
    run.save(folder, force=force)
    if json_:
        facts = {"run": run.name, "folder": str(folder), "seconds": fitted.seconds}
        print_json(facts | {"stream_bytes": features.stream_bytes} | dict(run.metrics))
        return
    stdout.print(scores_table(fitted.scores, title=f"{run.name}, val"))
    stdout.print(
        f"epoch {fitted.epoch} of {training.epochs}, selected on {fitted.selected_on}; "
        f"{fitted.n_parameters:,} parameters, {fitted.seconds:.1f} s"
    )
    stdout.print(f"{folder}")


def evaluate(
    run: RunArgument,
    *,
    split: SplitOption = "val",
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Score a run: P and its parts, each with a 95 % interval from resampling videos, beside the trivial references.

    For example: abaw evaluate my-run --split val --json
    """
    from heads.runs.run import Run

    from .console import print_json, stdout
    from .render import scores_table
    from .workspace import open_workspace

    opened = open_workspace(workspace)
    loaded = Run.load(opened.find_run(run))
    features = load_features(opened.open_store(), loaded.head.encoders, device, memory)
    scores = loaded.evaluate(features, split=split)
    standing = {"in_sample": split == "train", "epoch_selected_here": split == loaded.record.selected_on}
    if json_:
        print_json({"run": loaded.name, "split": split, **standing} | scores.as_dict())
        return
    stdout.print(scores_table(scores, title=f"{loaded.name}, {split}"))
    if standing["in_sample"]:
        stdout.print("in-sample: the head was trained on these frames")
    elif standing["epoch_selected_here"]:
        stdout.print(f"epoch {loaded.record.epoch} was selected on this split")


def predict(
    run: RunArgument,
    *,
    split: SplitOption = "test",
    out: Annotated[Path, typer.Option(help="The submission file.")] = Path("predictions.txt"),
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
    from heads.runs.run import Run
    from heads.scoring.tabulate import prediction_table

    from .console import print_json, stdout, warn
    from .workspace import open_workspace

    if out.exists() and not force:
        raise FileExistsAlreadyError(f"{out} is there already. Give another --out, or --force to replace it.")
    opened = open_workspace(workspace)
    listed = opened.read_listed(split)
    loaded = Run.load(opened.find_run(run))
    features = load_features(opened.open_store(), loaded.head.encoders, device, memory)
    predictions = loaded.predict(features, split=split)
    report = write_submission(out, listed, prediction_table(features.frames, predictions))
    if json_:
        print_json({"file": str(report.path), "rows": report.rows, "filled": report.filled})
        return
    stdout.print(f"{out}: {report.rows:,} rows")
    if report.filled:
        warn(f"listed rows without an embedding, filled from the nearest frame of their video: {report.filled:,}")


def ablate(
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="fusion, temporal, joint (the paper's tables 2, 3, 4) or all.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the CSV files.")] = Path("ablations"),
    encoder: Annotated[
        str | None, typer.Option(help="Base embedding of every row.", show_default="each task's own; mae in table 4")
    ] = None,
    seeds: Annotated[str, typer.Option(help="One or several, such as 1,2,3: adds mean and spread.")] = "1",
    epochs: EpochsOption = 20,
    lr: RateOption = 1e-3,
    batch_frames: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 1024,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Run the paper's ablation tables as grids over your store, one CSV each; finished rows are kept.

    For example: abaw ablate fusion --out ablations/ --seeds 1,2,3
    """
    from heads.ablation.running import RowReport, render_table, run_ablation
    from heads.ablation.tables import plan
    from heads.fitting.config import FitConfig

    from .console import print_json, progress_bar, say, stdout, warn
    from .workspace import open_workspace

    training = FitConfig(epochs=epochs, learning_rate=lr, batch_frames=batch_frames, device=device)
    wanted = parse_seeds(seeds)
    store = open_workspace(workspace).open_store()
    planned = plan(table, store.names(), base=encoder)
    for note in planned.notes:
        say(note)
    features = load_features(store, planned.encoders, device, memory)
    with progress_bar(f"ablate {table}", "rows") as update:

        def on_row(report: RowReport) -> None:
            update(report.index, report.n_rows, "kept" if report.is_kept else f"{report.row['seconds']:.1f} s")

        rows = run_ablation(
            features, table, out=out, training=training, seeds=wanted, base=encoder, on_row=on_row, on_note=warn
        )
    names = rows["table"].unique(maintain_order=True).to_list()
    if json_:
        print_json({"files": {name: str(out / f"{name}.csv") for name in names}, "rows": rows.to_dicts()})
        return
    for name in names:
        stdout.print(render_table(rows.filter(table=name), title=f"{name} ({out / f'{name}.csv'})"))


def load_features(store: "FeatureStore", names: "Sequence[str]", device: str, memory: str | None) -> "FeatureSet":
    """The embeddings of some encoders, loaded or, if they take more than `memory`, streamed, which is said."""
    from featurestore.bytesize import parse_bytes
    from heads.features.featureset import FeatureSet

    from .console import say

    budget = None if memory is None else parse_bytes(memory)
    features = FeatureSet.load(store, names, device=device, memory_bytes=budget)
    if features.placement is not None and features.stream_bytes is not None:
        say(features.placement.describe())
    return features


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds of an option such as ``"1,2,3"``.

    Raises
    ------
    ConfigError
        If one is not a number of at least 0.
    """
    from featurestore.errors import ConfigError
    from heads.tasks import parse_names

    names = parse_names(text)
    if not names or not all(name.isdecimal() for name in names):
        raise ConfigError(f"Expected seeds such as 1,2,3, got {text!r}. Give whole numbers, separated by commas.")
    return tuple(int(name) for name in names)
