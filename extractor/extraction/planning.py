"""Before an extraction: how every encoder runs, and its place in the store.

An encoder that is in the store goes on as it was begun; for a new one precision and batch are chosen, the projection
of its tokens is fitted if it has one, and its group is made. Workers on other devices then find all that.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.encoders.encoder import Encoder, on_device, weights_digest
from extractor.encoders.tokenpca import fit_token_pca
from extractor.pixels.preprocess import model_input, upload
from extractor.pixels.reader import FrameReader, choose_workers
from extractor.precision import DTYPES, Precision, choose_precision
from featurestore.bytesize import format_bytes
from featurestore.errors import ConfigError
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageSource
from featurestore.layout import ChunkLayout, plan_layout
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from featurestore.tokenprojection import TokenProjection

from .calibration import calibrate, default_execution
from .config import ExtractConfig
from .execution import Execution, recorded_execution
from .outputs import describe, stored_shape

MOST_BATCH_BYTES: Final = 64 << 20
"""Of a batch's rows, unless the batch is given: 64 frames of 289 tokens of 1,536 are 57 MB."""

SAMPLE_FRAMES: Final = 1024
"""Frames that the projection of tokens is fitted on, evenly spread over the train split."""


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
    n_missing
        Rows that nobody has computed yet.
    """

    encoder: Encoder
    execution: Execution
    provenance: Provenance
    layout: ChunkLayout
    n_missing: int


def plan(
    store: FeatureStore,
    encoders: Mapping[str, Encoder],
    config: ExtractConfig,
    device: torch.device,
    *,
    measure: bool = True,
    on_note: Callable[[str], None] = lambda _: None,
) -> dict[str, Planned]:
    """Choose how every encoder runs; the store is only read.

    Parameters
    ----------
    store, encoders, config
        As `extract` gets them.
    device
        Where they will run.
    measure
        Whether forward passes may be tried to choose well.
    on_note
        Told what was chosen.

    Raises
    ------
    EncoderMismatchError, ShapeError
        If a name in the store belongs to other weights, preprocessing, dtype or width.
    """
    digests = {id(encoder.backbone): weights_digest(encoder) for encoder in encoders.values()}
    chosen: dict[int, Execution] = {}  # readouts of one backbone run alike
    planned = {}
    for name, encoder in encoders.items():
        there = store.embedding(name) if name in store else None
        if there is not None:
            execution = recorded_execution(there, config.precision, device)
        else:
            key = id(encoder.backbone)
            if key not in chosen:
                chosen[key] = _choose(encoder, store.n_frames if measure else 0, config, device, on_note)
            execution = chosen[key]
        row_shape, dtype = stored_shape(encoder), np.dtype(config.stored)
        if there is None and config.batch is None:
            execution = _within_a_chunk(execution, prod(row_shape) * dtype.itemsize)
        provenance = describe(encoder, execution, digests[id(encoder.backbone)], device)
        if there is not None:
            provenance = replace(provenance, projection=there.provenance.projection)  # fitted once, and kept
            there = store.check_same_encoder(name, provenance, row_shape=row_shape, dtype=dtype)
        planned[name] = Planned(
            encoder=encoder,
            execution=execution,
            provenance=provenance,
            layout=plan_layout(store.n_frames, row_shape, dtype=dtype, batch_rows=execution.batch)
            if there is None
            else there.layout,
            n_missing=store.n_frames - (0 if there is None else there.rows_done()),
        )
    return planned


def tell_sizes(store: FeatureStore, planned: Mapping[str, Planned]) -> list[str]:
    """What each encoder takes on disk, a line each; the last says so if that is more than is free."""
    lines, needed = [], 0
    for name, each in planned.items():
        shape = " x ".join(map(str, each.layout.row_shape))
        needed += each.n_missing * each.layout.row_bytes
        lines.append(
            f"{name}: {each.n_missing:,} of {store.n_frames:,} rows x {shape} {each.layout.dtype} to compute, "
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
    on_note: Callable[[str], None] = lambda _: None,
) -> None:
    """Make the groups of the encoders that are new to the store, after saying what all will take on disk."""
    for line in tell_sizes(store, planned):
        on_note(line)
    for name, each in planned.items():
        if name in store:
            continue
        projection = None
        if each.encoder.readout.n_components is not None:
            projection = _fit_projection(store.frames, each, images, config, device)
            on_note(
                f"{name}: {projection.components.shape[1]} principal components keep "
                f"{100 * float(projection.explained.sum()):.1f} % of the tokens' variance"
            )
        store.writer(
            name,
            each.provenance,
            row_shape=stored_shape(each.encoder),
            dtype=np.dtype(config.stored),
            batch_rows=each.execution.batch,
            projection=projection,
        )


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


def _fit_projection(
    frames: FrameTable, planned: Planned, images: ImageSource, config: ExtractConfig, device: torch.device
) -> TokenProjection:
    """Fit the projection of an encoder's tokens on a sample of the frames."""
    encoder = on_device(planned.encoder, device, DTYPES[planned.execution.precision])
    batch = planned.execution.batch
    rows = sample_rows(frames)
    reader = FrameReader(images, frames, n_workers=choose_workers(config.n_workers, device))

    def tokens() -> Iterator[Tensor]:
        for decoded in reader.batches(rows[at : at + batch] for at in range(0, len(rows), batch)):
            seen = np.setdiff1d(np.arange(len(decoded.rows)), list(decoded.failures))
            if not len(seen):
                continue
            batch_of_images = model_input(upload(decoded, device), encoder.spec, n=len(decoded.rows), device=device)
            with torch.inference_mode():
                yield encoder(batch_of_images.to(DTYPES[planned.execution.precision]))[seen].float()

    try:
        if encoder.readout.n_components is None:
            raise ConfigError("Only a readout with principal components has a projection to fit.")
        return fit_token_pca(tokens(), encoder.readout.n_components)
    finally:
        reader.close()


def sample_rows(frames: FrameTable) -> NDArray[np.int64]:
    """Rows to fit on, evenly spread: of the train split, so that nothing is learnt from what is scored on."""
    train = np.flatnonzero(frames.data["split"].to_numpy() == "train")
    rows = train if len(train) else np.arange(len(frames))
    at = np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE_FRAMES)).round().astype(np.int64)
    return rows[at].astype(np.int64)
