"""How many threads a fit computes with: one where its steps are small.

A product of a few million operations is done before a second thread has begun; on a machine that others use, too,
the step then waits for that thread to be scheduled.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

SMALL_STEP: Final = 3e8
"""Floating-point operations of a step, forward and backward, that one thread does alone."""
SMALL_TEMPORAL_STEP: Final = 1e9
"""The same of a head with a temporal module: an LSTM's products are those of one row of each window, some hundred a
step. Two threads save a quarter of such a step on a quiet machine, and take five to ten times as long beside others."""


@contextmanager
def threads_for(n_rows: int, n_parameters: int, device: torch.device, *, is_temporal: bool = False) -> Iterator[None]:
    """Compute with one thread if steps of so many rows through so many parameters are small, on a CPU.

    Parameters
    ----------
    n_rows
        Of a step.
    n_parameters
        Of the model; each costs six operations a row.
    device
        Where it is fitted.
    is_temporal
        Whether it has a temporal module.
    """
    before = torch.get_num_threads()
    limit = SMALL_TEMPORAL_STEP if is_temporal else SMALL_STEP
    small = device.type == "cpu" and 6 * n_rows * n_parameters < limit
    if not small or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
