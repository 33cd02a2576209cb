"""`abaw pretrain` and `abaw finetune`: where encoders are made."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from .options import (
    ENCODER_PANEL,
    DeviceOption,
    ForceOption,
    JsonOption,
    SeedOption,
    TrainingPrecisionOption,
    WorkersOption,
    WorkspaceOption,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from extractor.encoders.spec import EncoderSpec
    from extractor.training.workbench import TrainedEncoder
    from featurestore.store import FeatureStore

Model = TypeVar("Model", bound="BaseModel")

_HERE = Path()


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (pretrain, finetune):
        app.command(rich_help_panel=ENCODER_PANEL)(command)


def pretrain(
    *,
    name: Annotated[str, typer.Option(help="Name of the encoder that is made.")] = "mae",
    arch: Annotated[str, typer.Option(help="A timm ViT.")] = "vit_base_patch16_224",
    size: Annotated[int | None, typer.Option(min=8, help="Input side in pixels, such as 224 (the default).")] = None,
    patch: Annotated[int | None, typer.Option(min=2, help="Patch side in pixels, other than the ViT's own.")] = None,
    dim: Annotated[int | None, typer.Option(min=8, help="Embedding width, other than the ViT's own.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks, other than the ViT's own.")] = None,
    attention_heads: Annotated[int | None, typer.Option(min=1, help="Attention heads, other than its own.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the train frames.")] = 100,
    warmup: Annotated[float, typer.Option(min=0, help="Epochs of linear warm-up.")] = 5.0,
    batch: Annotated[int, typer.Option(min=1, help="Frames a step.")] = 256,
    blr: Annotated[float, typer.Option(help="Base learning rate, for 256 frames a step.")] = 1.5e-4,
    mask: Annotated[float, typer.Option(help="Share of patches that are hidden.")] = 0.75,
    decoder_dim: Annotated[int, typer.Option(min=4, help="Width of the decoder.")] = 512,
    decoder_depth: Annotated[int, typer.Option(min=1, help="Blocks of the decoder.")] = 8,
    seed: SeedOption = 1,
    device: DeviceOption = "auto",
    precision: TrainingPrecisionOption = "auto",
    workers: WorkersOption = None,
    force: ForceOption = False,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Pre-train a masked autoencoder on the train frames; a killed run continues.

    For example: abaw pretrain --name mae --arch vit_base_patch16_224 --epochs 100
    """
    from extractor.training.pretrain import PretrainConfig
    from extractor.training.pretrain import pretrain as run
    from extractor.training.workbench import Workbench

    from .workspace import open_workspace

    config = checked(
        PretrainConfig,
        encoder=_vit_spec(arch, size, patch, dim, depth, attention_heads),
        epochs=epochs,
        warmup_epochs=warmup,
        batch=batch,
        base_learning_rate=blr,
        mask_ratio=mask,
        decoder_dim=decoder_dim,
        decoder_depth=decoder_depth,
        decoder_heads=max(1, decoder_dim // 32),
        seed=seed,
        precision=precision,
    )
    opened = open_workspace(workspace)
    store = opened.open_store()
    with step_bar(f"pretrain {name}") as on_step:
        made = run(
            store.frames,
            opened.images(),
            Workbench(opened.config.encoders, name),
            config,
            device=device,
            n_workers=workers,
            force=force,
            on_step=on_step,
        )
    report_training(made, store, json_=json_)


def finetune(
    *,
    task: Annotated[str | None, typer.Option(help="One task: au, expr, v or a.")] = None,
    joint: Annotated[str | None, typer.Option(help="Several tasks at once, such as au,expr,v,a.")] = None,
    parent: Annotated[
        str, typer.Option("--from", help="Encoder to start from: a name, preset, folder or file of weights.")
    ] = "mae",
    name: Annotated[str | None, typer.Option(help="Name of the encoder.", show_default="the task")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the labelled train frames.")] = 20,
    warmup: Annotated[float, typer.Option(min=0, help="Epochs of linear warm-up.")] = 1.0,
    batch: Annotated[int, typer.Option(min=2, help="Frames a step.")] = 128,
    clip: Annotated[int, typer.Option(min=1, help="Neighbouring rows that share one augmentation.")] = 4,
    blr: Annotated[float, typer.Option(help="Base learning rate, for 256 frames a step.")] = 5e-4,
    layer_decay: Annotated[float, typer.Option(help="Learning rate of a block relative to the one above.")] = 0.65,
    drop_path: Annotated[float, typer.Option(help="Stochastic depth of the last block.")] = 0.1,
    augment: Annotated[str, typer.Option(help="full (the winner's), gentle (for aligned crops) or none.")] = "full",
    weights: Annotated[str, typer.Option(help="Weights of the tasks' losses, such as au=1,v=0.5.")] = "",
    loss: Annotated[str, typer.Option(help="Losses, such as au=focal,v=ccc+0.5*mse,weighting=uncertainty.")] = "",
    seed: SeedOption = 1,
    device: DeviceOption = "auto",
    precision: TrainingPrecisionOption = "auto",
    workers: WorkersOption = None,
    force: ForceOption = False,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Fine-tune an encoder end to end on one task, or on several; a killed run continues.

    For example: abaw finetune --task au --from mae --name au
    """
    from extractor.encoders.folder import load_encoder
    from extractor.pixels.augment import AUGMENTATIONS
    from extractor.training.finetune import FinetuneConfig
    from extractor.training.finetune import finetune as run
    from extractor.training.workbench import Workbench
    from featurestore.errors import ConfigError, unknown_name
    from heads.losses.parsing import parse_losses
    from heads.tasks import parse_tasks, parse_weights

    from .encoders_command import tell_match
    from .workspace import open_workspace

    if (task is None) == (joint is None):
        raise ConfigError("Name what to fine-tune on: either --task au, or --joint au,expr,v,a.")
    if augment not in AUGMENTATIONS:
        raise unknown_name("augmentation", augment, AUGMENTATIONS)
    tasks = parse_tasks(task or joint or "")
    config = checked(
        FinetuneConfig,
        tasks=tasks,
        weights=parse_weights(weights),
        loss=parse_losses(loss),
        epochs=epochs,
        warmup_epochs=warmup,
        batch=batch,
        clip=clip,
        base_learning_rate=blr,
        layer_decay=layer_decay,
        drop_path=drop_path,
        augmentation=AUGMENTATIONS[augment],
        seed=seed,
        precision=precision,
    )
    opened = open_workspace(workspace)
    store = opened.open_store()
    made_from = opened.prepare_encoder(parent)
    if made_from.report is not None:
        tell_match(made_from.report, name=made_from.name, source=made_from.source)
    name = name or "-".join(tasks)
    with step_bar(f"finetune {name}") as on_step:
        made = run(
            store.frames,
            opened.images(),
            load_encoder(made_from.folder),
            Workbench(opened.config.encoders, name),
            config,
            parent_name=parent,
            device=device,
            n_workers=workers,
            force=force,
            on_step=on_step,
        )
    report_training(made, store, json_=json_)


def checked(model: "type[Model]", **values: object) -> "Model":
    """Make a configuration from option values; mistakes are usage errors, all reported at once."""
    from pydantic import ValidationError

    from featurestore.errors import ConfigError

    try:
        return model(**values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors()]
        raise ConfigError("; ".join(problems) + ". Correct these options.") from error


@contextmanager
def step_bar(what: str) -> Iterator[Callable[[int, int, float], None]]:
    """A progress bar for a training run: steps and a running mean of the loss."""
    from .console import progress_bar

    with progress_bar(what, "steps") as update:
        mean: float | None = None

        def on_step(done: int, total: int, loss: float) -> None:
            nonlocal mean
            mean = loss if mean is None else 0.95 * mean + 0.05 * loss
            update(done, total, f"loss {mean:.3f}")

        yield on_step


def report_training(made: "TrainedEncoder", store: "FeatureStore", *, json_: bool) -> None:
    """Say what a training run made."""
    from .console import print_json, stdout, tell_unreadable

    tell_unreadable(made.unreadable, store.frames.data["path"].to_list(), consequence="training went without them")
    origin = made.spec.origin
    if json_:
        print_json({"folder": str(made.folder), "was_there": made.was_there, "origin": origin})
        return
    if made.was_there:
        stdout.print(f"{made.folder} is there already, made with these options; nothing was computed.")
        return
    best = origin.get("best_epoch")
    shown = made.history[best - 1 if isinstance(best, int) else -1]
    figures = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
    n_epochs = len(made.history)
    epochs = f"best epoch {best} of {n_epochs}" if best else "1 epoch" if n_epochs == 1 else f"{n_epochs} epochs"
    stdout.print(f"{made.folder}: {epochs}, {figures}")


def _vit_spec(
    arch: str, size: int | None, patch: int | None, dim: int | None, depth: int | None, heads: int | None
) -> "EncoderSpec":
    from extractor.encoders.spec import EncoderSpec

    named = {"img_size": size, "patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": heads}
    arguments = {key: value for key, value in named.items() if value is not None}
    return checked(EncoderSpec, architecture=arch, arguments=arguments, input_px=size or 224)
