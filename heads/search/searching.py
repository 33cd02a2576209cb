"""Searching: trials until the budget is spent, then the recipe of the best, a table of all, and a picture.

    searches/<name>/
        search.json     what is searched for, how it is judged, and on which data: asked again before it goes on
        journal.log     every trial, as it comes (optuna's format)
        trials.csv      every finished trial, a choice a column
        recipe.toml     the best one, for `abaw fit-heads --recipe`
        search.png      how the best score rose, and which choices mattered
        result.json     the best one's scores on val

The score of the best of many trials is too good: by chance, and because it was picked for it. Selected on val, it says
so wherever it is printed. Selected on folds of train, val had no part in it, and the best one's score there, which is
computed once, is honest.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, FileExistsAlreadyError
from heads.checking import raise_all
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.fitting.workers import ONE, Parallel, run_jobs
from heads.recipes.names import name_mistakes
from heads.recipes.tomlfile import write_recipe
from heads.scoring.scores import Scores

from .budget import Budget
from .picture import draw_search
from .reporting import best_of, trial_table, winner_recipe
from .space import Candidate, Space
from .study import FinishedTrial, SearchStudy, open_study
from .trials import Outcome, TrialJob

FORMAT: Final = 1
"""Of the folder; raised when a change to the space or to fitting makes old trials incomparable."""

SEARCH_FILE: Final = "search.json"
TRIALS_FILE: Final = "trials.csv"
RECIPE_FILE: Final = "recipe.toml"
FIGURE_FILE: Final = "search.png"
RESULT_FILE: Final = "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """What is searched for, and how it is judged.

    Attributes
    ----------
    task
        ``"au"``, ``"expr"``, ``"v"``, ``"a"``, or ``"p"``: all four together.
    training
        Of every trial, but for what is searched for.
    seeds
        Of the fits; a trial's score is the mean over them.
    n_folds
        Folds of train that select; None: val does.
    seed
        Of the proposals.

    Raises
    ------
    ConfigError
        If seeds repeat or are none, or there are fewer than two folds.
    """

    task: str
    training: FitConfig
    seeds: tuple[int, ...] = (1,)
    n_folds: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"Each seed makes one fit, got {self.seeds}. Name at least one, and each once.")
        if self.n_folds is not None and self.n_folds < 2:
            raise ConfigError(f"folds must be at least 2, got {self.n_folds}.")

    def describe(self, features: FeatureSet) -> dict[str, JsonValue]:
        """What makes trials comparable, for JSON."""
        training = {name: value for name, value in self.training.to_dict().items() if name not in ("device", "select")}
        return {
            "format": FORMAT,
            "task": self.task,
            "seeds": list(self.seeds),
            "n_folds": self.n_folds,
            "seed": self.seed,
            "training": training,
            "encoders": {name: features.fingerprints[name] for name in features.names},
            "frames": features.frames.fingerprint,
            "labels": features.labels_digest,
        }


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
        Of val, by a fit of `best` with the first seed; selected there if `selected_on` says so.
    spent_s
        Time of all runs of the search.
    """

    folder: Path
    trials: tuple[FinishedTrial, ...]
    best: FinishedTrial
    selected_on: str
    scores: Scores
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
        no labels of the task, or no choice that was tried can be fitted.
    FileExistsAlreadyError
        If the folder holds another search.
    """
    raise_all("search", name_mistakes("name", folder.name))
    space = Space.of(features, config.task, config.training)
    _claim(folder, config.describe(features))
    with open_study(folder, space, seed=config.seed) as study:
        run = _Run(study, config, budget, on_trial)
        try:
            run_jobs(features, run.jobs(), parallel=parallel, on_done=run.done, on_ask=run.ask)
        finally:
            study.spend(run.seconds, at_once=True)
            trials = study.finished()
            if any(trial.state == "complete" for trial in trials):
                _write(folder, trials, space, config, features)
        best = best_of(trials)
        if best is None:
            reasons = "; ".join(sorted({trial.outcome.error for trial in trials})) or "none was finished"
            raise ConfigError(f"No trial is complete, so there is no best one: {reasons} (search: {folder}).")
        return SearchResult(
            folder=folder,
            trials=tuple(trials),
            best=best,
            selected_on=selected_on(config),
            scores=_judge(folder, features, config, best),
            spent_s=run.spent_s,
        )


def selected_on(config: SearchConfig) -> str:
    """What picked the best trial, for people."""
    return "val" if config.n_folds is None else f"train, out of {config.n_folds} folds"


class _Run:
    """One run of a search: what is proposed, asked and finished."""

    def __init__(
        self,
        study: SearchStudy,
        config: SearchConfig,
        budget: Budget,
        on_trial: Callable[[SearchProgress], None] | None,
    ) -> None:
        self._study, self._config, self._budget, self._on_trial = study, config, budget, on_trial
        self._started = time.monotonic()
        self._numbers: list[int] = []  # of the trials, in the order in which they were taken
        self._cut: set[int] = set()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def spent_s(self) -> float:
        return self._study.spent_before_s + self.seconds

    def jobs(self) -> Iterator[TrialJob]:
        while not self._budget.is_spent(seconds=self.spent_s, trials=self._study.n_finished + self._study.n_running):
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
        if self._on_trial is not None:
            trials = self._study.finished()
            best = best_of(trials)
            progress = SearchProgress(
                trial=next((each for each in trials if each.number == trial), None),
                n_finished=len(trials),
                spent_s=self.spent_s,
                best=None if best is None else best.outcome.score,
            )
            self._on_trial(progress)


def _claim(folder: Path, description: dict[str, JsonValue]) -> None:
    """Make the folder, or make sure that it holds this very search."""
    path = folder / SEARCH_FILE
    if not path.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsAlreadyError(
                f"A search is written to a folder of its own, but {folder} holds something else. Choose another --name."
            )
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(path, description)
        return
    try:
        found: dict[str, JsonValue] = json.loads(path.read_bytes())
    except ValueError as error:
        raise FileExistsAlreadyError(
            f"A search's settings were expected, but they cannot be read: {error} (file: {path}). "
            "Move the folder away, or choose another --name."
        ) from error
    changed = sorted(name for name in {*found, *description} if found.get(name) != description.get(name))
    if changed:
        told = ", ".join(
            f"{name} was {_short(found.get(name))}, is {_short(description.get(name))}" for name in changed
        )
        raise FileExistsAlreadyError(
            f"Trials of one search are compared, so all of them need the same settings and data; but {told} "
            f"(search: {folder}). Choose another --name, or move the folder away."
        )


def _short(value: JsonValue) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write(folder: Path, trials: list[FinishedTrial], space: Space, config: SearchConfig, features: FeatureSet) -> None:
    with replace_file(folder / TRIALS_FILE) as partial:
        trial_table(trials).write_csv(partial)
    best = best_of(trials)
    if best is not None:
        told = f"{selected_on(config)}, of {len(trials)} trials"
        recipe = winner_recipe(best, space, name=folder.name, told=told, is_honest=config.n_folds is not None)
        write_recipe(folder / RECIPE_FILE, recipe)
    with replace_file(folder / FIGURE_FILE) as partial:
        draw_search(trials, space, partial, title=f"search for {config.task}, selected on {selected_on(config)}")


def _judge(folder: Path, features: FeatureSet, config: SearchConfig, best: FinishedTrial) -> Scores:
    """The best trial's scores on val; honest if folds selected it, since nothing of its fit then looks at val."""
    candidate: Candidate = best.candidate
    training = replace(candidate.training, seed=config.seeds[0])
    if config.n_folds is not None:
        training = replace(training, epochs=best.outcome.epoch, select_on="last")
    fitted = fit(features, candidate.head, training)
    told: dict[str, JsonValue] = {
        "trial": best.number,
        "score": best.outcome.score,
        "selected_on": selected_on(config),
        "val": fitted.scores.as_dict(),
        "val_is_honest": config.n_folds is not None,
    }
    _write_json(folder / RESULT_FILE, told)
    return fitted.scores


def _write_json(path: Path, values: dict[str, JsonValue]) -> None:
    with replace_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
