"""A training step of `fit` against the same module on a batch that is already in place.

Fit's side is an epoch of ``fit`` as it reports it: shuffled windows, rows gathered from the embeddings, labels
and masks, the loss, the optimiser, and the scoring of a val split that is kept small, since only training is meant.
The other side is what cannot be saved: forward, loss, backward, clipping and optimiser on one batch, over and over.

Below it, for the head that reads most: an epoch on embeddings that are streamed from the store, in half of what they
take and a batch, against the epoch on loaded ones. Their rows are read from the page cache.

It is called fit.py, not heads.py: run as a script, a heads.py here would hide the package of that name.
"""

import tempfile
from functools import partial
from pathlib import Path

import torch
from material import made_by, random_frames, random_rows
from report import Measure, parse_options, report, side_by_side, wall_s
from torch import nn

from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.epochs import EpochReport
from heads.fitting.fit import fit
from heads.losses.multitask import MultiTaskLoss
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel

DIM = 768
N_VAL = 40
HEADS = {
    "fusion head, mae + au + v": HeadConfig(encoder="mae", fuse=("au", "v"), temporal="none"),
    "LSTM head, mae, S = 20": HeadConfig(encoder="mae", temporal="lstm"),
}
LOADED_BAR, STREAMED_BAR = 0.9, 0.8
N_STEPS, N_STEPS_QUICK = {"none": 60, "lstm": 15}, {"none": 12, "lstm": 6}  # by temporal module: an LSTM's cost more


def main() -> None:
    """Measure and report."""
    options = parse_options(__doc__ or "")
    training = FitConfig(epochs=2)
    measures = []
    for name, head in HEADS.items():
        n_steps = (N_STEPS_QUICK if options.quick else N_STEPS)[head.temporal]
        batch_rows = training.batch_frames // head.seq * head.seq  # whole windows
        with tempfile.TemporaryDirectory() as folder:
            store = make_store(Path(folder) / "features", head, n_steps * batch_rows)
            features, streamed = load_and_stream(store, head, batch_rows)
            loaded_s = partial(epoch_s, features, head, training)
            bare_s = partial(wall_s, partial(BareStep(features, head, training, batch_rows).run, n_steps))
            steps = f"{n_steps} training steps of {batch_rows} x {DIM}, {name}"
            compared = [(f"{steps} : module alone", loaded_s, bare_s, LOADED_BAR)]
            if head.fuse:  # three encoders and cheap steps: where reading weighs most
                streamed_s = partial(epoch_s, streamed, head, training)
                compared.append((f"{steps}, streamed : loaded", streamed_s, loaded_s, STREAMED_BAR))
            for what, ours_s, other_s, bar in compared:
                pair = side_by_side(ours_s, other_s, rounds=5, budget_s=options.budget_s / len(compared))
                measures.append(Measure(measure=what, value=pair.ratio, bar=bar, detail=pair.detail))
    report(measures, options)


def make_store(folder: Path, head: HeadConfig, n_train: int) -> FeatureStore:
    """Random embeddings of a head's encoders, in a store of small chunks, so that a small budget holds several."""
    frames = random_frames({"train": ("train", n_train), "val": ("val", N_VAL)})
    store = FeatureStore.create(folder, frames)
    for seed, name in enumerate(head.encoders):
        rows = random_rows(len(frames), DIM, seed=seed)
        with store.writer(name, made_by(name), row_shape=(DIM,), chunk_rows=256, batch_rows=256) as writer:
            for task in writer.pending():
                writer.append(task.start, rows[task.start : task.stop])
    return store


def load_and_stream(store: FeatureStore, head: HeadConfig, batch_rows: int) -> tuple[FeatureSet, FeatureSet]:
    """The same embeddings, loaded as a whole, and streamed."""
    n_bytes = len(head.encoders) * len(store.frames) * DIM * 2
    batch_bytes = len(head.encoders) * batch_rows * DIM * (2 + 4)  # as stored, and cast
    return (
        FeatureSet.load(store, head.encoders, memory_bytes=n_bytes),
        FeatureSet.load(store, head.encoders, memory_bytes=n_bytes // 2 + batch_bytes),
    )


def epoch_s(features: FeatureSet, head: HeadConfig, training: FitConfig) -> float:
    """Seconds of a fit's second epoch: the first also sets up the optimiser's state, as no later one does."""
    reports: list[EpochReport] = []
    fit(features, head, training, on_epoch=reports.append)
    return reports[-1].seconds


class BareStep:
    """The module, its loss and its optimiser on one batch in place."""

    def __init__(self, features: FeatureSet, head: HeadConfig, training: FitConfig, batch_rows: int) -> None:
        device, shape = features.device, (batch_rows // head.seq, head.seq)
        self.model = HeadModel(head, dict.fromkeys(head.encoders, (DIM,))).to(device).train()
        self.inputs = [torch.randn(*shape, DIM, device=device) for _ in head.encoders]  # (B, S, D), float32
        labels = {task: features.target_tensors[task] for task in head.joint}
        self.targets = {task: y[:batch_rows].reshape(*shape, *y.shape[1:]).clone() for task, (y, _) in labels.items()}
        self.valid = {task: m[:batch_rows].reshape(*shape, *m.shape[1:]).clone() for task, (_, m) in labels.items()}
        self.loss = MultiTaskLoss(weights=training.weights)
        self.clip = training.gradient_clip
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )

    def run(self, n_steps: int) -> float:
        """Take steps; their losses are read at the end, as fit does."""
        totals = []
        for _ in range(n_steps):
            total, _ = self.loss(self.model(self.inputs), self.targets, self.valid)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(total)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            totals.append(total.detach())
        return float(torch.stack(totals).mean())


if __name__ == "__main__":
    main()
