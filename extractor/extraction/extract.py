"""`abaw extract`: embeddings of every frame into the store, each frame decoded once for all encoders.

Three steps run side by side: the reader's threads decode (`pixels.reader`), this loop resizes and runs the models on
the device (`mapper`), and one thread fetches the results and writes them (`sink`). Batches are aligned to the table,
and the last one is padded to full size: a frame then always stands at the same place of a batch of the same shape,
so a resumed extraction gives the same bits as one that was never interrupted.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from extractor.encoders.encoder import Encoder, on_device
from extractor.pixels.preprocess import Uploader
from extractor.pixels.reader import FrameReader, choose_workers
from extractor.pixels.stages import StageTimes
from extractor.precision import DTYPES
from featurestore.errors import ImageError
from featurestore.images.imagesource import ImageSource
from featurestore.store import FeatureStore
from heads.devices import resolve_device

from .config import ExtractConfig, ExtractReport
from .execution import Execution
from .mapper import Mapper, map_block, pending_blocks
from .outputs import Output, open_output
from .planning import Planned, begin, plan
from .sink import BackgroundSink


def extract(
    store: FeatureStore,
    encoders: Mapping[str, Encoder],
    images: ImageSource,
    config: ExtractConfig,
    *,
    on_progress: Callable[[int, int, int], None] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> ExtractReport:
    """Compute what the store does not hold yet.

    Parameters
    ----------
    store
        Where the embeddings go, chunk by chunk with the commit protocol.
    encoders
        Name in the store to encoder; those that share a backbone (`Encoder.with_readout`) cost one forward pass.
    images
        The folder or the pack that the frames' images are in.
    config
        Options.
    on_progress
        Called with frames done, frames to do in this run, and frames that failed.
    on_note
        Told what was chosen, as soon as it is.

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
    DeviceMemoryError
        If a model and one frame are more than the device's memory.
    """
    device = resolve_device(config.device)
    started = time.perf_counter()
    report, stages = ExtractReport(), StageTimes()
    planned = plan(store, encoders, images, config, device, on_note=on_note)
    planned = begin(store, planned, images, config, device, on_progress=on_progress, on_note=on_note)
    if config.retry_unreadable:  # last: what cannot be computed again was refused by now, and is not taken back
        forget_unreadable(store, encoders, images)
    with ExitStack() as stack:
        mappers = stack.enter_context(open_mappers(store, planned, config, device))
        for output in (output for mapper in mappers for output in mapper.outputs):
            report.computed[output.name] = output.n_pending
            report.left[output.name] = output.n_left
            report.reused[output.name] = store.n_frames - output.n_pending - output.n_left
        block = max(mapper.batch for mapper in mappers)
        blocks = pending_blocks(mappers, block, store.n_frames)
        if blocks:
            reader = FrameReader(
                images,
                store.frames,
                n_workers=choose_workers(config.n_workers, device),
                find_duplicates=config.reuse_duplicates,
                pinned=device.type == "cuda",
                stages=stages,
            )
            stack.callback(reader.close)
            sink = stack.enter_context(BackgroundSink(stages))
            _run(reader, mappers, sink, blocks, block, config, report, stages, on_progress)
    for name in encoders:
        report.failures.update(store.embedding(name).failures())
    report.notes = [note for mapper in mappers for note in mapper.notes()]
    report.busy_s = sum(mapper.clock.seconds() for mapper in mappers)
    report.stages = stages.seconds()
    report.seconds = time.perf_counter() - started
    return report


@contextmanager
def open_mappers(
    store: FeatureStore, planned: Mapping[str, Planned], config: ExtractConfig, device: torch.device
) -> Iterator[list[Mapper]]:
    """Open every encoder's place in the store, and put on the device, once each, the backbones that are needed."""
    with ExitStack() as stack:
        alike: dict[tuple[int, Execution], list[str]] = {}
        outputs: dict[str, Output] = {}
        for name, each in planned.items():
            alike.setdefault((id(each.encoder.backbone), each.execution), []).append(name)
            opened = open_output(
                store, name, each.encoder, each.provenance, stored=config.stored, share=config.share, device=device
            )
            outputs[name] = stack.enter_context(opened)
        mappers = []
        for (_, execution), names in alike.items():
            encoder = planned[names[0]].encoder
            if any(outputs[name].starts for name in names):
                encoder = on_device(encoder, device, DTYPES[execution.precision])
            mappers.append(Mapper(encoder, device, execution, [outputs[name] for name in names]))
        yield mappers


def _run(
    reader: FrameReader,
    mappers: Sequence[Mapper],
    sink: BackgroundSink,
    blocks: Sequence[NDArray[np.int64]],
    block: int,
    config: ExtractConfig,
    report: ExtractReport,
    stages: StageTimes,
    on_progress: Callable[[int, int, int], None] | None,
) -> None:
    total = sum(len(rows) for rows in blocks)
    upload = Uploader(mappers[0].device)
    for frames in reader.batches(blocks):
        if frames.failures and config.stop_on_error:
            position, reason = next(iter(frames.failures.items()))
            path = reader.paths[int(frames.rows[position])]
            raise ImageError(
                f"Frame {path} (under {reader.images.location}) cannot be read: {reason}. Mend or remove it."
            )
        for mapped in map_block(mappers, frames, block, upload, stages):
            with stages.timed("hand over"):
                sink.put(mapped.output.writer, mapped.start, mapped.embeddings, mapped.failures)
        report.n_frames += len(frames.rows)
        if on_progress is not None:
            on_progress(report.n_frames, total, len(reader.failures))


def forget_unreadable(store: FeatureStore, names: Iterable[str], images: ImageSource) -> None:
    """Take back the chunks in which frames failed whose files are there now, mended perhaps."""
    paths = store.frames.data["path"]
    for name in names:
        if name in store:
            embedding = store.embedding(name)
            rows = [row for row in embedding.failures() if images.holds(paths[row])]
            embedding.forget(np.asarray(rows, dtype=np.int64))
