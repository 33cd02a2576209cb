"""Whether rows that are to be added to an encoder's embeddings are made as those that are there."""

from collections.abc import Sequence
from dataclasses import replace

import numpy.typing as npt

from .embedding import Embedding
from .errors import EncoderMismatchError, ShapeError
from .layout import storage_dtype
from .provenance import Provenance
from .tokenprojection import TokenProjection


def check_same(
    there: Embedding, provenance: Provenance, row_shape: Sequence[int], dtype: npt.DTypeLike, *, advice: str
) -> None:
    """Refuse rows of another origin, shape or element type.

    Parameters
    ----------
    there
        The embeddings in the store.
    provenance, row_shape, dtype
        Of the rows to add.
    advice
        What to do instead, for the message.

    Raises
    ------
    EncoderMismatchError
        If something else made them, or they are of another element type.
    ShapeError
        If they have another shape.
    """
    recorded, where = there.provenance, f"store: {there.storage.location}"
    if recorded.fingerprint != provenance.fingerprint:
        differing = recorded.differences(provenance)
        weights = f" (weights {recorded.weights} there, {provenance.weights} now)" if "weights" in differing else ""
        raise EncoderMismatchError(
            f"The embeddings of encoder {there.name!r} were made by {recorded.fingerprint}, these would be by "
            f"{provenance.fingerprint}; they differ in {', '.join(differing)}{weights} ({where}). {advice}"
        )
    if there.row_shape != tuple(row_shape):
        raise ShapeError(
            f"The embeddings of encoder {there.name!r} have rows of shape {there.row_shape}, these would have "
            f"{tuple(row_shape)} ({where}). {advice}"
        )
    if there.dtype != storage_dtype(dtype):
        raise EncoderMismatchError(
            f"The embeddings of encoder {there.name!r} are {there.dtype}, these would be {storage_dtype(dtype)} "
            f"({where}). {advice}"
        )


def projected(
    provenance: Provenance, projection: TokenProjection, row_shape: Sequence[int], *, encoder: str
) -> Provenance:
    """A provenance of rows that went through a projection, which they must fit."""
    if len(row_shape) != 2 or row_shape[-1] != projection.n_components:
        raise ShapeError(
            f"Rows that went through a projection to {projection.n_components} dimensions have shape (n_tokens, "
            f"{projection.n_components}), not {tuple(row_shape)} (encoder {encoder!r}). Project them first."
        )
    if provenance.projection not in (None, projection.digest):
        raise EncoderMismatchError(
            f"The rows of encoder {encoder!r} went through projection {provenance.projection}; the one to keep with "
            f"them is {projection.digest}. Give the projection that they went through."
        )
    return replace(provenance, projection=projection.digest)
