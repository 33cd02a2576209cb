"""`abaw store`: what the store holds, bringing embeddings in, taking them out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

app = typer.Typer(no_args_is_help=True, help="The feature store: list, show, verify, import, remove.")
_HERE = Path()
_MOST_FAILURES = 20

NameArgument = Annotated[str, typer.Argument(metavar="ENCODER", help="Name of an encoder in the store.")]


@app.command("ls")
def list_encoders(json_: JsonOption = False, workspace: WorkspaceOption = _HERE) -> None:
    """List the encoders: rows done, dimension, size, what made them and when."""
    from rich.table import Table

    from .console import print_json, stdout
    from .workspace import open_workspace

    store = open_workspace(workspace).open_store(check_sources=False)
    entries = {name: _describe(store, name) for name in store.names()}
    if json_:
        print_json({"store": str(store.path), "n_frames": store.n_frames, "encoders": entries})
        return
    table = Table(
        "encoder", "rows", "dim", "MB", "made from", "made at", title=f"{store.path}: {store.n_frames:,} frames"
    )
    for name, entry in entries.items():
        size_mb = f"{float(str(entry['bytes'])) / 1e6:,.1f}"
        rows = f"{entry['rows_done']:,}"
        made_at = str(entry["made_at"])[:16].replace("T", " ")
        made_from = str(entry["architecture"]).partition("(")[0].partition("(")[0]  # `show` has its arguments
        table.add_row(name, rows, str(entry["dim"]), size_mb, made_from, made_at)
    stdout.print(table)


@app.command("show")
def show(name: NameArgument, json_: JsonOption = False, workspace: WorkspaceOption = _HERE) -> None:
    """Show where an encoder's embeddings come from and which frames failed."""
    from .console import print_json, stdout
    from .workspace import open_workspace

    store = open_workspace(workspace).open_store(check_sources=False)
    embedding = store.embedding(name)
    entry, provenance = _describe(store, name), embedding.provenance.to_dict()
    paths = store.frames.data["path"]
    failures = {paths[row]: reason for row, reason in sorted(embedding.failures().items())}
    if json_:
        print_json(entry | {"provenance": provenance, "failures": failures})
        return
    for key, value in (entry | provenance).items():
        stdout.print(f"{key:<14} {value}")
    for path, reason in list(failures.items())[:_MOST_FAILURES]:
        stdout.print(f"  {path}: {reason}")
    if len(failures) > _MOST_FAILURES:
        stdout.print(f"  ... and {len(failures) - _MOST_FAILURES:,} more; --json lists them all")


@app.command("verify")
def verify(
    encoder: Annotated[str | None, typer.Option(help="One encoder.", show_default="all")] = None,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Hash every committed chunk again; exit 1 if one is not what was committed."""
    from .console import print_json, stdout
    from .workspace import open_workspace

    store = open_workspace(workspace).open_store(check_sources=False)
    bad = {name: store.embedding(name).verify() for name in ([encoder] if encoder else store.names())}
    if json_:
        print_json({"bad_chunks": bad})
    else:
        for name, chunks in bad.items():
            stdout.print(f"{name}: " + (f"damaged chunks {chunks}" if chunks else "every committed chunk is sound"))
    if any(bad.values()):
        raise typer.Exit(1)


@app.command("import")
def import_embeddings(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An .npz of vectors, keyed video/frame.jpg.")],
    encoder: Annotated[str, typer.Option(help="Name that the embeddings get in the store.")],
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Take in embeddings that were made elsewhere; rows are matched by video and frame, not by order.

    For example: abaw store import truth.npz --encoder truth
    """
    from featurestore.exchange import import_npz

    from .console import print_json, stdout, warn
    from .workspace import open_workspace

    store = open_workspace(workspace).open_store()
    report = import_npz(store, encoder, file)
    if json_:
        print_json(report.as_dict())
        return
    stdout.print(f"{encoder}: {report.matched:,} rows matched, {report.missing:,} frames have no vector")
    if report.extra:
        warn(f"{report.extra:,} vectors belong to no frame, such as {', '.join(report.extra_examples)}")


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
    stdout.print(f"removed {name}: {size / 1e6:,.1f} MB")


def _describe(store: "FeatureStore", name: str) -> dict[str, object]:
    embedding = store.embedding(name)
    return {
        "encoder": name,
        "rows_done": embedding.rows_done(),
        "n_frames": embedding.n_frames,
        "failed": len(embedding.failures()),
        "row_shape": list(embedding.row_shape),
        "dim": embedding.dim,
        "dtype": str(embedding.dtype),
        "bytes": store.size_bytes(name),
        "architecture": embedding.provenance.architecture,
        "parent": embedding.provenance.parent,
        "made_at": embedding.provenance.made_at,
    }
