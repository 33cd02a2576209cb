"""Embeddings of some encoders with the labels of their frames: all that a fit reads.

They are loaded as a whole where they fit on the device, and streamed from the store where they do not; opened once
they serve any number of fits.

Rows that could not be embedded hold NaN in the store. Here they hold 0 and are not `usable`: a head that takes
such an encoder neither learns from the row nor predicts it, whatever it does with the row's neighbours.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor

from featurestore.embedding import Embedding
from featurestore.errors import (
    AbawError,
    EncoderMismatchError,
    FrameMismatchError,
    MissingEmbeddingsError,
    ShapeError,
    unknown_name,
)
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.arrays import BoolArray, IntArray
from heads.devices import resolve_device
from heads.tasks import TASKS

from .batches import Embeddings, WindowReader
from .clips import clip_ids
from .loaded import LoadedEmbeddings
from .placement import Placement, place
from .streamed import StreamedEmbeddings
from .targets import Targets, labels_digest


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Embeddings, frames and labels.

    Attributes
    ----------
    frames
        The table that every row number is of.
    embeddings
        Loaded or streamed.
    usable_rows
        Encoder -> bool (n_frames,), on the host: which rows were embedded.
    fingerprints
        Encoder -> fingerprint of the provenance, of every encoder in the store, loaded or not.
    device
        Where the batches are.
    source
        The store, for messages.
    placement
        Whether they are loaded or streamed, and why; None if that was not decided here.
    parents
        Encoder -> the one that it was fine-tuned from, of those that were.
    """

    frames: FrameTable
    embeddings: Embeddings
    usable_rows: Mapping[str, BoolArray]
    fingerprints: Mapping[str, str]
    device: torch.device
    source: str
    placement: Placement | None = None
    parents: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        store: FeatureStore,
        names: Sequence[str],
        *,
        device: torch.device | str = "auto",
        memory_bytes: int | None = None,
    ) -> "FeatureSet":
        """Open encoders of a store: as a whole on the device if they fit, else to be streamed.

        Parameters
        ----------
        store
            The feature store.
        names
            Encoders; one named twice is read once.
        device
            Where to put them; as in `FitConfig`.
        memory_bytes
            What they may take, loaded or streamed; by default half of what is free (see `heads.features.placement`).

        Raises
        ------
        MissingEmbeddingsError
            If an encoder is not in the store, or not complete; with the command to run.
        """
        target = resolve_device(device) if isinstance(device, str) else device
        found = {name: _complete(store, name) for name in dict.fromkeys(names)}
        needed = sum(each.n_frames * prod(each.row_shape) * each.dtype.itemsize for each in found.values())
        placement = place(needed, target, memory_bytes)
        embeddings: Embeddings
        if placement.streams:
            usable = {name: embedding.valid() for name, embedding in found.items()}
            embeddings = StreamedEmbeddings(found, usable, device=target, memory_bytes=placement.stream_bytes)
        else:
            embeddings, usable = LoadedEmbeddings.read(found, target)
        parents = {name: each.provenance.parent for name, each in found.items()}
        return cls(
            frames=store.frames,
            embeddings=embeddings,
            usable_rows=usable,
            fingerprints=_fingerprints(store),
            device=target,
            source=store.location,
            placement=placement,
            parents={name: parent for name, parent in parents.items() if parent is not None},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders that are there."""
        return self.embeddings.names

    @property
    def stream_bytes(self) -> int | None:
        """Budget of the stream that they come by; None if they are loaded."""
        return self.placement.stream_bytes if self.placement is not None and self.placement.streams else None

    def windows(
        self,
        names: Sequence[str],
        rows: IntArray,
        *,
        batch_windows: int,
        seed: int = 0,
        lengths: IntArray | None = None,
    ) -> WindowReader:
        """A reader of some windows of these encoders (see `Embeddings.windows`)."""
        return self.embeddings.windows(names, rows, batch_windows=batch_windows, seed=seed, lengths=lengths)

    @cached_property
    def targets(self) -> Targets:
        """The labels of every frame."""
        return Targets.from_frames(self.frames)

    @cached_property
    def video_ids(self) -> IntArray:
        """A number a video, shape (n_frames,)."""
        return self.frames.video_ids()

    @cached_property
    def labels_digest(self) -> str:
        """Of labels and splits (see `labels_digest`)."""
        return labels_digest(self.frames)

    @cached_property
    def target_tensors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Task -> target and mask of every frame, on the device."""
        pairs = {task: self.targets.of(task) for task in TASKS}
        return {
            task: (torch.from_numpy(target).to(self.device), torch.from_numpy(valid).to(self.device))
            for task, (target, valid) in pairs.items()
        }

    def tuned(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of some encoders that were fine-tuned: they have seen labels, commonly those of train.

        What a head on them predicts of train out of fold is out of the head's folds only.
        """
        return tuple(name for name in names if name in self.parents)

    def usable(self, names: Iterable[str]) -> BoolArray:
        """Which rows every one of these encoders has embedded, shape (n_frames,)."""
        mask = np.ones(len(self.frames), dtype=np.bool_)
        for name in names:
            mask &= self.usable_rows[name]
        return mask

    @cached_property
    def clip_ids(self) -> IntArray:
        """A number a clip, shape (n_frames,): what folds keep together."""
        return clip_ids(self.frames)

    @cached_property
    def segment_ids(self) -> IntArray:
        """A number a segment (a run of rows of one video and one split), shape (n_frames,)."""
        segments = self.frames.segments()
        return np.repeat(np.arange(len(segments)), segments[:, 1] - segments[:, 0])

    @cached_property
    def frame_numbers(self) -> IntArray:
        """The source's frame number of every row, shape (n_frames,)."""
        return self.frames.data["frame"].to_numpy().astype(np.int64)

    @cached_property
    def gaps(self) -> IntArray:
        """Frames from the row before to each row, shape (n_frames,); 0 for the first row of a video."""
        gaps = np.diff(self.frame_numbers, prepend=self.frame_numbers[:1])
        gaps[np.diff(self.video_ids, prepend=-1) != 0] = 0
        return gaps

    def shapes(self, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Encoder -> (D,), or (T, D) if it holds tokens.

        Raises
        ------
        UnknownNameError
            If one of the encoders is not loaded.
        """
        for name in names:
            self._check_name(name)
        return {name: self.embeddings.shape(name) for name in names}

    def check_origin(
        self,
        fingerprints: Mapping[str, str],
        *,
        frames: str | None,
        shapes: Mapping[str, tuple[int, ...]],
        fitted: str,
    ) -> None:
        """Refuse embeddings that are not those a head was fitted on.

        Parameters
        ----------
        fingerprints
            Encoder -> fingerprint at the time of fitting.
        frames
            The frame table's fingerprint at that time; None if other frames are meant.
        shapes
            Encoder -> row shape at that time.
        fitted
            The head's name, for the message.

        Raises
        ------
        EncoderMismatchError, FrameMismatchError, ShapeError, UnknownNameError
            If they differ, or an encoder is not loaded.
        """
        for name, fingerprint in fingerprints.items():
            self._check_name(name)
            found, wanted = self.embeddings.shape(name), tuple(shapes[name])
            if found != wanted:
                raise ShapeError(
                    f"Embeddings of encoder {name!r} have {_told(found)}, but head {fitted!r} was fitted on "
                    f"{_told(wanted)} (store: {self.source}). Extract with the encoder it names, or fit the head again."
                )
            if self.fingerprints[name] != fingerprint:
                raise EncoderMismatchError(
                    f"Head {fitted!r} was fitted on embeddings of encoder {name!r} with provenance {fingerprint}, "
                    f"but the store holds {self.fingerprints[name]} (store: {self.source}). "
                    "Extract with the same weights and preprocessing, or fit the head again."
                )
        if frames is not None and frames != self.frames.fingerprint:
            raise FrameMismatchError(
                f"Head {fitted!r} was fitted on frames {frames}, but the store has frames "
                f"{self.frames.fingerprint} (store: {self.source}). Use the store it was fitted on, or fit again."
            )

    def _check_name(self, name: str) -> None:
        if name not in self.names:
            raise unknown_name("loaded encoder", name, self.names)


def _fingerprints(store: FeatureStore) -> dict[str, str]:
    found = {}
    for name in store.names():
        # One that is damaged is reported when it is asked for, not when another is.
        with contextlib.suppress(AbawError):
            found[name] = store.embedding(name).provenance.fingerprint
    return found


def _told(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} columns" if len(shape) == 1 else f"{shape[0]} tokens of {shape[1]} columns"


def _complete(store: FeatureStore, name: str) -> Embedding:
    """An encoder's embeddings, if they are of every frame."""
    embedding = store.embedding(name)
    if not embedding.is_complete():
        raise MissingEmbeddingsError(
            f"Embeddings of encoder {name!r} are not complete: {embedding.rows_done()} of {embedding.n_frames} rows "
            f"are there (store: {store.location}). Run `abaw extract --encoder {name}`, which goes on where it stopped."
        )
    return embedding
