"""`abaw demo`: the whole system on rendered faces."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)


def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where it all goes.")] = Path("demo"),
    *,
    videos: Annotated[int, typer.Option(min=6, help="How many videos are rendered.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of faces, encoders and heads.")] = 7,
) -> None:
    """All of it on rendered faces: pre-train, fine-tune, extract, fit, ablate, score. About five minutes.

    Run again, what is finished is kept, and a killed run continues.
    """
    from .demo import run_demo

    run_demo(directory, videos=videos, seed=seed)
