"""How long a device was busy, measured without holding it up."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

import torch

_MOST_EVENTS: Final = 256


class DeviceClock:
    """Adds up the time that the device spends between `start` and `stop`.

    Parameters
    ----------
    device
        On a GPU events in its stream are used, which do not hold up the program.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._total_s = 0.0
        self._started_at = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time what is inside."""
        if self._device.type != "cuda":
            started_at = perf_counter()
            yield
            self._total_s += perf_counter() - started_at
            return
        stream = torch.cuda.current_stream(self._device)
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record(stream)
        yield
        stop.record(stream)
        self._events.append((start, stop))
        if len(self._events) > _MOST_EVENTS:
            self._add_up(_MOST_EVENTS // 2)

    def seconds(self) -> float:
        """Time so far; waits for the device."""
        self._add_up(len(self._events))
        return self._total_s

    def _add_up(self, n: int) -> None:
        """Take the oldest n pairs into the total, so that their number stays bounded."""
        for start, stop in self._events[:n]:
            stop.synchronize()
            self._total_s += start.elapsed_time(stop) / 1000
        del self._events[:n]
