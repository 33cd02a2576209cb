"""What a search leaves: the best trial, a table of all of them, and the best one as a recipe."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import stdev

import polars as pl

from heads.recipes.member import Member
from heads.recipes.recipe import Recipe
from heads.recipes.told import Need
from heads.tasks import TASKS

from .config import SearchConfig
from .space import Space, strategy
from .study import FinishedTrial


def best_of(trials: Sequence[FinishedTrial]) -> FinishedTrial | None:
    """The complete trial with the highest score, the first of equals; None if none is complete."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.outcome.score, default=None)


def trial_table(trials: Sequence[FinishedTrial]) -> pl.DataFrame:
    """Trials as rows, as they began.

    Returns
    -------
    DataFrame
        ``trial``, ``state``, ``is_best``; ``score`` (mean over seeds) and ``std`` (ddof=1) of complete ones;
        ``epoch``, ``parameters``, ``seconds``; a column a choice (see `strategy`); ``error`` of those that failed.
    """
    best = best_of(trials)
    rows = []
    for trial in trials:
        outcome, is_complete = trial.outcome, trial.state == "complete"
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state,
                "is_best": trial is best,
                "score": outcome.score if is_complete else None,
                "std": stdev(outcome.scores) if is_complete and len(outcome.scores) > 1 else None,
                "epoch": outcome.epoch if is_complete else None,
                "parameters": outcome.n_parameters or None,
                "seconds": round(outcome.seconds, 3),
                **strategy(trial.candidate),
                "error": outcome.error or None,
            }
        )
    numbers = dict.fromkeys(("score", "std"), pl.Float64) | dict.fromkeys(("epoch", "parameters"), pl.Int64)
    return pl.DataFrame(rows, schema_overrides={**numbers, "error": pl.String}, infer_schema_length=None)


def winner_recipe(best: FinishedTrial, space: Space, config: SearchConfig, *, name: str, n_trials: int) -> Recipe:
    """The best trial as a recipe; where val had no part in the search it has none in the recipe, and the epoch is told.

    Parameters
    ----------
    best
        A complete trial.
    space
        That it was chosen from.
    config
        How it was judged.
    name
        Of the search.
    n_trials
        That it is the best of.
    """
    candidate, score = best.candidate, best.outcome.score
    training = candidate.training
    if config.is_honest:
        training = replace(training, epochs=best.outcome.epoch, select_on="last", patience=None)
    tasks = tuple(TASKS) if space.task == "p" else (space.task,)
    title = "the four tasks" if space.task == "p" else TASKS[space.task].title
    seen = "val had no part in it" if config.is_honest else "the score on val is optimistic: it was selected there"
    named = ", ".join(map(str, config.seeds))
    notes = (
        f"Trial {best.number}: {score:.4f}, selected on {config.selected_on}, of {n_trials} trials; {seen}.",
        f"Fitted with seed {named}." if len(config.seeds) == 1 else f"The score is the mean of seeds {named}.",
    )
    return Recipe(
        name=name,
        title=f"found by a search for {title}",
        models=(Member(name=space.task, tasks=tasks, head=candidate.head, training=training),),
        needs={
            encoder: Need(what=f"{encoder}, as in the store that was searched", dim=space.widths[encoder])
            for encoder in candidate.head.encoders
        },
        notes=notes,
    )
