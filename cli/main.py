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

from featurestore.atomic import says_no_space
from featurestore.errors import AbawError, ConfigError, UnknownNameError

from . import (
    ablate_command,
    compare_command,
    data_commands,
    demo_commands,
    encoders_command,
    exchange_commands,
    export_command,
    extract_command,
    fit_command,
    head_commands,
    recipe_commands,
    search_command,
    store_commands,
    training_commands,
)
from .options import ENCODER_PANEL


class _ErrorBoundary(TyperGroup):
    """Turns the errors that abaw raises on purpose into one line; `--debug` shows where they came from."""

    def invoke(self, ctx: Any) -> Any:  # typer's own Context or click's, by version
        try:
            return super().invoke(ctx)
        except Exception as error:
            text = _told(error)
            if text is None or ctx.params.get("debug"):
                raise
            sys.stderr.write(f"abaw: {text}\n")
            raise typer.Exit(2 if isinstance(error, (ConfigError, UnknownNameError)) else 1) from error
        except KeyboardInterrupt:
            sys.stderr.write("abaw: interrupted; the same command continues.\n")
            raise typer.Exit(130) from None


def _told(error: Exception) -> str | None:
    """An error in a line for a person, or None if it is none that a person can mend."""
    if isinstance(error, AbawError):
        return str(error)
    if says_no_space(error):
        where = f" (writing {_named(error)})" if _named(error) else ""
        return f"No space is left on the device{where}. Free some, and run the same command again."
    # A pipe that was closed (`abaw store ls | head -1`) is click's own matter.
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        where = f": {_named(error)}" if _named(error) else ""
        return f"{error.strerror}{where}. Check the path and its permissions (`abaw --debug ...` shows the trace)."
    return None


def _named(error: Exception) -> str:
    """The files that an error of the operating system names."""
    names = (getattr(error, "filename", None), getattr(error, "filename2", None))
    return " -> ".join(str(name) for name in names if name is not None)


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
training_commands.register(app)
extract_command.register(app)
fit_command.register(app)
head_commands.register(app)
export_command.register(app)
ablate_command.register(app)
search_command.register(app)
compare_command.register(app)
recipe_commands.register(app)
exchange_commands.register(store_commands.app)
app.add_typer(encoders_command.app, name="encoders", rich_help_panel=ENCODER_PANEL)
app.add_typer(store_commands.app, name="store", rich_help_panel=ENCODER_PANEL)
