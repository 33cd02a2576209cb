"""Before an extraction: how every encoder runs, and its place in the store.

An encoder that is in the store goes on as it was begun; for a new one precision and batch are chosen, the projection
of its tokens is fitted if it has one, and its group is made. Workers on other devices then find all that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Final

import numpy as np
import torch

from extractor.encoders.encoder import Encoder, weights_digest
from extractor.precision import Precision, choose_precision
from featurestore.bytesize import format_bytes
from featurestore.errors import ConfigError, EncoderMismatchError
from featurestore.images.imagesource import ImageSource
from featurestore.layout import ChunkLayout, plan_layout
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from featurestore.tokenprojection import TokenProjection

from .calibration import calibrate, default_execution
from .config import ExtractConfig
from .execution import Execution, is_resized_otherwise, recorded_execution
from .fitting import fit_projections
from .outputs import describe, stored_shape

MOST_BATCH_BYTES: Final = 64 << 20
"""Of a batch's rows, unless the batch is given: 64 frames of 289 tokens of 1,536 are 57 MB."""

CHUNKS_A_WORKER: Final = 4
"""At the least, where the frames are enough; their share is whole chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One encoder, ready to go.

    Attributes
    ----------
    encoder, execution
        What runs, and how.
    provenance
        What the store knows it by.
    layout
        How its rows lie, or will lie, on disk.
    """

    encoder: Encoder
    execution: Execution
    provenance: Provenance
    layout: ChunkLayout


def plan(
    store: FeatureStore,
    encoders: Mapping[str, Encoder],
    images: ImageSource,
    config: ExtractConfig,
    device: torch.device,
    *,
    n_workers: int = 1,
    measure: bool = True,
    on_note: Callable[[str], None] = lambda _: None,
) -> dict[str, Planned]:
    """Choose how every encoder runs; the store is only read.

    Parameters
    ----------
    store, encoders, images, config
        As `extract` gets them.
    device
        Where they will run.
    n_workers
        Processes that will share the config's share.
    measure
        Whether forward passes may be tried to choose well.
    on_note
        Told what was chosen.

    Raises
    ------
    EncoderMismatchError, ShapeError
        If a name in the store belongs to other weights, preprocessing, dtype or width, or to rows that were imported
        without the projection that they went through.
    ConfigError
        If an encoder has not what is to be read from it.
    MissingFileError, StoreError
        If the images are not there, or are a pack of other frames.
    """
    digests = {id(encoder.backbone): weights_digest(encoder) for encoder in encoders.values()}
    chosen: dict[int, Execution] = {}  # readouts of one backbone run alike
    planned = {}
    for name, encoder in encoders.items():
        digest, key = digests[id(encoder.backbone)], id(encoder.backbone)
        row_shape, dtype = stored_shape(encoder), np.dtype(config.stored)  # refuses what cannot be read
        if name in store:
            planned[name] = _as_begun(store, name, encoder, digest, config, device)
            continue
        if key not in chosen:
            chosen[key] = _choose(encoder, store.n_frames if measure else 0, config, device, on_note)
        execution = chosen[key]
        if config.batch is None:
            execution = _within_a_chunk(execution, prod(row_shape) * dtype.itemsize)
        planned[name] = Planned(
            encoder=encoder,
            execution=execution,
            provenance=describe(encoder, execution, digest, device),
            layout=plan_layout(
                store.n_frames,
                row_shape,
                dtype=dtype,
                batch_rows=execution.batch,
                chunk_rows=_chunk_rows(store.n_frames, row_shape, dtype, execution.batch, config.share.of * n_workers),
            ),
        )
    if config.retry_unreadable or any(n_missing(store, name) for name in planned):
        images.check(store.frames)
    return planned


def _as_begun(
    store: FeatureStore, name: str, encoder: Encoder, digest: str, config: ExtractConfig, device: torch.device
) -> Planned:
    """An encoder that is in the store, to go on as it was begun; refused if it cannot."""
    there = store.embedding(name)
    execution = recorded_execution(there, config.precision, device)
    provenance = describe(encoder, execution, digest, device)
    made_by = replace(provenance, projection=there.provenance.projection)  # fitted once, and kept
    checked = store.check_same_encoder(name, made_by, row_shape=stored_shape(encoder), dtype=np.dtype(config.stored))
    if encoder.readout.n_components is not None and checked.projection is None:
        raise EncoderMismatchError(
            f"The rows of {name!r} came from a file without the projection that their tokens went through, so it "
            f"cannot go on (store: {store.location}). Extract under another name, or import a .zarr.zip, which "
            "carries it."
        )
    return Planned(encoder=encoder, execution=execution, provenance=made_by, layout=checked.layout)


def _chunk_rows(
    n_frames: int, row_shape: tuple[int, ...], dtype: np.dtype[np.generic], batch: int, n_workers: int
) -> int | None:
    """Rows of a chunk: smaller than usual if there would be too few chunks for the workers to share; None for usual."""
    if n_workers == 1:
        return None
    usual = plan_layout(n_frames, row_shape, dtype=dtype, batch_rows=batch).chunk_rows
    wanted = max(1, n_frames // (CHUNKS_A_WORKER * n_workers))
    return max(batch, min(usual, 1 << (wanted.bit_length() - 1)))


def n_missing(store: FeatureStore, name: str) -> int:
    """Rows of an encoder that nobody has computed yet."""
    return store.n_frames - (store.embedding(name).rows_done() if name in store else 0)


def tell_sizes(store: FeatureStore, planned: Mapping[str, Planned]) -> list[str]:
    """What each encoder takes on disk, a line each; the last says so if that is more than is free."""
    lines, needed = [], 0
    for name, each in planned.items():
        shape, missing = " x ".join(map(str, each.layout.row_shape)), n_missing(store, name)
        needed += missing * each.layout.row_bytes
        lines.append(
            f"{name}: {missing:,} of {store.n_frames:,} rows x {shape} {each.layout.dtype} to compute, "
            f"{format_bytes(each.layout.disk_bytes)} on disk in all"
        )
    free = store.storage.free_bytes()
    if free is not None and needed > free:
        lines.append(f"That is {format_bytes(needed)} more, but {store.location} has only {format_bytes(free)} free.")
    return lines


def begin(
    store: FeatureStore,
    planned: Mapping[str, Planned],
    images: ImageSource,
    config: ExtractConfig,
    device: torch.device,
    *,
    on_progress: Callable[[int, int, int], None] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> dict[str, Planned]:
    """Make the groups of the encoders that are new to the store, after saying what all will take on disk.

    Returns
    -------
    The plan as the groups have it: of workers that begin at once, the quickest decides how all of them run.
    """
    for line in tell_sizes(store, planned):
        on_note(line)
    projected: dict[tuple[int, Execution], dict[str, Encoder]] = {}
    for name, each in planned.items():
        if name not in store and each.encoder.readout.n_components is not None:
            projected.setdefault((id(each.encoder.backbone), each.execution), {})[name] = each.encoder
    projections: dict[str, TokenProjection] = {}
    for (_, execution), encoders in projected.items():
        on_note(f"{', '.join(encoders)}: fitting principal components on a sample of the train frames")
        projections |= fit_projections(
            encoders, execution, store.frames, images, config, device, on_progress=on_progress
        )
    for name, projection in projections.items():
        kept = 100 * float(projection.explained.sum())
        on_note(f"{name}: {projection.n_components} components keep {kept:.1f} % of the tokens' variance")
    begun = {}
    for name, each in planned.items():
        if name not in store:
            store.writer(
                name,
                each.provenance,
                row_shape=each.layout.row_shape,
                dtype=each.layout.dtype,
                chunk_rows=each.layout.chunk_rows,
                batch_rows=each.layout.batch_rows,
                projection=projections.get(name),
            )
        begun[name] = _as_begun(store, name, each.encoder, each.provenance.weights, config, device)
        there = store.embedding(name)
        if there.rows_done() and n_missing(store, name) and is_resized_otherwise(there, device):
            on_note(
                f"{name} was begun with frames resized in another arithmetic (by an older abaw, or on another kind of "
                "device): its new rows will differ by rounding. Extract under another name to have all alike."
            )
    return begun


def _choose(
    encoder: Encoder, n_rows: int, config: ExtractConfig, device: torch.device, on_note: Callable[[str], None]
) -> Execution:
    asked: Precision | None = None if config.precision == "auto" else choose_precision(config.precision, device)
    if next(encoder.backbone.parameters(), None) is None:  # an ONNX file computes in what it was exported in
        if asked not in (None, "float32"):
            raise ConfigError(
                f"The precision of {encoder.spec.described()} is fixed in its file; it cannot run in {asked}. "
                "Leave --precision out."
            )
        return default_execution(device, "float32", config.batch)
    return calibrate(encoder, device, n_rows=n_rows, precision=asked, batch=config.batch, on_note=on_note)


def _within_a_chunk(execution: Execution, row_bytes: int) -> Execution:
    """Smaller batches of tokens, since a chunk holds a batch at least, and a few of them wait to be written."""
    batch = execution.batch
    while batch > 1 and batch * row_bytes > MOST_BATCH_BYTES:
        batch //= 2
    return replace(execution, batch=batch)
