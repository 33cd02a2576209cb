"""The validation score of an encoder under fine-tuning, by the scores of `heads`."""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.encoders.spec import EncoderSpec
from extractor.pixels.preprocess import assemble, normalise, upload
from extractor.pixels.reader import FrameReader
from extractor.precision import Precision, autocast
from featurestore.errors import ImageError
from heads.features.targets import Targets
from heads.fitting.predict import predictions_of, score_columns
from heads.scoring.scores import combine, part_scores

_BATCH: Final = 128


def validation_score(
    model: Callable[[Tensor], dict[str, Tensor]],
    spec: EncoderSpec,
    reader: FrameReader,
    rows: NDArray[np.int64],
    targets: Targets,
    *,
    device: torch.device,
    precision: Precision,
) -> float:
    """The task's score, or of several tasks the sum of their parts of P.

    Parameters
    ----------
    model
        Normalised images (n, 3, side, side) to task -> outputs (n, 1, n_outputs); in eval mode.
    spec
        How images are resized and normalised.
    reader
        Where frames come from; those it cannot read are left out.
    rows : shape (n,), int64
        Rows of the table to score on.
    targets
        Labels of the whole table.
    device, precision
        Of the arithmetic.

    Raises
    ------
    ImageError
        If not one of the frames can be read.
    """
    columns: list[NDArray[np.float64]] = []
    read: list[NDArray[np.int64]] = []
    tasks: tuple[str, ...] = ()
    for frames in reader.batches(rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)):
        seen = np.setdiff1d(np.arange(len(frames.rows)), list(frames.failures))
        if not len(seen):
            continue
        images = assemble(upload(frames, device), spec, n=len(frames.rows), device=device)
        with torch.inference_mode(), autocast(device, precision):
            outputs = model(normalise(images, spec))
        tasks = tuple(outputs)
        columns.append(score_columns(outputs, tasks)[:, 0].double().cpu().numpy()[seen])  # (n_seen, n_columns)
        read.append(frames.rows[seen])
    if not read:
        raise ImageError(f"Not one of {len(rows)} validation frames under {reader.images.location} can be read.")
    predictions = predictions_of(np.concatenate(columns), np.concatenate(read), tasks)
    return combine(part_scores(targets.take(predictions.rows), predictions))
