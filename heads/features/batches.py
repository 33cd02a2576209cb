"""What a head reads: windows of embeddings, batch by batch, on the device.

Two kinds of embeddings give them, loaded ones (loaded.py) and streamed ones (streamed.py). Fitting and predicting
know neither: they ask for the windows of some encoders and take what comes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from heads.arrays import IntArray


class Batch(NamedTuple):
    """Some windows, on the device.

    Attributes
    ----------
    picked : shape (B,), int64
        Their numbers.
    rows : shape (B, S), int64
        Their table rows. Where windows are mostly padding, S is the longest of these, not of all.
    inputs : each shape (B, S, D), or (B, S, T, D) where an encoder holds T tokens a frame, float32
        Their embeddings, one tensor an encoder; 0 in rows that were not embedded. They
        are this batch's only until the next one is asked for.
    """

    picked: Tensor
    rows: Tensor
    inputs: list[Tensor]


class WindowReader(Protocol):
    """The embeddings of some windows."""

    def epoch(self) -> Iterator[Batch]:
        """Every window once, shuffled; each call is the next epoch, in another order."""
        ...

    def in_order(self) -> Iterator[Batch]:
        """Every window once, as they come; a batch may hold fewer windows than were asked for."""
        ...

    def chosen(self, batches: Iterable[IntArray]) -> Iterator[Batch]:
        """Windows by their numbers, a batch for each array of shape (B,)."""
        ...


class Embeddings(Protocol):
    """The embeddings of some encoders, wherever they are."""

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """(D,) of an encoder, or (T, D) if it holds tokens."""
        ...

    def windows(
        self,
        names: Sequence[str],
        rows: IntArray,
        *,
        batch_windows: int,
        seed: int,
        lengths: IntArray | None = None,
    ) -> WindowReader:
        """A reader of some windows.

        Parameters
        ----------
        names
            Encoders, in the order of a batch's inputs.
        rows : shape (n_windows, S), int64
            Table rows of each window.
        batch_windows
            B, windows in a batch.
        seed
            Of the order in which an epoch shuffles them.
        lengths : shape (n_windows,), int64
            How many rows of each are no padding, which stands at the end: what makes batches shorter where it can.
        """
        ...
