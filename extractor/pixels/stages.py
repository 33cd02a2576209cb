"""Where the time of a pipeline goes, by stage."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter


class StageTimes:
    """Seconds by the name of a stage, added up by any number of threads.

    Stages that run side by side add up to more than the wall time: two threads that decode for a second each make two.
    One entry costs about a microsecond; whatever is counted frame by frame is added up by its thread first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    def add(self, stage: str, seconds: float) -> None:
        """Add to a stage, which exists from its first entry on."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes, also when it raises."""
        started = perf_counter()
        try:
            yield
        finally:
            self.add(stage, perf_counter() - started)

    def seconds(self) -> Mapping[str, float]:
        """Stage -> seconds so far, in the order of their first entries; a copy."""
        with self._lock:
            return dict(self._seconds)
