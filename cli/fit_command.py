"""`abaw fit-heads`: a head, or a whole recipe, on the cached embeddings."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from .features import load_features
from .given import refuse_others
from .options import HEAD_PANEL, DeviceOption, ForceOption, JsonOption, MemoryOption, SeedOption, WorkspaceOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

    from heads.fitting.config import FitConfig
    from heads.fitting.epochs import EpochReport
    from heads.fitting.outoffold import FoldReport
    from heads.light.config import LightConfig
    from heads.losses.config import LossConfig
    from heads.modules.config import HeadConfig
    from heads.runs.judging import Judging
    from heads.runs.making import Made
    from heads.runs.run import Run

_HERE = Path()
_INPUTS, _PARTS, _FIT, _JUDGE = "Inputs", "Parts of the head", "Fitting", "Judging"


_SELECT_ON: Final = ("val", "folds", "last")
_WITH_RECIPE: Final = frozenset(
    [
        "recipe",
        "use",
        "epochs",
        "seed",
        "select_on",
        "folds",
        "calibrate_on",
        "device",
        "memory",
        "name",
        "force",
        "json_",
        "workspace",
    ]
)
_NEURAL: Final = frozenset(
    [
        "seq",
        "window",
        "seq_frames",
        "gap_input",
        "fusion",
        "temporal",
        "stateful",
        "framework",
        "weights",
        "loss",
        "epochs",
        "lr",
        "batch_frames",
        "task",
        "select_on",
    ]
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("fit-heads", rich_help_panel=HEAD_PANEL)(fit_heads)


def fit_heads(
    ctx: typer.Context,
    *,
    recipe: Annotated[
        str | None, typer.Option(help="A published system by name (see `abaw recipes`), or a recipe file.")
    ] = None,
    use: Annotated[
        str, typer.Option(help="With --recipe: encoders of the store for the recipe's, such as arcface=iresnet100.")
    ] = "",
    encoder: Annotated[str, typer.Option(help="The base embedding.", rich_help_panel=_INPUTS)] = "mae",
    fuse: Annotated[str, typer.Option(help="Embeddings to fuse into it, such as au,v.", rich_help_panel=_INPUTS)] = "",
    columns: Annotated[
        str, typer.Option(help="Columns to read, such as hse=-10: for the last ten.", rich_help_panel=_INPUTS)
    ] = "",
    seq: Annotated[int, typer.Option(help="Rows in a window (S).", rich_help_panel=_INPUTS)] = 20,
    window: Annotated[
        int | None, typer.Option(help="From one window to the next (W).", show_default="S", rich_help_panel=_INPUTS)
    ] = None,
    seq_frames: Annotated[
        int | None, typer.Option(help="S and W in frames of the source, not in rows.", rich_help_panel=_INPUTS)
    ] = None,
    gap_input: Annotated[
        bool, typer.Option("--gap-input", help="Frames since the row before are an input.", rich_help_panel=_INPUTS)
    ] = False,
    joint: Annotated[
        str, typer.Option(help="Tasks that are predicted together.", rich_help_panel=_PARTS)
    ] = "au,expr,v,a",
    fusion: Annotated[
        str,
        typer.Option(
            help="auto, none, sum, concat, affine, gated, residual, late or attention.", rich_help_panel=_PARTS
        ),
    ] = "auto",
    temporal: Annotated[
        str,
        typer.Option(
            help="none, lstm, gru, bilstm, bigru, transformer, tcn; stacked: tcn+bigru.", rich_help_panel=_PARTS
        ),
    ] = "lstm",
    stateful: Annotated[
        bool, typer.Option("--stateful", help="Carry the state through a whole video.", rich_help_panel=_PARTS)
    ] = False,
    framework: Annotated[
        str,
        typer.Option(
            help="share-encoder, share-bottom, hidden-feedback, label-feedback, per-task or task-queries.",
            rich_help_panel=_PARTS,
        ),
    ] = "share-encoder",
    light: Annotated[
        str | None,
        typer.Option(help="A light head: lightgbm, logistic, ridge, svm, linear or mlp.", rich_help_panel=_PARTS),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, such as attention_heads=16; several.", rich_help_panel=_PARTS),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Weights of the tasks' losses, such as au=1,expr=0.5.", rich_help_panel=_FIT)
    ] = "",
    loss: Annotated[
        str, typer.Option(help="Losses, such as au=focal,v=ccc+0.5*mse,weighting=dwa.", rich_help_panel=_FIT)
    ] = "",
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Passes over the train windows.",
            show_default="until val stops improving, or a recipe's own",
            rich_help_panel=_FIT,
        ),
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW, at its highest.", rich_help_panel=_FIT)] = 1e-3,
    batch_frames: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows a step, over all windows.", show_default="by the rows there are", rich_help_panel=_FIT
        ),
    ] = None,
    seed: SeedOption = 1,
    task: Annotated[
        str,
        typer.Option(
            help="Which score picks the epoch: p, au, expr, v, a, or each: one a task, with a copy of what is shared.",
            show_default="each where tasks can be separated, else p",
            rich_help_panel=_JUDGE,
        ),
    ] = "auto",
    select_on: Annotated[
        str, typer.Option(help="Where it is picked: val, folds (of train), or last.", rich_help_panel=_JUDGE)
    ] = "val",
    folds: Annotated[
        int | None, typer.Option(min=2, help="Also fit once a fold of train's videos.", rich_help_panel=_JUDGE)
    ] = None,
    post: Annotated[
        str | None,
        typer.Option(
            help="Post-processing: smooth, thresholds, class-bias, rescale; or none.",
            show_default="thresholds of solved and boosted light heads, else none",
            rich_help_panel=_JUDGE,
        ),
    ] = None,
    calibrate_on: Annotated[
        str, typer.Option(help="train (out of fold), or val: the score is in-sample.", rich_help_panel=_JUDGE)
    ] = "train",
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
    from featurestore.errors import ConfigError, unknown_name
    from heads.fitting.config import FitConfig
    from heads.losses.parsing import parse_losses
    from heads.runs.judging import Judging
    from heads.tasks import parse_names, parse_tasks, parse_weights

    from .settings import parse_columns, parse_post

    if select_on not in _SELECT_ON:
        raise unknown_name("place to pick the epoch", select_on, _SELECT_ON)
    if recipe is not None:
        refuse_others(ctx, "--recipe", "a recipe says that itself", allowed=_WITH_RECIPE)
        from .recipe_fit import fit_recipe_of

        fit_recipe_of(
            recipe,
            use=use,
            seed=seed,
            calibrate_on=calibrate_on,
            folds=folds,
            epochs=epochs,
            select_on=select_on,
            device=device,
            memory=memory,
            name=name,
            force=force,
            json_=json_,
            workspace=workspace,
        )
        return
    if light is not None:
        refuse_others(ctx, "--light", "its own settings are given by --set", refused=_NEURAL)
    if post is None or post == "none":
        given = "no --post" if post is None else "--post none"
        refuse_others(ctx, given, "it says what is calibrated", refused=("calibrate_on",))
    if use:
        raise ConfigError("--use says which encoders play a recipe's; give it with --recipe.")
    span: dict[str, JsonValue] = {"seq": seq} if seq_frames is None else {"seq": seq_frames, "span": "frames"}
    inputs: dict[str, JsonValue] = {
        "encoder": encoder,
        "fuse": list(parse_names(fuse)),
        "columns": parse_columns(columns),
        "joint": list(parse_tasks(joint)),
    }
    parts: dict[str, JsonValue] = {
        "fusion": fusion,
        "temporal": temporal,
        "stateful": stateful,
        "framework": framework,
        "window": window,
        "gap_input": gap_input,
    }
    training: dict[str, JsonValue] = {
        "epochs": epochs,
        "batch_frames": batch_frames,
        "learning_rate": lr,
        "weights": dict(parse_weights(weights)),
        "select": task.lower(),
        "select_on": "last" if select_on == "last" else "val",
        "seed": seed,
        "device": device,
    }
    config, fitting = _configs(
        inputs, parts | span, training, light, parse_losses(loss, base=FitConfig().loss), set_ or []
    )
    judging = None
    if post is not None or folds is not None or select_on != "val" or calibrate_on != "train":
        judging = Judging(
            post=parse_post(post or "none"),
            calibrate_on=calibrate_on,
            folds=folds,
            select_on_folds=select_on == "folds",
        )
    fit_and_save(config, fitting, judging, name=name, memory=memory, force=force, json_=json_, workspace=workspace)


def _configs(
    inputs: "Mapping[str, JsonValue]",
    parts: "Mapping[str, JsonValue]",
    training: "Mapping[str, JsonValue]",
    light: str | None,
    losses: "LossConfig",
    settings: "Sequence[str]",
) -> "tuple[HeadConfig | LightConfig, FitConfig]":
    """The head and its fit out of the options, `--set` included."""
    from heads.checking import from_json
    from heads.fitting.config import FitConfig
    from heads.light.config import LightConfig
    from heads.modules.config import HeadConfig

    from .settings import settings_of

    if light is not None:
        given = {"light": {**inputs, "estimator": light, "seed": training["seed"]}}
        found = settings_of({"light": LightConfig}, given, settings)
        return from_json(LightConfig, found["light"]), from_json(FitConfig, training)
    given = {"head": {**inputs, **parts}, "fit": {**training, "loss": losses.to_dict()}}
    found = settings_of({"head": HeadConfig, "fit": FitConfig}, given, settings)
    return from_json(HeadConfig, found["head"]), from_json(FitConfig, found["fit"])


def fit_and_save(
    config: "HeadConfig | LightConfig",
    training: "FitConfig",
    judging: "Judging | None",
    *,
    name: str | None,
    memory: str | None,
    force: bool,
    json_: bool,
    workspace: Path,
) -> None:
    """Fit one head, save its run, and print what came of it; without a judging by the default one."""
    from heads.runs.defaults import default_judging
    from heads.runs.making import make
    from heads.runs.place import prepare_folder
    from heads.runs.record import run_name
    from heads.runs.run import Run
    from heads.tasks import TASKS

    from .console import print_json, progress_bar, say
    from .workspace import open_workspace

    opened = open_workspace(workspace)
    features = load_features(opened.open_store(), config.encoders, training.device, memory)
    if judging is None:
        judging, reason = default_judging(features, config)
        if reason:
            say(f"no thresholds are fitted: {reason}")
    name = run_name(config, training) if name is None else name
    folder = prepare_folder(opened.config.runs, name, config, training, features, judging=judging, force=force)
    select = training.select if training.select in TASKS else "p"
    with progress_bar("fit", "epochs") as update:

        def on_epoch(report: "EpochReport") -> None:
            selected = "" if math.isnan(report.selected) else f", {select} {report.selected:.4f}"
            update(report.epoch, report.n_epochs, f"loss {report.loss:.3f}{selected}")

        def on_fold(report: "FoldReport") -> None:
            update(report.epoch, report.n_epochs, f"fold {report.fold} of {report.n_folds}")

        made = make(features, config, training, judging, on_epoch=on_epoch, on_fold=on_fold)
    run = Run.from_fit(made, features, training=training, judging=judging, name=name)
    run.save(folder, force=force)
    if json_:
        facts = {"run": run.name, "folder": str(folder), "seconds": run.record.seconds}
        print_json(facts | {"stream_bytes": features.stream_bytes} | dict(run.metrics))
        return
    print_run(run, made, folder)


def print_run(run: "Run", made: "Made", folder: Path) -> None:
    """What a fit came to: raw and post-processed scores, those out of fold, and what they may have seen."""
    from .console import stdout, warn
    from .render import scores_table

    record = run.record
    held_out, scores, name = made.out_of_fold, made.scores, run.name
    if held_out is not None:
        stdout.print(scores_table(held_out.scores, title=f"{name}, train, out of {held_out.n_folds} folds"))
        if held_out.tuned:
            told = ", ".join(held_out.tuned)
            stdout.print(
                f"out of the head's folds only: {told} were fine-tuned, and may know these frames", markup=False
            )
    before = None if made.calibration is None else made.fitted.scores
    stdout.print(scores_table(scores, title=f"{name}, val", probe=record.probe, before=before))
    if made.calibration is not None:
        seen = record.in_sample("val")
        kept = [f"{step.name} of {step.of}" for step in made.calibration.steps if step.is_kept]
        told = ", ".join(kept) or "nothing, for nothing helped"
        where = f"calibrated on {record.calibrated_on}" + (f"; in-sample: {seen}" if seen else "")
        stdout.print(f"{where}: {told}", markup=False)
    if record.schedule is not None and record.epoch is not None:
        n_epochs, n_steps = 0 if run.curve is None else run.curve.height, record.schedule.steps_per_epoch
        own = ", ".join(f"{task} {epoch}" for task, epoch in record.epochs.items())
        which = f"epochs {own}" if len(set(record.epochs.values())) > 1 else f"epoch {record.epoch}"
        epoch = f"{which} of {n_epochs}, {n_steps:,} steps each; "
    else:
        epoch = ""
    stdout.print(f"{epoch}selected on {record.selected_on}; {record.parameters:,} parameters, {record.seconds:.1f} s")
    stdout.print(f"{folder}", markup=False)
    for remark in record.remarks:
        warn(remark)
