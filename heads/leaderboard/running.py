"""The leaderboard: every system that a store allows, fitted on it one after the other, in one table.

A system is finished when its rows stand in the CSV. Run again, it is not fitted again as long as nothing has changed
that decides its numbers: models, roles, seed, folds, the embeddings, the frames and their labels; and as long as its
folder holds that very system, unless none is saved. Rows of other
embeddings or labels than the store holds are stale: they are dropped, and that is told. Systems whose encoders are
missing are listed with what would bring them; one that fails is told with its reason, and the others go on. Several
leaderboards may be made in one folder at once, of the same store: each keeps what the others have finished.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import polars as pl
import torch

from featurestore.errors import AbawError, ConfigError, unknown_name
from featurestore.store import FeatureStore
from heads.recipes.fitting import FitStep, fit_system
from heads.recipes.plan import SystemConfig
from heads.recipes.recipe import Recipe
from heads.recipes.standing import Standing, standings
from heads.recipes.system import System, check_system_place, system_name
from heads.recipes.systemrecord import read_system, system_configuration
from heads.sharing import locked

from .config import BoardConfig
from .file import read_board, read_rows, write_board
from .keys import StoreState, board_key, record_key
from .loader import BoardLoader
from .markdown import write_markdown
from .rows import BoardRow, as_board, board_rows, still_true, told_columns

BOARD_FILE: Final = "leaderboard.csv"
MARKDOWN_FILE: Final = "leaderboard.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryReport:
    """One system done, or not.

    Attributes
    ----------
    index, n_entries
        Its number, from 1, and how many there are; each seed is one.
    fits_done, n_fits
        Fits of the systems so far, finished before or now or never, and of all; a fold's is one.
    system, seed
        Which.
    is_kept
        Whether it was finished before.
    problem
        Why it failed; empty if it did not.
    """

    index: int
    n_entries: int
    fits_done: int
    n_fits: int
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
    markdown
        The file of all rows that are true of the store, also those that were not asked for; None if there is no row,
        and it was not written.
    """

    rows: pl.DataFrame
    missing: Mapping[str, tuple[Standing, ...]]
    failed: Mapping[str, Mapping[int, str]]
    markdown: Path | None


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
        Called after each epoch of each fit, with the system's name; fits are counted over all systems.
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
    kept = read_board(out / BOARD_FILE)
    found = {recipe.name: standings(recipe, store, config.roles(recipe)) for recipe in recipes}
    lacking = {name: tuple(each for each in roles if not each.is_ready) for name, roles in found.items()}
    missing = {name: roles for name, roles in lacking.items() if roles}
    fitting = [recipe for recipe in recipes if recipe.name not in missing]
    out.mkdir(parents=True, exist_ok=True)
    names = [name for recipe in fitting for name in config.encoders(recipe)]
    loader = BoardLoader(store, names, device=config.device, memory_bytes=config.memory_bytes)
    run = _Run(loader, StoreState.of(store), config, out, on_note=on_note)
    run.drop_stale(kept)
    _enter_all(run, config, [(recipe, seed) for recipe in fitting for seed in config.seeds], on_step, on_entry)
    with locked(out):
        everything = run.refreshed()
        write_board(out / BOARD_FILE, everything)
        true, markdown = still_true(run.state, everything), out / MARKDOWN_FILE
        if true.height:
            write_markdown(markdown, true, missing=missing, failed=run.failed)
    return Leaderboard(rows=run.asked(), missing=missing, failed=run.failed, markdown=markdown if true.height else None)


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


def _enter_all(
    run: "_Run",
    config: BoardConfig,
    entries: Sequence[tuple[Recipe, int]],
    on_step: Callable[[str, FitStep], None] | None,
    on_entry: Callable[[EntryReport], None] | None,
) -> None:
    """Fit one system after the other, and count their fits together."""
    counts = [_n_fits(config, recipe, seed) for recipe, seed in entries]
    for index, (recipe, seed) in enumerate(entries):
        name, done = recipe.name, sum(counts[:index])

        def tell(step: FitStep, name: str = name, done: int = done) -> None:
            if on_step is not None:
                on_step(name, replace(step, done=done + step.done, n_fits=sum(counts)))

        is_kept, problem = run.enter(recipe, seed, tell)
        if on_entry is not None:
            on_entry(
                EntryReport(
                    index=index + 1,
                    n_entries=len(entries),
                    fits_done=done + counts[index],
                    n_fits=sum(counts),
                    system=name,
                    seed=seed,
                    is_kept=is_kept,
                    problem=problem,
                )
            )


def _n_fits(config: BoardConfig, recipe: Recipe, seed: int) -> int:
    with contextlib.suppress(AbawError):  # told when its turn comes
        return config.of(recipe, seed).n_fits
    return 0


class _Run:
    """The rows of a leaderboard while it is made; the CSV is rewritten after each system that was fitted."""

    def __init__(
        self,
        loader: BoardLoader,
        state: StoreState,
        config: BoardConfig,
        out: Path,
        *,
        on_note: Callable[[str], None] | None,
    ) -> None:
        self._loader, self._config, self._out, self._on_note = loader, config, out, on_note
        self._asked: dict[str, list[BoardRow]] = {}
        self._stale: frozenset[str] = frozenset()
        self.state = state
        self.failed: dict[str, dict[int, str]] = {}

    def drop_stale(self, kept: pl.DataFrame) -> None:
        """Tell of finished rows that are not true of the store, which are left out from now on.

        Those alone: what another process adds later may be of a store that has changed since.
        """
        true = still_true(self.state, kept)
        self._stale = frozenset(kept["key"]) - frozenset(true["key"])
        if self._on_note is not None and true.height < kept.height:
            self._on_note(
                "Finished rows of other embeddings or labels than the store holds, or of another version of abaw, now "
                f"dropped: {kept.height - true.height:,} of {kept.height:,} (file: {self._out / BOARD_FILE})."
            )

    def enter(self, recipe: Recipe, seed: int, on_step: Callable[[FitStep], None]) -> tuple[bool, str]:
        """Fit a system unless it is finished: whether it was, and why it failed if it did."""
        try:
            return self._enter(self._config.of(recipe, seed), on_step), ""
        except Exception as error:  # whatever ails one system, a night's work on the others is not lost
            told = str(error) if isinstance(error, AbawError) else f"{type(error).__name__}: {error}"
            self.failed.setdefault(recipe.name, {})[seed] = told
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return False, told

    def _enter(self, config: SystemConfig, on_step: Callable[[FitStep], None]) -> bool:
        encoders = config.recipe.on(config.roles).encoders
        key = board_key(self.state, config, stream_bytes=self._loader.stream_bytes(encoders))
        rows = read_rows(self._out / BOARD_FILE).get(key)  # of now: another process may have finished it
        if rows is not None and self._is_saved(config, key):
            told = told_columns(config, self.state)
            self._asked[key] = [row | told for row in rows]
            return True
        self._fit(config, on_step)
        return False

    def _fit(self, config: SystemConfig, on_step: Callable[[FitStep], None]) -> None:
        folder = self._out / system_name(config)
        if self._config.save:  # what could not be saved is not fitted either
            prints, frames, labels = self.state.fingerprints, self.state.frames, self.state.labels
            wanted = system_configuration(config, prints, frames=frames, labels=labels)
            check_system_place(wanted, folder, force=True)
        features = self._loader.of(config.recipe.on(config.roles).encoders)
        fitted = fit_system(features, config, on_step=on_step)
        system = System.from_fit(fitted, features, name=folder.name)
        rows = board_rows(fitted, system, self.state)
        with locked(self._out):
            if self._config.save:
                system.save(folder, force=True)
            self._asked[str(rows[0]["key"])] = rows
            write_board(self._out / BOARD_FILE, self.refreshed())

    def _is_saved(self, config: SystemConfig, key: str) -> bool:
        """Whether a finished system's folder holds it, or need not."""
        folder = self._out / system_name(config)
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
        return as_board(_flat(self._asked.values()))

    def refreshed(self) -> pl.DataFrame:
        """Those, and all others that stand in the CSV now; to be written under the lock that this was called under."""
        others = read_rows(self._out / BOARD_FILE)
        left_out = {*self._asked, *self._stale}
        return pl.concat([self.asked(), as_board(_flat(rows for key, rows in others.items() if key not in left_out))])


def _key_of(folder: Path) -> str | None:
    """The key of the system in a folder; None if there is none that can be read."""
    try:
        return record_key(read_system(folder))
    except AbawError:
        return None


def _flat(groups: Iterable[Sequence[BoardRow]]) -> list[BoardRow]:
    return [row for rows in groups for row in rows]
