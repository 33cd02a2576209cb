"""Several fits at once on one device.

The same seed gives the same bits however many are fitted at once, on a GPU; on a CPU if the number of threads a fit is
the same: a product split among threads adds up in another order. A worker has the threads of the process that
starts it, divided by the number of workers.

``auto`` is a worker a core, at most four. On two idle cores two workers of a thread each are hardly faster than one fit
with both threads where the products are large (an LSTM of 768: 2 x 1,280 rows a second against 2,450), since those
divide well; they are faster where they are small. On cores that others use as well they were 2.6 to 7 times as fast:
threads of one product wait for each other, fits do not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from featurestore.errors import ConfigError
from heads.features.featureset import FeatureSet
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores

from .config import FitConfig
from .epochs import EpochReport
from .fit import FittedHead, fit
from .parts import Parts
from .schedule import Schedule
from .workers import ONE, Ask, Parallel, can_share, run_jobs

AUTO: Final = "auto"
ALONE_S: Final = 10.0
"""With ``auto``: what is done by then is not worth a process, each of which takes seconds to start."""
_ON_CPU: Final = 4
_ON_GPU: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """A fit to be done.

    Attributes
    ----------
    name
        For messages.
    head, training, parts
        As of `fit`.
    keep_weights
        Whether the fitted weights come back.
    """

    name: str
    head: HeadConfig
    training: FitConfig
    parts: Parts | None = None
    keep_weights: bool = False

    def run(self, features: FeatureSet, ask: Ask) -> "FitResult":
        """Fit; what comes back is small."""

        def on_epoch(report: EpochReport) -> None:
            ask(report.epoch, report.selected)

        fitted = fit(features, self.head, self.training, parts=self.parts, on_epoch=on_epoch)
        return FitResult.of(fitted, keep_weights=self.keep_weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What a fit found, on the host.

    Attributes
    ----------
    head, training, shapes, epochs, selected_on, scores, predictions, curve, n_parameters, seconds
        As of `FittedHead`.
    weights
        The model's state, if it was to be kept.
    """

    head: HeadConfig
    training: FitConfig
    schedule: Schedule
    shapes: Mapping[str, tuple[int, ...]]
    epochs: Mapping[str, int]
    selected_on: str
    scores: Scores
    predictions: Predictions
    curve: tuple[EpochReport, ...]
    n_parameters: int
    seconds: float
    weights: Mapping[str, NDArray[np.generic]] | None

    @property
    def epoch(self) -> int:
        """The last one that was kept of a task."""
        return max(self.epochs.values())

    @classmethod
    def of(cls, fitted: FittedHead, *, keep_weights: bool) -> "FitResult":
        """What is kept of a fit."""
        state = {name: tensor.cpu().numpy() for name, tensor in fitted.model.state_dict().items()}
        return cls(
            head=fitted.head,
            training=fitted.training,
            schedule=fitted.schedule,
            shapes=fitted.shapes,
            epochs=fitted.epochs,
            selected_on=fitted.selected_on,
            scores=fitted.scores,
            predictions=fitted.predictions,
            curve=fitted.curve,
            n_parameters=fitted.n_parameters,
            seconds=fitted.seconds,
            weights=state if keep_weights else None,
        )

    def fitted(self, device: torch.device) -> FittedHead:
        """The fit, its model on a device.

        Raises
        ------
        ConfigError
            If the weights were not kept.
        """
        if self.weights is None:
            raise ConfigError("This fit's weights were not kept. Ask for them with FitJob(keep_weights=True).")
        weights = {name: torch.from_numpy(values) for name, values in self.weights.items()}
        return FittedHead(
            model=HeadModel.from_weights(self.head, self.shapes, weights).to(device),
            head=self.head,
            training=self.training,
            schedule=self.schedule,
            shapes=dict(self.shapes),
            epochs=self.epochs,
            selected_on=self.selected_on,
            scores=self.scores,
            predictions=self.predictions,
            curve=self.curve,
            n_parameters=self.n_parameters,
            seconds=self.seconds,
        )


def fit_many(
    features: FeatureSet,
    jobs: Sequence[FitJob],
    *,
    parallel: Parallel = ONE,
    on_done: Callable[[int, FitResult], None] | None = None,
) -> list[FitResult]:
    """Fit several heads, some of them at once.

    Parameters
    ----------
    features
        With every encoder of the jobs; read once, however many are fitted at once.
    jobs
        What to fit.
    parallel
        How many at once (see `resolve_parallel`).
    on_done
        Called with a job's place in `jobs` and its result as they finish, which is in another order.

    Returns
    -------
    One result a job, in their order.

    Raises
    ------
    AbawError
        What a fit raised, with the job's name; what was finished before has gone to `on_done`.
    WorkerError
        If a worker died.
    """
    results: dict[int, FitResult] = {}

    def done(number: int, result: FitResult) -> None:
        results[number] = result
        if on_done is not None:
            on_done(number, result)

    run_jobs(features, jobs, parallel=parallel, on_done=done)
    return [results[number] for number in range(len(jobs))]


def resolve_parallel(text: str, features: FeatureSet) -> Parallel:
    """How many fits at once an option such as ``"4"`` or ``"auto"`` asks for.

    On embeddings that processes cannot share (see `can_share`), such as streamed ones, it is always one.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if text != AUTO and not (text.isdecimal() and int(text) > 0):
        raise ConfigError(f"parallel must be auto or a number of at least 1, such as 2, got {text!r}.")
    if not can_share(features):
        return ONE
    if text != AUTO:
        return Parallel(int(text))
    n = _ON_GPU if features.device.type == "cuda" else min(_ON_CPU, torch.get_num_threads())
    return Parallel(n, alone_s=ALONE_S)
