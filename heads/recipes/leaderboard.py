"""The leaderboard: every system that a store allows, fitted on it one after the other, in one table.

A system is finished when its rows stand in the CSV. Run again, it is not fitted again as long as nothing has changed
that decides its numbers: models, roles, seed, folds, the embeddings, the frames and their labels; and as long as its
folder holds that very system, unless none is saved. Rows of other
embeddings or labels than the store holds are stale: they are dropped, and that is told. Systems whose encoders are
missing are listed with what would bring them; one that fails is told with its reason, and the others go on.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl
import torch

from featurestore.errors import AbawError, ConfigError, unknown_name
from featurestore.store import FeatureStore
from heads.checking import at_least, raise_all
from heads.features.featureset import FeatureSet

from .board import (
    BoardRow,
    StoreState,
    as_board,
    board_key,
    board_rows,
    read_board,
    record_key,
    still_true,
    told_columns,
    write_board,
)
from .boardtable import write_markdown
from .fitting import FitStep, fit_system
from .plan import CALIBRATE_ON, SystemConfig
from .recipe import Recipe
from .standing import Standing, standings
from .system import System, check_system_place, system_name
from .systemrecord import read_system, system_configuration

BOARD_FILE: Final = "leaderboard.csv"
MARKDOWN_FILE: Final = "leaderboard.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardConfig:
    """What is fitted, and what each fit may look at.

    Attributes
    ----------
    use
        Role -> encoder of the store, in every recipe that has such a role.
    seeds
        One fit of every system each.
    calibrate_on, folds, epochs, select_on_folds
        As of `SystemConfig`.
    device, memory_bytes
        As of `FeatureSet.load`.
    save
        Whether each system is saved, in its own folder beside the table (see `system_folder`).

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    use: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = (1,)
    calibrate_on: str = "train"
    folds: int | None = None
    epochs: int | None = None
    select_on_folds: bool = False
    device: str = "auto"
    memory_bytes: int | None = None
    save: bool = True

    def __post_init__(self) -> None:
        mistakes = []
        if self.calibrate_on not in CALIBRATE_ON:
            mistakes.append(str(unknown_name("split to calibrate on", self.calibrate_on, CALIBRATE_ON)))
        mistakes += at_least(2, folds=self.folds) + at_least(1, epochs=self.epochs)
        mistakes += [] if self.seeds else ["seeds must name at least one."]
        if len(set(self.seeds)) < len(self.seeds):
            mistakes.append(f"seeds must name each once, got {', '.join(map(str, self.seeds))}.")
        raise_all("leaderboard", mistakes)

    def roles(self, recipe: Recipe) -> dict[str, str]:
        """What of `use` concerns a recipe."""
        return {role: name for role, name in self.use.items() if role in recipe.needs}

    def of(self, recipe: Recipe, seed: int) -> SystemConfig:
        """The fit of one system."""
        return SystemConfig(
            recipe=recipe,
            roles=self.roles(recipe),
            seed=seed,
            calibrate_on=self.calibrate_on,
            folds=self.folds,
            epochs=self.epochs,
            select_on_folds=self.select_on_folds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryReport:
    """One system done, or not.

    Attributes
    ----------
    index, n_entries
        Its number, from 1, and how many there are; each seed is one.
    system, seed
        Which.
    is_kept
        Whether it was finished before.
    problem
        Why it failed; empty if it did not.
    """

    index: int
    n_entries: int
    system: str
    seed: int
    is_kept: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """What a leaderboard came to.

    Attributes
    ----------
    rows
        Of the systems that were asked for and fitted (see `board.SCHEMA`).
    missing
        System -> the encoders that it lacks.
    failed
        System -> seed -> why.
    """

    rows: pl.DataFrame
    missing: Mapping[str, tuple[Standing, ...]]
    failed: Mapping[str, Mapping[int, str]]


def run_leaderboard(
    store: FeatureStore,
    recipes: Sequence[Recipe],
    config: BoardConfig,
    *,
    out: Path,
    on_step: Callable[[str, FitStep], None] | None = None,
    on_entry: Callable[[EntryReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Leaderboard:
    """Fit and score every system that a store allows.

    Parameters
    ----------
    store
        Its encoders are read once, if all that are needed fit in memory; else each system's own.
    recipes
        Which systems, by different names.
    config
        How.
    out
        Folder of ``leaderboard.csv``, ``leaderboard.md`` and the systems' own folders; made if need be.
    on_step
        Called after each epoch of each fit, with the system's name.
    on_entry
        Called after each system and seed.
    on_note
        Called with a sentence for what should be known, such as stale rows that are dropped, or a finished system whose
        folder is gone and that is therefore fitted again.

    Returns
    -------
    Leaderboard

    Raises
    ------
    FileExistsAlreadyError
        If a file of that name is no leaderboard's. Nothing has been fitted then.
    UnknownNameError
        If `use` names a role of no recipe, or an encoder that the store does not have.
    ConfigError
        If two recipes have one name.
    """
    _check(store, recipes, config)
    path = out / BOARD_FILE
    kept = read_board(path)
    found = {recipe.name: standings(recipe, store, config.roles(recipe)) for recipe in recipes}
    missing = {name: tuple(each for each in roles if not each.is_ready) for name, roles in found.items()}
    missing = {name: roles for name, roles in missing.items() if roles}
    fitting = [recipe for recipe in recipes if recipe.name not in missing]
    out.mkdir(parents=True, exist_ok=True)
    state = StoreState.of(store)
    true = still_true(state, kept)
    if on_note is not None and true.height < kept.height:
        on_note(
            f"Finished rows of other embeddings or labels than the store holds, now dropped: "
            f"{kept.height - true.height:,} of {kept.height:,} (file: {path})."
        )
    run = _Run(_Loader(store, fitting, config), state, config, out, true, on_step=on_step, on_note=on_note)
    entries = [(recipe, seed) for recipe in fitting for seed in config.seeds]
    for index, (recipe, seed) in enumerate(entries, start=1):
        is_kept, problem = run.enter(recipe, seed)
        if on_entry is not None:
            on_entry(
                EntryReport(
                    index=index, n_entries=len(entries), system=recipe.name, seed=seed, is_kept=is_kept, problem=problem
                )
            )
    board = Leaderboard(rows=run.asked(), missing=missing, failed=run.failed)
    write_board(path, run.all())
    write_markdown(out / MARKDOWN_FILE, board.rows, missing=missing, failed=board.failed)
    return board


def _check(store: FeatureStore, recipes: Sequence[Recipe], config: BoardConfig) -> None:
    names = [recipe.name for recipe in recipes]
    if len(set(names)) < len(names):
        raise ConfigError(f"Each system must be named once, got {', '.join(names)}.")
    known = {role for recipe in recipes for role in recipe.needs}
    for role, encoder in config.use.items():
        if role not in known:
            raise unknown_name("role in these recipes", role, known)
        if encoder not in store:
            raise unknown_name("encoder", encoder, store.names())


class _Loader:
    """Features for one recipe after another: all that any of them needs at once, if they fit, else each one's own."""

    def __init__(self, store: FeatureStore, recipes: Sequence[Recipe], config: BoardConfig) -> None:
        self._store, self._config = store, config
        self._current: FeatureSet | None = None
        names = [name for recipe in recipes for name in _encoders(recipe, config)]
        if not names:
            return
        # One that cannot be read must not keep the others from being fitted.
        with contextlib.suppress(AbawError):
            whole = self._load(tuple(dict.fromkeys(names)))
            if whole.stream_bytes is None:
                self._current = whole

    def of(self, encoders: Sequence[str]) -> FeatureSet:
        """With at least these encoders."""
        current = self._current
        if current is None or not set(encoders) <= set(current.names):
            self._current = current = None  # before the next is read: both may not fit
            self._current = current = self._load(encoders)
        return current

    def _load(self, names: Sequence[str]) -> FeatureSet:
        return FeatureSet.load(self._store, names, device=self._config.device, memory_bytes=self._config.memory_bytes)


class _Run:
    """The rows of a leaderboard while it is made; the CSV is rewritten after each system that was fitted."""

    def __init__(
        self,
        loader: _Loader,
        state: StoreState,
        config: BoardConfig,
        out: Path,
        kept: pl.DataFrame,
        *,
        on_step: Callable[[str, FitStep], None] | None,
        on_note: Callable[[str], None] | None,
    ) -> None:
        self._loader, self._state, self._config, self._out = loader, state, config, out
        self._on_step, self._on_note = on_step, on_note
        self._finished = _by_key(kept)
        self._asked: list[str] = []
        self.failed: dict[str, dict[int, str]] = {}

    def enter(self, recipe: Recipe, seed: int) -> tuple[bool, str]:
        """Fit a system unless it is finished: whether it was, and why it failed if it did."""
        try:
            return self._enter(self._config.of(recipe, seed)), ""
        except Exception as error:  # whatever ails one system, a night's work on the others is not lost
            told = str(error) if isinstance(error, AbawError) else f"{type(error).__name__}: {error}"
            self.failed.setdefault(recipe.name, {})[seed] = told
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return False, told

    def _enter(self, config: SystemConfig) -> bool:
        key = board_key(self._state, config)
        is_kept = key in self._finished and self._is_saved(config, key)
        if is_kept:
            told = told_columns(config, self._state)
            self._finished[key] = [row | told for row in self._finished[key]]
        else:
            self._finished[key] = self._fit(config)
        self._asked.append(key)
        if not is_kept:
            write_board(self._out / BOARD_FILE, self.all())
        return is_kept

    def _fit(self, config: SystemConfig) -> list[BoardRow]:
        folder = self._out / system_folder(config)
        if self._config.save:  # what could not be saved is not fitted either
            prints, frames, labels = self._state.fingerprints, self._state.frames, self._state.labels
            wanted = system_configuration(config, prints, frames=frames, labels=labels)
            check_system_place(wanted, folder, force=True)
        features = self._loader.of(config.recipe.on(config.roles).encoders)
        on_step = None if self._on_step is None else partial(self._on_step, config.recipe.name)
        fitted = fit_system(features, config, on_step=on_step)
        system = System.from_fit(fitted, features, name=folder.name)
        if self._config.save:
            system.save(folder, force=True)
        return board_rows(fitted, system, self._state)

    def _is_saved(self, config: SystemConfig, key: str) -> bool:
        """Whether a finished system's folder holds it, or need not."""
        folder = self._out / system_folder(config)
        if not self._config.save or _key_of(folder) == key:
            return True
        if self._on_note is not None:
            found = "does not hold it" if folder.exists() else "is not there"
            self._on_note(
                f"{config.recipe.name} (seed {config.seed}) is finished, but its folder {found}, so it is fitted "
                f"again (folder: {folder}). With --no-save its rows would do."
            )
        return False

    def asked(self) -> pl.DataFrame:
        """The rows that were asked for, in their order."""
        return as_board([row for key in self._asked for row in self._finished[key]])

    def all(self) -> pl.DataFrame:
        """Those, and all others that are still true."""
        others = [row for key, rows in self._finished.items() if key not in self._asked for row in rows]
        return pl.concat([self.asked(), as_board(others)])


def system_folder(config: SystemConfig) -> str:
    """The name of a system's folder beside the table: `system_name`, and what is not as by default.

    Such as ``netease_seed1``, or ``netease_seed1-val-epochs5``: calibrated on val, five epochs. So systems that differ
    in options do not replace each other; those that differ in roles do.
    """
    parts = [] if config.calibrate_on == "train" else [config.calibrate_on]
    parts += [] if config.folds is None else [f"folds{config.folds}"]
    parts += [] if config.epochs is None else [f"epochs{config.epochs}"]
    parts += ["selected-on-folds"] if config.select_on_folds else []
    return "-".join([system_name(config), *parts])


def _key_of(folder: Path) -> str | None:
    """The key of the system in a folder; None if there is none that can be read."""
    try:
        return record_key(read_system(folder))
    except AbawError:
        return None


def _encoders(recipe: Recipe, config: BoardConfig) -> tuple[str, ...]:
    """What a recipe reads of the store."""
    roles = config.roles(recipe)
    return tuple(roles.get(role, role) for role in recipe.encoders)


def _by_key(table: pl.DataFrame) -> dict[str, list[BoardRow]]:
    found: dict[str, list[BoardRow]] = {}
    for row in table.iter_rows(named=True):
        found.setdefault(str(row["key"]), []).append(row)
    return found
