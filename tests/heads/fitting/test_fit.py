import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from featurestore.errors import ConfigError, PrecisionError, ShapeError
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.features.batches import Batch
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig, picks_of
from heads.fitting.epochs import EpochReport
from heads.fitting.fit import FittedHead, fit, fit_each
from heads.fitting.optimising import Optimizer
from heads.fitting.parts import Parts
from heads.fitting.predict import predict
from heads.fitting.trainer import Trainer
from heads.losses.config import LossConfig
from heads.losses.multitask import MultiTaskLoss
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.modules.outputs import TaskOutput
from heads.runs.probe import fit_probe
from heads.scoring.scores import combine

MakeFrames = Callable[..., FrameTable]
MakeVectors = Callable[..., NDArray[np.float32]]
AddEncoder = Callable[..., None]
Build = Callable[[FrameTable, Mapping[str, NDArray[np.float32]]], FeatureSet]

VIDEOS = {f"{split[0]}{i}": (split, 80) for split, n in (("train", 8), ("val", 4)) for i in range(n)}


def score_of(fitted: FittedHead, part: str) -> float:
    found = fitted.scores.as_dict()[part]
    assert isinstance(found, dict)
    value = found["score"]
    assert isinstance(value, float)
    return value


def test_learns_all_four_tasks(new_features: Build, make_frames: MakeFrames, label_vectors: MakeVectors) -> None:
    frames = make_frames(VIDEOS, smooth=5)
    features = new_features(frames, {"mae": label_vectors(frames, dim=32)})
    reports: list[EpochReport] = []
    head = HeadConfig(temporal="none", seq=4, normalise=False, hidden=())
    training = FitConfig(epochs=25, batch_frames=128, learning_rate=3e-2, loss=LossConfig(), select="p")
    fitted = fit(features, head, training, on_epoch=reports.append)
    assert fitted.scores.p is not None
    assert fitted.scores.p.score > fitted.scores.p.trivial + 1.2
    for part in ("ccc_valence", "ccc_arousal", "f1_expression"):
        assert score_of(fitted, part) > 0.6
    assert reports == list(fitted.curve)
    assert reports[-1].loss < reports[0].loss / 2
    best = max(reports, key=lambda report: report.selected)
    assert (fitted.epoch, fitted.selected_on) == (best.epoch, "val")
    assert best.selected == pytest.approx(fitted.scores.p.score)
    assert set(best.task_losses) == {"au", "expr", "v", "a"}
    assert best.loss == pytest.approx(sum(best.task_losses.values()), rel=1e-4)


@pytest.mark.parametrize("asked", [None, 0.4])
def test_many_rows_take_less_dropout(
    asked: float | None,
    new_features: Build,
    make_frames: MakeFrames,
    label_vectors: MakeVectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = make_frames(VIDEOS, smooth=5)
    features = new_features(frames, {"mae": label_vectors(frames, dim=8)})
    head = HeadConfig(temporal="none", seq=1, hidden_dropout=asked)

    def dropout() -> set[float]:
        model = HeadModel(head, features.shapes(head.encoders))
        Trainer(model, features, FitConfig(), Parts.of_splits(features))
        layers = [layer for part in model.modules() if isinstance(part, TaskOutput) for layer in part.layers]
        return {layer.p for layer in layers if isinstance(layer, torch.nn.Dropout)}

    assert dropout() == {asked or 0.5}
    monkeypatch.setattr("heads.modules.config.FEW_ROWS", 8)
    monkeypatch.setattr("heads.modules.config.MANY_ROWS", 256)
    assert dropout() == {0.0 if asked is None else asked}


@pytest.mark.parametrize(("n_rows", "dropout"), [(0, 0.5), (2000, 0.5), (7071, 0.25), (25_000, 0), (200_000, 0)])
def test_dropout_falls_with_the_logarithm_of_the_rows(n_rows: int, dropout: float) -> None:
    assert HeadConfig().dropout_for(n_rows) == pytest.approx(dropout, abs=1e-5)
    assert HeadConfig(hidden_dropout=0.3).dropout_for(n_rows) == 0.3


def test_the_default_fit_ends_by_itself_beside_what_a_linear_model_knows(
    new_features: Build, make_frames: MakeFrames, label_vectors: MakeVectors
) -> None:
    frames = make_frames(VIDEOS, smooth=5)
    features = new_features(frames, {"mae": label_vectors(frames, dim=32)})
    head = HeadConfig(temporal="none", seq=1)
    fitted = fit(features, head, FitConfig())
    schedule, n_epochs = fitted.schedule, len(fitted.curve)
    # 640 rows, of which nearly each has a label: 32 a step, 20 steps an epoch, up to 200 epochs.
    assert (schedule.steps_per_epoch, schedule.epochs, schedule.patience) == (20, 200, 15)
    assert n_epochs == fitted.epoch + 15 < schedule.epochs
    assert n_epochs * schedule.steps_per_epoch > 400
    assert fitted.scores.p is not None
    probe = fit_probe(features, head)
    assert probe is not None
    assert probe.p is not None
    # The structure is linear: nothing could be better than the probe, and the head is not far below it.
    assert probe.p.score > fitted.scores.p.trivial + 2
    assert fitted.scores.p.score > probe.p.score - 0.25


def past_frames(make_frames: MakeFrames, delay: int) -> tuple[FrameTable, NDArray[np.float32]]:
    """Valence now is what the embedding held `delay` rows ago."""
    frames = make_frames(VIDEOS, unlabelled=0)
    rng = np.random.default_rng(0)
    signal = np.zeros(len(frames), dtype=np.float32)
    target = np.zeros(len(frames), dtype=np.float32)
    for start, stop in frames.segments():
        signal[start:stop] = rng.uniform(-0.9, 0.9, stop - start)
        target[start + delay : stop] = signal[start : stop - delay]
    table = FrameTable(frames.data.with_columns(pl.Series("valence", target)))
    mixing = rng.normal(size=(1, 16))
    return table, (signal[:, None] @ mixing + 0.05 * rng.normal(size=(len(frames), 16))).astype(np.float32)


def test_an_lstm_sees_the_past_and_a_frame_does_not(new_features: Build, make_frames: MakeFrames) -> None:
    frames, vectors = past_frames(make_frames, delay=1)
    features = new_features(frames, {"mae": vectors})
    training = FitConfig(epochs=60, batch_frames=160, learning_rate=1e-2, select="v")
    single = fit(features, HeadConfig(temporal="none", seq=1, joint=("v",)), training)
    lstm = fit(features, HeadConfig(seq=10, joint=("v",)), training)
    assert score_of(single, "ccc_valence") < 0.2
    assert score_of(lstm, "ccc_valence") > 0.6


def test_fusion_joins_what_two_encoders_know(new_features: Build, make_frames: MakeFrames) -> None:
    frames = make_frames(VIDEOS, unlabelled=0)
    rng = np.random.default_rng(0)
    parts = rng.uniform(-0.5, 0.5, (len(frames), 2)).astype(np.float32)
    table = FrameTable(frames.data.with_columns(pl.Series("valence", parts.sum(axis=1))))
    encoders = {name: (parts[:, [i]] @ rng.normal(size=(1, 16))).astype(np.float32) for i, name in enumerate("xy")}
    features = new_features(table, encoders)
    training = FitConfig(epochs=15, batch_frames=64, learning_rate=5e-3, select="v")
    base = fit(features, HeadConfig(encoder="x", temporal="none", seq=1, joint=("v",)), training)
    fused = fit(features, HeadConfig(encoder="x", fuse=("y",), temporal="none", seq=1, joint=("v",)), training)
    assert score_of(base, "ccc_valence") < 0.8
    assert score_of(fused, "ccc_valence") > 0.95


def test_the_same_seed_gives_the_same_bits(features: FeatureSet) -> None:
    head = HeadConfig(fuse=("au", "v"), seq=8, window=4)
    training = FitConfig(epochs=2, batch_frames=256, learning_rate=1e-2)
    before = torch.random.get_rng_state()
    first = fit(features, head, training)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    second = fit(features, head, training)
    other = fit(features, head, replace(training, seed=2))
    weights = first.model.state_dict()
    assert all(torch.equal(value, second.model.state_dict()[name]) for name, value in weights.items())
    assert first.scores.as_dict() == second.scores.as_dict()
    pairs = zip(first.model.parameters(), other.model.parameters(), strict=True)
    assert not any(torch.equal(one, two) for one, two in pairs)


def test_the_best_epochs_weights_are_kept(features: FeatureSet) -> None:
    head = HeadConfig(temporal="none", seq=1, joint=("v", "a"))
    # A rate this wild makes the last epoch a bad one.
    wild = FitConfig(epochs=12, learning_rate=0.5, batch_frames=32, select="p")
    fitted = fit(features, head, wild)
    assert fitted.epoch < 12
    again = fit(features, head, replace(wild, epochs=fitted.epoch))
    assert again.scores.as_dict() == fitted.scores.as_dict()
    parts = {part: each.score for part, each in fitted.scores.parts.items() if each is not None}
    assert combine(parts) == pytest.approx(max(report.selected for report in fitted.curve))
    refreshed = predict(fitted.model, features).valence
    assert refreshed is not None
    assert (refreshed == fitted.predictions.valence).all()


def test_the_named_task_picks_the_epoch(features: FeatureSet) -> None:
    head = HeadConfig(temporal="none", seq=1, joint=("au", "v", "a"))
    wild = FitConfig(epochs=12, learning_rate=0.5, batch_frames=32)
    picked = {}
    for select, part in (("au", "f1_au"), ("v", "ccc_valence"), ("a", "ccc_arousal")):
        fitted = fit(features, head, replace(wild, select=select))
        scores = [report.scores[part] for report in fitted.curve]
        picked[select] = fitted.epoch
        assert fitted.epoch == 1 + scores.index(max(scores))
        assert score_of(fitted, part) == pytest.approx(max(scores))
    assert len(set(picked.values())) > 1


def test_tasks_that_share_nothing_keep_an_epoch_each(features: FeatureSet) -> None:
    head = HeadConfig(temporal="none", seq=1, joint=("au", "v", "a"))
    wild = FitConfig(epochs=12, learning_rate=0.5, batch_frames=32)
    fitted = fit(features, head, wild)
    assert len(set(fitted.epochs.values())) > 1
    assert fitted.epoch == max(fitted.epochs.values())
    for task in head.joint:
        alone = fit(features, head, replace(wild, select=task))
        assert alone.epochs == dict.fromkeys(head.joint, fitted.epochs[task])
        assert np.array_equal(fitted.predictions.of(task), alone.predictions.of(task))
        kept, own = fitted.model.state_dict(), alone.model.state_dict()
        mine = [name for name in own if f".{task}." in name]
        assert len(mine) == (7 if task == "au" else 4)  # two layers; of action units a linear path and its centre
        assert all(torch.equal(kept[name], own[name]) for name in mine)
    refreshed = predict(fitted.model, features)
    assert all(np.array_equal(refreshed.of(task), fitted.predictions.of(task)) for task in head.joint)
    # Whoever asks for one epoch gets it.
    whole = fit(features, head, replace(wild, select="p"))
    assert len(set(whole.epochs.values())) == 1
    assert whole.scores.as_dict() != fitted.scores.as_dict()


@pytest.mark.parametrize(
    "changed",
    [
        {"temporal": "lstm", "seq": 4},
        {"temporal": "lstm", "seq": 4, "stateful": True},
        {"fuse": ("au",), "fusion": "concat", "width": 8},
    ],
    ids=str,
)
def test_of_shared_layers_each_task_keeps_a_copy_of_its_epoch(features: FeatureSet, changed: dict[str, object]) -> None:
    head = replace(HeadConfig(temporal="none", seq=1, joint=("au", "v", "a")), **changed)  # type: ignore[arg-type]
    wild = FitConfig(epochs=12, learning_rate=0.1, batch_frames=32)
    fitted = fit(features, head, wild)
    assert len(set(fitted.epochs.values())) > 1
    for task in head.joint:
        alone = fit(features, head, replace(wild, select=task))
        assert alone.epochs == dict.fromkeys(head.joint, fitted.epochs[task])
        assert np.array_equal(fitted.predictions.of(task), alone.predictions.of(task))
    refreshed = predict(fitted.model, features)
    assert all(np.array_equal(refreshed.of(task), fitted.predictions.of(task)) for task in head.joint)
    assert fitted.head == head.resolved()  # what was asked for, whatever is kept
    whole = fit(features, head, replace(wild, select="p"))
    assert len(set(whole.epochs.values())) == 1
    assert whole.n_parameters == whole.model.n_parameters() == fitted.n_parameters < fitted.model.n_parameters()


@pytest.mark.parametrize(
    "changed",
    [
        {"fuse": ("au",), "fusion": "late"},
        {"temporal": "lstm", "framework": "share-bottom", "seq": 4},
        {"framework": "hidden-feedback", "feedback_from": ("v",)},
    ],
    ids=str,
)
def test_tasks_that_cannot_be_separated_keep_one_epoch(changed: dict[str, object]) -> None:
    head = replace(HeadConfig(temporal="none", seq=1, joint=("v", "a")), **changed)  # type: ignore[arg-type]
    assert picks_of(head, "auto") == {"v": "p", "a": "p"}
    with pytest.raises(
        ConfigError, match=r"An epoch for each task .* they cannot with (fusion|framework) '.*'\. Choose another"
    ):
        picks_of(head, "each")
    with pytest.raises(ConfigError, match="cannot be separated"):
        HeadModel(head, {"mae": (8,), "au": (8,)}).separated()


@pytest.mark.parametrize(
    "changed",
    [{}, {"fuse": ("au",), "fusion": "concat"}, {"framework": "per-task", "temporal": "lstm", "seq": 4}],
    ids=str,
)
def test_every_weight_of_tasks_that_share_nothing_is_one_tasks(changed: dict[str, object]) -> None:
    head = replace(HeadConfig(temporal="none", seq=1, joint=("v", "a")), **changed)  # type: ignore[arg-type]
    weights = HeadModel(head, {"mae": (8,), "au": (8,)}).named_parameters()
    assert all(len({"v", "a"} & set(name.split("."))) == 1 for name, _ in weights)
    assert picks_of(head, "auto") == picks_of(head, "each") == {"v": "v", "a": "a"}


def test_a_task_that_val_has_no_labels_of_keeps_the_epoch_of_the_others(
    new_features: Build, make_frames: MakeFrames, label_vectors: MakeVectors
) -> None:
    frames = make_frames(VIDEOS)
    vectors = {"mae": label_vectors(frames)}
    at_val = pl.col("split") == "val"
    bare = FrameTable(frames.data.with_columns(valence=pl.when(at_val).then(None).otherwise("valence")))
    features = new_features(bare, vectors)
    head = HeadConfig(temporal="none", seq=1, joint=("v", "a"))
    fitted = fit(features, head, FitConfig(epochs=8, learning_rate=0.3, batch_frames=32))
    assert fitted.epochs["v"] == fitted.epochs["a"]
    assert fitted.scores.parts["ccc_valence"] is None


def test_given_epochs_are_kept_and_nothing_is_looked_at(features: FeatureSet) -> None:
    head = HeadConfig(temporal="none", seq=1, joint=("v", "a"))
    training = FitConfig(epochs=9, batch_frames=64)
    fitted = fit(features, head, training, epochs={"v": 2, "a": 4})
    assert (fitted.epochs, fitted.epoch, fitted.selected_on) == ({"v": 2, "a": 4}, 4, "last")
    assert [(report.scores, report.is_best) for report in fitted.curve] == [
        ({}, False),
        ({}, True),
        ({}, False),
        ({}, True),
    ]
    ended = fit(features, head, replace(training, epochs=2, select_on="last"))
    assert np.array_equal(fitted.predictions.of("v"), ended.predictions.of("v"))
    assert not np.array_equal(fitted.predictions.of("a"), ended.predictions.of("a"))


def test_windows_are_shuffled_and_each_label_counts_once(features: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    counted: list[int] = []

    class Spy(MultiTaskLoss):
        def __call__(self, outputs, targets, valid):  # type: ignore[no-untyped-def]
            counted.append(int(valid["v"].sum()))
            return MultiTaskLoss.__call__(self, outputs, targets, valid)

    step = Trainer._step

    def spy(trainer: Trainer, batch: Batch, outputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(batch.rows)
        return step(trainer, batch, outputs)

    monkeypatch.setattr("heads.fitting.trainer.Trainer._step", spy)
    monkeypatch.setattr("heads.fitting.trainer.MultiTaskLoss", Spy)
    fit(features, HeadConfig(seq=7, joint=("v",)), FitConfig(epochs=2, batch_frames=35))
    half = len(seen) // 2
    first, second = (torch.cat(part)[:, 0].tolist() for part in (seen[:half], seen[half:]))
    assert sorted(first) == sorted(second) == sorted(set(first))
    assert len({tuple(first), tuple(second), tuple(sorted(first))}) == 3
    train = features.frames.rows("train")
    # 90, 70 and 33 rows in windows of 7: the tails are padded, and no padding is a label.
    assert sum(counted[:half]) == features.targets.valid_valence[train].sum()


def test_weights_decide_what_is_learnt(features: FeatureSet) -> None:
    head = HeadConfig(temporal="none", seq=1, joint=("au", "v"), normalise=False, hidden=())
    training = FitConfig(epochs=5, learning_rate=2e-2, batch_frames=64, weights={"v": 0.0}, weight_decay=0)
    losses = [report.task_losses for report in fit(features, head, training).curve]
    assert losses[-1]["v"] == pytest.approx(losses[0]["v"], abs=0.05)
    assert losses[-1]["au"] < losses[0]["au"] - 0.02


def test_bfloat16_trains(features: FeatureSet) -> None:
    head = HeadConfig(fuse=("au",), seq=8)
    training = FitConfig(epochs=3, learning_rate=1e-2, precision="bfloat16")
    fitted = fit(features, head, training)
    assert all(value.dtype == torch.float32 for value in fitted.model.state_dict().values())
    assert fitted.curve[-1].loss < fitted.curve[0].loss


def test_labels_of_failed_rows_teach_nothing(
    tmp_path: Path, make_frames: MakeFrames, label_vectors: MakeVectors, add_encoder: AddEncoder
) -> None:
    frames = make_frames({"a": ("train", 40), "b": ("val", 40)}, unlabelled=0)
    failures = dict.fromkeys(range(12, 18), "unreadable")  # parts of windows, not whole ones
    spoilt = frames.data.with_columns(
        pl.when(pl.int_range(pl.len()).is_between(12, 17))
        .then(-pl.col("valence"))
        .otherwise("valence")
        .alias("valence")
    )
    results = []
    for name, table in (("good", frames), ("spoilt", FrameTable(spoilt))):
        made = FeatureStore.create(tmp_path / name, table)
        add_encoder(made, "mae", label_vectors(frames), failures=failures)
        features = FeatureSet.load(made, ("mae",), device="cpu")
        results.append(fit(features, HeadConfig(seq=5, joint=("v",)), FitConfig(epochs=2)).curve[-1].loss)
    assert results[0] == results[1]


def test_refusals(
    new_features: Build, features: FeatureSet, make_frames: MakeFrames, label_vectors: MakeVectors
) -> None:
    with pytest.raises(ShapeError, match="'wide' have 24 columns"):
        fit(features, HeadConfig(fuse=("wide",)), FitConfig())
    with pytest.raises(ConfigError, match="selected by 'au'"):
        fit(features, HeadConfig(joint=("v",)), FitConfig(select="au"))
    with pytest.raises(PrecisionError, match=r"(loss became|No prediction is a number any more)"):
        fit(features, HeadConfig(joint=("au",), temporal="none", seq=1), FitConfig(learning_rate=1e38, epochs=50))
    no_val = make_frames({"a": ("train", 20)})
    few = new_features(no_val, {"mae": label_vectors(no_val)})
    with pytest.raises(ConfigError, match="picked on the val split, but of its 0 rows none"):
        fit(few, HeadConfig(), FitConfig())


@pytest.mark.parametrize(
    ("splits", "match"),
    [
        (("val", "val"), "of 0 train rows none has both"),
        (("train", "test"), "of its 0 rows none has both"),
    ],
)
def test_a_split_is_missing(
    new_features: Build, splits: tuple[str, str], match: str, make_frames: MakeFrames, label_vectors: MakeVectors
) -> None:
    frames = make_frames({"a": (splits[0], 20), "b": (splits[1], 20)})
    features = new_features(frames, {"mae": label_vectors(frames)})
    with pytest.raises(ConfigError, match=match):
        fit(features, HeadConfig(), FitConfig())


def test_a_task_without_labels_is_said(
    new_features: Build, make_frames: MakeFrames, label_vectors: MakeVectors
) -> None:
    frames = make_frames({"a": ("train", 20), "b": ("val", 20)})
    bare = FrameTable(frames.data.with_columns(pl.lit(None, dtype=pl.Float32).alias("arousal")))
    features = new_features(bare, {"mae": label_vectors(frames)})
    with pytest.raises(ConfigError, match=r"nothing to learn from: .* a label of a"):
        fit(features, HeadConfig(joint=("a",)), FitConfig())
    fitted = fit(features, HeadConfig(joint=("v", "a")), FitConfig(epochs=1))
    assert fitted.scores.parts["ccc_arousal"] is None
    assert fitted.scores.parts["ccc_valence"] is not None


def test_the_last_epoch_is_kept_where_val_has_no_part(features: FeatureSet) -> None:
    head = HeadConfig(temporal="none", seq=8, joint=("v",))
    fitted = fit(features, head, FitConfig(epochs=3, select_on="last"))
    assert (fitted.epoch, fitted.selected_on) == (3, "last")
    assert all(report.scores == {} for report in fitted.curve)
    assert [report.is_best for report in fitted.curve] == [False, False, True]
    looked = fit(features, head, FitConfig(epochs=3))
    assert [each.loss for each in fitted.curve] == [each.loss for each in looked.curve]


def test_several_scores_pick_their_epochs_in_one_fit(features: FeatureSet) -> None:
    head = HeadConfig(temporal="none", seq=8, joint=("v", "au"))
    training = FitConfig(epochs=5, learning_rate=3e-2, batch_frames=64)
    both = fit_each(features, head, training, ("v", "au"))
    for select, each in zip(("v", "au"), both, strict=True):
        alone = fit(features, head, replace(training, select=select))
        assert each.epoch == alone.epoch
        assert [report.selected for report in each.curve] == [report.selected for report in alone.curve]
        for name, value in alone.model.state_dict().items():
            assert torch.equal(value, each.model.state_dict()[name])


def test_complete_labels_leaves_out_rows_that_lack_one(
    new_features: Build, make_frames: MakeFrames, label_vectors: MakeVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = make_frames({"a": ("train", 60), "b": ("val", 40)}, unlabelled=0.3)
    features = new_features(frames, {"mae": label_vectors(frames)})
    counted: list[int] = []

    class Spy(MultiTaskLoss):
        def __call__(self, outputs, targets, valid):  # type: ignore[no-untyped-def]
            counted.append(int(valid["v"].sum()))
            return MultiTaskLoss.__call__(self, outputs, targets, valid)

    monkeypatch.setattr("heads.fitting.trainer.MultiTaskLoss", Spy)
    head = HeadConfig(temporal="none", seq=5, joint=("expr", "v", "a"))
    fit(features, head, FitConfig(epochs=1, complete_labels=True))
    train = features.frames.rows("train")
    complete = np.all([features.targets.labelled(task)[train] for task in head.joint], axis=0)
    assert sum(counted) == complete.sum() < features.targets.labelled("v")[train].sum()


def test_averaged_weights_are_what_is_scored_and_kept(features: FeatureSet) -> None:
    head = HeadConfig(temporal="none", seq=8, joint=("v", "a"))
    training = FitConfig(epochs=2, learning_rate=1e-2, batch_frames=32, select_on="last")
    plain, averaged = (fit(features, head, replace(training, average=average)) for average in (0.0, 0.9))
    assert [each.loss for each in plain.curve] == [each.loss for each in averaged.curve]
    pairs = zip(plain.model.parameters(), averaged.model.parameters(), strict=True)
    assert not any(torch.equal(one, other) for one, other in pairs)


def test_a_stateful_fit_reads_videos_in_order(features: FeatureSet) -> None:
    head = HeadConfig(temporal="gru", seq=8, stateful=True, joint=("v",))
    fitted = fit(features, head, FitConfig(epochs=2, batch_frames=16))
    again = fit(features, head, FitConfig(epochs=2, batch_frames=16))
    assert fitted.predictions.valence is not None
    assert again.predictions.valence is not None
    assert (fitted.predictions.valence == again.predictions.valence).all()
    # The state goes through a whole video: longer segments of the same head predict the same.
    longer = copy.deepcopy(fitted.model)
    longer.config = replace(longer.config, seq=20, window=20)
    as_long = predict(longer, features)
    assert as_long.valence is not None
    assert np.allclose(as_long.valence, fitted.predictions.valence, atol=1e-6)


def test_windows_of_frames_and_gaps_are_read(features: FeatureSet) -> None:
    head = HeadConfig(temporal="bigru", layers=1, seq=12, window=6, span="frames", gap_input=True, joint=("v",))
    fitted = fit(features, head, FitConfig(epochs=1))
    assert fitted.predictions.valence is not None
    assert not np.isnan(fitted.predictions.valence).any()


def test_a_stateful_fit_follows_its_schedule_to_the_end(
    new_features: Build, make_frames: MakeFrames, label_vectors: MakeVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One long video beside short ones: its lane takes more steps than windows over lanes would say.
    sizes = (160, 10, 10, 10, 10)
    frames = make_frames({f"t{i}": ("train", n) for i, n in enumerate(sizes)} | {"v": ("val", 30)})
    features = new_features(frames, {"mae": label_vectors(frames)})
    rates: list[float] = []
    under_autocast: list[bool] = []
    step = Optimizer.step

    def spy(optimizer: Optimizer, loss: Tensor) -> None:
        under_autocast.append(torch.is_autocast_enabled("cpu"))
        step(optimizer, loss)
        rates.append(optimizer.rate)

    monkeypatch.setattr("heads.fitting.trainer.Optimizer.step", spy)
    head = HeadConfig(temporal="gru", layers=1, seq=8, stateful=True, joint=("v",))
    fit(features, head, FitConfig(epochs=4, batch_frames=32, schedule="linear", precision="bfloat16"))
    assert len(rates) == 4 * 20  # the long video's windows, each epoch
    assert all(0 < later < earlier for earlier, later in pairwise(rates))
    assert rates[-1] == pytest.approx(FitConfig().learning_rate / 80)
    assert not any(under_autocast)
