"""`abaw compare`: runs on a store of planted features, no images read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from cli.main import app
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.features.targets import Targets
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.modules.config import HeadConfig
from heads.runs.run import Run
from heads.scoring.compare import compare
from heads.scoring.tabulate import predictions_from_table

NAMES = ("good_1", "good_2", "poor_1", "poor_2")


def _write_encoder(store: FeatureStore, name: str, *, noise: float) -> None:
    """Embeddings that hold the labels, with noise."""
    rng = np.random.default_rng(0)
    targets = Targets.from_frames(store.frames)
    facts = [targets.valence, targets.arousal, *np.eye(8)[targets.expression].T, *targets.action_units.T]
    vectors = np.stack(facts, axis=1) + noise * rng.normal(size=(len(targets), len(facts)))
    provenance = Provenance(
        architecture="test", weights=name, preprocessing={"size_px": 8}, pooling="mean", precision="float32"
    )
    with store.writer(name, provenance, row_shape=vectors.shape[1:], chunk_rows=64) as writer:
        for _, first, stop in writer.pending():
            writer.append(first, vectors[first:stop].astype(np.float32), {})


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with four runs: two heads of two seeds each. Nobody changes it."""
    root = tmp_path_factory.mktemp("compare") / "work"
    files = {"frames": "cropped_aligned", "train": "training_set_annotations.txt"}
    files |= {"val": "validation_set_annotations.txt"}
    options = [text for option, name in files.items() for text in (f"--{option}", str(data / name))]
    for command in (["init", str(root), *options], ["frames", "-w", str(root)]):
        assert CliRunner().invoke(app, command).exit_code == 0
    store = FeatureStore.open(root / "features")
    _write_encoder(store, "good", noise=0.3)
    _write_encoder(store, "poor", noise=3)
    features = FeatureSet.load(store, ("good", "poor"), device="cpu")
    for name in NAMES:
        encoder, _, seed = name.partition("_")
        head = HeadConfig(encoder=encoder, temporal="none", seq=1)
        fitted = fit(features, head, FitConfig(epochs=6, batch_frames=32, learning_rate=1e-2, seed=int(seed)))
        Run.from_fit(fitted, features, name=name).save(root / "runs" / name)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of the workspace, to change at will."""
    copy = tmp_path / "work"
    shutil.copytree(made, copy)
    return copy


def change_record(root: Path, name: str, **values: object) -> None:
    path = root / "runs" / name / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_it_is_the_comparison_of_the_stored_predictions(made: Path, abaw: Callable[..., object]) -> None:
    # Seeds are told in the order of their numbers, in whatever order they are named.
    outcome = abaw("compare", "poor_2,poor_1", "good_1, good_2", "--resamples", 500, "--json", "-w", made)
    assert outcome.code == 0, outcome.err
    got = outcome.json()
    assert (got.pop("a"), got.pop("b"), got.pop("split")) == (["poor_1", "poor_2"], ["good_1", "good_2"], "val")
    assert got.pop("notes") == [
        "epochs of both sides were selected on val: both scores are optimistic",
        "with 2 and 2 seeds their spread is hardly known, so that only great differences are found to be real: fit 5 "
        "or more a side",
    ]
    frames = FeatureStore.open(made / "features").frames
    stored = {
        name: predictions_from_table(frames, pl.read_parquet(made / "runs" / name / "predictions.parquet"))
        for name in NAMES
    }
    expected = compare(
        Targets.from_frames(frames),
        [stored["poor_1"], stored["poor_2"]],
        [stored["good_1"], stored["good_2"]],
        frames.video_ids(),
        n_resamples=500,
    )
    assert got == json.loads(json.dumps(expected.as_dict()))
    assert got["P"]["difference"] > 0
    metrics = [json.loads((made / "runs" / f"good_{seed}" / "metrics.json").read_text()) for seed in (1, 2)]
    assert got["P"]["b"] == pytest.approx(np.mean([each["P"]["score"] for each in metrics]))


def test_no_embedding_is_read(root: Path, abaw: Callable[..., object]) -> None:
    for encoder in ("good", "poor"):
        shutil.rmtree(root / "features" / encoder)
    assert abaw("compare", "poor_1", "good_1", "--resamples", 100, "-w", root).code == 0


def test_a_table_for_people(made: Path, abaw: Callable[..., object]) -> None:
    outcome = abaw("compare", "poor_1", str(made / "runs" / "good_1"), "--resamples", 500, "-w", made)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[:2] == ["A: poor_1", "B: good_1"]
    for word in ("B - A", "95 % interval", "real", "CCC valence", "F1 action units"):
        assert word in outcome.out
    assert "inf" not in outcome.out  # val holds one video: no interval
    assert "with one seed a side cannot show what another seed would change" in lines[-1]


def test_what_was_seen_of_val_is_told(root: Path, abaw: Callable[..., object]) -> None:
    change_record(root, "poor_1", selected_on="last")
    told = abaw("compare", "poor_1", "good_1", "--resamples", 100, "-w", root).out
    assert "only B had its epoch selected on val, which favours it" in told
    change_record(root, "good_1", selected_on="last", calibrated_on="val")
    told = abaw("compare", "poor_1", "good_1", "--resamples", 100, "-w", root).out
    assert "selected on val" not in told
    assert "in-sample: good_1: the post-processing was calibrated on these frames" in told


def test_a_side_of_different_heads_is_told(made: Path, abaw: Callable[..., object]) -> None:
    told = abaw("compare", "poor_1,good_2", "good_1", "--resamples", 100, "-w", made).out
    assert "good_2 and poor_1 differ in more than the seed: their mean is of different heads" in told
    assert "the side of one seed is taken to spread over seeds as the other does" in told


def test_refusals(root: Path, refused: Callable[..., str]) -> None:
    assert "There is no run 'goood_1'. Did you mean 'good_1'?" in refused(2, "compare", "poor_1", "goood_1", "-w", root)
    assert "Expected runs, each once" in refused(2, "compare", "poor_1,poor_1", "good_1", "-w", root)
    assert "Expected runs, each once" in refused(2, "compare", "poor_1", ",", "-w", root)
    (root / "runs" / "poor_2" / "predictions.parquet").unlink()
    assert "which is not there. Fit it again" in refused(1, "compare", "poor_2", "good_1", "-w", root)
    (root / "runs" / "poor_2" / "predictions.parquet").write_text("no table")
    assert "A run's predictions cannot be read" in refused(2, "compare", "poor_2", "good_1", "-w", root)
    change_record(root, "good_1", frames="other")
    assert "the store's frames, but those of 'good_1' are others" in refused(
        1, "compare", "poor_1", "good_1", "-w", root
    )
    change_record(root, "good_2", labels="other")
    assert "the store's labels, but those of 'good_2' are others" in refused(
        1, "compare", "poor_1", "good_2", "-w", root
    )


def test_a_system_is_compared_as_a_run_is(root: Path, abaw: Callable[..., object]) -> None:
    recipe = ("--recipe", "linear-probe", "--use", "mae=good", "--epochs", 1)
    fitted = abaw("fit-heads", *recipe, "--name", "probe", "-w", root)
    assert fitted.code == 0, fitted.err
    got = abaw("compare", "poor_1", "probe", "--resamples", 100, "--json", "-w", root)
    assert got.code == 0, got.err
    metrics = json.loads((root / "runs" / "probe" / "metrics.json").read_text())
    assert got.json()["b"] == ["probe"]
    for part in ("P", "ccc_valence", "f1_au"):
        assert got.json()[part]["b"] == pytest.approx(metrics[part]["score"])
