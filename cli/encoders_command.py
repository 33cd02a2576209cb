"""`abaw encoders`: which encoders there are, what of them is on this machine, and weights that are added."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ForceOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from rich.console import Console

    from extractor.encoders.matching import MatchReport

    from .encoder_tables import EncoderLine
    from .workspace import Workspace

app = typer.Typer(help="The encoders: list, show, add weights.")
_HERE = Path()
_NARROW = 110  # columns; with fewer, a long table's columns become letters wide
_UNBOUNDED = 10_000  # columns, more than any table


@app.callback(invoke_without_command=True)
def list_encoders(ctx: typer.Context, json_: JsonOption = False, workspace: WorkspaceOption = _HERE) -> None:
    """List the workspace's encoders and the presets: dim, input size, pooling, licence, what is on this machine.

    For example: abaw encoders
    """
    if ctx.invoked_subcommand is not None:
        return
    from .console import print_json, stdout
    from .encoder_tables import encoders_table

    opened = _opened(workspace)
    lines = _lines(opened)
    if json_:
        weights = None if opened is None else str(opened.config.weights)
        print_json({"weights": weights, "encoders": {line.name: line.as_dict() for line in lines}})
        return
    is_narrow = stdout.is_terminal and stdout.width < _NARROW
    table = encoders_table(lines, root=None if opened is None else opened.root, is_narrow=is_narrow)
    if not stdout.is_terminal:  # what is piped or saved has no width that it must fit
        table.width = stdout.measure(table, options=stdout.options.update(width=_UNBOUNDED)).maximum
    stdout.print(table)
    if is_narrow:
        stdout.print("What they are, their pooling and licence: on a wider terminal, or abaw encoders show NAME.")
    if opened is None:
        stdout.print("No workspace here: these are the presets. `abaw init` makes one.")


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="What `abaw extract` takes: an encoder, a preset, a file, a timm model."),
    ],
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Show all about one encoder: how it is built and fed, where its weights came from, what of them was matched.

    For example: abaw encoders show mae
    """
    from .console import print_json, stdout
    from .encoder_tables import encoder_line, match_pairs, origin_pairs, spec_pairs

    opened = _opened(workspace)
    line = next((each for each in _lines(opened) if each.name == name), None)
    if line is None:
        places = None if opened is None else opened.config
        line = (
            encoder_line(name, None, None, {})
            if places is None
            else encoder_line(name, places.encoders, places.weights, places.encoder_folders)
        )
    spec = line.spec
    if json_:
        told = spec and spec.model_dump(mode="json")
        print_json({"encoder": line.name, **line.as_dict(), "spec": told})
        return
    stdout.print(line.name, style="bold", markup=False)
    pairs = [("what", line.what), ("state", line.state), ("where", line.where)]
    pairs += [("dim", f"{line.dim:,}")] if line.dim is not None else []
    pairs += [("page", line.page)] if line.page else []
    pairs += [("files", ", ".join(line.files))] if line.files else []
    pairs += [] if spec is None else [*spec_pairs(spec), *origin_pairs(spec), *match_pairs(spec)]
    for key, value in pairs:
        stdout.print(f"  {key:<14} {value}", markup=False)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the encoder, such as arcface.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights: .safetensors, .pth, .pt, .bin or .onnx.")],
    preset: Annotated[
        str | None, typer.Option(help="The preset that it is, such as iresnet50.", show_default="recognised")
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="The architecture: a timm model, or iresnet50.", show_default="recognised")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, help="Input side in pixels, such as 238.", show_default="the architecture's")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="fc_norm, mean, cls, cls+mean, tokens or default.", show_default="recognised")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="imagenet, or a value a channel, such as 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="imagenet, or a value a channel, such as 0.5,0.5,0.5.")] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="bicubic or bilinear.", show_default="the architecture's")
    ] = None,
    scores: Annotated[
        int | None, typer.Option(min=0, help="Outputs of the classifier that are kept, such as 8.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Name of an ONNX model's output, if it has several.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights, as their authors name it.")] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Take weights that fill only a part; the rest stays random.")
    ] = False,
    force: ForceOption = False,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Add an encoder from a file of weights; says what of it was matched, missing, unexpected and re-initialised.

    For example: abaw encoders add arcface ms1mv3_arcface_r100_fp16.pth --preset iresnet100
    """
    from extractor.encoders.adding import Given, add_given

    from .console import print_json, stdout, warn
    from .workspace import open_workspace

    opened = open_workspace(workspace)
    made = add_given(
        name,
        file,
        opened.config.encoders,
        Given(
            preset=preset,
            architecture=arch,
            input_px=size,
            pooling=pooling,
            mean=mean,
            std=std,
            interpolation=interpolation,
            n_scores=scores,
            output=output,
            licence=licence,
        ),
        allow_partial=allow_partial,
        force=force,
    )
    if json_:
        match = None if made.report is None else made.report.to_json()
        told = {"encoder": name, "folder": str(made.folder), "match": match, "assumed": list(made.assumed)}
        print_json(told | {"spec": made.spec.model_dump(mode="json")})
        return
    if made.was_there:
        stdout.print(f"{name}: another process added it meanwhile, from the same file", markup=False)
    elif made.report is None:
        stdout.print(f"{name}, from {file}: an ONNX model, taken whole", markup=False)
    else:
        tell_match(made.report, name=name, source=file, console=stdout)
    if made.assumed:
        warn(f"the file does not tell {', '.join(made.assumed)}: taken as is usual; options set what is not so")
    fed = f"{made.spec.input_px} px, pooling {made.spec.pooling}, dim {made.spec.origin['dim']}"
    stdout.print(f"{made.folder}: {made.spec.described()}, {fed}", markup=False)
    stdout.print(f"Next: abaw extract --encoder {name}", markup=False)


def tell_match(
    report: "MatchReport", *, name: str | None = None, source: Path | None = None, console: "Console | None" = None
) -> None:
    """Print what of a file of weights went into an encoder.

    Parameters
    ----------
    report
        Of the loading.
    name, source
        The encoder, and the file.
    console
        Where to: `console.stdout` for a result; None for stderr, as a remark.
    """
    from .console import stderr

    out = console or stderr
    title = ", from ".join(str(part) for part in (name, source) if part is not None)
    out.print(title or "weights", style="bold", markup=False, soft_wrap=True)
    for what, n_tensors, which in report.rows():
        out.print(f"  {what:<14} {n_tensors:>6,}  {which}".rstrip(), markup=False, soft_wrap=True)


def _opened(workspace: Path) -> "Workspace | None":
    """The workspace; None if none was named and there is none here, as presets can be looked at anywhere."""
    from featurestore.errors import MissingFileError

    from .workspace import open_workspace

    try:
        return open_workspace(workspace)
    except MissingFileError:
        if workspace != _HERE:
            raise
        return None


def _lines(opened: "Workspace | None") -> "list[EncoderLine]":
    from .encoder_tables import encoder_lines

    if opened is None:
        return encoder_lines(None, None, {})
    places = opened.config
    return encoder_lines(places.encoders, places.weights, places.encoder_folders)
