"""The trials of a search, in an optuna study whose journal is in the search's folder.

What is proposed next follows from the seed and from the trials that are finished: the sampler is made anew for each
proposal. So a search that was killed proposes again what it had under way, and one that was interrupted ends where an
uninterrupted one does (where several trials run at once, as far as they finish in the same order).

A kill may leave the journal with half a line and with optuna's lock. Both are removed before it is opened; that nobody
else has it open is made sure before (see claiming.py).
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from featurestore.errors import ConfigError, StoreError

from .space import Candidate, Space
from .trials import Outcome

if TYPE_CHECKING:
    from types import ModuleType

    from optuna.samplers import BaseSampler
    from optuna.storages import JournalStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial, TrialState

JOURNAL_FILE: Final = "journal.log"
"""Of optuna's journal storage; other tools that read it can."""
STATES: Final = ("complete", "pruned", "failed")

N_DRAWN: Final = 10
"""Trials before proposals follow what was found."""
PRUNED_BELOW: Final = 75.0
"""A trial ends that is poorer, at its best so far, than this share of the complete ones were after as many epochs, in
per cent. They are the survivors: at 50 half of all that is as good as they would go."""
_N_UNPRUNED: Final = 5
_N_WARMUP: Final = 2
_STUDY: Final = "search"
_SAVE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTrial:
    """A trial that counts.

    Attributes
    ----------
    number
        From 0, in the order in which trials began; those that a kill or the budget ended are left out.
    state
        ``"complete"``; ``"pruned"``: ended since it fell behind; ``"failed"``: cannot be fitted.
    candidate, outcome
        What was fitted, and what came of it.
    """

    number: int
    state: str
    candidate: Candidate
    outcome: Outcome


class SearchStudy:
    """An opened study.

    Parameters
    ----------
    study
        Optuna's.
    space
        What is chosen from.
    seed
        Of the proposals.
    """

    def __init__(self, study: "Study", space: Space, *, seed: int) -> None:
        self._study, self._space, self._seed = study, space, seed
        self._running: dict[int, Trial] = {}
        self._known: dict[int, FinishedTrial] = {}
        self._spent_before = float(study.user_attrs.get("spent_s", 0.0))
        self._saved_s = self._spent_before
        for trial in study.get_trials(deepcopy=False):
            if not trial.state.is_finished() and trial.state.name == "RUNNING":  # of a run that was killed
                study.tell(trial.number, state=_state("FAIL"))

    @property
    def spent_before_s(self) -> float:
        """Time that earlier runs of the search took."""
        return self._spent_before

    @property
    def n_running(self) -> int:
        """Trials under way."""
        return len(self._running)

    @property
    def n_finished(self) -> int:
        """Trials that count towards a budget."""
        return sum(map(_counts, self._study.get_trials(deepcopy=False)))

    @property
    def has_result(self) -> bool:
        """Whether a trial is complete."""
        return any(trial.state.name == "COMPLETE" for trial in self._study.get_trials(deepcopy=False))

    def propose(self) -> tuple[int, Candidate]:
        """The number of a new trial, and what it is to fit."""
        trials = self._study.get_trials(deepcopy=False)
        begun = {each.user_attrs.get("first") for each in trials if _counts(each) or not each.state.is_finished()}
        to_come = [number for number, _ in enumerate(self._space.first()) if number not in begun]
        if to_come:
            self._study.enqueue_trial(dict(self._space.first()[to_come[0]]), user_attrs={"first": to_come[0]})
        self._study.sampler = _sampler([self._seed, self.n_finished, self.n_running])
        trial = self._study.ask()
        self._running[trial.number] = trial
        return trial.number, self._space.suggest(trial)

    def is_behind(self, number: int, step: int, value: float) -> bool:
        """Take note of how far a trial is; whether it has fallen behind the others (`PRUNED_BELOW`)."""
        if math.isnan(value):
            return False
        trial = self._running[number]
        trial.report(value, step)
        return trial.should_prune()

    def finish(self, number: int, outcome: Outcome, *, is_cut: bool) -> None:
        """Take in what a trial came to; one that the budget ended does not count."""
        trial = self._running.pop(number)
        facts = {"scores": outcome.scores, "epochs": outcome.epochs, "n_parameters": outcome.n_parameters}
        for name, value in {**facts, "seconds": outcome.seconds, "error": outcome.error}.items():
            trial.set_user_attr(name, value)
        if outcome.error or (outcome.ended and is_cut):
            self._study.tell(trial, state=_state("FAIL"))
        elif outcome.ended:
            self._study.tell(trial, state=_state("PRUNED"))
        else:
            self._study.tell(trial, outcome.score)

    def spend(self, seconds: float, *, at_once: bool = False) -> None:
        """Take note of the time that this run has taken."""
        spent = self._spent_before + seconds
        if at_once or spent - self._saved_s > _SAVE_S:
            self._study.set_user_attr("spent_s", spent)
            self._saved_s = spent

    def finished(self) -> list[FinishedTrial]:
        """The trials that count, as they began."""
        return [self._finished(trial) for trial in self._study.get_trials(deepcopy=False) if _counts(trial)]

    def _finished(self, trial: "FrozenTrial") -> FinishedTrial:
        """Made once: a search of a thousand trials asks for all of them after each."""
        from optuna.trial import FixedTrial

        if trial.number in self._known:
            return self._known[trial.number]
        told = trial.user_attrs
        outcome = Outcome(
            scores=tuple(told["scores"]),
            epochs=tuple(told["epochs"]),
            n_parameters=told["n_parameters"],
            seconds=told["seconds"],
            ended=trial.state.name == "PRUNED",
            error=told["error"],
        )
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}[trial.state.name]
        candidate = self._space.suggest(FixedTrial(trial.params))  # type: ignore[arg-type] # all that a trial is asked
        found = FinishedTrial(number=trial.number, state=state, candidate=candidate, outcome=outcome)
        return self._known.setdefault(trial.number, found)


@contextmanager
def open_study(folder: Path, space: Space, *, seed: int) -> Iterator[SearchStudy]:
    """The study of a search's folder, which is this process's alone (see `claimed`).

    Raises
    ------
    ConfigError
        If optuna is not installed.
    StoreError
        If its journal is damaged.
    """
    optuna = need_optuna()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            with _readable(folder / JOURNAL_FILE) as storage:
                study = optuna.create_study(
                    storage=storage,
                    pruner=optuna.pruners.PercentilePruner(
                        PRUNED_BELOW, n_startup_trials=_N_UNPRUNED, n_warmup_steps=_N_WARMUP
                    ),
                    study_name=_STUDY,
                    direction="maximize",
                    load_if_exists=True,
                )
            yield SearchStudy(study, space, seed=seed)
    finally:
        optuna.logging.set_verbosity(verbosity)


def has_complete(folder: Path) -> bool:
    """Whether a folder that is this process's alone holds a complete trial; nothing is written.

    Raises
    ------
    ConfigError, StoreError
        As of `open_study`.
    """
    journal = folder / JOURNAL_FILE
    if not journal.exists():
        return False
    with _readable(journal) as storage:
        studies = [each._study_id for each in storage.get_all_studies()]
        trials = [trial for study in studies for trial in storage.get_all_trials(study, deepcopy=False)]
    return any(trial.state.name == "COMPLETE" for trial in trials)


@contextmanager
def _readable(journal: Path) -> Iterator["JournalStorage"]:
    """The journal as optuna's storage, while it is read for the first time."""
    optuna = need_optuna()
    from optuna.storages.journal import JournalFileBackend

    _mend(journal)
    try:
        with warnings.catch_warnings():
            # Optuna calls what it has had for years experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    # What optuna's replay of lines that are none, or not its own, ends in.
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise StoreError(
            f"A search's journal was expected, but it cannot be read: {type(error).__name__}: {error} (file: "
            f"{journal}). Bring it back from a copy, or move the folder away and search anew."
        ) from error


def need_optuna() -> "ModuleType":
    """The package, imported.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("A search needs the extra 'search'. Install it with: pip install 'abaw[search]'.") from error
    return optuna


def _mend(journal: Path) -> None:
    """Remove what a kill may have left."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.exists():
        with journal.open("r+b") as file:
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)


def _sampler(entropy: Sequence[int]) -> "BaseSampler":
    from optuna.samplers import TPESampler

    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    return TPESampler(n_startup_trials=N_DRAWN, multivariate=True, group=True, constant_liar=True, seed=seed)


def _counts(trial: "FrozenTrial") -> bool:
    """Whether a trial was finished: one that a kill or the budget ended has failed without an error."""
    return trial.state.name in ("COMPLETE", "PRUNED") or bool(trial.user_attrs.get("error"))


def _state(name: str) -> "TrialState":
    from optuna.trial import TrialState

    return TrialState[name]
