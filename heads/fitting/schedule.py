"""How a fit runs on the rows at hand: rows a step, epochs, patience.

A head needs steps, not epochs: 20 epochs are 20 steps on 920 rows at 1,024 rows a step, and 2,760 on s-Aff-Wild2. So
what a `FitConfig` leaves open follows from the number of rows. The numbers below were chosen on rendered faces
(200 to 12,000 train rows, embeddings of a face recognition network and of the faces' true state) and on scikit-learn's
digits, for standardised inputs and a learning rate of 1e-3: there a fit was best after 200 to 1,200 steps.
"""

from dataclasses import dataclass
from typing import Final

from .config import FitConfig

LEAST_STEPS: Final = 20
"""Steps an epoch, where there are rows enough for them."""
MOST_STEPS: Final = 300
"""Steps an epoch; beyond, a step takes more rows."""
LEAST_BATCH_ROWS: Final = 16
BATCH_ROWS: Final = 256
"""Rows a step at most, up to `MOST_STEPS` steps an epoch."""
LEAST_BATCH_WINDOWS: Final = 4
"""Of longer windows: 1 - CCC over the rows of one or two videos says little about the whole."""
CAP_STEPS: Final = 4000
PATIENCE_STEPS: Final = 300
UNJUDGED_STEPS: Final = 1000
"""Steps of a fit that nothing stops (`select_on` "last")."""
LEAST_PATIENCE: Final = 3
"""Epochs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A fit in numbers.

    Attributes
    ----------
    n_rows
        Rows that the loss counts in an epoch.
    batch_windows
        Windows a step.
    steps_per_epoch
        Optimiser steps.
    epochs
        At most.
    patience
        Epochs without a better one after which the fit ends; None: it does not end early.
    """

    n_rows: int
    batch_windows: int
    steps_per_epoch: int
    epochs: int
    patience: int | None

    @classmethod
    def of(cls, training: FitConfig, *, n_rows: int, batch_windows: int, n_steps: int) -> "Schedule":
        """The numbers of a configuration.

        Parameters
        ----------
        training
            What it says is kept; what it leaves open follows from the rows.
        n_rows
            Rows that the loss counts in an epoch.
        batch_windows
            Windows a step (see `batch_windows_of`).
        n_steps
            Steps that an epoch then has, at least 1.
        """
        judged = training.select_on == "val"
        epochs, patience = training.epochs, training.patience
        if epochs is None:
            epochs = -(-(CAP_STEPS if judged else UNJUDGED_STEPS) // n_steps)
            if patience is None:
                patience = max(LEAST_PATIENCE, -(-PATIENCE_STEPS // n_steps))
        return cls(
            n_rows=n_rows,
            batch_windows=batch_windows,
            steps_per_epoch=n_steps,
            epochs=epochs,
            patience=patience if judged else None,
        )


def batch_windows_of(training: FitConfig, *, n_rows: int, n_windows: int, length: int) -> int:
    """Windows a step.

    Parameters
    ----------
    training
        Its `batch_frames` is kept if it is given.
    n_rows
        Rows that the loss counts, at least 1.
    n_windows
        Windows that hold them.
    length
        S, rows of a window, padding included.
    """
    if training.batch_frames is not None:
        return max(1, training.batch_frames // length)
    windows = round(rows_per_step(n_rows) * n_windows / n_rows)  # by the rows that count, not by padding
    return max(1, windows) if length == 1 else max(LEAST_BATCH_WINDOWS, windows)


def rows_per_step(n_rows: int) -> int:
    """Rows of a step, so that an epoch has some twenty to a few hundred of them."""
    few = min(BATCH_ROWS, max(LEAST_BATCH_ROWS, n_rows // LEAST_STEPS))
    return max(few, -(-n_rows // MOST_STEPS))
