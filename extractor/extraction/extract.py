"""`abaw extract`: embeddings of every frame into the store, each frame decoded once for all encoders.

Three steps run side by side: the reader's threads decode (`images`), this loop resizes and runs the models on
the device (`mapper`), and one thread fetches the results and writes them (`sink`). Batches are aligned to the table,
and the last one is padded to full size: a frame then always stands at the same place of a batch of the same shape,
so a resumed extraction gives the same bits as one that was never interrupted.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from extractor.encoders.encoder import Encoder
from extractor.pixels.reader import FrameReader, choose_workers
from extractor.precision import Precision, choose_precision
from featurestore.errors import ConfigError, ImageError, unknown_name
from featurestore.images.imagesource import ImageSource
from featurestore.store import FeatureStore
from featurestore.writer import WHOLE, Share
from heads.devices import resolve_device

from .mapper import Mapper, describe, map_block, open_mapper, pending_blocks
from .sink import BackgroundSink


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig:
    """Options of an extraction; those that cannot be are refused (ConfigError, UnknownNameError).

    Attributes
    ----------
    device, precision
        Where and how to compute; ``auto`` chooses.
    batch
        Frames a forward pass; a power of two. An encoder that is partly extracted keeps the batch it began with.
    n_workers
        Threads that decode; None chooses.
    stored
        Element type of the stored embeddings, float16 or float32.
    stop_on_error
        Raise at the first frame that cannot be read, rather than list and mask it.
    retry_unreadable
        Compute the chunks again in which frames were masked whose files are there now.
    share
        This process's share of the chunks; run each share in a process of its own, on any machine, without a lock.
    """

    device: str = "auto"
    precision: str = "auto"
    batch: int = 64
    n_workers: int | None = None
    stored: str = "float16"
    stop_on_error: bool = False
    retry_unreadable: bool = False
    share: Share = WHOLE

    def __post_init__(self) -> None:
        if self.batch < 1 or self.batch & (self.batch - 1):
            raise ConfigError(
                f"The batch must be a power of two, so that chunks hold whole batches, but is {self.batch}."
            )
        if self.stored not in ("float16", "float32"):
            raise unknown_name("stored type", self.stored, ("float16", "float32"))
        if not 1 <= self.share.number <= self.share.of:
            raise ConfigError(
                f"A share is one of 1/N to N/N, not {self.share.number}/{self.share.of}. Give one such as --share 1/4."
            )
        if self.retry_unreadable and self.share != WHOLE:
            raise ConfigError(
                "Frames are tried again by one process, or each would take back what another has just computed. "
                "Run --retry-unreadable without --share."
            )
        if self.retry_unreadable and self.stop_on_error:
            raise ConfigError(
                "Frames are tried again by taking back their chunks, and stopping at the first that still cannot be "
                "read would leave these out. Run --retry-unreadable without --on-error stop."
            )


@dataclass(slots=True, kw_only=True)
class ExtractReport:
    """What an extraction did.

    Attributes
    ----------
    computed
        Encoder to rows computed now.
    reused
        Encoder to rows that were in the store already.
    left
        Encoder to rows that are other workers' share, and not in the store.
    failures
        Row number to reason, for every frame that is masked because it could not be read, now or in an earlier run.
    n_frames
        Frames decoded now.
    seconds
        Wall time of the run.
    busy_s
        Of these, the time in which the models ran.
    """

    computed: dict[str, int] = field(default_factory=dict)
    reused: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    n_frames: int = 0
    seconds: float = 0.0
    busy_s: float = 0.0

    @property
    def frames_per_second(self) -> float:
        """Frames decoded and encoded a second; 0 if there was nothing to do."""
        return self.n_frames / self.seconds if self.n_frames else 0.0


def extract(
    store: FeatureStore,
    encoders: Mapping[str, Encoder],
    images: ImageSource,
    config: ExtractConfig,
    *,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> ExtractReport:
    """Compute what the store does not hold yet.

    Parameters
    ----------
    store
        Where the embeddings go, chunk by chunk with the commit protocol.
    encoders
        Name in the store to encoder.
    images
        The folder or the pack that the frames' images are in.
    config
        Options.
    on_progress
        Called with frames done, frames to do in this run, and frames that failed.

    Returns
    -------
    What was done.

    Raises
    ------
    EncoderMismatchError
        If a name in the store belongs to other weights or preprocessing.
    MissingFileError, StoreError
        If the images are not there, or are a pack of other frames.
    PrecisionError
        If an encoder puts out a value that is not finite, or that the stored type cannot hold.
    ImageError
        With `stop_on_error`, at the first frame that cannot be read.
    """
    device = resolve_device(config.device)
    started = time.perf_counter()
    report = ExtractReport()
    if config.retry_unreadable:
        images.check(store.frames)
        # What cannot be computed again is not taken back: other weights are refused first.
        plan(store, encoders, config)
        forget_unreadable(store, encoders, images)
    with ExitStack() as stack:
        mappers = [
            stack.enter_context(
                open_mapper(
                    store,
                    name,
                    encoder,
                    config.stored,
                    config.batch,
                    precision_of(store, name, config.precision, device),
                    device,
                    config.share,
                )
            )
            for name, encoder in encoders.items()
        ]
        for mapper in mappers:
            report.computed[mapper.name] = mapper.n_pending
            report.left[mapper.name] = mapper.n_left
            report.reused[mapper.name] = len(store.frames) - mapper.n_pending - mapper.n_left
        block = max(mapper.batch for mapper in mappers)
        blocks = pending_blocks(mappers, block, len(store.frames))
        if blocks:
            workers = choose_workers(config.n_workers, device)
            reader = FrameReader(images, store.frames, n_workers=workers)
            stack.callback(reader.close)
            sink = stack.enter_context(BackgroundSink())
            _run(reader, mappers, sink, blocks, block, config, report, on_progress)
    for name in encoders:
        report.failures.update(store.embedding(name).failures())
    report.busy_s = sum(mapper.clock.seconds() for mapper in mappers)
    report.seconds = time.perf_counter() - started
    return report


def _run(
    reader: FrameReader,
    mappers: Sequence[Mapper],
    sink: BackgroundSink,
    blocks: Sequence[NDArray[np.int64]],
    block: int,
    config: ExtractConfig,
    report: ExtractReport,
    on_progress: Callable[[int, int, int], None] | None,
) -> None:
    total = sum(len(rows) for rows in blocks)
    for frames in reader.batches(blocks):
        if frames.failures and config.stop_on_error:
            position, reason = next(iter(frames.failures.items()))
            path = reader.paths[frames.rows[position]]
            raise ImageError(
                f"Frame {path} (under {reader.images.location}) cannot be read: {reason}. Mend or remove it."
            )
        for mapper, start, embeddings, failures in map_block(mappers, frames, block):
            sink.put(mapper.writer, start, embeddings, failures)
        report.n_frames += len(frames.rows)
        if on_progress is not None:
            on_progress(report.n_frames, total, len(reader.failures))


def plan(store: FeatureStore, encoders: Mapping[str, Encoder], config: ExtractConfig) -> dict[str, int]:
    """Encoder -> rows that are still to compute, by all shares together; nothing is written.

    Raises
    ------
    EncoderMismatchError, ShapeError
        If a name in the store belongs to other weights, preprocessing, dtype or width.
    """
    device = resolve_device(config.device)
    rows = {}
    for name, encoder in encoders.items():
        rows[name] = store.n_frames
        if name in store:
            made_by = describe(encoder, precision_of(store, name, config.precision, device))
            dtype = np.dtype(config.stored)
            there = store.check_same_encoder(name, made_by, row_shape=(encoder.dim,), dtype=dtype)
            rows[name] -= there.rows_done()
    return rows


def precision_of(store: FeatureStore, name: str, asked: str, device: torch.device) -> Precision:
    """The precision to run an encoder in: as asked; ``auto`` goes on in the one that the store has it in."""
    if asked == "auto" and name in store:
        asked = store.embedding(name).provenance.precision
    return choose_precision(asked, device)


def forget_unreadable(store: FeatureStore, names: Iterable[str], images: ImageSource) -> None:
    """Take back the chunks in which frames failed whose files are there now, mended perhaps."""
    paths = store.frames.data["path"]
    for name in names:
        if name in store:
            embedding = store.embedding(name)
            rows = [row for row in embedding.failures() if images.holds(paths[row])]
            embedding.forget(np.asarray(rows, dtype=np.int64))
