"""Fitting a light head: one design for all tasks, then each task's models on the rows that carry its labels.

What says when to stop is a fold of the train rows themselves, whole videos; val (or the fold that judges) is only
looked at once, at the end.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from featurestore.errors import ConfigError
from featurestore.labels import EXPRESSIONS
from heads.arrays import BoolArray, IntArray
from heads.features.featureset import FeatureSet
from heads.fitting.fit import score_rows
from heads.fitting.parts import Parts, segment_rows
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores

from .config import LightConfig
from .design import Design
from .learners import Fitted, Learner, make_learner
from .model import LightModel
from .numbers import Numbers
from .weighing import class_weights, unit_weights

FOLD_OF_TRAIN: Final = "a fold of train"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """One task is fitted.

    Attributes
    ----------
    task
        Which.
    index, n_tasks
        The how many-th, from 1, of how many.
    rounds
        After how many rounds or epochs each of its models was best; empty if they were solved.
    C
        The penalty's inverse strength of its models, if they have one.
    seconds
        It took.
    """

    task: str
    index: int
    n_tasks: int
    rounds: tuple[int, ...]
    C: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedLight:
    """A fitted light head and how it came about.

    Attributes
    ----------
    model
        With every task's models.
    config
        What was asked for.
    shapes
        Encoder -> row shape of its embeddings.
    selected_on
        What said when to stop: ``"a fold of train"``; ``"last"`` if nothing did. Never the rows that judge.
    scores
        Of the rows that judge, with intervals.
    predictions
        Of those rows.
    reports
        Every task.
    seconds
        Of the whole fit.
    """

    model: LightModel
    config: LightConfig
    shapes: dict[str, tuple[int, ...]]
    selected_on: str
    scores: Scores
    predictions: Predictions
    reports: tuple[TaskReport, ...]
    seconds: float

    @property
    def penalties(self) -> dict[str, float]:
        """Task -> the C of its models, of estimators that have one."""
        return {report.task: report.C for report in self.reports if report.C is not None}

    @property
    def n_parameters(self) -> int:
        """How many numbers were fitted: coefficients, or leaves of all trees."""
        return self.model.n_parameters()


def fit_light(
    features: FeatureSet,
    config: LightConfig,
    *,
    parts: Parts | None = None,
    penalties: Mapping[str, float] | None = None,
    on_task: Callable[[TaskReport], None] | None = None,
) -> FittedLight:
    """Fit a light head.

    Parameters
    ----------
    features
        With every encoder of the head, loaded or streamed.
    config
        The head, and how to fit it.
    parts
        Which rows are learned from, and which judge; by default the train and val splits.
    penalties
        Task -> C, in place of one that folds would choose: what a fit on all of train has chosen, for its folds.
    on_task
        Called after each task.

    Raises
    ------
    ConfigError
        If a task has nothing to learn from or nothing is there to judge it, a fold that is to be held out would take
        all, or the rows take more memory than there is.
    ShapeError
        If embeddings are of a kind that a light head cannot read.
    """
    started = time.monotonic()
    parts = parts or Parts.of_splits(features)
    _check_parts(features, config, parts)
    shapes = features.shapes(config.encoders)
    design, (rows, X, usable) = Design.plain(config, shapes).fitted(features, parts.learned)
    learner = make_learner(config, X, features.device)
    numbers: dict[str, Numbers] = {}
    reports: list[TaskReport] = []
    for index, task in enumerate(config.joint, start=1):
        begun = time.monotonic()
        if penalties:
            learner = make_learner(replace(config, C=penalties[task]), X, features.device)
        fitted = _fit_task(learner, features, config, task, rows, usable)
        numbers[task] = fitted.numbers
        reports.append(
            TaskReport(
                task=task,
                index=index,
                n_tasks=len(config.joint),
                rounds=fitted.rounds,
                C=fitted.C,
                seconds=time.monotonic() - begun,
            )
        )
        if on_task is not None:
            on_task(reports[-1])
    del learner, X
    model = LightModel(config, shapes, design, numbers)
    predictions = model.predict(features, segments=parts.judged)
    return FittedLight(
        model=model,
        config=config,
        shapes=shapes,
        selected_on=FOLD_OF_TRAIN if config.stops_early else "last",
        scores=score_rows(features, predictions),
        predictions=predictions,
        reports=tuple(reports),
        seconds=time.monotonic() - started,
    )


def _fit_task(
    learner: Learner, features: FeatureSet, config: LightConfig, task: str, rows: IntArray, usable: BoolArray
) -> Fitted:
    """A task's models.

    Parameters
    ----------
    learner
        With a table of inputs.
    features, config, task
        Whose labels.
    rows, usable : shape (n,)
        Each of the table's rows in the frame table, and whether every encoder has it.
    """
    places = np.flatnonzero(usable & features.targets.labelled(task)[rows])  # of the learner's table
    taken = rows[places]
    groups = features.clip_ids[taken]
    target, valid = features.targets.of(task)
    if task == "au":
        units = np.where(valid[taken], target[taken], np.nan).astype(np.float64)
        weights = unit_weights(units, config.au_balance, config.au_balance_power)
        return learner.units(places, units, weights, groups)
    if task == "expr":
        names, classes = np.unique(target[taken], return_inverse=True)
        classes = classes.astype(np.int64)
        weights = class_weights(classes, balanced=config.class_balance)
        fitted = learner.classes(places, classes, weights, groups)
        return replace(fitted, numbers=fitted.numbers.spread(names.astype(np.int64), len(EXPRESSIONS)))
    return learner.values(places, target[taken].astype(np.float64), groups)


def _check_parts(features: FeatureSet, config: LightConfig, parts: Parts) -> None:
    """Refuse rows that could not teach every task, or could not be scored."""
    usable = features.usable(config.encoders)
    learned, judged = segment_rows(parts.learned), parts.judged_rows
    for task in config.joint:
        labelled = features.targets.labelled(task) & usable
        if not labelled[learned].any():
            raise ConfigError(
                f"There is nothing to learn from: of {len(learned)} train rows none has both an embedding and a label "
                f"of {task} (store: {features.source}). Join other tasks, or give labels to `abaw frames`."
            )
    if not (usable[judged] & np.any([features.targets.labelled(task)[judged] for task in config.joint], axis=0)).any():
        raise ConfigError(
            f"A light head is judged on {parts.judge}, but of its {len(judged)} rows none has both an embedding and a "
            f"label of {', '.join(config.joint)} (store: {features.source}). Give a validation set to `abaw frames`."
        )
