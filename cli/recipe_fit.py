"""`abaw fit-heads --recipe`: a whole system out of a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING

from .features import load_features

if TYPE_CHECKING:
    from heads.recipes.fitting import FitStep, FittedSystem
    from heads.recipes.plan import SystemConfig
    from heads.recipes.system import System


def fit_recipe_of(
    recipe: str,
    *,
    use: str,
    seed: int,
    calibrate_on: str,
    folds: int | None,
    epochs: int | None,
    select_on: str,
    device: str,
    memory: str | None,
    name: str | None,
    force: bool,
    json_: bool,
    workspace: Path,
) -> None:
    """Fit a recipe by name or file, save the system, and print what came of it."""
    from featurestore.errors import unknown_name
    from heads.recipes.catalogue import find_recipe
    from heads.recipes.fitting import fit_system
    from heads.recipes.plan import SystemConfig
    from heads.recipes.standing import check_ready
    from heads.recipes.system import System, prepare_system_folder, system_name

    from .console import print_json, progress_bar
    from .recipe_commands import parse_use
    from .workspace import open_workspace

    if select_on not in ("val", "folds"):
        raise unknown_name("place to pick epochs", select_on, ("val", "folds"))
    config = SystemConfig(
        recipe=find_recipe(recipe),
        roles=parse_use(use),
        seed=seed,
        calibrate_on=calibrate_on,
        folds=folds,
        epochs=epochs,
        select_on_folds=select_on == "folds",
    )
    config = _without_idle(config)
    opened = open_workspace(workspace)
    store = opened.open_store()
    check_ready(config.recipe, store, config.roles)
    features = load_features(store, config.recipe.on(config.roles).encoders, device, memory)
    name = system_name(config) if name is None else name
    folder = prepare_system_folder(opened.config.runs, name, config, features, force=force)
    with progress_bar(f"fit {config.recipe.name}", "fits") as update:

        def on_step(step: "FitStep") -> None:
            fold = "" if step.fold is None else f", fold {step.fold}"
            update(step.done, step.n_fits, f"{step.model}{fold}, epoch {step.epoch} of {step.n_epochs}")

        fitted = fit_system(features, config, on_step=on_step)
    system = System.from_fit(fitted, features, name=name)
    system.save(folder, force=force)
    if json_:
        errors = [] if system.errors is None else system.errors.to_dicts()
        facts: dict[str, object] = {"system": name, "folder": str(folder), "seconds": fitted.seconds}
        facts |= {"epochs": config.epochs, "remarks": config_remarks(config)}
        print_json(facts | dict(system.metrics) | {"blend": system.record.blend.to_dict(), "errors": errors})
        return
    print_system(system, fitted, folder)


def _without_idle(config: "SystemConfig") -> "SystemConfig":
    """The configuration without options that change nothing in it, which is said.

    Raises
    ------
    ConfigError
        If a calibration on val is asked for, and the recipe calibrates nothing.
    """
    from featurestore.errors import ConfigError

    from .console import warn

    name, effective = config.recipe.name, config.effective()
    if config.calibrate_on == "val" and effective.calibrate_on == "none":
        raise ConfigError(
            f"--calibrate-on says what post-processing is calibrated on, but recipe {name!r} has none, got 'val'. "
            "Leave it out, or give the recipe a [post] (`abaw recipes show --toml` prints its file)."
        )
    idle = [] if config.epochs == effective.epochs else [f"--epochs {config.epochs}"]
    idle += [] if config.select_on_folds == effective.select_on_folds else ["--select-on folds"]
    if idle:
        warn(f"{' and '.join(idle)} changes nothing in recipe {name!r}, and is left out.")
    return effective


def config_remarks(config: "SystemConfig") -> list[str]:
    """What a leaderboard marks of a system as it was asked for, in words."""
    from heads.leaderboard.lines import MARKS

    return [] if config.epochs is None else [f"{MARKS['x']}, but {config.epochs}"]


def print_system(system: "System", fitted: "FittedSystem", folder: Path) -> None:
    """What a system came to: raw and post-processed scores, what its parts weigh, and what they may have seen."""
    from heads.calibration.blend import near_copies

    from .console import stdout
    from .recipe_tables import blend_lines, error_lines
    from .render import calibration_lines, scores_table

    record = system.record
    if fitted.out_of_fold is not None:
        weighed = ", each blended with weights of the others" if fitted.blend.fitted_on else ""
        title = f"{system.name}, train, out of {fitted.config.n_folds} folds{weighed}"
        stdout.print(scores_table(fitted.out_of_fold, title=title))
        if fitted.tuned:
            told = ", ".join(fitted.tuned)
            stdout.print(
                f"out of the heads' folds only: {told} were fine-tuned, and may know these frames", markup=False
            )
    stdout.print(scores_table(fitted.raw_scores, title=f"{system.name}, val"))
    if fitted.calibration is not None:
        stdout.print(scores_table(fitted.scores, title=f"{system.name}, val, post-processed"))
        for line in calibration_lines(fitted.calibration):
            stdout.print(f"  {line}", markup=False)
    for line in blend_lines(fitted.blend):
        stdout.print(line, markup=False)
    if fitted.errors is not None:
        for line in (*error_lines(fitted.errors), *near_copies(fitted.errors)):
            stdout.print(line, markup=False)
    for line in config_remarks(fitted.config):
        stdout.print(f"x: {line}", markup=False)
    for line in record.stand_ins:
        stdout.print(f"stand-in: {line}", markup=False)
    seen = record.in_sample("val")
    judged = f"epochs selected on {', '.join(record.selected_on)}"
    judged += "" if record.calibrated_on is None else f", calibrated on {record.calibrated_on}"
    stdout.print(judged + (f"; in-sample: {seen}" if seen else ""))
    stdout.print(f"{record.parameters:,} parameters in {len(record.members)} models, {record.seconds:.1f} s")
    stdout.print(f"{folder}", markup=False)
