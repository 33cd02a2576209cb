"""Embeddings of some encoders, whole and in place on the device, with the labels of their frames.

Loaded once and shared by any number of fits. They stay in the store's own precision (float16): 141,431 rows of
768 are 217 MB an encoder, and a batch is cast after it has been gathered.

Rows that could not be embedded hold NaN in the store. Here they hold 0 and are not `usable`: a head that takes
such an encoder neither learns from the row nor predicts it, whatever it does with the row's neighbours.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from featurestore.errors import (
    AbawError,
    ConfigError,
    EncoderMismatchError,
    FrameMismatchError,
    ShapeError,
    unknown_name,
)
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore

from .arrays import BoolArray, IntArray
from .config import HeadConfig
from .devices import resolve_device
from .targets import Targets, labels_digest
from .tasks import TASKS


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Embeddings, frames and labels.

    Attributes
    ----------
    frames
        The table that every row number is of.
    embeddings
        Encoder -> tensor (n_frames, D), float16 or float32, on `device`, finite.
    usable_rows
        Encoder -> bool (n_frames,), on the host: which rows were embedded.
    fingerprints
        Encoder -> fingerprint of the provenance, of every encoder in the store, loaded or not.
    device
        Where the tensors are.
    source
        The store, for messages.
    """

    frames: FrameTable
    embeddings: Mapping[str, Tensor]
    usable_rows: Mapping[str, BoolArray]
    fingerprints: Mapping[str, str]
    device: torch.device
    source: str

    @classmethod
    def load(cls, store: FeatureStore, names: Sequence[str], *, device: torch.device | str = "auto") -> "FeatureSet":
        """Read encoders from a store.

        Parameters
        ----------
        store
            The feature store.
        names
            Encoders; one named twice is read once.
        device
            Where to put them; as in `FitConfig`.

        Raises
        ------
        MissingEmbeddingsError
            If an encoder is not in the store, or not complete; with the command to run.
        ConfigError
            If an encoder holds tokens (three dimensions), which these heads do not read.
        """
        place = resolve_device(device) if isinstance(device, str) else device
        embeddings: dict[str, Tensor] = {}
        usable: dict[str, BoolArray] = {}
        for name in dict.fromkeys(names):
            embedding = store.embedding(name)
            _check_vectors(name, embedding.row_shape, store)
            tensor = torch.from_numpy(embedding.load()).to(place)  # (n, D)
            known = ~_has_nan(tensor)
            known[list(embedding.failures())] = False
            tensor[(~known).to(place)] = 0
            embeddings[name], usable[name] = tensor, known.numpy()
        return cls(store.frames, embeddings, usable, _fingerprints(store), place, str(store.path))

    @property
    def names(self) -> tuple[str, ...]:
        """The encoders that are loaded."""
        return tuple(self.embeddings)

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

    def usable(self, names: Iterable[str]) -> BoolArray:
        """Which rows every one of these encoders has embedded, shape (n_frames,)."""
        mask = np.ones(len(self.frames), dtype=np.bool_)
        for name in names:
            mask &= self.usable_rows[name]
        return mask

    def dim_of(self, head: HeadConfig) -> int:
        """D, the common width of a head's embeddings.

        Raises
        ------
        UnknownNameError
            If one of its encoders is not loaded.
        ShapeError
            If their widths differ.
        """
        for name in head.encoders:
            if name not in self.embeddings:
                raise unknown_name("loaded encoder", name, self.embeddings)
        dim = self.embeddings[head.encoder].shape[1]
        for name in head.fuse:
            other = self.embeddings[name].shape[1]
            if other != dim:
                raise ShapeError(
                    f"Embeddings of encoder {name!r} have {other} columns, but those of the base encoder "
                    f"{head.encoder!r} have {dim}, and a sum needs equal widths (store: {self.source}). "
                    "Fuse encoders of one width, or extract one of that width."
                )
        return dim

    def check_origin(self, fingerprints: Mapping[str, str], *, frames: str | None, dim: int, fitted: str) -> None:
        """Refuse embeddings that are not those a head was fitted on.

        Parameters
        ----------
        fingerprints
            Encoder -> fingerprint at the time of fitting.
        frames
            The frame table's fingerprint at that time; None if other frames are meant.
        dim
            D at that time.
        fitted
            The head's name, for the message.

        Raises
        ------
        EncoderMismatchError, FrameMismatchError, ShapeError, UnknownNameError
            If they differ, or an encoder is not loaded.
        """
        for name, fingerprint in fingerprints.items():
            if name not in self.embeddings:
                raise unknown_name("loaded encoder", name, self.embeddings)
            columns = self.embeddings[name].shape[1]
            if columns != dim:
                raise ShapeError(
                    f"Embeddings of encoder {name!r} have {columns} columns, but head {fitted!r} was fitted on "
                    f"{dim} (store: {self.source}). Extract with the encoder it names, or fit the head again."
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


def _has_nan(tensor: Tensor) -> Tensor:
    """Which rows hold a NaN, shape (n,), on the host; in blocks, since the mask of all would be half as large."""
    return torch.cat([torch.isnan(block).any(dim=1).cpu() for block in torch.split(tensor, 8192)])


def _fingerprints(store: FeatureStore) -> dict[str, str]:
    found = {}
    for name in store.names():
        # One that is damaged is reported when it is asked for, not when another is.
        with contextlib.suppress(AbawError):
            found[name] = store.embedding(name).provenance.fingerprint
    return found


def _check_vectors(name: str, row_shape: tuple[int, ...], store: FeatureStore) -> None:
    if len(row_shape) != 1:
        raise ConfigError(
            f"These heads read one vector a frame, but encoder {name!r} holds {row_shape[0]} tokens of "
            f"{row_shape[-1]} a frame (store: {store.path}). Extract it with a pooling such as fc_norm, mean or cls."
        )
