"""`abaw`: the command line. A command parses, calls one public function, and prints.

Everything that takes long to import (torch, polars, ...) is imported inside the commands, so that `abaw --help`
answers at once. This is the one place where an `AbawError` becomes a line on stderr and an exit code: 2 if an
option's value is at fault, 1 otherwise.
"""

import errno
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from featurestore.errors import AbawError, ConfigError

from . import data_commands, demo_commands, encoder_commands, head_commands, store_commands

_FULL = (errno.ENOSPC, errno.EDQUOT)


class _ErrorBoundary(TyperGroup):
    """Turns the errors that abaw raises on purpose into one line; `--debug` shows where they came from."""

    def invoke(self, ctx: Any) -> Any:  # typer's own Context or click's, by version
        try:
            return super().invoke(ctx)
        except (AbawError, OSError) as error:
            full = isinstance(error, OSError) and error.errno in _FULL
            if ctx.params.get("debug") or not (isinstance(error, AbawError) or full):
                raise
            text = str(error) if isinstance(error, AbawError) else f"No space left on the device: {error}. Free some."
            sys.stderr.write(f"abaw: {text}\n")
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error
        except KeyboardInterrupt:
            sys.stderr.write("abaw: interrupted; the same command continues.\n")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_ErrorBoundary,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Affective behaviour analysis in the wild: extract every frame once, then fit heads in seconds.",
)


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Affective behaviour analysis in the wild: extract every frame once, then fit heads in seconds."""
    if version:
        from importlib.metadata import version as installed_version

        sys.stdout.write(f"abaw {installed_version('abaw')}\n")
        raise typer.Exit(0)


demo_commands.register(app)
data_commands.register(app)
encoder_commands.register(app)
head_commands.register(app)
app.add_typer(store_commands.app, name="store")
