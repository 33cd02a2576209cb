"""What is known of each epoch of a fit, and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from heads.scoring.scores import combine
from heads.tasks import PARTS, TASKS, PartName


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """One epoch of a fit.

    Attributes
    ----------
    epoch, n_epochs
        Number of the epoch, from 1, and how many there will be.
    loss
        Mean weighted loss of its batches.
    task_losses
        Task -> mean loss before its weight.
    scores
        Part -> score, after the epoch, on what the fit is judged by; empty where nothing is looked at.
    selected
        The score that picks the epoch, P where each task has its own; NaN where nothing is looked at.
    is_best
        Whether it is the best so far, of any task that has its own; where nothing is looked at, whether it is the last.
    seconds
        Of the epoch, scoring included.
    """

    epoch: int
    n_epochs: int
    loss: float
    task_losses: Mapping[str, float]
    scores: Mapping[PartName, float]
    selected: float
    is_best: bool
    seconds: float


def select_score(scores: Mapping[PartName, float], select: str) -> float:
    """Score that picks an epoch: a task's own, or the sum of the joined parts with P's shares; NaN without a score."""
    if select in TASKS:
        return scores.get(TASKS[select].part, float("nan"))
    return combine(scores) if scores else float("nan")


class BestEpochs:
    """The best epoch of each task so far, by the score that picks it.

    Parameters
    ----------
    picks
        Task -> the score that picks its epoch (see `picks_of`).
    patience
        How many epochs may pass without a better one of any task; None: as many as there are.

    Attributes
    ----------
    epochs
        Task -> its best epoch, from 1; 0 if none has been scored.
    """

    def __init__(self, picks: Mapping[str, str], patience: int | None) -> None:
        self.epochs = dict.fromkeys(picks, 0)
        self._picks, self._patience = picks, patience
        self._best = dict.fromkeys(picks, -np.inf)
        self._seen = 0

    def add(self, scores: Mapping[PartName, float]) -> list[str]:
        """Take the next epoch's scores in; the tasks of which it is the best."""
        self._seen += 1
        better = []
        for task, pick in self._picks.items():
            score = select_score(scores, pick)
            if score > self._best[task] or not self.epochs[task]:  # something is kept of a task that is never scored
                self._best[task] = score if np.isfinite(score) else -np.inf
                self.epochs[task] = self._seen
                better.append(task)
        return better

    @property
    def has_waited(self) -> bool:
        """True once `patience` epochs have passed without a better score of any task."""
        return self._patience is not None and self._seen - max(self.epochs.values()) >= self._patience


def curve_table(curve: Sequence[EpochReport]) -> pl.DataFrame:
    """Epochs as rows: ``epoch``, ``loss``, ``loss_<task>``, the parts, ``selected``, ``is_best``, ``seconds``."""
    rows = [
        {
            "epoch": report.epoch,
            "loss": report.loss,
            **{f"loss_{task}": report.task_losses[task] for task in TASKS if task in report.task_losses},
            **{part: report.scores[part] for part in PARTS if part in report.scores},
            "selected": report.selected,
            "is_best": report.is_best,
            "seconds": report.seconds,
        }
        for report in curve
    ]
    return pl.DataFrame(rows)
