"""One trial: a choice fitted, with every seed, by val or by folds of train."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Final

import torch

from featurestore.errors import ConfigError, PrecisionError, ShapeError
from heads.features.featureset import FeatureSet
from heads.fitting.epochs import EpochReport, select_score
from heads.fitting.fit import fit
from heads.fitting.folds import video_folds
from heads.fitting.outoffold import FoldReport, fit_folds
from heads.fitting.schedule import CAP_STEPS
from heads.fitting.workers import Ask

from .space import Candidate

NO_SCORE: Final = float("nan")
"""Asked with where there is no score to judge by; the answer then depends on the time alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a trial came to.

    Attributes
    ----------
    scores
        One a seed; of a trial that was ended, those that were finished.
    epochs
        The one kept of each.
    n_parameters
        How many numbers were fitted.
    seconds
        Of the trial.
    ended
        Whether it was told to end.
    error
        Why there is no score, if the choice cannot be fitted.
    """

    scores: tuple[float, ...] = ()
    epochs: tuple[int, ...] = ()
    n_parameters: int = 0
    seconds: float = 0.0
    ended: bool = False
    error: str = ""

    @property
    def score(self) -> float:
        """The mean over seeds."""
        return fmean(self.scores)

    @property
    def epoch(self) -> int:
        """The median over seeds."""
        return round(median(self.epochs))


class _EndedError(Exception):
    """The trial is not to go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialJob:
    """A trial to be done (see `heads.fitting.workers.Job`).

    Attributes
    ----------
    name
        For messages.
    candidate
        What is fitted.
    seeds
        One fit each; the trial's score is their mean.
    n_folds
        Folds of train that select; None for val.
    """

    name: str
    candidate: Candidate
    seeds: tuple[int, ...]
    n_folds: int | None = None

    def run(self, features: FeatureSet, ask: Ask) -> Outcome:
        """Fit; steps are epochs, those of later seeds after those of the first."""
        started = time.monotonic()
        found: list[tuple[float, int, int]] = []
        outcome = Outcome()
        try:
            for seed in self.seeds:
                found.append(self._fit(features, seed, [score for score, _, _ in found], ask))
        except _EndedError:
            outcome = Outcome(ended=True)
        # A loss that explodes, or a head that cannot be made, or held by the device, is an answer, too.
        except (ConfigError, ShapeError, PrecisionError, torch.OutOfMemoryError) as error:
            outcome = Outcome(error=str(error).partition("\n")[0] or type(error).__name__)
        return replace(
            outcome,
            scores=tuple(score for score, _, _ in found),
            epochs=tuple(epoch for _, epoch, _ in found),
            n_parameters=max((n for _, _, n in found), default=0),
            seconds=time.monotonic() - started,
        )

    def _fit(self, features: FeatureSet, seed: int, before: Sequence[float], ask: Ask) -> tuple[float, int, int]:
        """Score, epoch and parameters of one seed."""
        training = replace(self.candidate.training, seed=seed)
        n_before = (training.epochs or CAP_STEPS) * len(before)  # an epoch is a step at least
        best = -float("inf")

        def on_epoch(report: EpochReport | FoldReport) -> None:
            nonlocal best
            # The first seed's first fold is seen from epoch to epoch: what is poor there ends there.
            is_seen = not isinstance(report, FoldReport) or (report.fold == 1 and not before)
            if is_seen and report.selected > best:
                best = report.selected
            value = fmean([*before, best]) if is_seen and math.isfinite(best) else NO_SCORE
            if not ask(n_before + report.epoch, value):
                raise _EndedError

        head, select = self.candidate.head, training.select
        if self.n_folds is None:
            fitted = fit(features, head, training, on_epoch=on_epoch)
            return best, fitted.epoch, fitted.n_parameters
        folds = video_folds(features.frames, self.n_folds)
        folded = fit_folds(features, head, training, folds, on_epoch=on_epoch)
        return select_score(folded.curve[folded.epoch - 1], select), folded.epoch, folded.n_parameters
