"""The store against plain files and other readers: whole arrays, windows, batches, writing, opening a large one.

All files are in the page cache: what is compared is the work, not the disk. The writer flushes every file to the
disk, as its promise asks, and numpy does not unless told to; so it is compared with both.
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import zarr
from material import made_by, random_frames, random_rows
from report import Measure, Options, Pair, parse_options, report, side_by_side, wall_s

from featurestore.commits import Commit
from featurestore.embedding import Embedding
from featurestore.layout import FloatArray
from featurestore.store import FeatureStore

N_FRAMES, DIM = 141_431, 768  # s-Aff-Wild2's train split; a ViT-B's embedding
N_WINDOWS, N_WINDOWS_ZARR, WINDOW_ROWS = 10_000, 300, 20
BATCH_WINDOWS, ENCODERS = 256, ("mae", "au", "v")
BATCH_ROWS, N_WRITERS = 64, 4
N_ENCODERS_LARGE = 8

OPENS = """
import sys, time
from pathlib import Path
from featurestore.store import FeatureStore

def peak_kib():
    # Not getrusage, which counts the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

kib_before = peak_kib()
started = time.perf_counter()
store = FeatureStore.open(Path(sys.argv[1]))
embeddings = [store.embedding(name) for name in store.names()]
seconds = time.perf_counter() - started
kib = peak_kib()
started = time.perf_counter()
done = [embedding.rows_done() for embedding in embeddings]
listed_s = time.perf_counter() - started
print(seconds, kib / 1024, (kib - kib_before) / 1024, listed_s, len(done), min(done))
"""


def main() -> None:
    """Measure and report."""
    options = parse_options(__doc__ or "")
    n_frames = options.pick(full=N_FRAMES, quick=20_000, smoke=10_000)
    rows = random_rows(n_frames, DIM)
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.create(Path(folder) / "features", random_frames({"video": ("train", n_frames)}))
        for name in ENCODERS:
            write(store, name, rows)
        embedding = store.embedding(ENCODERS[0])
        npy = Path(folder) / "rows.npy"
        np.save(npy, rows)
        measures = [
            measure_load(embedding, npy, options),
            *measure_windows(embedding, npy, rows, options),
            measure_zarr(store, options),
            measure_batch(store, options),
            *measure_write(store, npy, rows, options),
            *measure_open(Path(folder) / "large", options),
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
    n_windows = options.pick(full=N_WINDOWS, quick=N_WINDOWS, smoke=100)
    starts = np.random.default_rng(1).integers(0, len(rows) - WINDOW_ROWS, n_windows).tolist()
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
                what = f"{n_windows:,} random windows of {WINDOW_ROWS} {how} : {name}"
                measures.append(Measure(measure=what, value=pair.ratio, bar=bar, detail=pair.detail))
    h5.unlink()
    return measures


def measure_zarr(store: FeatureStore, options: Options) -> Measure:
    """Random windows against zarr-python on the very same chunks."""
    embedding = store.embedding(ENCODERS[0])
    array = zarr.open_group(store.location, mode="r")[f"{ENCODERS[0]}/embedding"]
    n_windows = options.pick(full=N_WINDOWS_ZARR, quick=N_WINDOWS_ZARR, smoke=10)
    starts = np.random.default_rng(2).integers(0, embedding.n_frames - WINDOW_ROWS, n_windows).tolist()
    place: FloatArray = np.empty((WINDOW_ROWS, DIM), dtype=embedding.dtype)

    def windows(read: Callable[[int, int], FloatArray]) -> float:
        def copied() -> None:
            for start in starts:
                place[:] = read(start, start + WINDOW_ROWS)

        return wall_s(copied)

    pair = side_by_side(
        lambda: windows(embedding.read),
        lambda: windows(lambda start, stop: np.asarray(array[start:stop])),
        rounds=5,
        budget_s=options.budget_s,
    )
    what = f"{n_windows} random windows of {WINDOW_ROWS} copied to a batch : zarr-python"
    return Measure(measure=what, value=pair.ratio, bar=50.0, detail=pair.detail)


def measure_batch(store: FeatureStore, options: Options) -> Measure:
    """A batch of windows of three encoders gathered into one tensor, against copying so many bytes once."""
    embeddings = [store.embedding(name) for name in ENCODERS]
    rng = np.random.default_rng(3)
    starts = rng.integers(0, store.n_frames - WINDOW_ROWS, BATCH_WINDOWS)
    rows = starts[:, None] + np.arange(WINDOW_ROWS)  # (256, 20)
    batch: FloatArray = np.zeros((len(embeddings), *rows.shape, DIM), dtype=embeddings[0].dtype)
    source = np.ones_like(batch)
    place = np.zeros_like(batch)

    def gather() -> None:
        for embedding, part in zip(embeddings, batch, strict=True):
            embedding.gather(rows, out=part)

    pair = side_by_side(
        lambda: wall_s(gather), lambda: wall_s(lambda: np.copyto(place, source)), rounds=101, budget_s=options.budget_s
    )
    what = f"time of a batch of {BATCH_WINDOWS} windows x {len(embeddings)} encoders : memcpy of its bytes"
    return Measure(measure=what, value=1 / pair.ratio, bar=1.3, at_most=True, detail=pair.detail)


def measure_write(store: FeatureStore, npy: Path, rows: npt.NDArray[np.float16], options: Options) -> list[Measure]:
    """All rows with hashes and commits, against np.save of the same array, flushed to the disk and not."""
    target = npy.with_name("written.npy")

    def to_store(n_writers: int) -> float:
        os.sync()  # or the one pays for what the other left to be written
        seconds = wall_s(lambda: write(store, "written", rows, n_writers=n_writers))
        store.remove("written")
        return seconds

    def to_npy(*, flushed: bool) -> float:
        def save() -> None:
            with target.open("wb") as file:
                np.save(file, rows)
                if flushed:
                    file.flush()
                    os.fsync(file.fileno())

        os.sync()
        seconds = wall_s(save)
        target.unlink()
        return seconds

    def compare(n_writers: int, *, flushed: bool) -> Pair:
        return side_by_side(
            lambda: to_store(n_writers), lambda: to_npy(flushed=flushed), rounds=7, budget_s=options.budget_s
        )

    measures = []
    for n_writers, who in ((1, "one writer"), (N_WRITERS, f"{N_WRITERS} writers in threads")):
        for flushed, other in ((True, "np.save, flushed"), (False, "np.save, not flushed")):
            pair = compare(n_writers, flushed=flushed)
            what = f"write with hashes and commits, flushed, {who} : {other}"
            measures.append(Measure(measure=what, value=pair.ratio, bar=0.7, detail=pair.detail))
    return measures


def measure_open(folder: Path, options: Options) -> list[Measure]:
    """Opening a large store with all its encoders, in a process of its own; time and memory are absolute here."""
    n_frames = options.pick(full=10_000_000, quick=1_000_000, smoke=10_000)
    n_videos = options.pick(full=1000, quick=1000, smoke=10)
    lengths = {f"{number:04d}": ("train", n_frames // n_videos) for number in range(n_videos)}
    store = FeatureStore.create(folder, random_frames(lengths))
    for number in range(N_ENCODERS_LARGE):
        # Every record there is, and no rows: opening looks at none, and 15 GB an encoder say nothing about it.
        name = f"encoder{number}"
        embedding = store.writer(name, made_by(name), row_shape=(DIM,), batch_rows=BATCH_ROWS).embedding
        for chunk in range(embedding.layout.n_chunks):
            start, stop = embedding.layout.span(chunk)
            embedding.commits.write(chunk, Commit(stop - start, 1))
    figures = []
    for _ in range(options.pick(full=5, quick=5, smoke=1)):
        ran = subprocess.run([sys.executable, "-c", OPENS, folder], capture_output=True, text=True, check=True)
        figures.append([float(figure) for figure in ran.stdout.split()])
    opened_s, all_mib, own_mib, listed_s, n_encoders, n_done = np.median(figures, axis=0)
    what = f"open {n_done:,.0f} rows x {n_encoders:.0f} encoders"
    detail = f"{opened_s * 1000:.1f} ms; counting the rows of all: {listed_s * 1000:.0f} ms"
    memory = f"{own_mib:.1f} MB more than before; {all_mib:.0f} MB with Python, numpy and polars"
    return [
        Measure(measure=f"{what}, ms", value=float(opened_s) * 1000, bar=50, at_most=True, detail=detail),
        Measure(measure=f"{what}, MB resident", value=float(own_mib), bar=100, at_most=True, detail=memory),
    ]


def write(store: FeatureStore, name: str, rows: npt.NDArray[np.float16], *, n_writers: int = 1) -> None:
    """Write an encoder's rows, a chunk at a time, by one writer or by several that share the chunks."""

    def fill(number: int) -> None:
        with store.writer(name, made_by(name), row_shape=(DIM,), batch_rows=BATCH_ROWS) as writer:
            for task in writer.pending():
                if task.chunk % n_writers == number:
                    writer.append(task.start, rows[task.start : task.stop])

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(1, n_writers)]
    for thread in threads:
        thread.start()
    fill(0)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
