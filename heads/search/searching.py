"""Searching: trials until the budget is spent, then the recipe of the best, a table of all, and a picture.

    searches/<name>/
        search.json     what is searched for, how it is judged, and on which data: asked again before it goes on
        journal.log     every trial, as it comes (optuna's format)
        trials.csv      every finished trial, a choice a column; this and the recipe also while it runs
        recipe.toml     the best one, for `abaw fit-heads --recipe`
        search.png      how the best score rose, and which choices mattered
        result.json     the best one's scores on val

The score of the best of many trials is too good: by chance, and because it was picked for it. Selected on val, it says
so wherever it is printed. Selected on folds of train, val had no part in it, and the best one's score there, which is
computed once, is honest.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError
from heads.checking import raise_all
from heads.features.featureset import FeatureSet
from heads.fitting.workers import ONE, Parallel, run_jobs
from heads.recipes.names import name_mistakes
from heads.recipes.tomlfile import write_recipe
from heads.scoring.scores import Scores

from .budget import Budget
from .claiming import claimed
from .config import SearchConfig
from .judging import check_judge, judge
from .picture import draw_search
from .reporting import best_of, trial_table, winner_recipe
from .space import Space
from .study import FinishedTrial, SearchStudy, need_optuna, open_study
from .trials import Outcome, TrialJob

TRIALS_FILE: Final = "trials.csv"
RECIPE_FILE: Final = "recipe.toml"
FIGURE_FILE: Final = "search.png"

N_HOPELESS: Final = 10
"""Failed trials of a run after which it ends, if none is complete."""
_SAVE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchProgress:
    """Where a search is, after a trial.

    Attributes
    ----------
    trial
        The one that was finished; None if the budget ended it.
    n_finished
        Trials that count, of all runs of the search.
    spent_s
        Time of all its runs.
    best
        The best score so far; None as long as no trial is complete.
    """

    trial: FinishedTrial | None
    n_finished: int
    spent_s: float
    best: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search has found so far.

    Attributes
    ----------
    folder
        With its files.
    trials
        All that are finished.
    best
        The complete one with the highest score.
    selected_on
        ``"val"``, or ``"train, out of 5 folds"``: where `best` scored that.
    scores
        Of val, by a fit of `best` with the first seed; selected there if `selected_on` says so. None if val has no
        labels, which what folds select does not need.
    spent_s
        Time of all runs of the search.
    """

    folder: Path
    trials: tuple[FinishedTrial, ...]
    best: FinishedTrial
    selected_on: str
    scores: Scores | None
    spent_s: float


def search(
    features: FeatureSet,
    config: SearchConfig,
    budget: Budget,
    *,
    folder: Path,
    parallel: Parallel = ONE,
    on_trial: Callable[[SearchProgress], None] | None = None,
) -> SearchResult:
    """Search, or go on with a search, until its budget is spent.

    Parameters
    ----------
    features
        What may be chosen from: the encoders that are loaded, one vector a frame each.
    config
        What is searched for.
    budget
        Of all runs of this search together. Trials under way when its time is up are ended, unless none is complete.
    folder
        Of the search; made if need be.
    parallel
        Trials at once (see `heads.fitting.parallel`).
    on_trial
        Called after each trial. What it raises ends the search, as an interrupt does: what was finished is written.

    Returns
    -------
    SearchResult

    Raises
    ------
    ConfigError
        If optuna is missing, the folder's name cannot name a recipe, another process runs this search, the store has
        no labels of the task, too few clips for the folds, or no choice that was tried can be fitted.
    FileExistsAlreadyError
        If the folder holds another search, or something else.
    StoreError
        If the journal of the search is damaged.
    """
    raise_all("search", name_mistakes("name", folder.name))
    need_optuna()
    space = Space.of(features, config.task, config.training)
    check_judge(features, config)  # before the folder is claimed: what is refused leaves nothing behind
    with (
        claimed(folder, config.describe(features)),
        open_study(folder, space, seed=config.seed) as study,
    ):
        written = _Written(folder, space, config)
        run = _Run(study, config, budget, written, on_trial)
        try:
            run_jobs(features, run.jobs(), parallel=parallel, on_done=run.done, on_ask=run.ask)
        finally:
            study.spend(run.seconds, at_once=True)
            trials = study.finished()
            written.finish(trials)
        best = best_of(trials)
        if best is None:
            reasons = "; ".join(sorted({trial.outcome.error for trial in trials})) or "none was finished"
            raise ConfigError(f"No trial is complete, so there is no best one: {reasons} (search: {folder}).")
        return SearchResult(
            folder=folder,
            trials=tuple(trials),
            best=best,
            selected_on=config.selected_on,
            scores=judge(folder, features, config, best),
            spent_s=run.spent_s,
        )


class _Run:
    """One run of a search: what is proposed, asked and finished."""

    def __init__(
        self,
        study: SearchStudy,
        config: SearchConfig,
        budget: Budget,
        written: "_Written",
        on_trial: Callable[[SearchProgress], None] | None,
    ) -> None:
        self._study, self._config, self._budget = study, config, budget
        self._written, self._on_trial = written, on_trial
        self._started = time.monotonic()
        self._numbers: list[int] = []  # of the trials, in the order in which they were taken
        self._cut: set[int] = set()
        self._n_failed = 0  # in this run: what hindered an earlier one may be mended

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def spent_s(self) -> float:
        return self._study.spent_before_s + self.seconds

    def jobs(self) -> Iterator[TrialJob]:
        while not self._budget.is_spent(seconds=self.spent_s, trials=self._study.n_finished + self._study.n_running):
            if self._n_failed >= N_HOPELESS and not self._study.has_result:
                return
            number, candidate = self._study.propose()
            self._numbers.append(number)
            yield TrialJob(
                name=f"trial {number}",
                candidate=candidate,
                seeds=self._config.seeds,
                n_folds=self._config.n_folds,
            )

    def ask(self, number: int, step: int, value: float) -> bool:
        trial = self._numbers[number]
        self._study.spend(self.seconds)
        if self._budget.is_out_of_time(self.spent_s) and self._study.has_result:
            self._cut.add(trial)
            return False
        return not self._study.is_behind(trial, step, value)

    def done(self, number: int, outcome: Outcome) -> None:
        trial = self._numbers[number]
        self._study.finish(trial, outcome, is_cut=trial in self._cut)
        self._study.spend(self.seconds, at_once=True)
        self._n_failed += bool(outcome.error)
        trials = self._study.finished()
        self._written.update(trials)
        if self._on_trial is not None:
            best = best_of(trials)
            progress = SearchProgress(
                trial=next((each for each in trials if each.number == trial), None),
                n_finished=len(trials),
                spent_s=self.spent_s,
                best=None if best is None else best.outcome.score,
            )
            self._on_trial(progress)


class _Written:
    """The files of a search but its journal, as far as its trials are finished."""

    def __init__(self, folder: Path, space: Space, config: SearchConfig) -> None:
        self._folder, self._space, self._config = folder, space, config
        self._saved = -math.inf

    def update(self, trials: list[FinishedTrial]) -> None:
        """After each trial: whoever looks, or kills the search, has the table and the recipe so far."""
        if time.monotonic() - self._saved >= _SAVE_S:
            self._tables(trials)
            self._saved = time.monotonic()

    def finish(self, trials: list[FinishedTrial]) -> None:
        """At the end, with the picture, which takes seconds."""
        self._tables(trials)
        if best_of(trials) is not None:
            title = f"search for {self._config.task}, selected on {self._config.selected_on}"
            with replace_file(self._folder / FIGURE_FILE) as partial:
                draw_search(trials, self._space, partial, title=title)

    def _tables(self, trials: list[FinishedTrial]) -> None:
        if not trials:
            return
        with replace_file(self._folder / TRIALS_FILE) as partial:
            trial_table(trials).write_csv(partial)
        best = best_of(trials)
        if best is not None:
            recipe = winner_recipe(best, self._space, self._config, name=self._folder.name, n_trials=len(trials))
            write_recipe(self._folder / RECIPE_FILE, recipe)
