"""An encoder's embeddings in the plane: the first two principal components of a sample of rows.

The sample is drawn evenly across videos, so that the longest ones do not fill the picture: every video gives as many
rows as any other, until its own run out. A row of tokens enters as the mean of its tokens. Every dimension is brought
to mean 0 and standard deviation 1 over the sample, and constant ones are left out: vision transformers have a few
dimensions that are a hundred times as wide as the rest, and without this the first components are those.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from featurestore.embedding import Embedding
from featurestore.errors import MissingEmbeddingsError, ShapeError
from featurestore.store import FeatureStore

from .colouring import Colouring, colouring_named
from .knowledge import FloatMatrix, IntVector, Knowledge, knowledge
from .summary import widened

N_COMPONENTS: Final = 50
"""Components that are computed; two are drawn, all of them are asked what they know."""

N_ROWS: Final = 20_000
"""Rows of the sample: more make no other picture."""

_BLOCK_BYTES: Final = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Projection:
    """Some rows of an encoder in the plane.

    Attributes
    ----------
    encoder
        Its name.
    n_frames, n_committed, n_labelled
        Rows of the table; those that are there; those of them that are embedded and have the label, from which
        the sample was drawn.
    colouring
        What they are coloured by.
    rows : shape (n_rows,)
        Table rows of the sample, ascending.
    points : shape (n_rows, 2)
        Their first two components.
    explained : shape (n_components,)
        Share of the variance of the standardised dimensions that each component has, descending.
    knowledge
        How much of the label the components know.
    """

    encoder: str
    n_frames: int
    n_committed: int
    n_labelled: int
    colouring: Colouring
    rows: IntVector
    points: FloatMatrix
    explained: npt.NDArray[np.float64]
    knowledge: Knowledge

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """Class number or real of every row of the sample, shape (n_rows,)."""
        return self.colouring.values[self.rows]

    def as_dict(self) -> dict[str, object]:
        """The projection as JSON values, without its points."""
        return {
            "encoder": self.encoder,
            "color": self.colouring.name,
            "rows": len(self.rows),
            "n_labelled": self.n_labelled,
            "n_committed": self.n_committed,
            "n_frames": self.n_frames,
            "explained_variance": self.explained[:10].tolist(),
            "knowledge": self.knowledge.as_dict(),
        }


def project(store: FeatureStore, encoder: str, color: str, *, n_rows: int = N_ROWS, seed: int = 0) -> Projection:
    """The principal components of a sample of an encoder's rows.

    Parameters
    ----------
    store
        The feature store.
    encoder
        Its name; complete or not: the sample is of the rows that are there.
    color
        What the rows are coloured by, one of `COLOURINGS`; only rows that have the label are drawn.
    n_rows
        Rows of the sample, at most.
    seed
        The same seed draws the same rows.

    Raises
    ------
    MissingEmbeddingsError
        If there is no such encoder, or no embedded row of it has the label.
    UnknownNameError
        If there is no such colouring.
    ShapeError
        If fewer than three rows or two dimensions differ.
    """
    embedding = store.embedding(encoder)
    colouring = colouring_named(color, store.frames)
    labelled = np.flatnonzero(embedding.valid() & colouring.labelled)
    if not len(labelled):
        raise MissingEmbeddingsError(
            f"A picture coloured by {color} needs rows with that label; of the {embedding.rows_done():,} rows of "
            f"encoder {encoder!r} that are there, none has it (store: {store.location}). Choose another --color, or "
            f"go on with `abaw extract --encoder {encoder}`."
        )
    videos = store.frames.video_ids()
    rows = evenly(labelled, videos[labelled], n_rows=n_rows, seed=seed)
    standard = _standardised(sampled_vectors(embedding, rows), encoder=encoder)
    pca = PCA(min(N_COMPONENTS, len(rows) - 1, standard.shape[1]), random_state=seed % 2**32)  # all it takes
    components: FloatMatrix = pca.fit_transform(standard).astype(np.float64)
    return Projection(
        encoder=encoder,
        n_frames=embedding.n_frames,
        n_committed=embedding.rows_done(),
        n_labelled=len(labelled),
        colouring=colouring,
        rows=rows,
        points=components[:, :2],
        explained=pca.explained_variance_ratio_.astype(np.float64),
        knowledge=knowledge(components, colouring, rows, videos[rows], is_val=np.isin(rows, store.frames.rows("val"))),
    )


def evenly(rows: IntVector, videos: IntVector, *, n_rows: int, seed: int) -> IntVector:
    """A sample of `rows` to which every video gives as many as any other, until its own run out.

    Parameters
    ----------
    rows, videos : shape (n,)
        Table rows, and a number for the video of each.
    n_rows
        Rows to draw; all of them if there are fewer.
    seed
        The same seed draws the same rows.

    Returns
    -------
    shape (min(n, n_rows),), ascending.
    """
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    by_video = np.argsort(videos[shuffled], kind="stable")
    lengths = np.unique(videos, return_counts=True)[1]
    turn = np.empty(len(rows), dtype=np.int64)  # first all videos' first rows are drawn, then their second ones, ...
    turn[by_video] = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    drawn = shuffled[np.argsort(turn, kind="stable")[:n_rows]]
    return np.sort(rows[drawn]).astype(np.int64)


def sampled_vectors(embedding: Embedding, rows: IntVector) -> npt.NDArray[np.float32]:
    """One vector for each of some rows, shape (n_rows, dim); of tokens, their mean. In blocks: tokens are large."""
    vectors = np.empty((len(rows), embedding.dim), dtype=np.float32)
    step = max(1, _BLOCK_BYTES // embedding.layout.row_bytes)
    for start in range(0, len(rows), step):
        block = widened(embedding.gather(rows[start : start + step]))
        vectors[start : start + step] = block.reshape(len(block), -1, embedding.dim).mean(axis=1)
    return vectors


def _standardised(vectors: npt.NDArray[np.float32], *, encoder: str) -> npt.NDArray[np.float32]:
    """Every dimension with mean 0 and standard deviation 1, constant ones left out, shape (n_rows, n_kept)."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ShapeError(
            f"Rows that did not fail hold finite numbers; {int((~finite).sum()):,} of {len(vectors):,} sampled rows "
            f"of encoder {encoder!r} do not. Run `abaw store verify --encoder {encoder}`."
        )
    varies = vectors.min(axis=0) < vectors.max(axis=0)
    if len(vectors) < 3 or varies.sum() < 2:
        raise ShapeError(
            f"A plane needs three rows and two dimensions that vary; the sample of encoder {encoder!r} has "
            f"{len(vectors):,} rows, in which {int(varies.sum())} of {vectors.shape[1]} dimensions vary. "
            "Sample more rows (--rows), or choose a --color that more rows have."
        )
    kept = vectors[:, varies]
    kept -= kept.mean(axis=0, dtype=np.float64).astype(np.float32)
    kept /= kept.std(axis=0, dtype=np.float64).astype(np.float32)
    return kept
