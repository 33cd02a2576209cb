"""The store against plain files: reading whole, reading windows, writing.

All files are in the page cache: what is compared is the work, not the disk. The writer flushes every file to the
disk, as its promise asks, and numpy does not unless told to; so it is compared with both.
"""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
from material import made_by, random_frames, random_rows
from report import Measure, Options, parse_options, report, side_by_side, wall_s

from featurestore.embedding import Embedding
from featurestore.layout import FloatArray
from featurestore.store import FeatureStore

N_FRAMES, N_FRAMES_QUICK, DIM = 141_431, 20_000, 768  # s-Aff-Wild2's train split; a ViT-B's embedding
N_WINDOWS, WINDOW_ROWS = 10_000, 20
BATCH_ROWS = 64


def main() -> None:
    """Measure and report."""
    options = parse_options(__doc__ or "")
    n_frames = N_FRAMES_QUICK if options.quick else N_FRAMES
    rows = random_rows(n_frames, DIM)
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.create(Path(folder) / "features", random_frames({"video": ("train", n_frames)}))
        write(store, "mae", rows)
        embedding = store.embedding("mae")
        npy = Path(folder) / "rows.npy"
        np.save(npy, rows)
        measures = [
            measure_load(embedding, npy, options),
            *measure_windows(embedding, npy, rows, options),
            *measure_write(store, npy, rows, options),
        ]
    report(measures, options)


def measure_load(embedding: Embedding, npy: Path, options: Options) -> Measure:
    """The whole array into memory, against np.load of the same array."""
    budget_s = options.budget_s
    pair = side_by_side(
        lambda: wall_s(embedding.load), lambda: wall_s(lambda: np.load(npy)), rounds=21, budget_s=budget_s
    )
    shape = f"{embedding.n_frames:,} x {embedding.dim} {embedding.dtype}"
    return Measure(measure=f"load {shape} : np.load", value=pair.ratio, bar=1.0, detail=pair.detail)


def measure_windows(embedding: Embedding, npy: Path, rows: npt.NDArray[np.float16], options: Options) -> list[Measure]:
    """Random windows as they are handed out, and copied to where a batch is built.

    The store and a memory map hand out views, h5py a copy: the first pair of figures is the interface's own cost,
    the second what training pays, in which the rows themselves have their share on either side.
    """
    starts = np.random.default_rng(1).integers(0, len(rows) - WINDOW_ROWS, N_WINDOWS).tolist()
    place: FloatArray = np.empty((WINDOW_ROWS, DIM), dtype=rows.dtype)
    mapped = np.load(npy, mmap_mode="r")
    h5 = npy.with_suffix(".h5")
    with h5py.File(h5, "w") as file:
        file.create_dataset("rows", data=rows)  # contiguous, h5py's fastest layout for this

    def time_windows(read: Callable[[int, int], FloatArray], *, copied: bool) -> float:
        def handed_out() -> None:
            for start in starts:
                read(start, start + WINDOW_ROWS)

        def copied_to_place() -> None:
            for start in starts:
                place[:] = read(start, start + WINDOW_ROWS)

        return wall_s(copied_to_place if copied else handed_out)

    measures = []
    with h5py.File(h5) as file:
        dataset = file["rows"]
        others: dict[str, tuple[Callable[[int, int], FloatArray], float]] = {
            "memory-mapped .npy": (lambda start, stop: mapped[start:stop], 0.8),
            "h5py": (lambda start, stop: dataset[start:stop], 5.0),
        }
        for copied in (False, True):
            for name, (read, bar) in others.items():
                pair = side_by_side(
                    partial(time_windows, embedding.read, copied=copied),
                    partial(time_windows, read, copied=copied),
                    rounds=11,
                    budget_s=options.budget_s,
                )
                how = "copied to a batch" if copied else "handed out"
                what = f"{N_WINDOWS:,} random windows of {WINDOW_ROWS} {how} : {name}"
                measures.append(Measure(measure=what, value=pair.ratio, bar=bar, detail=pair.detail))
    h5.unlink()
    return measures


def measure_write(store: FeatureStore, npy: Path, rows: npt.NDArray[np.float16], options: Options) -> list[Measure]:
    """All rows with hashes and commits, against np.save of the same array, flushed to the disk and not."""
    target = npy.with_name("written.npy")

    def to_store() -> float:
        seconds = wall_s(lambda: write(store, "written", rows))
        store.remove("written")
        return seconds

    def to_npy(*, flushed: bool) -> float:
        def save() -> None:
            with target.open("wb") as file:
                np.save(file, rows)
                if flushed:
                    file.flush()
                    os.fsync(file.fileno())

        seconds = wall_s(save)
        target.unlink()
        return seconds

    rounds, budget_s = 5, options.budget_s
    what = "write with hashes and commits, all flushed"
    flushed = side_by_side(to_store, lambda: to_npy(flushed=True), rounds=rounds, budget_s=budget_s)
    cached = side_by_side(to_store, lambda: to_npy(flushed=False), rounds=rounds, budget_s=budget_s)
    return [
        Measure(measure=f"{what} : np.save, flushed", value=flushed.ratio, bar=0.7, detail=flushed.detail),
        Measure(measure=f"{what} : np.save, not flushed", value=cached.ratio, bar=0.7, detail=cached.detail),
    ]


def write(store: FeatureStore, name: str, rows: npt.NDArray[np.float16]) -> None:
    """Write an encoder's rows, a chunk at a time."""
    with store.writer(name, made_by(name), row_shape=(DIM,), batch_rows=BATCH_ROWS) as writer:
        for task in writer.pending():
            writer.append(task.start, rows[task.start : task.stop])


if __name__ == "__main__":
    main()
