"""Embeddings that are streamed: the same rows, scores within the seeds' noise, and memory within the budget."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

import featurestore.stream
from featurestore.errors import ConfigError, MissingEmbeddingsError
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.features.windows import window_index
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.fitting.predict import predict
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.runs.run import Run

MakeFrames = Callable[..., FrameTable]
MakeVectors = Callable[..., NDArray[np.float32]]
AddEncoder = Callable[..., None]


def open_both(store: FeatureStore, names: Sequence[str], memory_bytes: int) -> tuple[FeatureSet, FeatureSet]:
    loaded = FeatureSet.load(store, names, device="cpu")
    streamed = FeatureSet.load(store, names, device="cpu", memory_bytes=memory_bytes)
    assert loaded.placement is not None
    assert streamed.placement is not None
    assert (loaded.placement.kind, streamed.placement.kind) == ("loaded", "streamed")
    return loaded, streamed


def test_what_fits_is_loaded_and_what_does_not_is_streamed(store: FeatureStore) -> None:
    n_bytes = 2 * len(store.frames) * 16 * 2
    assert FeatureSet.load(store, ("mae", "au"), device="cpu", memory_bytes=n_bytes).placement.kind == "loaded"
    streamed = FeatureSet.load(store, ("mae", "au"), device="cpu", memory_bytes=n_bytes - 1)
    assert streamed.placement is not None
    assert (streamed.placement.needed_bytes, streamed.placement.stream_bytes) == (n_bytes, n_bytes - 1)
    assert streamed.names == ("mae", "au")
    assert streamed.shapes(("au",)) == {"au": (16,)}
    assert streamed.usable(("mae", "au")).all()


@pytest.mark.parametrize("split", ["train", "val"])
def test_predictions_are_those_of_loaded_embeddings(store: FeatureStore, split: str) -> None:
    loaded, streamed = open_both(store, ("mae", "au"), 6000)
    head = HeadConfig(fuse=("au",), seq=8, window=3)
    torch.manual_seed(0)
    model = HeadModel(head, dict.fromkeys(head.encoders, (16,)))
    whole, part = (predict(model, features, split=split) for features in (loaded, streamed))
    assert whole.rows.tolist() == part.rows.tolist()
    assert whole.expression is not None
    assert whole.expression == pytest.approx(part.expression, abs=1e-6)
    assert whole.valence == pytest.approx(part.valence, abs=1e-6)


def test_an_epoch_is_every_window_once_with_its_rows(store: FeatureStore) -> None:
    loaded, streamed = open_both(store, ("mae", "au"), 17_000)
    rows = window_index(store.frames.segments("train"), length=5, step=2).rows
    for features in (loaded, streamed):
        reader = features.windows(("au", "mae"), rows, batch_windows=6, seed=1)
        orders = []
        for _ in range(2):
            picked = []
            for batch in reader.epoch():
                assert torch.equal(batch.rows, torch.from_numpy(rows)[batch.picked])
                for name, vectors in zip(("au", "mae"), batch.inputs, strict=True):
                    assert vectors.dtype == torch.float32
                    assert np.array_equal(vectors.numpy(), store.embedding(name).gather(batch.rows.numpy()))
                picked += batch.picked.tolist()
            assert sorted(picked) == list(range(len(rows)))
            orders.append(tuple(picked))
        assert orders[0] != orders[1]
        again = features.windows(("au", "mae"), rows, batch_windows=6, seed=1).epoch()
        assert tuple(number for batch in again for number in batch.picked.tolist()) == orders[0]


def test_loaded_windows_are_shuffled_by_one_generator(features: FeatureSet) -> None:
    rows = window_index(features.frames.segments("train"), length=5, step=5).rows
    reader = features.windows(("mae",), rows, batch_windows=6, seed=3)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):  # the second epoch goes on where the first ended
        expected = torch.randperm(len(rows), generator=generator)
        assert torch.equal(torch.cat([batch.picked for batch in reader.epoch()]), expected)


def test_failed_rows_are_zero_and_unusable(
    tmp_path: Path, make_frames: MakeFrames, label_vectors: MakeVectors, add_encoder: AddEncoder
) -> None:
    frames = make_frames({"a": ("train", 150), "b": ("val", 90)}, unlabelled=0)
    made = FeatureStore.create(tmp_path / "features", frames)
    add_encoder(made, "mae", label_vectors(frames), failures={3: "unreadable", 70: "unreadable", 155: "unreadable"})
    add_encoder(made, "au", label_vectors(frames), failures={5: "unreadable"})
    loaded, streamed = open_both(made, ("mae", "au"), 14_000)
    for names in (("mae",), ("au",), ("mae", "au")):
        assert np.array_equal(streamed.usable(names), loaded.usable(names))
    rows = window_index(frames.segments(), length=4, step=2).rows
    for batch in streamed.windows(("mae", "au"), rows, batch_windows=5).epoch():
        for name, vectors in zip(("mae", "au"), batch.inputs, strict=True):
            assert torch.equal(vectors, loaded.embeddings[name][batch.rows].float())
            assert torch.isfinite(vectors).all()
    head = HeadConfig(fuse=("au",), seq=4)
    fitted = fit(streamed, head, FitConfig(epochs=1, batch_frames=16))
    assert np.flatnonzero(~fitted.predictions.predicted()).tolist() == [5]


def test_the_same_seed_and_budget_give_the_same_bits(store: FeatureStore) -> None:
    head, training = HeadConfig(fuse=("au", "v"), seq=8, window=4), FitConfig(epochs=2, batch_frames=32)
    streamed = open_both(store, ("mae", "au", "v"), 26_000)[1]
    first, second = (fit(streamed, head, training) for _ in range(2))
    weights = first.model.state_dict()
    assert all(torch.equal(value, second.model.state_dict()[name]) for name, value in weights.items())
    assert first.scores.as_dict() == second.scores.as_dict()


def test_a_run_of_either_is_judged_on_either(tmp_path: Path, store: FeatureStore) -> None:
    loaded, streamed = open_both(store, ("mae",), 8000)
    head = HeadConfig(seq=8)
    run = Run.from_fit(fit(streamed, head, FitConfig(epochs=1, batch_frames=16)), streamed)
    run.save(tmp_path / "r")
    for features in (loaded, streamed):
        assert Run.load(tmp_path / "r").evaluate(features).as_dict()["P"] == pytest.approx(run.metrics["P"], abs=1e-6)


def test_refusals(tmp_path: Path, store: FeatureStore, make_frames: MakeFrames, label_vectors: MakeVectors) -> None:
    streamed = open_both(store, ("mae",), 2000)[1]
    with pytest.raises(ConfigError, match=r"Streaming mae .* takes at least .* but the budget is 2kB\. Give --memory "):
        fit(streamed, HeadConfig(seq=8), FitConfig(epochs=1))
    with pytest.raises(ConfigError, match=r"stateful head .* embeddings are streamed, which shuffles"):
        fit(open_both(store, ("mae",), 6000)[1], HeadConfig(seq=8, stateful=True), FitConfig(epochs=1))
    frames = make_frames({"a": ("train", 70)})
    made = FeatureStore.create(tmp_path / "features", frames)
    with made.writer("mae", store.embedding("mae").provenance, row_shape=(16,), chunk_rows=64) as writer:
        writer.append(0, label_vectors(frames)[:10])
    with pytest.raises(MissingEmbeddingsError, match=r"10 of 70 rows .*abaw extract --encoder mae"):
        FeatureSet.load(made, ("mae",), device="cpu", memory_bytes=100)


N_TRAIN, N_VAL = 48, 12


@pytest.fixture
def drifting(tmp_path: Path, make_frames: MakeFrames, add_encoder: AddEncoder) -> FeatureStore:
    """A store whose later train videos are rated higher: who sees them last, or not at all, predicts val badly."""
    videos = {f"t{i:02d}": ("train", 64) for i in range(N_TRAIN)} | {f"v{i:02d}": ("val", 64) for i in range(N_VAL)}
    frames = make_frames(videos, unlabelled=0)
    rng = np.random.default_rng(0)
    signal = rng.normal(size=len(frames))
    video = frames.video_ids()
    drift = np.where(video < N_TRAIN, np.where(video < N_TRAIN // 2, -0.2, 0.2), 0)
    valence = np.clip(signal / 4 + drift, -1, 1).astype(np.float32)
    made = FeatureStore.create(
        tmp_path / "features", FrameTable(frames.data.with_columns(pl.Series("valence", valence)))
    )
    mixing = rng.normal(size=(1, 16)) / 2
    add_encoder(made, "mae", (signal[:, None] @ mixing + 0.5 * rng.normal(size=(len(frames), 16))).astype(np.float32))
    return made


def final_scores(features: FeatureSet) -> NDArray[np.float64]:
    """CCC of valence on val after the last epoch, not the best one, of three seeds."""
    head = HeadConfig(temporal="none", seq=4, joint=("v",), normalise=False, hidden=())
    fits = [
        fit(features, head, FitConfig(epochs=5, batch_frames=64, learning_rate=2e-2, select="v", seed=seed))
        for seed in (1, 2, 3)
    ]
    return np.array([fitted.curve[-1].scores["ccc_valence"] for fitted in fits])


def are_within_noise(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether two means differ by less than three standard errors of their difference."""
    error = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / len(first))
    return bool(abs(first.mean() - second.mean()) < 3 * error)


def test_scores_are_those_of_loaded_embeddings_within_noise(
    drifting: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for eight chunks of 48 beside the batches: six buffers an epoch.
    loaded, streamed = open_both(drifting, ("mae",), 8 * 64 * 32 + 64 * 16 * (2 * 2 + 2 * 4))
    expected = final_scores(loaded)
    assert are_within_noise(final_scores(streamed), expected)
    # The same test tells a stream that does not draw the chunks at random, and one that leaves some out.
    deal = featurestore.stream._deal
    monkeypatch.setattr("featurestore.stream._deal", lambda order, *rest: deal(np.sort(order), *rest))
    assert not are_within_noise(final_scores(streamed), expected)
    monkeypatch.setattr("featurestore.stream._deal", lambda order, *rest: deal(order[order < N_TRAIN // 2], *rest))
    assert not are_within_noise(final_scores(streamed), expected)


FIT_AND_TELL = """
import ctypes, gc, json, pathlib, sys
import torch
from featurestore.store import FeatureStore
from heads.fitting.config import FitConfig
from heads.modules.config import HeadConfig
from heads.features.featureset import FeatureSet
from heads.fitting.fit import fit

def kept_bytes(field):
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith(field))

def took_bytes(encoder, memory_bytes):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = kept_bytes("VmRSS:")
    features = FeatureSet.load(store, (encoder,), device="cpu", memory_bytes=memory_bytes)
    # What is measured is the embeddings: no weights that grow with the columns.
    head = HeadConfig(encoder=encoder, temporal="none", seq=4, joint=("v",), hidden=())
    fit(features, head, FitConfig(epochs=1, batch_frames=256))
    return kept_bytes("VmHWM:") - before

torch.set_num_threads(1)
store = FeatureStore.open(pathlib.Path(sys.argv[1]))
fits = [("small", 1 << 30), ("large", int(sys.argv[2]))]
for fitted in fits:  # brings in whatever code they run
    took_bytes(*fitted)
print(json.dumps([took_bytes(*fitted) for fitted in [*fits, ("large", 1 << 30)]]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of resident memory from /proc")
def test_the_peak_of_a_fit_stays_within_the_budget(
    tmp_path: Path, make_frames: MakeFrames, add_encoder: AddEncoder
) -> None:
    budget, n_frames = 8 << 20, 24_000
    frames = make_frames({"a": ("train", n_frames * 3 // 4), "b": ("val", n_frames // 4)}, unlabelled=0)
    made = FeatureStore.create(tmp_path / "features", frames)
    block = np.tile(np.random.default_rng(0).normal(size=(1000, 768)).astype(np.float16), (n_frames // 1000, 1))
    add_encoder(made, "large", block, chunk_rows=1024)  # 37 MB
    add_encoder(made, "small", block[:, :8], chunk_rows=1024)  # the same frames and labels
    command = [sys.executable, "-c", FIT_AND_TELL, str(tmp_path / "features"), str(budget)]
    # What is freed goes back to the system; by default malloc keeps up to twice the largest array that was freed.
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": str(128 << 10)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    small, streamed, loaded = json.loads(done.stdout)
    assert streamed - small < budget + (2 << 20)
    assert loaded - small > 30 << 20  # or the other would say nothing
