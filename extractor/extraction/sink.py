"""The last step of an extraction: a thread that fetches results from the device and appends them to the store."""

import queue
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import numpy as np
from torch import Tensor

from featurestore.writer import EmbeddingWriter

_WAITING: Final = 8

_Item = tuple[EmbeddingWriter, int, Tensor, Mapping[int, str]]


class BackgroundSink:
    """Writes behind the caller's back, in order; a failure there is raised at the caller's next step.

    A bounded queue holds the caller back when the disk is slower than the models.
    """

    def __init__(self) -> None:
        self._queue: queue.Queue[_Item | None] = queue.Queue(maxsize=_WAITING)
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
        embeddings : shape (n, dim), on any device
        failures
            Table row to reason; these rows are stored as NaN.
        """
        self._raise_error()
        self._queue.put((writer, start, embeddings, failures))

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        broken = False
        while (item := self._queue.get()) is not None:
            if broken:
                continue  # keep emptying the queue, so that the caller is not stuck in put
            writer, start, embeddings, failures = item
            try:
                rows = embeddings.float().cpu().numpy()
                if failures:
                    rows[[row - start for row in failures]] = np.nan
                writer.append(start, rows, failures)
            except BaseException as error:
                self._error = error
                broken = True
