"""Fitting heads on s-Aff-Wild2's 168,097 labelled rows: steps, epochs and memory.

Three embeddings of 768 columns, random, in a store of their own, loaded as a whole. Each head is measured twice.

A training step of `fit` (windows shuffled and gathered, labels and masks, loss, optimiser; a few val rows scored, too)
against what cannot be saved: forward, loss, backward, clipping and optimiser on one batch in place.

An epoch of `fit` against the same module fed in the ordinary way: a Dataset that reads one window at a time from HDF5,
and a DataLoader whose workers shuffle and collate. The file was written just before and lies in the page cache.

Memory: the peak of a process of its own that opens the store and fits each head once, less the embeddings.

Scores: all of them on a table of the validation set's size, with 10,000 resamples of its videos.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from material import made_by, random_frames, random_rows
from report import Measure, Options, parse_options, report, side_by_side, wall_s
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from featurestore.store import FeatureStore
from heads.ablation.tables import plain
from heads.features.featureset import FeatureSet
from heads.features.targets import Targets
from heads.fitting.config import FitConfig
from heads.fitting.epochs import EpochReport
from heads.fitting.fit import fit
from heads.fitting.parts import Parts, head_windows
from heads.losses.config import LossConfig
from heads.losses.multitask import MultiTaskLoss
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.scoring.predictions import Predictions
from heads.scoring.scores import score

DIM = 768
ENCODERS = ("mae", "au", "v")
N_ROWS = 168_097
VIDEO_ROWS = 370  # s-Aff-Wild2's median
VAL_ROWS, N_VAL_VIDEOS, N_RESAMPLES = 26_666, 50, 10_000
N_WORKERS = 2  # of the DataLoader
SPARE_BYTES = 1_000_000_000  # what a fit may take beside the embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A head, how many rows of it are an epoch here (the slow ones take fewer), and its bars."""

    title: str
    head: HeadConfig
    n_rows: int
    step_bar: float
    epoch_bar: float
    batch_frames: int = 1024

    def of_size(self, options: Options) -> "Case":
        """The case as it is measured: in short runs heads that are not linear take fewer rows."""
        recurrent = self.head.temporal != "none"
        if not (recurrent or self.head.fuse):
            return self
        quick = replace(self, n_rows=self.n_rows // 8) if recurrent else self
        narrow = replace(self.head, temporal_width=32) if recurrent else self.head
        return options.pick(full=self, quick=quick, smoke=replace(self, n_rows=VIDEO_ROWS, head=narrow))


PLAIN = replace(plain(HeadConfig()), normalise=False)
"""The ABAW7 winner's parts alone, which every version of this benchmark has measured."""

CASES = (
    Case(
        title="linear, mae, V",
        head=replace(PLAIN, temporal="none", joint=("v",)),
        n_rows=N_ROWS,
        step_bar=0.4,
        epoch_bar=10,
    ),
    Case(
        title="linear, mae, V, 4,096 rows a step",
        head=replace(PLAIN, temporal="none", joint=("v",)),
        n_rows=N_ROWS,
        step_bar=0.4,
        epoch_bar=10,
        batch_frames=4096,
    ),
    Case(
        title="linear, mae, all tasks",
        head=replace(PLAIN, temporal="none"),
        n_rows=N_ROWS,
        step_bar=0.4,
        epoch_bar=10,
    ),
    Case(
        title="fusion, mae + au + v",
        head=replace(PLAIN, fuse=("au", "v"), temporal="none"),
        n_rows=61_440,
        step_bar=0.9,
        epoch_bar=1.5,
    ),
    Case(
        title="LSTM, mae, S = 20",
        head=PLAIN,
        n_rows=15_360,
        step_bar=0.9,
        epoch_bar=1.15,
    ),
)


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["--fit-once"]:
        fit_once(Path(sys.argv[2]), int(sys.argv[3]))
        return
    options = parse_options(__doc__ or "")
    measures = []
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "features", options.pick(full=N_ROWS, quick=20_000, smoke=5000))
        write_hdf5(store, Path(folder) / "rows.h5")
        features = FeatureSet.load(store, ENCODERS)
        for case in CASES:
            measures += measure_case(case.of_size(options), features, Path(folder) / "rows.h5", options)
        del features
        n_fitted = options.pick(full=8192, quick=8192, smoke=256)
        measures.append(measure_memory(Path(folder) / "features", len(store.frames), n_fitted))
    measures.append(measure_scores(options))
    report(measures, options)


def measure_case(case: Case, features: FeatureSet, file: Path, options: Options) -> list[Measure]:
    """A head's step against the module alone, and its epoch against a DataLoader's."""
    training = FitConfig(epochs=2, batch_frames=case.batch_frames, loss=LossConfig())
    parts = some_rows(features, min(case.n_rows, len(features.frames)))
    n_learned = int((parts.learned[:, 1] - parts.learned[:, 0]).sum())
    batch_windows = training.batch_frames // case.head.seq
    n_steps = -(-len(head_windows(features, case.head, parts.learned)) // batch_windows)
    bare = BareStep(features, case.head, training, batch_windows * case.head.seq)
    bare_s = partial(wall_s, partial(bare.run, n_steps))
    ours_s = partial(epoch_s, features, case.head, training, parts)
    ordinary = OrdinaryEpoch(features, case.head, training, parts, file)
    budget_s = options.budget_s / 4
    step = side_by_side(ours_s, bare_s, rounds=5, budget_s=budget_s)
    epoch = side_by_side(ours_s, partial(wall_s, ordinary.run), rounds=3, budget_s=budget_s)
    rates = [f"{n_learned / seconds:,.0f}" for seconds in (epoch.ours_s, step.other_s, epoch.other_s)]
    detail = "; rows a second: {} fit, {} in place, {} ordinary".format(*rates)
    rows = f"{n_learned:,} rows, {case.title}"
    return [
        Measure(
            measure=f"training steps, {rows} : module on a batch in place",
            value=step.ratio,
            bar=case.step_bar,
            detail=step.detail,
        ),
        Measure(
            measure=f"epoch, {rows} : Dataset over HDF5, {N_WORKERS} workers",
            value=epoch.ratio,
            bar=case.epoch_bar,
            detail=epoch.detail + detail,
        ),
    ]


def measure_memory(store: Path, n_frames: int, n_fitted: int) -> Measure:
    """The peak of a process that fits every head, less the embeddings, over the gigabyte it may take."""
    command = [sys.executable, __file__, "--fit-once", str(store), str(n_fitted)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    imported, peak = map(int, done.stdout.split())
    embeddings = len(ENCODERS) * n_frames * DIM * 2
    return Measure(
        measure="memory of a process that fits them all, less embeddings : 1 GB",
        value=(peak - embeddings) / SPARE_BYTES,
        bar=1.0,
        at_most=True,
        detail=f"{peak / 1e9:.2f} GB peak; {embeddings / 1e9:.2f} GB embeddings, {imported / 1e9:.2f} GB imports",
    )


def measure_scores(options: Options) -> Measure:
    """Seconds of all scores with their intervals, on a table of the validation set's size."""
    n_resamples = options.pick(full=N_RESAMPLES, quick=N_RESAMPLES, smoke=100)
    frames = random_frames({f"{number:02d}": ("val", VAL_ROWS // N_VAL_VIDEOS) for number in range(N_VAL_VIDEOS)})
    targets, n_rows = Targets.from_frames(frames), len(frames)
    rng = np.random.default_rng(0)
    predictions = Predictions(
        rows=np.arange(n_rows),
        valence=rng.uniform(-1, 1, n_rows),
        arousal=rng.uniform(-1, 1, n_rows),
        expression=rng.random((n_rows, 8)),
        action_units=rng.random((n_rows, 12)),
    )
    once = partial(score, targets, predictions, frames.video_ids(), n_resamples=n_resamples)
    return Measure(
        measure=f"seconds of P, its parts and their intervals: {n_rows:,} rows, {n_resamples:,} resamples of videos",
        value=min(wall_s(once) for _ in range(options.pick(full=5, quick=5, smoke=1))),
        bar=1.0,
        at_most=True,
    )


def fit_once(store: Path, n_rows: int) -> None:
    """Fit every head for an epoch on about `n_rows`; print the memory in bytes: with the imports, and at its peak."""
    imported = memory_bytes("VmRSS")
    opened = FeatureStore.open(store)
    features = FeatureSet.load(opened, ENCODERS)
    for case in CASES:
        fit(features, case.head, FitConfig(epochs=1, batch_frames=1024), parts=some_rows(features, n_rows))
    print(imported, memory_bytes("VmHWM"))


def memory_bytes(field: str) -> int:
    """Of this process, as Linux tells it; `ru_maxrss` of a child begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def make_store(folder: Path, n_rows: int) -> FeatureStore:
    """Random embeddings, labels and videos."""
    videos = {f"{start:06d}": ("train", min(VIDEO_ROWS, n_rows - start)) for start in range(0, n_rows, VIDEO_ROWS)}
    frames = random_frames(videos | {"val": ("val", 40)})
    store = FeatureStore.create(folder, frames)
    for seed, name in enumerate(ENCODERS):
        rows = random_rows(len(frames), DIM, seed=seed)
        with store.writer(name, made_by(name), row_shape=(DIM,)) as writer:
            for task in writer.pending():
                writer.append(task.start, rows[task.start : task.stop])
    return store


def write_hdf5(store: FeatureStore, file: Path) -> None:
    """The same embeddings as people have them: one dataset an encoder."""
    with h5py.File(file, "w") as opened:
        for name in ENCODERS:
            opened.create_dataset(name, data=store.embedding(name).load())


def some_rows(features: FeatureSet, n_rows: int) -> Parts:
    """Whole train videos of about so many rows to learn from; a small one judges, since only learning is meant."""
    train = features.frames.segments("train")
    n_videos = int(np.searchsorted(np.cumsum(train[:, 1] - train[:, 0]), n_rows)) + 1
    return Parts(train[:n_videos], features.frames.segments("val"))


def epoch_s(features: FeatureSet, head: HeadConfig, training: FitConfig, parts: Parts) -> float:
    """Seconds of a fit's second epoch: the first also sets up the optimiser's state, as no later one does."""
    reports: list[EpochReport] = []
    fit(features, head, training, parts=parts, on_epoch=reports.append)
    return reports[-1].seconds


class Learner:
    """A head's module, its loss and its optimiser."""

    def __init__(self, head: HeadConfig, training: FitConfig, device: torch.device) -> None:
        self.head = head
        self.model = HeadModel(head, dict.fromkeys(head.encoders, (DIM,))).to(device).train()
        self.loss = MultiTaskLoss(weights=training.weights, config=training.loss)
        self.loss.prepare(head.joint, device)
        self.clip = training.gradient_clip
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )

    def step(self, inputs: list[Tensor], targets: dict[str, Tensor], valid: dict[str, Tensor]) -> Tensor:
        """One step; its loss, still on the device."""
        total, _ = self.loss(self.model(inputs), targets, valid)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return total.detach()


class BareStep(Learner):
    """Steps on one batch in place."""

    def __init__(self, features: FeatureSet, head: HeadConfig, training: FitConfig, batch_rows: int) -> None:
        super().__init__(head, training, features.device)
        shape = (batch_rows // head.seq, head.seq)
        self.inputs = [torch.randn(*shape, DIM, device=features.device) for _ in head.encoders]  # (B, S, D), float32
        labels = {task: features.target_tensors[task] for task in head.joint}
        self.targets = {task: y[:batch_rows].reshape(*shape, *y.shape[1:]).clone() for task, (y, _) in labels.items()}
        self.valid = {task: m[:batch_rows].reshape(*shape, *m.shape[1:]).clone() for task, (_, m) in labels.items()}

    def run(self, n_steps: int) -> float:
        """Take steps; their losses are read at the end, as fit does."""
        totals = [self.step(self.inputs, self.targets, self.valid) for _ in range(n_steps)]
        return float(torch.stack(totals).mean())


class HdfWindows(Dataset[tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]]):
    """One window at a time, as it is commonly written: rows from HDF5, labels from arrays."""

    def __init__(self, features: FeatureSet, head: HeadConfig, parts: Parts, file: Path) -> None:
        self.file, self.names, self.seq = file, head.encoders, head.seq
        # Every row once, as in a fit; in place of padding a video's last window reaches back.
        self.starts = [
            min(row, stop - self.seq) for start, stop in parts.learned.tolist() for row in range(start, stop, self.seq)
        ]
        self.labels = {task: tuple(map(torch.from_numpy, features.targets.of(task))) for task in head.joint}
        self.opened: h5py.File | None = None  # an open file does not go through a fork

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
        if self.opened is None:
            self.opened = h5py.File(self.file, "r")
        rows = slice(self.starts[number], self.starts[number] + self.seq)
        inputs = [torch.from_numpy(self.opened[name][rows].astype(np.float32)) for name in self.names]
        targets = {task: target[rows] for task, (target, _) in self.labels.items()}
        return inputs, targets, {task: valid[rows] for task, (_, valid) in self.labels.items()}


class OrdinaryEpoch(Learner):
    """An epoch of the same module, fed by a DataLoader."""

    def __init__(self, features: FeatureSet, head: HeadConfig, training: FitConfig, parts: Parts, file: Path) -> None:
        super().__init__(head, training, features.device)
        self.device = features.device
        self.loader = DataLoader(
            HdfWindows(features, head, parts, file),
            batch_size=training.batch_frames // head.seq,
            shuffle=True,
            num_workers=N_WORKERS,
            persistent_workers=True,
            pin_memory=self.device.type == "cuda",
        )

    def run(self) -> float:
        """One epoch; the workers live on, so only the first pays for their start."""
        totals = []
        for inputs, targets, valid in self.loader:
            placed = [each.to(self.device, non_blocking=True) for each in inputs]
            on_device = [
                {task: each.to(self.device, non_blocking=True) for task, each in labels.items()}
                for labels in (targets, valid)
            ]
            totals.append(self.step(placed, *on_device))
        return float(torch.stack(totals).mean())


if __name__ == "__main__":
    main()
