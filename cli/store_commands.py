"""`abaw store`: what the store holds, whether it is sound, and what it knows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ForceOption, JsonOption, SeedOption, WorkspaceOption

if TYPE_CHECKING:
    from collections.abc import Iterable

    from featurestore.inspection.summary import EmbeddingSummary
    from featurestore.store import FeatureStore

app = typer.Typer(no_args_is_help=True, help="The feature store: list, show, draw, verify, import, export, remove.")
_HERE = Path()
_MOST_FAILURES = 20
_UNBOUNDED = 10_000  # columns, more than any table

NameArgument = Annotated[str, typer.Argument(metavar="ENCODER", help="Name of an encoder in the store.")]


@app.command("ls")
def list_encoders(json_: JsonOption = False, workspace: WorkspaceOption = _HERE) -> None:
    """List the encoders: rows done, dimension, size, what made them and when."""
    from featurestore.inspection.overview import UnreadableEntry, overview

    from .console import print_json, stdout
    from .store_tables import encoders_table
    from .workspace import open_workspace

    store = open_workspace(workspace).open_store(check_sources=False)
    entries = overview(store)
    if json_:
        encoders = {entry.name: entry.as_dict() for entry in entries}
        print_json({"store": store.location, "n_frames": store.n_frames, "encoders": encoders})
        return
    title = f"{store.location}: {'1 frame' if store.n_frames == 1 else f'{store.n_frames:,} frames'}"
    if not entries:
        stdout.print(f"{title}, no encoder yet", markup=False)
        stdout.print("Next: abaw extract --encoder NAME, or abaw store import FILE --encoder NAME")
        return
    table = encoders_table(entries, title=title)
    if not stdout.is_terminal:  # what is piped or saved has no width that it must fit
        table.width = stdout.measure(table, options=stdout.options.update(width=_UNBOUNDED)).maximum
    stdout.print(table)
    for entry in entries:
        if isinstance(entry, UnreadableEntry):
            stdout.print(f"{entry.name} cannot be read: {entry.error}", markup=False)


@app.command("show")
def show(
    name: NameArgument,
    summary: Annotated[
        bool, typer.Option("--summary/--no-summary", help="Read all rows for norms, NaN and dimensions.")
    ] = True,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Show all about one encoder: provenance, layout, its values in numbers, which frames failed."""
    from featurestore.inspection.overview import describe

    from .console import print_json, stdout
    from .store_tables import layout_pairs, projection_pairs, provenance_pairs, summary_pairs
    from .workspace import open_workspace

    store = open_workspace(workspace).open_store(check_sources=False)
    entry, frames = describe(store, name), store.frames
    paths = frames.data["path"]
    embedding = store.embedding(name)
    failures = {paths[row]: reason for row, reason in sorted(embedding.failures().items())}
    projection = embedding.projection
    values = _summarised(store, name) if summary else None
    if json_:
        told = {"frames": frames.fingerprint, "provenance": entry.provenance.to_dict(), "failures": failures}
        if projection is not None:
            told["explained"] = projection.explained.tolist()
        print_json(entry.as_dict() | told | {"summary": values and values.as_dict()})
        return
    _print_section(name, layout_pairs(entry, frames=frames.fingerprint))
    _print_section("provenance", provenance_pairs(entry))
    if projection is not None:
        _print_section("projection", projection_pairs(projection))
    if values is not None:
        _print_section("values", summary_pairs(values))
    if failures:
        _print_section(f"{len(failures):,} failed", list(failures.items())[:_MOST_FAILURES])
    if len(failures) > _MOST_FAILURES:
        stdout.print(f"  ... and {len(failures) - _MOST_FAILURES:,} more; --json lists them all")


@app.command("verify")
def verify(
    encoder: Annotated[
        str | None, typer.Option(help="Encoders, separated by commas, such as au,v.", show_default="all")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Take back the commits of bad chunks: extract computes them again.")
    ] = False,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Hash every committed chunk again; exit 1 if one is not what was committed, and is not repaired.

    For example: abaw store verify --encoder au,v --repair
    """
    from featurestore.errors import ConfigError
    from featurestore.inspection.verification import check_sound, commands_to_restore, verify_store
    from heads.tasks import parse_names

    from .advice import extractable
    from .console import print_json, progress_bar, stdout
    from .workspace import open_workspace

    names = () if encoder is None else parse_names(encoder)
    if encoder is not None and not names:
        raise ConfigError("--encoder names no encoder. Give one, such as --encoder au, or several: au,v.")
    opened = open_workspace(workspace)
    store = opened.open_store(check_sources=False)
    here = extractable(opened, store.names())
    with progress_bar("verify", "chunks") as update:
        verdicts = verify_store(store, names, repair=repair, extractable=here, on_chunk=update)
    commands = commands_to_restore(verdict for verdict in verdicts if verdict.is_repaired)
    if json_:
        checked = [verdict for verdict in verdicts if verdict.error is None]
        print_json(
            {
                "bad_chunks": {verdict.name: [bad.chunk for bad in verdict.bad] for verdict in checked},
                "bad_rows": {verdict.name: verdict.n_bad_rows for verdict in checked},
                "repaired": [verdict.name for verdict in checked if verdict.is_repaired],
                "errors": {verdict.name: verdict.error for verdict in verdicts if verdict.error is not None},
                "projection_errors": {
                    verdict.name: verdict.projection_error
                    for verdict in verdicts
                    if verdict.projection_error is not None
                },
                "next": list(commands),
            }
        )
    else:
        for verdict in verdicts:
            if verdict.is_sound:
                stdout.print(verdict.sentence(), markup=False)
        if not verdicts:
            stdout.print(f"{store.location} holds no encoder yet: there is nothing to verify", markup=False)
        for command in commands:
            stdout.print(f"Next: {command}", markup=False)
    check_sound(verdicts, where=store.location)


@app.command("pca")
def pca(
    name: NameArgument,
    color: Annotated[
        str, typer.Option(help="expression, valence, arousal, au1 ... au26, split or video.")
    ] = "expression",
    out: Annotated[Path, typer.Option(help="The picture: .png, .jpg, .pdf or .svg.")] = Path("pca.png"),
    rows: Annotated[int, typer.Option(min=3, help="Rows to draw, as many of each video.")] = 20_000,
    seed: SeedOption = 0,
    force: ForceOption = False,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Draw what an encoder knows: its first two principal components, coloured by a label, with a score beside it.

    Every dimension is brought to mean 0 and standard deviation 1 first; a row
    of tokens is the mean of them. The score is what the simplest reader of the
    first 50 components gets right on held-out videos: the nearest class mean
    (balanced accuracy), or a ridge (variance explained). Where rows of val
    differ in the label, they alone are scored.

    For example: abaw store pca au --color expression --out pca.png
    """
    from featurestore.errors import FileExistsAlreadyError
    from featurestore.inspection.projection import project
    from featurestore.inspection.scatter import check_picture, draw_projection

    from .console import print_json, stdout, warn
    from .workspace import open_workspace

    check_picture(out)
    if out.exists() and not force:
        raise FileExistsAlreadyError(f"{out} is there already. Give another --out, or --force to replace it.")
    projection = project(open_workspace(workspace).open_store(), name, color, n_rows=rows, seed=seed)
    if projection.n_committed < projection.n_frames:
        there = f"{projection.n_committed:,} of {projection.n_frames:,} rows"
        warn(f"{name} is not complete: the picture is of the {there} that are there")
    draw_projection(projection, out)
    if json_:
        print_json(projection.as_dict() | {"out": str(out)})
        return
    shares = ", ".join(f"{100 * share:.1f}" for share in projection.explained[:10])
    stdout.print(f"{name}: {len(projection.rows):,} of {projection.n_labelled:,} rows with {color}", markup=False)
    stdout.print(projection.knowledge.sentence(), markup=False)
    stdout.print(f"variance of components 1 to {min(10, len(projection.explained))}: {shares} %")
    stdout.print(f"{out}", markup=False)


@app.command("rm")
def remove(name: NameArgument, json_: JsonOption = False, workspace: WorkspaceOption = _HERE) -> None:
    """Remove an encoder's embeddings and free their space; nothing else is touched."""
    from .console import print_json, stdout
    from .workspace import open_workspace

    store = open_workspace(workspace).open_store(check_sources=False)
    size = store.size_bytes(name)
    store.remove(name)
    if json_:
        print_json({"removed": name, "bytes": size})
        return
    stdout.print(f"removed {name}: {size / 1e6:,.1f} MB", markup=False)


def _summarised(store: "FeatureStore", name: str) -> "EmbeddingSummary":
    from featurestore.inspection.summary import summarise

    from .console import progress_bar

    with progress_bar(f"reading {name}", "rows") as update:
        return summarise(store.embedding(name), on_progress=lambda done, total: update(done, total, ""))


def _print_section(title: str, pairs: "Iterable[tuple[str, str]]") -> None:
    from .console import stdout

    stdout.print(title, style="bold", markup=False)
    for key, value in pairs:
        stdout.print(f"  {key:<14} {value}", markup=False)
