"""The last step of an extraction: a thread that fetches results from the device and appends them to the store."""

import queue
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import numpy as np
from torch import Tensor

from extractor.pixels.stages import StageTimes
from featurestore.writer import EmbeddingWriter

_WAITING: Final = 8
_WAITING_BYTES: Final = 256 << 20

_Item = tuple[EmbeddingWriter, int, Tensor, Mapping[int, str]]


class BackgroundSink:
    """Writes behind the caller's back, in order; a failure there is raised at the caller's next step.

    A queue bounded in batches and bytes holds the caller back when the disk is slower than the models.

    Parameters
    ----------
    stages
        Where to add up the time of ``fetch`` (waiting for the device, on a GPU) and ``write``.
    """

    def __init__(self, stages: StageTimes) -> None:
        self._stages = stages
        self._queue: queue.Queue[_Item | None] = queue.Queue(maxsize=_WAITING)
        self._bytes = 0  # that wait
        self._fewer = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="write", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise_error()

    def put(self, writer: EmbeddingWriter, start: int, embeddings: Tensor, failures: Mapping[int, str]) -> None:
        """Hand over the embeddings of consecutive rows.

        Parameters
        ----------
        writer
            The encoder's writer.
        start
            First table row.
        embeddings : shape (n, dim) or (n, n_tokens, dim), on any device
        failures
            Table row to reason; these rows are stored as NaN.
        """
        self._raise_error()
        with self._fewer:
            self._fewer.wait_for(lambda: not self._bytes or self._bytes + embeddings.nbytes <= _WAITING_BYTES)
            self._bytes += embeddings.nbytes
        self._queue.put((writer, start, embeddings, failures))

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        broken = False
        while (item := self._queue.get()) is not None:
            writer, start, embeddings, failures = item
            with self._fewer:
                self._bytes -= embeddings.nbytes
                self._fewer.notify()
            if broken:
                continue  # keep emptying the queue, so that the caller is not stuck in put
            try:
                with self._stages.timed("fetch"):
                    rows = embeddings.float().cpu().numpy()
                if failures:
                    rows[[row - start for row in failures]] = np.nan
                with self._stages.timed("write"):
                    writer.append(start, rows, failures)
            except BaseException as error:
                self._error = error
                broken = True
