import dataclasses
import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from featurestore.errors import (
    ConfigError,
    EncoderMismatchError,
    FileExistsAlreadyError,
    MissingFileError,
    StorageFullError,
)
from featurestore.labels import AU_COLUMNS
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import FittedHead, fit
from heads.fitting.parallel import FitJob, fit_many
from heads.fitting.predict import predict
from heads.modules.config import HeadConfig
from heads.runs.place import prepare_folder
from heads.runs.record import read_record, run_name
from heads.runs.run import Run

HEAD = HeadConfig(fuse=("au", "v"), seq=8, window=5, temporal_width=None)  # of 16 columns, small on the disk


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


def test_records_of_earlier_versions_are_read_as_they_were_fitted(tmp_path: Path, features: FeatureSet) -> None:
    head = HeadConfig(seq=8, temporal_width=0, skip=False, input_dropout=0.0, state_dropout=0.0, au_linear_share=0.0)
    run = Run.from_fit(fit(features, head, FitConfig(epochs=1)), features)
    run.save(tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    record = json.loads(config.read_text())
    for name in (
        "skip",
        "input_dropout",
        "state_dropout",
        "temporal_width",
        "au_linear_share",
    ):  # not written before these settings were there
        del record["head"][name]
    del record["epochs"]
    config.write_text(json.dumps(record))
    loaded = Run.load(tmp_path / "run")
    assert loaded.head == head.resolved()
    assert loaded.predictions.equals(run.predictions)


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


def test_tasks_that_kept_epochs_of_their_own_are_read_as_they_were_saved(tmp_path: Path, features: FeatureSet) -> None:
    training = FitConfig(epochs=12, batch_frames=32, learning_rate=0.1)
    fitted = fit(features, HEAD, training)
    assert len(set(fitted.epochs.values())) > 1
    run = Run.from_fit(fitted, features)
    run.save(tmp_path / "run")
    loaded = Run.load(tmp_path / "run")
    assert loaded.head == HEAD.resolved()
    assert loaded.record.epochs == fitted.epochs
    results = fit_many(features, [FitJob(name="a", head=HEAD, training=training, keep_weights=True)])
    sent = predict(results[0].fitted(features.device).model, features)
    again = loaded.predict(features)
    for task in HEAD.joint:
        assert np.array_equal(again.of(task), fitted.predictions.of(task))
        assert np.array_equal(sent.of(task), fitted.predictions.of(task))


def test_config_and_metrics_say_where_the_run_comes_from(tmp_path: Path, run: Run, features: FeatureSet) -> None:
    run.save(tmp_path / "r")
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["encoders"] == {name: features.fingerprints[name] for name in ("mae", "au", "v")}
    assert config["shapes"] == {name: [16] for name in ("mae", "au", "v")}
    assert (config["selected_on"], config["frames"]) == ("val", features.frames.fingerprint)
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


def test_what_a_save_would_refuse_is_known_before_the_fit(
    tmp_path: Path, run: Run, fitted: FittedHead, features: FeatureSet
) -> None:
    assert prepare_folder(tmp_path, "r", HEAD, fitted.training, features) == tmp_path / "r"
    assert not (tmp_path / "r").exists()
    run.save(tmp_path / "r")
    assert prepare_folder(tmp_path, "r", HEAD, fitted.training, features) == tmp_path / "r"
    other = FitConfig(epochs=1)
    with pytest.raises(FileExistsAlreadyError, match=r"another configuration .* --name, or replace it with --force"):
        prepare_folder(tmp_path, "r", HEAD, other, features)
    assert prepare_folder(tmp_path, "r", HEAD, other, features, force=True) == tmp_path / "r"
    again = dataclasses.replace(features, fingerprints={**features.fingerprints, "au": "extracted again"})
    with pytest.raises(FileExistsAlreadyError, match="another configuration"):
        prepare_folder(tmp_path, "r", HEAD, fitted.training, again)
    (tmp_path / "mine").write_text("years of work")
    with pytest.raises(FileExistsAlreadyError, match="holds something that is not a run"):
        prepare_folder(tmp_path, "mine", HEAD, other, features, force=True)
    with pytest.raises(ConfigError, match=r"'\.\./r' cannot name a run"):
        prepare_folder(tmp_path, "../r", HEAD, other, features)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where this user may mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_no_half_of_a_run(tiny_disk: Path, run: Run) -> None:
    folder, ballast = tiny_disk / "runs" / "r", tiny_disk / "ballast"
    run.save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    free = os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_frsize
    size = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    stopped_at = set()
    for left in range(0, size, 2 * os.statvfs(tiny_disk).f_frsize):
        ballast.write_bytes(bytes(free - left))
        with pytest.raises(
            StorageFullError, match=r"No space is left on the device for 'r'.*what was there before"
        ) as caught:
            run.save(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert [path.name for path in folder.parent.iterdir()] == ["r"]
        first = caught.value.__cause__
        stopped_at.add(type(first if first is None else first.__cause__))
        ballast.unlink()
    # Neither is the system's own error: both are recognised by what they say.
    assert {SafetensorError, pl.exceptions.ComputeError} <= stopped_at
    run.save(folder)
    assert Run.load(folder).predictions.equals(run.predictions)


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        ("heads.runs.run.save_file", SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")),
        ("polars.DataFrame.write_parquet", pl.exceptions.ComputeError(os.strerror(errno.ENOSPC))),
        ("pathlib.Path.mkdir", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    ],
)
def test_no_space_is_recognised_in_the_errors_of_others(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, writer: str, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(writer, fail)
    with pytest.raises(StorageFullError, match=r"No space is left on the device for 'r'.* Free some"):
        run.save(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_every_file_is_on_the_disk_before_the_folder_has_its_name(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def watch(handle: int) -> None:
        assert not (tmp_path / "r").exists()
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files have no names here")
    monkeypatch.setattr(os, "fsync", watch)
    run.save(tmp_path / "r")
    for path in (tmp_path / "r").iterdir():
        assert any(name.endswith(path.name) for name in flushed)


def test_a_save_that_is_stopped_between_its_renames_leaves_the_old_run(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "r"
    run.save(folder)
    before = (folder / "config.json").read_bytes()
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        run.save(folder)
    assert (folder / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_an_interrupted_save_leaves_the_old_run(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "r"
    run.save(folder)
    before = (folder / "config.json").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("killed")

    monkeypatch.setattr("heads.runs.run.draw_curve", fail)
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
    (folder / "config.json").write_text(json.dumps(config | {"format": 1}))
    with pytest.raises(ConfigError, match="this one has format 1"):
        Run.load(folder)
    (folder / "config.json").write_text(json.dumps(config | {"head": {"seq": 0}}))
    with pytest.raises(ConfigError, match=r"config\.json cannot be read: .*seq .* at least 1"):
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
