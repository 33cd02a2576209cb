"""What onnxruntime says of an exported file against `Run.predict`, for every kind of head."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from featurestore.errors import ConfigError, FileExistsAlreadyError, MissingFileError, PrecisionError
from featurestore.labels import EXPRESSIONS
from heads.calibration.blend import Blend
from heads.calibration.calibration import Calibration
from heads.export.export import export_run
from heads.export.subject import Subject
from heads.export.verify import verify
from heads.features.featureset import FeatureSet
from heads.light.config import LightConfig
from heads.modules.config import HeadConfig
from heads.recipes.catalogue import find_recipe
from heads.recipes.plan import SystemConfig
from heads.recipes.system import System
from heads.recipes.systemrecord import SystemRecord
from heads.runs.run import Run

Outputs = dict[str, NDArray[np.generic]]
MakeRun = Callable[..., Run]
Through = Callable[[Path], Outputs]

FUSED = {"encoder": "mae", "fuse": ("au", "v"), "temporal_width": None}
"""States of 12 columns: with weights far from their start, those of wide ones would all come out at the ends."""
HEADS = {
    "single frame": HeadConfig(encoder="wide", temporal="none", seq=1),
    "fused": HeadConfig(**FUSED, temporal="none", seq=4, normalise=True),
    "overlapping LSTM": HeadConfig(**FUSED, seq=7, window=3),
    "windows in time": HeadConfig(**FUSED, seq=30, window=11, span="frames", gap_input=True),
    "both ways": HeadConfig(**FUSED, temporal="bilstm", seq=7, window=3, fusion="gated"),
    "Transformer": HeadConfig(**FUSED, temporal="transformer", positions=True, seq=7, window=2, fusion="attention"),
    "Transformer in time": HeadConfig(**FUSED, temporal="transformer", positions=True, seq=25, window=9, span="frames"),
    "stacked": HeadConfig(**FUSED, temporal="tcn+bigru", seq=7, window=5, fusion="concat", width=8),
    "stateful": HeadConfig(**FUSED, temporal="lstm+gru", seq=5, stateful=True, fusion="residual", gap_input=True),
    "share-bottom": HeadConfig(**FUSED, framework="share-bottom", seq=5, own_layers=1),
    "hidden feedback": HeadConfig(**FUSED, framework="hidden-feedback", hidden=(8, 6), seq=5, fusion="affine"),
    "label feedback": HeadConfig(**FUSED, framework="label-feedback", label_width=6, seq=5),
    "per task": HeadConfig(**FUSED, framework="per-task", temporal="gru", seq=5, window=2),
    "late": HeadConfig(
        encoder="wide", fuse=("mae",), fusion="late", temporal_width=None, seq=5, columns={"wide": (-6, None)}
    ),
    "patch tokens": HeadConfig(
        encoder="tokens", framework="task-queries", temporal="none", seq=3, query_width=8, query_heads=2, blocks=2
    ),
    "some tasks": HeadConfig(encoder="mae", joint=("expr", "a"), temporal_width=None, seq=6, window=2),
}


def agree(run: Run, gappy: FeatureSet, found: Outputs, *, raw: bool = False) -> None:
    """Numbers to 1e-4, classes and units exactly, and NaN, -1 and False where nothing is known."""
    expected = run.predict(gappy, raw=raw)
    missing = ~expected.predicted()
    pairs = {
        "valence": expected.valence,
        "arousal": expected.arousal,
        "expression_probabilities": expected.expression,
        "action_unit_probabilities": expected.action_units,
    }
    for name, wanted in pairs.items():
        assert (name in found) == (wanted is not None)
        if wanted is not None:
            np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-4)
            assert np.isnan(found[name][missing]).all()
    if expected.expression is not None:
        assert found["expression"].tolist() == expected.expression_classes().tolist()
        assert found["expression_label"].tolist() == [(*EXPRESSIONS, "")[each] for each in found["expression"]]
    if expected.action_units is not None:
        assert (found["action_units"] == expected.active_units()).all()


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_says_what_its_run_says(
    kind: str,
    gappy: FeatureSet,
    run_of: MakeRun,
    calibration: Calibration,
    through_onnxruntime: Through,
    tmp_path: Path,
) -> None:
    run = run_of(HEADS[kind], calibration)
    exported = export_run(run, tmp_path / "head.onnx")
    assert 0 < exported.difference < 1e-4  # rounding, and no more
    found = through_onnxruntime(tmp_path / "head.onnx")
    agree(run, gappy, found)
    assert np.isnan(found[next(name for name in ("valence", "arousal") if name in found)]).any() == (
        kind not in ("single frame", "patch tokens")
    )


LIGHT = {
    "trees": LightConfig(estimator="lightgbm", encoder="mae", fuse=("au",), n_estimators=4, min_leaf_rows=3),
    "trees of windows": LightConfig(
        estimator="lightgbm",
        encoder="mae",
        fuse=("au",),
        n_estimators=3,
        min_leaf_rows=3,
        statistics=(2, 5),
        components=3,
    ),
    "logistic": LightConfig(estimator="logistic", encoder="wide", columns={"wide": (2, -3)}),
    "layers of windows": LightConfig(
        estimator="mlp", encoder="mae", fuse=("au",), hidden=(6,), epochs=2, statistics=(3,), components=50
    ),
}


@pytest.mark.parametrize("kind", LIGHT)
def test_every_light_head_says_what_its_run_says(
    kind: str,
    gappy: FeatureSet,
    run_of: MakeRun,
    calibration: Calibration,
    through_onnxruntime: Through,
    tmp_path: Path,
) -> None:
    run = run_of(LIGHT[kind], calibration)
    export_run(run, tmp_path / "head.onnx")
    agree(run, gappy, through_onnxruntime(tmp_path / "head.onnx"))


def test_raw_leaves_the_post_processing_out(
    gappy: FeatureSet, run_of: MakeRun, calibration: Calibration, through_onnxruntime: Through, tmp_path: Path
) -> None:
    run = run_of(HEADS["overlapping LSTM"], calibration)
    export_run(run, tmp_path / "raw.onnx", raw=True)
    found = through_onnxruntime(tmp_path / "raw.onnx")
    agree(run, gappy, found, raw=True)
    processed = run.predict(gappy).valence
    assert processed is not None
    assert np.nanmax(np.abs(found["valence"] - processed)) > 0.1


def test_a_file_says_what_it_holds(run_of: MakeRun, calibration: Calibration, tmp_path: Path) -> None:
    run = run_of(HEADS["fused"], calibration, name="my run")
    made = export_run(run, tmp_path / "head.onnx")
    model = onnx.load(tmp_path / "head.onnx")
    onnx.checker.check_model(model, full_check=True)
    facts = {each.key: each.value for each in model.metadata_props}
    assert facts["abaw.run"] == "my run"
    told = {key.removeprefix("abaw."): json.loads(value) for key, value in facts.items() if key != "abaw.run"}
    assert told["expressions"] == list(EXPRESSIONS)
    assert told["action_units"][:3] == ["AU1", "AU2", "AU4"]
    assert told["tasks"] == ["au", "expr", "v", "a"]
    assert told["thresholds"] == list(calibration.thresholds or ())
    assert Calibration.from_dict(told["calibration"]) == calibration
    assert HeadConfig.from_dict(told["heads"]["my run"]) == run.head
    assert told["encoders"]["au"] == {"shape": [12], "fingerprint": run.record.encoders["au"]}
    assert "NaN where a frame" in model.doc_string
    assert made.inputs == {"mae": ("n_rows", 12), "au": ("n_rows", 12), "v": ("n_rows", 12), "frame": ("n_rows",)}
    assert [each.name for each in model.graph.input] == list(made.inputs)
    assert [each.name for each in model.graph.output] == list(made.outputs)
    assert made.outputs["action_units"] == ("n_rows", 12)
    assert made.file_bytes == (tmp_path / "head.onnx").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["head.onnx"]


def test_the_same_run_makes_the_same_file(run_of: MakeRun, tmp_path: Path) -> None:
    run = run_of(HEADS["overlapping LSTM"])
    for name in ("one", "two"):
        export_run(run, tmp_path / f"{name}.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_what_is_there_stays_unless_forced(run_of: MakeRun, tmp_path: Path) -> None:
    run = run_of(HEADS["single frame"])
    path = tmp_path / "head.onnx"
    path.write_text("mine")
    with pytest.raises(FileExistsAlreadyError, match=r"head\.onnx is there already\. Give another name, or --force"):
        export_run(run, path)
    assert path.read_text() == "mine"
    export_run(run, path, force=True)
    assert onnx.load(path).producer_name == "abaw"
    with pytest.raises(FileExistsAlreadyError, match=r"An export is one file, but .* is a folder"):
        export_run(run, tmp_path, force=True)
    with pytest.raises(MissingFileError, match=r"A file is written to a folder that is there"):
        export_run(run, tmp_path / "nowhere" / "head.onnx")


def test_the_place_is_looked_at_first(run_of: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heads.export.export.Subject", None)
    with pytest.raises(MissingFileError, match=r"nowhere is not \(file: head\.onnx\)\. Make the folder"):
        export_run(run_of(HEADS["single frame"]), tmp_path / "nowhere" / "head.onnx")


def test_missing_packages_are_named(run_of: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(HEADS["single frame"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"but onnxruntime is not installed\..*pip install 'abaw\[onnx\]'"):
        export_run(run, tmp_path / "head.onnx")


def test_a_system_is_one_file(
    gappy: FeatureSet, run_of: MakeRun, calibration: Calibration, through_onnxruntime: Through, tmp_path: Path
) -> None:
    members = {
        "first": run_of(HEADS["overlapping LSTM"], name="first"),
        "second": run_of(HEADS["single frame"], name="second"),
        "third": run_of(LIGHT["logistic"], name="third"),
        "idle": run_of(HEADS["stateful"], name="idle"),
    }
    weights = {
        "au": {"first": 0.3, "second": 0.7, "idle": 0.0},
        "expr": {"third": 0.25, "first": 0.75},
        "v": {"second": 1.0},
        "a": {"first": 0.5, "second": 0.25, "third": 0.25},
    }
    recipe = find_recipe("linear-probe")
    encoders = {name: gappy.fingerprints[name] for name in ("mae", "au", "v", "wide")}
    record = SystemRecord(
        name="several",
        config=SystemConfig(recipe=recipe, roles={}),
        members=tuple(members),
        blend=Blend(weights=weights),
        encoders=encoders,
        shapes=gappy.shapes(encoders),
        stand_ins=(),
        frames=gappy.frames.fingerprint,
        labels=gappy.labels_digest,
        selected_on=("val",),
        calibrated_on=calibration.fitted_on,
        parameters=1,
        seconds=1.0,
        versions={},
    )
    system = System(
        record=record, members=members, calibration=calibration, metrics={}, predictions=pl.DataFrame(), errors=None
    )
    export_run(system, tmp_path / "system.onnx")
    found = through_onnxruntime(tmp_path / "system.onnx")
    expected = system.predict(gappy)
    assert expected.valence is not None
    np.testing.assert_allclose(found["valence"], expected.valence, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["arousal"], expected.arousal, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["expression_probabilities"], expected.expression, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["action_unit_probabilities"], expected.action_units, rtol=0, atol=1e-4)
    assert (found["expression"] == expected.expression_classes()).all()
    assert (found["action_units"] == expected.active_units()).all()
    # Where `au` and `mae` are missing one member still knows, and the graph says what it says.
    assert not np.isnan(found["arousal"]).any()
    told = {each.key: each.value for each in onnx.load(tmp_path / "system.onnx").metadata_props}
    assert json.loads(told["abaw.weights"])["expr"] == {"third": 0.25, "first": 0.75}
    assert set(json.loads(told["abaw.heads"])) == {"first", "second", "third"}


def test_a_row_that_is_missing_in_part_is_missing(run_of: MakeRun, tmp_path: Path) -> None:
    export_run(run_of(HEADS["overlapping LSTM"]), tmp_path / "head.onnx")
    session = ort.InferenceSession((tmp_path / "head.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    drawn = np.random.default_rng(0)
    given: Outputs = {name: drawn.normal(size=(9, 12)).astype(np.float32) for name in ("mae", "au", "v")}
    given["frame"] = np.arange(9)
    whole, part = dict(given), dict(given)
    whole["au"], part["au"] = given["au"].copy(), given["au"].copy()
    whole["au"][4], part["au"][4, 7] = np.nan, np.nan
    first, second = (session.run(["valence", "expression"], each) for each in (whole, part))
    assert np.isnan(first[0]).tolist() == [row == 4 for row in range(9)]
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1][4] == second[1][4] == -1


def test_a_graph_of_something_else_is_not_written(run_of: MakeRun, tmp_path: Path) -> None:
    one, other = run_of(HEADS["fused"], name="one"), run_of(HEADS["fused"], name="other")
    export_run(one, tmp_path / "one.onnx")
    content = (tmp_path / "one.onnx").read_bytes()
    assert verify(content, Subject.of(one)) < 1e-4
    with pytest.raises(PrecisionError, match=r"what 'other' gives, to 0\.0001, but differs in a class, a unit"):
        verify(content, Subject.of(other))
    values = run_of(replace(HEADS["fused"], joint=("v",)), name="value")
    export_run(values, tmp_path / "values.onnx")
    with torch.no_grad():
        for parameter in values.model.parameters():
            parameter *= 1.1
    with pytest.raises(PrecisionError, match=r"what 'value' gives, to 0\.0001, but differs by 0\.\d+ on made-up"):
        verify((tmp_path / "values.onnx").read_bytes(), Subject.of(values))


def test_an_encoder_that_is_called_as_an_output_is_refused(gappy: FeatureSet, run_of: MakeRun, tmp_path: Path) -> None:
    run = run_of(HEADS["single frame"])
    for name in ("frame", "valence"):
        head = replace(run.record.head, encoder=name)
        record = replace(run.record, head=head, shapes={name: (20,)}, encoders={name: "f"})
        with pytest.raises(ConfigError, match=rf"but '{name}' is another input or output of it \(run: made\)"):
            export_run(replace(run, record=record), tmp_path / "head.onnx")
    assert not list(tmp_path.iterdir())
