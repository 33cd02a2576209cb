"""One embedding of an encoder: its place in the store, and which of its rows are still to compute."""

import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from extractor.encoders.encoder import Encoder
from extractor.encoders.readout import Readout
from extractor.encoders.tokenpca import TokenProjector
from extractor.versions import versions
from featurestore.errors import ConfigError
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from featurestore.writer import WHOLE, ChunkTask, EmbeddingWriter, Share

from .execution import Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What one readout still has to put into the store.

    Attributes
    ----------
    name, readout
        The encoder's name in the store, and what is read from it.
    writer
        Its place there.
    projector
        What reduces tokens to their components, on the device; None for nothing.
    starts
        First rows of the batches to compute.
    n_pending
        Rows to compute.
    n_left
        Rows that are not there either, and other workers' share.
    """

    name: str
    readout: Readout
    writer: EmbeddingWriter
    projector: TokenProjector | None
    starts: frozenset[int]
    n_pending: int
    n_left: int


@contextmanager
def open_output(
    store: FeatureStore,
    name: str,
    encoder: Encoder,
    provenance: Provenance,
    *,
    stored: str,
    share: Share,
    device: torch.device,
) -> Iterator[Output]:
    """Open the place of an encoder that `planning.begin` has made.

    Raises
    ------
    EncoderMismatchError
        If the name belongs to other weights, preprocessing or precision by now.
    """
    opened = store.writer(name, provenance, row_shape=stored_shape(encoder), dtype=np.dtype(stored))
    with opened as writer:
        projection = writer.embedding.projection
        tasks = writer.pending(share)
        n_pending = _n_rows(tasks)
        yield Output(
            name=name,
            readout=encoder.readout,
            writer=writer,
            projector=None if projection is None else TokenProjector(projection, device),
            starts=frozenset(start for task in tasks for start in range(task.start, task.stop, writer.batch_rows)),
            n_pending=n_pending,
            n_left=0 if share == WHOLE else _n_rows(writer.pending()) - n_pending,
        )


def describe(encoder: Encoder, execution: Execution, weights: str, device: torch.device) -> Provenance:
    """What the store remembers of an encoder.

    Parameters
    ----------
    encoder, execution
        What ran, and how.
    weights
        Its `weights_digest`, which takes a while and is the same for all readouts.
    device
        Where it ran.
    """
    spec = encoder.spec
    parent = spec.origin.get("parent")
    pooling = encoder.readout.describe()
    return Provenance(
        architecture=spec.described(),
        weights=weights,
        preprocessing=spec.preprocessing(),
        pooling=f"{pooling} and {spec.n_scores} scores" if spec.n_scores else pooling,
        precision=execution.precision,
        execution=execution.facts(device),
        parent=parent if isinstance(parent, str) else None,
        versions=versions() | {"zarr": importlib.metadata.version("zarr")},
    )


def stored_shape(encoder: Encoder) -> tuple[int, ...]:
    """Shape of one frame's row in the store."""
    n_components = encoder.readout.n_components
    if n_components is not None and n_components > encoder.row_shape[-1]:
        raise ConfigError(
            f"Tokens of {encoder.row_shape[-1]} dimensions are projected to 1 to {encoder.row_shape[-1]}, not to "
            f"{n_components}. Give --token-pca in that range, or leave it out."
        )
    return encoder.row_shape if n_components is None else (*encoder.row_shape[:-1], n_components)


def _n_rows(tasks: Sequence[ChunkTask]) -> int:
    return sum(task.stop - task.start for task in tasks)
