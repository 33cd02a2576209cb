"""`abaw recipes` and `abaw leaderboard`: every published system, what it needs, and all of them on one store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import HEAD_PANEL, DeviceOption, JsonOption, MemoryOption, WorkspaceOption

if TYPE_CHECKING:
    from featurestore.store import FeatureStore
    from heads.leaderboard.running import EntryReport, Leaderboard
    from heads.recipes.fitting import FitStep

_recipes = typer.Typer(help="The published systems: list them, show one.")
_HERE = Path()
_UNBOUNDED = 10_000  # columns, more than any table

UseOption = Annotated[
    str, typer.Option(help="Encoders of the store for those of recipes, such as iresnet100=arcface,mae=mae_face.")
]


@_recipes.callback(invoke_without_command=True)
def list_recipes(
    ctx: typer.Context, use: UseOption = "", json_: JsonOption = False, workspace: WorkspaceOption = _HERE
) -> None:
    """List every published system: its scores, the encoders that it needs, whether the store has them, what they cost.

    For example: abaw recipes
    """
    if ctx.invoked_subcommand is not None:
        return
    from heads.recipes.catalogue import find_recipe, recipe_names

    from .console import print_json, stdout
    from .recipe_tables import WIDE, recipe_line, recipes_remarks, recipes_table

    store, roles = _store(workspace), parse_use(use)
    recipes = [find_recipe(name) for name in recipe_names()]
    _check_roles(roles, [role for recipe in recipes for role in recipe.needs])
    lines = [recipe_line(recipe, store, roles) for recipe in recipes]
    if json_:
        location = None if store is None else store.location
        print_json({"store": location, "recipes": {line.recipe.name: line.as_dict() for line in lines}})
        return
    is_wide = not stdout.is_terminal or stdout.width >= WIDE
    table = recipes_table(lines, is_wide=is_wide)
    if not stdout.is_terminal:  # what is piped or saved has no width that it must fit
        table.width = stdout.measure(table, options=stdout.options.update(width=_UNBOUNDED)).maximum
    stdout.print(table)
    for remark in recipes_remarks(lines, is_wide=is_wide):
        stdout.print(remark, markup=False)
    if store is None:
        stdout.print("No workspace with a store here: what is missing is told in one.")


@_recipes.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe's name, or a recipe file.")],
    *,
    use: UseOption = "",
    toml: Annotated[bool, typer.Option("--toml", help="Print the recipe's file, to change and keep.")] = False,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Show all about one system: its models, what was published, what is not and which default stands in.

    For example: abaw recipes show netease
    """
    from heads.recipes.catalogue import find_recipe
    from heads.recipes.tomlfile import format_recipe

    from .console import print_json, stdout
    from .recipe_tables import recipe_line, recipe_pairs

    recipe = find_recipe(name)
    if toml:
        stdout.print(format_recipe(recipe), markup=False, end="")
        return
    roles = parse_use(use)
    _check_roles(roles, list(recipe.needs))
    line = recipe_line(recipe, _store(workspace), roles)
    if json_:
        print_json(line.as_dict())
        return
    stdout.print(f"{recipe.name}: {recipe.title}", style="bold", markup=False)
    width = max(len(word) for word, _ in recipe_pairs(line))
    for word, text in recipe_pairs(line):
        stdout.print(f"  {word:<{width}}  {text}", markup=False)


def leaderboard(
    *,
    only: Annotated[str, typer.Option(help="Some systems or recipe files, such as netease,aim3.")] = "",
    use: UseOption = "",
    seeds: Annotated[str, typer.Option(help="One or several, such as 1,2,3: then means and spread.")] = "1",
    calibrate_on: Annotated[
        str, typer.Option(help="train (out of fold), val (the score is then in-sample), or none.")
    ] = "train",
    folds: Annotated[int | None, typer.Option(min=2, help="Folds of train.", show_default="the recipe's")] = None,
    select_on: Annotated[str, typer.Option(help="Where epochs are picked: val, or folds (of train).")] = "val",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="For all models, to shorten; it is told.", show_default="the recipe's")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the table and of the systems.", show_default="leaderboard, in the workspace"),
    ] = None,
    save: Annotated[bool, typer.Option(help="Keep each fitted system, for `abaw predict`.")] = True,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Fit every system that the store allows, and print one table beside the published scores; finished ones are kept.

    Exit code 1 if no system could be fitted.

    For example: abaw leaderboard --use iresnet100=arcface
    """
    from featurestore.bytesize import parse_bytes
    from featurestore.errors import unknown_name
    from heads.leaderboard.config import BoardConfig
    from heads.leaderboard.running import run_leaderboard
    from heads.recipes.catalogue import find_recipe, recipe_names
    from heads.tasks import parse_names

    from .console import progress_bar, warn
    from .seeds import parse_seeds
    from .workspace import LEADERBOARD_FOLDER, open_workspace

    if select_on not in ("val", "folds"):
        raise unknown_name("place to pick epochs", select_on, ("val", "folds"))
    config = BoardConfig(
        use=parse_use(use),
        seeds=parse_seeds(seeds),
        calibrate_on=calibrate_on,
        folds=folds,
        epochs=epochs,
        select_on_folds=select_on == "folds",
        device=device,
        memory_bytes=None if memory is None else parse_bytes(memory),
        save=save,
    )
    recipes = [find_recipe(name) for name in parse_names(only) or recipe_names()]
    opened = open_workspace(workspace)
    store, folder = opened.open_store(), opened.root / LEADERBOARD_FOLDER if out is None else out
    with progress_bar("leaderboard", "fits") as update:

        def on_step(system: str, step: "FitStep") -> None:
            fold = "" if step.fold is None else f", fold {step.fold}"
            update(step.done, step.n_fits, f"{system}: {step.model}{fold}, epoch {step.epoch} of {step.n_epochs}")

        def on_entry(report: "EntryReport") -> None:
            state = "kept" if report.is_kept else "failed" if report.problem else "fitted"
            update(report.fits_done, report.n_fits, f"{report.system} (seed {report.seed}): {state}")
            if report.problem:
                warn(f"{report.system} (seed {report.seed}) failed: {report.problem}")

        board = run_leaderboard(store, recipes, config, out=folder, on_step=on_step, on_entry=on_entry, on_note=warn)
    _tell_board(board, folder, json_=json_)
    if not board.rows.height:
        warn("No system was fitted.")
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(_recipes, name="recipes", rich_help_panel=HEAD_PANEL)
    app.command("leaderboard", rich_help_panel=HEAD_PANEL)(leaderboard)


def parse_use(text: str) -> dict[str, str]:
    """Role -> encoder of an option such as ``"iresnet100=arcface,mae=mae_face"``.

    Raises
    ------
    ConfigError
        If an item is not ``role=encoder``, or a role comes twice.
    """
    from featurestore.errors import ConfigError
    from heads.tasks import parse_names

    found: dict[str, str] = {}
    for item in parse_names(text):
        role, separator, encoder = (part.strip() for part in item.partition("="))
        if not (separator and role and encoder):
            raise ConfigError(f"Expected role=encoder such as iresnet100=arcface, got {item!r} in {text!r}.")
        if role in found:
            raise ConfigError(f"Role {role!r} is given twice in {text!r}. Give it once.")
        found[role] = encoder
    return found


def _check_roles(roles: "dict[str, str]", known: "list[str]") -> None:
    from featurestore.errors import unknown_name

    for role in roles:
        if role not in known:
            raise unknown_name("role in these recipes", role, dict.fromkeys(known))


def _store(workspace: Path) -> "FeatureStore | None":
    """The workspace's store; None if none was named and there is none here: recipes can be looked at anywhere."""
    from featurestore.errors import MissingFileError

    from .workspace import open_workspace

    try:
        return open_workspace(workspace).open_store(check_sources=False)
    except MissingFileError:
        if workspace != _HERE:
            raise
        return None


def _tell_board(board: "Leaderboard", out: Path, *, json_: bool) -> None:
    from heads.leaderboard.lines import board_lines
    from heads.leaderboard.running import BOARD_FILE
    from heads.leaderboard.table import WIDE, remarks, render_board

    from .console import print_json, stdout

    if json_:
        missing = {
            name: [
                {"role": each.role, "problem": each.problem, "command": each.command, "brings": each.brings}
                for each in roles
            ]
            for name, roles in board.missing.items()
        }
        markdown = None if board.markdown is None else str(board.markdown)
        files = {"csv": str(out / BOARD_FILE), "markdown": markdown}
        failed = {name: dict(reasons) for name, reasons in board.failed.items()}
        print_json({"files": files, "rows": board.rows.to_dicts(), "missing": missing, "failed": failed})
        return
    lines = board_lines(board.rows)
    if lines:
        table = render_board(lines, is_wide=not stdout.is_terminal or stdout.width >= WIDE)
        if not stdout.is_terminal:
            table.width = stdout.measure(table, options=stdout.options.update(width=_UNBOUNDED)).maximum
        stdout.print(table)
    for remark in remarks(lines, missing=board.missing, failed=board.failed):
        stdout.print(remark, markup=False)
    written = [out / BOARD_FILE, *([] if board.markdown is None else [board.markdown])]
    stdout.print(", ".join(map(str, written)), markup=False)
