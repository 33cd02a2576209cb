import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from featurestore.errors import ConfigError, EncoderMismatchError, FileExistsAlreadyError, MissingFileError
from featurestore.labels import AU_COLUMNS
from heads.config import FitConfig, HeadConfig
from heads.features import FeatureSet
from heads.fit import FittedHead, fit
from heads.record import read_record, run_name
from heads.run import Run

HEAD = HeadConfig(fuse=("au", "v"), seq=8, window=5)


@pytest.fixture(scope="module")
def fitted(features: FeatureSet) -> FittedHead:
    return fit(features, HEAD, FitConfig(epochs=3, learning_rate=1e-2))


@pytest.fixture
def run(fitted: FittedHead, features: FeatureSet) -> Run:
    return Run.from_fit(fitted, features)


def test_names() -> None:
    assert run_name(HeadConfig(fuse=("au", "v")), FitConfig()) == "mae+au+v_lstm-20-20_au-expr-v-a_seed1"
    single = HeadConfig(encoder="v", joint=("v",), temporal="none", seq=1)
    assert run_name(single, FitConfig(seed=3)) == "v_none-1-1_v_seed3"
    assert run_name(HeadConfig(fusion="sum"), FitConfig()) != run_name(HeadConfig(), FitConfig())


def test_save_and_load_give_the_same_predictions(
    tmp_path: Path, run: Run, fitted: FittedHead, features: FeatureSet
) -> None:
    folder = tmp_path / "runs" / run.name
    run.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "curve.csv",
        "curve.png",
        "head.safetensors",
        "metrics.json",
        "predictions.parquet",
    ]
    assert [path.name for path in folder.parent.iterdir()] == [run.name]
    loaded = Run.load(folder)
    assert loaded.record == run.record
    assert loaded.head == HEAD.resolved()
    assert loaded.metrics == run.metrics
    assert loaded.predictions.equals(run.predictions)
    assert loaded.curve.height == 3
    again = loaded.predict(features)
    for name in ("valence", "arousal", "expression", "action_units"):
        assert (getattr(again, name) == getattr(fitted.predictions, name)).all()
    assert loaded.evaluate(features).as_dict() == fitted.scores.as_dict()
    assert loaded.predict(features, split="test").rows.tolist() == features.frames.rows("test").tolist()
    assert (folder / "curve.png").stat().st_size > 10_000


def test_config_and_metrics_say_where_the_run_comes_from(tmp_path: Path, run: Run, features: FeatureSet) -> None:
    run.save(tmp_path / "r")
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["encoders"] == {name: features.fingerprints[name] for name in ("mae", "au", "v")}
    assert (config["dim"], config["selected_on"], config["frames"]) == (16, "val", features.frames.fingerprint)
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert list(metrics)[:5] == ["P", "ccc_valence", "ccc_arousal", "f1_expression", "f1_au"]
    assert metrics["selected_on"] == metrics["split"] == "val"


def test_the_prediction_table(run: Run, fitted: FittedHead, features: FeatureSet) -> None:
    table = run.predictions
    expected = ["video", "frame", "split", "valence", "arousal", "expression"]
    expected += [f"expression_{number}" for number in range(8)]
    assert table.columns == expected + list(AU_COLUMNS) + [f"{name}_p" for name in AU_COLUMNS]
    keys = features.frames.data.filter(pl.col("split") == "val").select("video", "frame", "split")
    assert table.select("video", "frame", "split").equals(keys)
    probabilities = table.select(f"expression_{number}" for number in range(8)).to_numpy()
    assert (table["expression"].to_numpy() == probabilities.argmax(axis=1)).all()
    assert ((table["au1_p"] > 0.5) == (table["au1"] == 1)).all()
    assert fitted.predictions.valence is not None
    assert (table["valence"].to_numpy() == fitted.predictions.valence).all()


def test_the_same_configuration_is_replaced_another_is_not(tmp_path: Path, run: Run, features: FeatureSet) -> None:
    folder = tmp_path / "r"
    run.save(folder)
    run.save(folder)
    other = Run.from_fit(fit(features, HEAD, FitConfig(epochs=1)), features)
    with pytest.raises(FileExistsAlreadyError, match=r"another configuration .* --name, or replace it with --force"):
        other.save(folder)
    assert read_record(folder).training.epochs == 3
    other.save(folder, force=True)
    assert Run.load(folder).record.training.epochs == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsAlreadyError, match="holds something that is not a run"):
        run.save(tmp_path / "mine", force=True)


def test_an_interrupted_save_leaves_the_old_run(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "r"
    run.save(folder)
    before = (folder / "config.json").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("killed")

    monkeypatch.setattr("heads.run.draw_curve", fail)
    with pytest.raises(KeyboardInterrupt, match="killed"):
        run.save(folder)
    assert (folder / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_other_embeddings_are_refused(tmp_path: Path, run: Run, features: FeatureSet) -> None:
    folder = tmp_path / "r"
    run.save(folder)
    other = FeatureSet(
        frames=features.frames,
        embeddings=features.embeddings,
        usable_rows=features.usable_rows,
        fingerprints={**features.fingerprints, "au": "other"},
        device=features.device,
        source="features",
    )
    with pytest.raises(EncoderMismatchError, match=r"embeddings of encoder 'au' .* the store holds other"):
        Run.load(folder).evaluate(other)


def test_damaged_runs(tmp_path: Path, run: Run) -> None:
    with pytest.raises(MissingFileError, match="is not there"):
        Run.load(tmp_path / "none")
    with pytest.raises(MissingFileError, match=r"holds no config\.json"):
        Run.load(tmp_path)
    folder = tmp_path / "r"
    run.save(folder)
    (folder / "head.safetensors").write_bytes(b"pickled?")
    with pytest.raises(ConfigError, match="one of them cannot be read"):
        Run.load(folder)
    (folder / "head.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"has a file head\.safetensors; it is missing"):
        Run.load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": 2}))
    with pytest.raises(ConfigError, match="this one has format 2"):
        Run.load(folder)
    (folder / "config.json").write_text(json.dumps(config | {"head": {"seq": 0}}))
    with pytest.raises(ConfigError, match=r"config\.json cannot be read: head: .*seq .* at least 1"):
        Run.load(folder)


def test_rows_without_embedding_are_null(features: FeatureSet, fitted: FittedHead) -> None:
    usable: NDArray[np.bool_] = features.usable_rows["au"].copy()
    row = int(features.frames.rows("val")[2])
    usable[row] = False
    holed = FeatureSet(
        frames=features.frames,
        embeddings=features.embeddings,
        usable_rows={**features.usable_rows, "au": usable},
        fingerprints=features.fingerprints,
        device=features.device,
        source="features",
    )
    table = Run.from_fit(fit(holed, HEAD, FitConfig(epochs=1)), holed).predictions
    assert table.row(2)[3:] == (None,) * (table.width - 3)
    assert table.drop_nulls().height == table.height - 1
