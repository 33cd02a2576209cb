"""What the benchmarks measure on: frame tables, embeddings and images drawn at random, made through abaw's own API."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image

from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.labels import AU_COLUMNS, EXPRESSIONS
from featurestore.provenance import Provenance

IMAGE_PX = 112  # s-Aff-Wild2's crops
_BLOCK_ROWS = 1 << 14


def random_frames(videos: Mapping[str, tuple[str, int]], *, n_images: int | None = None) -> FrameTable:
    """A table of fully labelled frames.

    Parameters
    ----------
    videos
        Name -> its split and how many frames it has.
    n_images
        If fewer images than frames exist: so many, used again and again.
    """
    rng = np.random.default_rng(0)
    tables = []
    for video, (split, n) in sorted(videos.items()):
        number = np.arange(n)
        columns: dict[str, object] = {
            "video": [video] * n,
            "frame": number,
            "path": [f"{image:06d}.jpg" for image in number % (n_images or n)],
            "split": [split] * n,
            "fold": [None] * n,
            "valence": rng.uniform(-1, 1, n),
            "arousal": rng.uniform(-1, 1, n),
            "expression": rng.integers(0, len(EXPRESSIONS), n),
            **{name: rng.integers(0, 2, n) for name in AU_COLUMNS},
        }
        tables.append(pl.DataFrame(columns).cast(FRAME_SCHEMA))
    return FrameTable(pl.concat(tables))


def random_rows(n_rows: int, dim: int, *, seed: int = 0) -> npt.NDArray[np.float16]:
    """Normal values, shape (n_rows, dim); drawn in blocks, since in float64 they would take four times the memory."""
    rng = np.random.default_rng(seed)
    rows = np.empty((n_rows, dim), dtype=np.float16)
    for start in range(0, n_rows, _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
    return rows


def made_by(weights: str) -> Provenance:
    """A provenance for embeddings that no encoder made."""
    return Provenance(
        architecture="random", weights=weights, preprocessing={}, pooling="none", precision="float32", made_at="now"
    )


def write_images(folder: Path, n_images: int) -> None:
    """JPEGs of smooth shapes under a little noise, about as large as those of faces."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(n_images):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = smooth + rng.normal(0, 3, smooth.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06d}.jpg", quality=90)
