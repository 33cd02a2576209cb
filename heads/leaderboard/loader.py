"""Features for one system of a leaderboard after another: read once if all fit in memory, else system by system."""

import contextlib
from collections.abc import Sequence
from math import prod

from featurestore.errors import AbawError
from featurestore.store import FeatureStore
from heads.devices import resolve_device
from heads.features.featureset import FeatureSet
from heads.features.placement import place


class BoardLoader:
    """Features for one system after another; nothing is read before one is fitted.

    Parameters
    ----------
    store
        Whose encoders.
    names
        All that any of the systems reads, complete.
    device, memory_bytes
        As of `FeatureSet.load`.
    """

    def __init__(self, store: FeatureStore, names: Sequence[str], *, device: str, memory_bytes: int | None) -> None:
        self._store, self._device, self._memory_bytes = store, device, memory_bytes
        self._current: FeatureSet | None = None
        self._together = tuple(dict.fromkeys(names))
        with contextlib.suppress(AbawError):  # one that cannot be read must not keep the others from being fitted
            if self._placed(self._together) is None:
                return
        self._together = ()

    def stream_bytes(self, encoders: Sequence[str]) -> int | None:
        """What `of` would have them streamed within; None if they would be loaded."""
        if self._serves(encoders):
            return None if self._current is None else self._current.stream_bytes
        if set(encoders) <= set(self._together):
            return None
        self._current = None  # what it takes is free for the next
        return self._placed(encoders)

    def of(self, encoders: Sequence[str]) -> FeatureSet:
        """With at least these encoders."""
        current = self._current
        if current is not None and self._serves(encoders):
            return current
        self._current = current = None  # before the next is read: both may not fit
        if set(encoders) <= set(self._together):
            with contextlib.suppress(AbawError):
                current = self._load(self._together)
            if current is None or current.stream_bytes is not None:  # damaged, or someone took the memory
                self._together, current = (), None
        self._current = self._load(encoders) if current is None else current
        return self._current

    def _serves(self, encoders: Sequence[str]) -> bool:
        """Whether what is open gives these encoders as they would come by themselves: loaded, or the same stream."""
        current = self._current
        if current is None or current.stream_bytes is None:
            return current is not None and set(encoders) <= set(current.names)
        return set(encoders) == set(current.names)

    def _placed(self, names: Sequence[str]) -> int | None:
        found = [self._store.embedding(name) for name in names]
        needed = sum(each.n_frames * prod(each.row_shape) * each.dtype.itemsize for each in found)
        placement = place(needed, resolve_device(self._device), self._memory_bytes)
        return placement.stream_bytes if placement.streams else None

    def _load(self, names: Sequence[str]) -> FeatureSet:
        return FeatureSet.load(self._store, names, device=self._device, memory_bytes=self._memory_bytes)
