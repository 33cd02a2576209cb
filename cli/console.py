"""What a person and a program see: results on stdout, progress on stderr."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# A path may hold what rich takes for markup, such as [id] or :cat:. Nothing on stderr is markup; on stdout tables are.
stdout = Console(highlight=False, soft_wrap=True, emoji=False)
stderr = Console(stderr=True, highlight=False, emoji=False, markup=False)


def print_json(value: Mapping[str, object]) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def say(text: str) -> None:
    """A line on stderr about what is going on."""
    stderr.print(text, style="dim", soft_wrap=True)


def warn(text: str) -> None:
    """A line on stderr that should be read."""
    stderr.print(f"note: {text}", style="yellow", soft_wrap=True)


def tell_unreadable(failures: Mapping[int, str], paths: list[str], *, consequence: str) -> None:
    """Say how many frames could not be read, and show the first few."""
    if not failures:
        return
    shown = [f"  {paths[row]}: {reason}" for row, reason in sorted(failures.items())[:5]]
    more = f"\n  ... and {len(failures) - 5:,} more; `abaw store show ENCODER` lists them" if len(failures) > 5 else ""
    frames = "1 frame" if len(failures) == 1 else f"{len(failures):,} frames"
    warn(f"{frames} could not be read; {consequence}:\n" + "\n".join(shown) + more)


class _Rate(ProgressColumn):
    """Items a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr with rate and time left; one that is not a terminal gets nothing.

    Yields
    ------
    ``update(done, total, note)``
    """
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=stderr,
        disable=not stderr.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield update
