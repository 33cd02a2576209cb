"""What is known of each epoch of a fit, and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

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
        The score that picks the epoch; NaN where nothing is looked at.
    is_best
        Whether it is the best so far; where nothing is looked at, whether it is the last.
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
