"""`abaw compare`: is one run better than another, and how sure is that?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import HEAD_PANEL, JsonOption, SeedOption, WorkspaceOption

if TYPE_CHECKING:
    import polars as pl
    from pydantic import JsonValue

    from featurestore.frames import FrameTable
    from heads.scoring.predictions import Predictions

    from .workspace import Workspace

_HERE = Path()
_SPLIT = "val"
"""What a run's stored predictions are of."""

SideArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run or system by name, or its folder; its seeds joined by commas.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("compare", rich_help_panel=HEAD_PANEL)(compare)


def compare(
    a: SideArgument,
    b: SideArgument,
    *,
    resamples: Annotated[int, typer.Option(min=100, help="Of videos and seeds.")] = 10_000,
    seed: SeedOption = 0,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Compare two runs on the same videos of val, over their seeds: the difference, its interval, whether it is real.

    For example: abaw compare plain_1,plain_2,plain_3 fused_1,fused_2,fused_3
    """
    from heads.features.targets import Targets
    from heads.scoring.compare import compare as compare_predictions

    from .console import print_json, stdout
    from .render import comparison_table
    from .workspace import open_workspace

    opened = open_workspace(workspace)
    frames = opened.open_store().frames
    sides = [_read_side(opened, text, frames) for text in (a, b)]
    comparison = compare_predictions(
        Targets.from_frames(frames),
        [run.predictions for run in sides[0]],
        [run.predictions for run in sides[1]],
        frames.video_ids(),
        n_resamples=resamples,
        seed=seed,
    )
    notes = [*_standing(sides[0], sides[1]), *(note for side in sides for note in _unlike(side))]
    names = [[run.name for run in side] for side in sides]
    if json_:
        print_json({"a": names[0], "b": names[1], "split": _SPLIT, "notes": notes, **comparison.as_dict()})
        return
    stdout.print(comparison_table(comparison, a=", ".join(names[0]), b=", ".join(names[1])))
    for note in notes:
        stdout.print(note, markup=False)


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is read of a run: what it predicts of val, and what that has seen."""

    name: str
    predictions: "Predictions"
    seeds: tuple[int, ...]
    settings: "JsonValue"
    is_selected: bool
    in_sample: str | None


def _read_side(workspace: "Workspace", text: str, frames: "FrameTable") -> list[_Stored]:
    """The runs of one side, by seed."""
    from featurestore.errors import ConfigError
    from heads.tasks import parse_names

    # A folder's name may hold a comma.
    names = (text,) if Path(text).is_dir() else parse_names(text)
    folders = [_find(workspace, name) for name in names]
    if not folders or len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"Expected runs, each once, separated by commas, got {text!r}. Name the seeds of one head.")
    return sorted((_read(folder, frames) for folder in folders), key=lambda run: run.seeds)


def _find(workspace: "Workspace", name: str) -> Path:
    from heads.recipes.systemrecord import SYSTEM_FILE

    for folder in (workspace.config.runs / name, Path(name)):
        if (folder / SYSTEM_FILE).is_file():
            return folder
    return workspace.find_run(name)


def _read(folder: Path, frames: "FrameTable") -> _Stored:
    """A run's or a system's predictions, without its models.

    Raises
    ------
    FrameMismatchError
        If they are of other frames or labels than the store's.
    """
    from featurestore.errors import FrameMismatchError
    from heads.features.targets import labels_digest
    from heads.recipes.systemrecord import SYSTEM_FILE, read_system
    from heads.runs.record import read_record
    from heads.scoring.tabulate import predictions_from_table

    record = read_system(folder) if (folder / SYSTEM_FILE).is_file() else read_record(folder)
    for what, found, wanted in (
        ("frames", record.frames, frames.fingerprint),
        ("labels", record.labels, labels_digest(frames)),
    ):
        if found != wanted:
            raise FrameMismatchError(
                f"Runs are compared on the store's {what}, but those of {record.name!r} are others (fingerprint "
                f"{found}, the store's {wanted}; run: {folder}). Fit it again on the store as it is."
            )
    selected_on = (record.selected_on,) if isinstance(record.selected_on, str) else record.selected_on
    seeds, settings = _apart_from_seeds(record.configuration())
    return _Stored(
        name=record.name,
        predictions=predictions_from_table(frames, _read_table(folder)),
        seeds=seeds,
        settings=settings,
        is_selected=_SPLIT in selected_on,
        in_sample=record.in_sample(_SPLIT),
    )


def _read_table(folder: Path) -> "pl.DataFrame":
    import polars as pl

    from featurestore.errors import ConfigError, MissingFileError
    from heads.runs.run import PREDICTIONS_FILE

    path = folder / PREDICTIONS_FILE
    try:
        return pl.read_parquet(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingFileError(f"A run holds its predictions in {path}, which is not there. Fit it again.") from error
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"A run's predictions cannot be read: {reason} (file: {path}). Fit it again.") from error


def _apart_from_seeds(settings: "JsonValue") -> "tuple[tuple[int, ...], JsonValue]":
    """The seeds in a configuration, and the rest of it."""
    if not isinstance(settings, dict):
        return (), settings
    seeds: tuple[int, ...] = ()
    rest: dict[str, JsonValue] = {}
    for key, value in settings.items():
        if key == "seed" and isinstance(value, int):
            seeds += (value,)
        else:
            found, rest[key] = _apart_from_seeds(value)
            seeds += found
    return seeds, rest


def _standing(a: Sequence[_Stored], b: Sequence[_Stored]) -> list[str]:
    """What the runs have seen of val, and what the intervals cannot tell."""
    from heads.scoring.compare import FEW_SEEDS

    notes = [f"in-sample: {run.name}: {run.in_sample}" for run in (*a, *b) if run.in_sample is not None]
    picked = {name: any(run.is_selected for run in side) for name, side in (("A", a), ("B", b))}
    if all(picked.values()):
        notes.append(f"epochs of both sides were selected on {_SPLIT}: both scores are optimistic")
    elif any(picked.values()):
        side = next(name for name, is_picked in picked.items() if is_picked)
        notes.append(f"only {side} had its epoch selected on {_SPLIT}, which favours it")
    if len(a) == len(b) == 1:
        notes.append(
            "with one seed a side cannot show what another seed would change: fit more, and join them by commas"
        )
    elif min(len(a), len(b)) == 1:
        notes.append("the side of one seed is taken to spread over seeds as the other does")
    if max(len(a), len(b)) > 1 and min(len(a), len(b)) < FEW_SEEDS:
        notes.append(
            f"with {len(a)} and {len(b)} seeds their spread is hardly known, so that only great differences are found "
            f"to be real: fit {FEW_SEEDS} or more a side"
        )
    return notes


def _unlike(side: Sequence[_Stored]) -> list[str]:
    """A note if the runs of a side are not one head with several seeds."""
    others = [run.name for run in side[1:] if run.settings != side[0].settings]
    if not others:
        return []
    return [f"{', '.join(others)} and {side[0].name} differ in more than the seed: their mean is of different heads"]
