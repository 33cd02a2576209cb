"""The paper's ablation tables, all 88 rows, from a cold process: `abaw ablate all` on s-Aff-Wild2's labels, simulated.

On a CPU a tenth of the dataset's rows, on a GPU all of them, where Table 4's valence row is measured on its own too.

The five embeddings know something of the labels: a row ends once it has not improved for five epochs, and on noise
each would end at once. Each video has its own look, as faces do; the labels move slowly, and a video has labels of
a task or not, as often as in the challenge.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from material import made_by
from pydantic import BaseModel, JsonValue, TypeAdapter
from report import Measure, parse_options, report

from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.labels import AU_COLUMNS, EXPRESSIONS
from featurestore.store import FeatureStore

ENCODERS: Final = ("mae", "au", "expr", "v", "a")
N_VIDEOS, VIDEO_ROWS = 454, 370  # s-Aff-Wild2's 168,097 rows; its median of rows
VAL_SHARE: Final = 0.16
LABELLED: Final = {"va": 0.73, "expr": 0.64, "au": 0.73}
"""Share of the rows of train that have labels of a task."""
AU_RATES: Final = (0.18, 0.08, 0.20, 0.30, 0.40, 0.37, 0.26, 0.02, 0.03, 0.05, 0.68, 0.10)
N_FACTORS: Final = 6
Array = npt.NDArray[np.float32]


class Row(BaseModel):
    """What is read of a row of the tables."""

    epoch: int


def main() -> None:
    """Measure and report."""
    options = parse_options(__doc__ or "")
    cuda = torch.cuda.is_available()
    n_videos = options.pick(full=N_VIDEOS if cuda else N_VIDEOS // 10, quick=3, smoke=3)
    dim = options.pick(full=768, quick=768, smoke=16)
    epochs = options.pick(full=20, quick=1, smoke=1)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        n_rows = make_workspace(workspace, n_videos, dim)
        table = options.pick(full="all", quick="temporal", smoke="temporal")
        out = str(workspace / "ablations")
        seconds, made = abaw(workspace, "ablate", table, "--epochs", str(epochs), "--out", out)
        rows = TypeAdapter(list[Row]).validate_python(made["rows"])
        best_epoch = sum(row.epoch for row in rows) / len(rows)
        measures = [
            Measure(
                measure=f"minutes of `abaw ablate {table}`, {len(rows)} rows on {n_rows:,} frames",
                value=seconds / 60,
                bar=8 if cuda else 30,
                at_most=True,
                detail=f"{seconds:,.0f} s; a row's best epoch is number {best_epoch:.1f} on average",
            )
        ]
        if cuda:
            head = ("--encoder", "mae", "--fuse", "au,v", "--joint", "au,v,a", "--seq", "20")
            row_epochs = options.pick(full=20, quick=20, smoke=1)
            row_s, _ = abaw(workspace, "fit-heads", *head, "--epochs", str(row_epochs))
            measures.append(
                Measure(
                    measure=f"seconds of Table 4's valence row, {row_epochs} epochs, {n_rows:,} frames",
                    value=row_s,
                    bar=15,
                    at_most=True,
                    detail="from a cold process to metrics",
                )
            )
    report(measures, options)


def abaw(workspace: Path, *arguments: str) -> tuple[float, dict[str, JsonValue]]:
    """A command in a process of its own: its seconds, and what it says."""
    command = [sys.executable, "-c", "from cli.main import app; app()", *arguments, "-w", str(workspace), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # its progress is for whoever waits
    seconds = time.perf_counter() - started
    return seconds, json.loads(done.stdout)


def make_workspace(folder: Path, n_videos: int, dim: int) -> int:
    """A workspace whose store holds every embedding; how many frames it has."""
    rng = np.random.default_rng(0)
    factors = np.concatenate([slow(rng, VIDEO_ROWS) for _ in range(n_videos)])
    frames = simulated_frames(rng, factors, n_videos)
    store = FeatureStore.create(folder / "features", frames)
    for number, name in enumerate(ENCODERS):
        # Each knows some factors better than the others do; the base embedding knows none well.
        clarity = np.full(N_FACTORS, 0.15) if name == "mae" else 0.1 + 0.4 * rng.random(N_FACTORS)
        rows = simulated_rows(np.random.default_rng(number), factors * clarity.astype(np.float32), n_videos, dim)
        with store.writer(name, made_by(name), row_shape=(dim,)) as writer:
            for part in writer.pending():
                writer.append(part.start, rows[part.start : part.stop])
    (folder / "abaw.toml").write_text('frames = "images"\ntrain = "train.txt"\nval = "val.txt"\n')
    return len(frames)


def slow(rng: np.random.Generator, n_rows: int) -> Array:
    """Factors that wander about a video's own level, shape (n_rows, N_FACTORS), of unit variance or so."""
    walk = np.cumsum(rng.standard_normal((n_rows + 40, N_FACTORS)), axis=0)
    smooth = (walk[40:] - walk[:-40]) / np.sqrt(40)
    return np.asarray(0.7 * smooth + 0.7 * rng.standard_normal(N_FACTORS), dtype=np.float32)


def simulated_frames(rng: np.random.Generator, factors: Array, n_videos: int) -> FrameTable:
    """Labels that follow from the factors."""
    n_rows = len(factors)
    split = ["val" if number < max(1, round(VAL_SHARE * n_videos)) else "train" for number in range(n_videos)]
    known = {
        task: np.repeat([part == "val" or rng.random() < share for part in split], VIDEO_ROWS)
        for task, share in LABELLED.items()
    }
    noisy = factors + 0.3 * rng.standard_normal(factors.shape)
    classes = (noisy @ rng.standard_normal((N_FACTORS, len(EXPRESSIONS)))).argmax(axis=1)
    units = noisy @ rng.standard_normal((N_FACTORS, len(AU_COLUMNS)))
    active = units > np.array([np.quantile(column, 1 - rate) for column, rate in zip(units.T, AU_RATES, strict=True)])
    frame = np.tile(np.arange(VIDEO_ROWS) * 3, n_videos)
    columns: dict[str, object] = {
        "video": np.repeat([f"{number:04d}" for number in range(n_videos)], VIDEO_ROWS),
        "frame": frame,
        "path": [f"{number:06d}.jpg" for number in range(n_rows)],
        "split": np.repeat(split, VIDEO_ROWS),
        "fold": [None] * n_rows,
        "valence": where(known["va"], np.tanh(noisy[:, 0] / 2)),
        "arousal": where(known["va"], np.tanh(noisy[:, 1] / 2)),
        "expression": where(known["expr"], classes),
        **{name: where(known["au"], active[:, place]) for place, name in enumerate(AU_COLUMNS)},
    }
    return FrameTable(pl.DataFrame(columns).cast(FRAME_SCHEMA))


def where(known: npt.NDArray[np.bool_], values: npt.NDArray[np.generic]) -> Sequence[float | None]:
    """The values as plain numbers, null where they are not known."""
    return [float(value) if there else None for there, value in zip(known.tolist(), values.tolist(), strict=True)]


def simulated_rows(rng: np.random.Generator, factors: Array, n_videos: int, dim: int) -> npt.NDArray[np.float16]:
    """An embedding of the factors: mixed into every column, under each video's look and noise of unit variance."""
    mixing = rng.standard_normal((N_FACTORS, dim), dtype=np.float32)
    looks = np.repeat(rng.standard_normal((n_videos, dim), dtype=np.float32), VIDEO_ROWS, axis=0)
    noise = rng.standard_normal((len(factors), dim), dtype=np.float32)
    return (factors @ mixing + looks + noise).astype(np.float16)


if __name__ == "__main__":
    main()
