"""`abaw export` on a run that was fitted by the commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl
import pytest

from featurestore.store import FeatureStore

Abaw = Callable[..., Any]
ENCODERS = ("mae", "au", "v")


@pytest.mark.usefixtures("workspace")
def test_a_run_becomes_a_file_that_predicts_what_the_run_predicted(abaw: Abaw, refused: Callable[..., str]) -> None:
    made = abaw("export", "joint", "head.onnx", "--json").json()
    assert made["bytes"] == Path("head.onnx").stat().st_size
    assert made["opset"] == 18
    assert made["inputs"]["mae"] == ["n_rows", 32]
    assert list(made["inputs"]) == [*ENCODERS, "frame"]
    assert made["outputs"]["expression_probabilities"] == ["n_rows", 8]
    assert made["difference"] < 1e-4
    assert {each.key for each in onnx.load("head.onnx").metadata_props} >= {"abaw.run", "abaw.action_units"}

    store = FeatureStore.open("features")
    session = ort.InferenceSession("head.onnx", providers=["CPUExecutionProvider"])
    stored = pl.read_parquet("runs/joint/predictions.parquet")
    frames = store.frames
    start, stop = frames.segments("val").tolist()[0]
    given = {name: store.embedding(name).read(start, stop).astype(np.float32) for name in ENCODERS}
    given["frame"] = frames.data["frame"][start:stop].to_numpy().astype(np.int64)
    valence, expression = session.run(["valence", "expression"], given)
    wanted = stored.filter(video=frames.data["video"][start]).sort("frame")
    np.testing.assert_allclose(valence, wanted["valence"].to_numpy(), rtol=0, atol=1e-4)
    assert expression.tolist() == wanted["expression"].to_list()

    assert "head.onnx is there already" in refused(1, "export", "joint", "head.onnx")
    told = abaw("export", "joint", "head.onnx", "--force")
    assert "action_units (n_rows, 12)" in told.out
    assert json.loads(json.dumps(made)) == made
    assert "no run 'jiont'. Did you mean 'joint'?" in refused(2, "export", "jiont", "other.onnx")
    assert not Path("other.onnx").exists()
