"""Which choices mattered: how much of the scores' variance each predicts, and the median score of each of its values.

Trials choose conditionally (S only where there is a temporal module), and optuna's evaluators look at what all trials
have. So each trial is put in the same columns first, S = 1 standing for no window, weight 0 for a task that is not
joined. The share is fANOVA's: of the variance of a random forest's predictions, by single choices, not by combinations
(Hutter, Hoos and Leyton-Brown, 2014, "An Efficient Approach for Assessing Hyperparameter Importance").

A forest explains the trials that it was grown on whatever they are: of pure noise, too, fANOVA gives every choice a
share. So shares are of what it predicts of trials that a tree has not seen (out of bag), which of noise is nothing, and
a choice counts only if its share is larger than that of any column without a meaning: to each choice the forest is
given a copy in another order (Kursa and Rudnicki, 2010, "Feature Selection with the Boruta Package").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from heads.tasks import TASKS

from .space import STEPS, Candidate, Space
from .study import FinishedTrial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MIN_TRIALS: Final = 20
"""Complete ones; from fewer nothing is told: there are some fifteen choices."""

Value = str | float
_N_LISTED: Final = 5
_N_TREES: Final = 200
_N_FANOVA_TREES: Final = 32  # optuna's 64 take ten seconds for 200 trials


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One thing that is chosen.

    Attributes
    ----------
    name
        Such as ``"temporal"`` or ``"fuse au"``.
    importance
        Share of the variance of the scores, in [0, 1], that the choice alone predicts; all choices' together are at
        most 1. 0 if it is no more than chance gives.
    medians
        Value -> median score of the complete trials with it, and how many they are; the best first.
    """

    name: str
    importance: float
    medians: tuple[tuple[str, float, int], ...]


def choices(trials: Sequence[FinishedTrial], space: Space, *, seed: int = 0) -> tuple[Choice, ...]:
    """What was chosen, the most important first; empty if fewer than `MIN_TRIALS` are complete.

    Parameters
    ----------
    trials
        Finished ones.
    space
        That they were chosen from.
    seed
        Of the random forest.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if len(complete) < MIN_TRIALS:
        return ()
    scores = [trial.outcome.score for trial in complete]
    rows = [_columns(trial.candidate, space) for trial in complete]
    varied = [name for name in rows[0] if len({row[name] for row in rows}) > 1]
    if not varied or len(set(scores)) == 1:
        return ()
    columns = {name: [row[name] for row in rows] for name in varied}
    shares = _importances(columns, scores, seed)
    found = [Choice(name=name, importance=shares[name], medians=_medians(columns[name], scores)) for name in varied]
    return tuple(sorted(found, key=lambda choice: -choice.importance))


def _columns(candidate: Candidate, space: Space) -> dict[str, Value]:
    head, training = candidate.head.resolved(), candidate.training
    columns: dict[str, Value] = {"base": head.encoder}
    columns |= {f"fuse {name}": "yes" if name in head.encoders else "no" for name in space.widths}
    columns["fusion"] = head.fusion
    columns |= {f"join {name}": "yes" if name in head.joint else "no" for name in space.joinable}
    columns |= {
        "temporal": head.temporal,
        "S": float(head.seq),
        "W / S": min(STEPS, key=lambda share: abs(share - head.step / head.seq)),
    }
    weighed = [name for name in TASKS if name in head.joint or name in space.joinable]
    columns |= {f"weight {name}": training.weights[name] if name in head.joint else 0.0 for name in weighed}
    return columns | {"learning rate": training.learning_rate}


def _importances(columns: dict[str, list[Value]], scores: Sequence[float], seed: int) -> dict[str, float]:
    """What of the scores' variance each choice predicts; 0 where it is no more than a choice without a meaning does."""
    predicted = _predicted(columns, scores, seed)
    if predicted <= 0:
        return dict.fromkeys(columns, 0.0)
    rng = np.random.default_rng(seed)
    shuffled = {
        f"{name}, shuffled": [values[each] for each in rng.permutation(len(values))] for name, values in columns.items()
    }
    shares = _shares(columns | shuffled, scores, seed)
    chance = max(shares[name] for name in shuffled)
    return {name: predicted * shares[name] if shares[name] > chance else 0.0 for name in columns}


def _predicted(columns: Mapping[str, Sequence[Value]], scores: Sequence[float], seed: int) -> float:
    """R2 of a random forest out of bag; 0 or less: it predicts nothing."""
    from sklearn.ensemble import RandomForestRegressor

    encoded: list[list[float]] = []
    for values in columns.values():
        kinds = sorted({value for value in values if isinstance(value, str)})
        encoded += [[float(value == kind) for value in values] for kind in kinds] or [[float(each) for each in values]]
    forest = RandomForestRegressor(n_estimators=_N_TREES, oob_score=True, random_state=seed)
    return float(forest.fit(np.array(encoded, dtype=np.float64).T, np.array(scores)).oob_score_)


def _shares(columns: Mapping[str, Sequence[Value]], scores: Sequence[float], seed: int) -> dict[str, float]:
    """Of the variance of a forest's predictions, before anything is normalised."""
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    study = optuna.create_study(direction="maximize")
    distributions = {name: _distribution(values) for name, values in columns.items()}
    for row, score in enumerate(scores):
        params = {name: values[row] for name, values in columns.items()}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=score))
    shares = FanovaImportanceEvaluator(n_trees=_N_FANOVA_TREES, seed=seed).evaluate(study)
    return {name: float(share) for name, share in shares.items()}


def _distribution(values: Sequence[Value]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    numbers = [value for value in values if isinstance(value, float)]
    if len(numbers) < len(values):
        return CategoricalDistribution(sorted({str(value) for value in values}))
    return FloatDistribution(min(numbers), max(numbers), log=min(numbers) > 0)


def _medians(values: Sequence[Value], scores: Sequence[float]) -> tuple[tuple[str, float, int], ...]:
    labels = _labels(values)
    found = []
    for label in dict.fromkeys(labels):
        own = [score for each, score in zip(labels, scores, strict=True) if each == label]
        found.append((label, median(own), len(own)))
    return tuple(sorted(found, key=lambda each: -each[1]))


def _labels(values: Sequence[Value]) -> list[str]:
    """What values are counted as: numbers of a range as below or above the middle, 0 (what is not there) as none."""
    numbers = [value for value in values if isinstance(value, float) and value]
    if len(set(numbers)) <= min(_N_LISTED, len(numbers) // 2):
        return [value if isinstance(value, str) else f"{value:g}" if value else "none" for value in values]
    middle = median(numbers)
    return [
        value if isinstance(value, str) else "none" if not value else f"{'<' if value < middle else '>='} {middle:.2g}"
        for value in values
    ]
