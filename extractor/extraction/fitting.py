"""The projections of tokens, fitted on a sample of the frames: one pass over it for all readouts of a backbone."""

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.encoders.encoder import Encoder, on_device
from extractor.encoders.tokenpca import fit_token_pca
from extractor.pixels.preprocess import model_input, upload
from extractor.pixels.reader import FrameReader, choose_workers
from extractor.precision import DTYPES
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageSource
from featurestore.tokenprojection import TokenProjection

from .config import ExtractConfig
from .execution import Execution
from .mapper import Mapper

SAMPLE_FRAMES: Final = 1024
"""Frames that a projection is fitted on, evenly spread over the train split."""

_LOOK_EVERY_S: Final = 0.1


def fit_projections(
    encoders: Mapping[str, Encoder],
    execution: Execution,
    frames: FrameTable,
    images: ImageSource,
    config: ExtractConfig,
    device: torch.device,
    *,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> dict[str, TokenProjection]:
    """Fit the projection of every readout.

    Parameters
    ----------
    encoders
        Name to encoder; they share one backbone, and read tokens in principal components.
    execution
        How they run.
    frames, images, config, device
        As in `extract`.
    on_progress
        Called with frames done, frames of the sample, and frames that failed.

    Raises
    ------
    ConfigError, ShapeError, PrecisionError
        As `fit_token_pca`.
    """
    rows = sample_rows(frames)
    first = next(iter(encoders.values()))
    # Compiling would take longer than the sample.
    plain = replace(execution, compiled=False)
    mapper = Mapper(on_device(first, device, DTYPES[plain.precision]), device, plain, ())
    reader = FrameReader(images, frames, n_workers=choose_workers(config.n_workers, device))
    with ThreadPoolExecutor(len(encoders), thread_name_prefix="fit") as pool:
        fits = {name: _Fit(pool, encoder.readout.n_components or 0) for name, encoder in encoders.items()}
        try:
            done = 0
            for decoded in reader.batches(rows[at : at + plain.batch] for at in range(0, len(rows), plain.batch)):
                seen = np.setdiff1d(np.arange(len(decoded.rows)), list(decoded.failures))
                if len(seen):
                    ready = model_input(upload(decoded, device), first.spec, n=len(decoded.rows), device=device)
                    reads = mapper(ready, [encoder.readout for encoder in encoders.values()])
                    for fit, tokens in zip(fits.values(), reads, strict=True):
                        fit.add(tokens[seen].float())
                done += len(decoded.rows)
                if on_progress is not None:
                    on_progress(done, len(rows), len(reader.failures))
        finally:
            reader.close()
            for fit in fits.values():
                fit.end()
        return {name: fit.projection() for name, fit in fits.items()}


def sample_rows(frames: FrameTable) -> NDArray[np.int64]:
    """Rows to fit on, evenly spread: of the train split, so that nothing is learnt from what is scored on."""
    train = np.flatnonzero(frames.data["split"].to_numpy() == "train")
    rows = train if len(train) else np.arange(len(frames))
    at = np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE_FRAMES)).round().astype(np.int64)
    return rows[at].astype(np.int64)


class _Fit:
    """One fit in a thread of its own, which takes its tokens batch by batch."""

    def __init__(self, pool: ThreadPoolExecutor, n_components: int) -> None:
        self._batches: queue.Queue[Tensor | None] = queue.Queue(maxsize=2)
        tokens: Callable[[], Tensor] = self._batches.get  # type: ignore[assignment]  # up to the None that ends it
        self._fitted: Future[TokenProjection] = pool.submit(fit_token_pca, iter(tokens, None), n_components)

    def add(self, tokens: Tensor) -> None:
        """The next batch."""
        self._put(tokens)

    def end(self) -> None:
        """That was all."""
        self._put(None)

    def projection(self) -> TokenProjection:
        """What came out, or its error."""
        return self._fitted.result()

    def _put(self, item: Tensor | None) -> None:
        while not self._fitted.done():  # one that failed takes nothing any more
            try:
                self._batches.put(item, timeout=_LOOK_EVERY_S)
            except queue.Full:
                continue
            return
