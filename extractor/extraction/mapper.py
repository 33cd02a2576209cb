"""The middle step of an extraction: a decoded block of frames through one or several encoders."""

import copy
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.encoders.encoder import Encoder, weights_digest
from extractor.pixels.preprocess import assemble, normalise, upload
from extractor.pixels.reader import DecodedFrames
from extractor.precision import DTYPES, Precision
from extractor.versions import versions
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from featurestore.writer import WHOLE, ChunkTask, EmbeddingWriter, Share

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


@dataclass(slots=True)
class Mapper:
    """One encoder on its device, and what is still to be computed with it.

    Attributes
    ----------
    name, encoder, writer
        The encoder under its name in the store.
    device, precision
        Where and how it runs.
    starts
        First rows of the batches to compute.
    n_pending
        Rows to compute.
    n_left
        Rows that are not there either, and other workers' share.
    """

    name: str
    encoder: Encoder
    writer: EmbeddingWriter
    device: torch.device
    precision: Precision
    starts: frozenset[int]
    n_pending: int
    n_left: int
    clock: DeviceClock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = DeviceClock(self.device)

    @property
    def batch(self) -> int:
        """Frames a forward pass, as recorded in the store."""
        return self.writer.batch_rows

    def __call__(self, images: Tensor) -> Tensor:
        """Embeddings (n, dim) of normalised float32 images (n, 3, side, side), left on the device."""
        with torch.inference_mode(), self.clock.running():
            embeddings: Tensor = self.encoder(images.to(DTYPES[self.precision]))
        return embeddings


@contextmanager
def open_mapper(
    store: FeatureStore,
    name: str,
    encoder: Encoder,
    stored: str,
    batch: int,
    precision: Precision,
    device: torch.device,
    share: Share = WHOLE,
) -> Iterator[Mapper]:
    """Open an encoder's place in the store and put a copy of the encoder on its device, in its precision.

    Parameters
    ----------
    store, name
        Where its embeddings go.
    encoder
        Left as it is; a copy is moved and converted.
    stored
        Element type in the store.
    batch
        Frames a forward pass, if the encoder is new to the store.
    precision, device
        How and where it runs.
    share
        The chunks to compute.

    Raises
    ------
    EncoderMismatchError
        If the name belongs to other weights, preprocessing or precision.
    """
    provenance = describe(encoder, precision)
    encoder = copy.deepcopy(encoder).to(device=device, dtype=DTYPES[precision]).eval()  # the caller keeps its own
    opened = store.writer(name, provenance, row_shape=(encoder.dim,), dtype=np.dtype(stored), batch_rows=batch)
    with opened as writer:
        tasks = writer.pending(share)
        n_pending = _n_rows(tasks)
        starts = frozenset(start for task in tasks for start in range(task.start, task.stop, writer.batch_rows))
        n_left = 0 if share == WHOLE else _n_rows(writer.pending()) - n_pending
        yield Mapper(name, encoder, writer, device, precision, starts, n_pending, n_left)


def _n_rows(tasks: Sequence[ChunkTask]) -> int:
    return sum(task.stop - task.start for task in tasks)


def describe(encoder: Encoder, precision: Precision) -> Provenance:
    """What the store remembers of an encoder."""
    spec = encoder.spec
    parent = spec.origin.get("parent")
    return Provenance(
        architecture=spec.described(),
        weights=weights_digest(encoder),
        preprocessing=spec.preprocessing(),
        pooling=spec.pooling,
        precision=precision,
        parent=parent if isinstance(parent, str) else None,
        versions=versions() | {"zarr": importlib.metadata.version("zarr")},
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def pending_blocks(mappers: Sequence[Mapper], block: int, n_frames: int) -> list[NDArray[np.int64]]:
    """Row numbers of each block of frames that at least one encoder still needs.

    Parameters
    ----------
    mappers
        Their batches are powers of two, so each divides the block.
    block
        The largest batch.
    n_frames
        Rows of the table.
    """
    firsts = sorted({start // block * block for mapper in mappers for start in mapper.starts})
    return [np.arange(first, min(first + block, n_frames), dtype=np.int64) for first in firsts]


def map_block(
    mappers: Sequence[Mapper], frames: DecodedFrames, block: int
) -> Iterator[tuple[Mapper, int, Tensor, Mapping[int, str]]]:
    """Run every encoder that needs this block.

    Parameters
    ----------
    mappers
        All encoders of the pass.
    frames
        A decoded block; the last of the table may be shorter than `block`.
    block
        Frames that a forward pass's input is padded to.

    Yields
    ------
    Mapper, first table row, embeddings (n, dim) on the device, and table row -> reason for rows among these that
    could not be read (their embeddings are meaningless).
    """
    first = int(frames.rows[0])
    stop = first + len(frames.rows)
    failures = {first + position: reason for position, reason in frames.failures.items()}
    groups = upload(frames, mappers[0].device)
    inputs: dict[str, Tensor] = {}  # encoders with one preprocessing share it
    for mapper in mappers:
        starts = [start for start in range(first, stop, mapper.batch) if start in mapper.starts]
        if not starts:
            continue
        spec = mapper.encoder.spec
        key = repr(spec.preprocessing())
        if key not in inputs:
            with mapper.clock.running():
                images = assemble(groups, spec, n=block, device=mapper.device)
                inputs[key] = normalise(images, spec)
        for start in starts:
            n_rows = min(mapper.batch, stop - start)
            embeddings = mapper(inputs[key][start - first : start - first + mapper.batch])[:n_rows]
            bad = {row: failures[row] for row in range(start, start + n_rows) if row in failures}
            yield mapper, start, embeddings, bad
