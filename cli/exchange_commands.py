"""`abaw store import` and `abaw store export`: embeddings from and for other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ForceOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from featurestore.exchange.report import ExportReport

_HERE = Path()
_N_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the commands to those of the store."""
    app.command("import")(import_embeddings)
    app.command("export")(export_embeddings)


def import_embeddings(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="HDF5, .npz, .npy or a pickle of a dictionary, Parquet, or another store; known by its content.",
        ),
    ],
    encoder: Annotated[
        str | None,
        typer.Option(help="Name that the embeddings get; of another store, which encoder.", show_default="the file's"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float16 or float32.", show_default="as in the file, at most float32")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Of HDF5: flat, video or image.", show_default="recognised")
    ] = None,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Take in embeddings that were made elsewhere; rows are matched by video and frame, not by order.

    For example: abaw store import truth.npz --encoder truth
    """
    from featurestore.errors import ConfigError
    from featurestore.exchange.importing import import_vectors

    from .console import print_json, stdout, warn
    from .workspace import open_workspace

    if dtype not in (None, "float16", "float32"):
        raise ConfigError(f"--dtype is float16 or float32, not {dtype!r}. Choose one of the two.")
    store = open_workspace(workspace).open_store()
    report = import_vectors(store, file, encoder=encoder, dtype=dtype, layout=layout)
    if json_:
        print_json(report.as_dict())
        return
    read_as = report.format + (f", layout {report.layout}" if report.layout else "")
    there = f"; {report.written:,} written, {report.there:,} were there already" if report.there else ""
    stdout.print(
        f"{report.encoder}: {report.matched:,} rows matched ({read_as}, {report.dtype}), "
        f"{_counted(report.missing, 'frame')} {'has' if report.missing == 1 else 'have'} no vector{there}",
        markup=False,
    )
    if report.taken_from not in (None, report.encoder):
        warn(f"these are the embeddings of encoder {report.taken_from!r} there, taken in as {report.encoder!r}")
    if report.missing:
        warn(f"frames without a vector are masked, such as {', '.join(report.missing_examples)}")
    if report.extra:
        belong = "belongs" if report.extra == 1 else "belong"
        extra = ", ".join(report.extra_examples)
        warn(f"{_counted(report.extra, 'vector')} {belong} to no frame, such as {extra}")


def export_embeddings(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="To write: .h5, .npz, .npy, .pkl, .parquet or .zarr.zip.")
    ],
    encoder: Annotated[str, typer.Option(help="Whose embeddings.")],
    layout: Annotated[
        str | None,
        typer.Option(help="Of HDF5: flat ([N, D] and keys), video (a group a video) or image.", show_default="flat"),
    ] = None,
    force: ForceOption = False,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Hand embeddings on in a format that other tools read; every vector has the name of its frame.

    For example: abaw store export --encoder au au.h5
    """
    from featurestore.exchange.exporting import export_vectors

    from .console import print_json, stdout, warn
    from .workspace import open_workspace

    store = open_workspace(workspace).open_store(check_sources=False)
    report = export_vectors(store, file, encoder=encoder, layout=layout, force=force)
    if json_:
        print_json(report.as_dict())
        return
    shape = " x ".join(str(length) for length in report.row_shape)
    written_as = report.format + (f", layout {report.layout}" if report.layout else "")
    stdout.print(
        f"{report.encoder}: {_counted(report.rows, 'vector')} of {shape} {report.dtype} in {report.path} "
        f"({written_as}, {report.bytes / 1e6:,.1f} MB)",
        markup=False,
    )
    _tell_failed(report)
    if report.lacks_projection:
        warn(
            f"the tokens went through a projection that this file does not hold, and an import of it cannot be added "
            f"to; a file such as {report.encoder}.zarr.zip holds both"
        )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _tell_failed(report: "ExportReport") -> None:
    from .console import warn

    if not report.failed:
        return
    shown = [f"  {name}: {reason}" for name, reason in list(report.failed.items())[:_N_SHOWN]]
    n_more = len(report.failed) - len(shown)
    more = f"\n  ... and {n_more:,} more; --json lists them all" if n_more else ""
    has, are = ("has", "is") if len(report.failed) == 1 else ("have", "are")
    kept = f"{are} kept as such" if report.format == "zarr.zip" else f"{are} left out"
    warn(f"{_counted(len(report.failed), 'frame')} {has} no embedding and {kept}:\n" + "\n".join(shown) + more)
