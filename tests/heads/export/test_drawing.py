"""What a graph and its run are compared on lies where the run's embeddings lie."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featurestore.errors import PrecisionError
from heads.export.drawing import made_up, scales
from heads.export.export import export_run
from heads.export.subject import Subject
from heads.export.verify import verify
from heads.features.featureset import FeatureSet
from heads.features.loaded import LoadedEmbeddings
from heads.light.config import LightConfig
from heads.light.fit import fit_light
from heads.light.layers import Layers
from heads.light.model import LightModel
from heads.light.trees import Trees
from heads.modules.config import HeadConfig
from heads.runs.run import Run

MakeRun = Callable[..., Run]
SCALE, OFFSET = 0.02, 0.3


@pytest.fixture(scope="module")
def small(gappy: FeatureSet) -> FeatureSet:
    """Embeddings of a fiftieth of the scale, away from 0."""
    tensors = {}
    for name in ("mae", "au", "wide"):
        tensors[name] = gappy.embeddings[name] * SCALE + OFFSET  # type: ignore[index]
        tensors[name][torch.from_numpy(~gappy.usable_rows[name])] = 0
    return replace(gappy, embeddings=LoadedEmbeddings(tensors))


def _light(run_of: MakeRun, small: FeatureSet, config: LightConfig) -> Run:
    return replace(run_of(config), model=fit_light(small, config).model)


def _other(model: LightModel) -> LightModel:
    """The same with one class a little likelier, which shows where a class is not certain."""
    numbers = {}
    for task, each in model.numbers.items():
        assert isinstance(each, Layers)
        last = each.biases[-1].copy()
        last[0] += 0.01
        numbers[task] = replace(each, biases=(*each.biases[:-1], last))
    return LightModel(model.config, model.shapes, model.design, numbers)


@pytest.mark.parametrize("statistics", [(), (3,)])
def test_a_light_graph_that_is_a_little_off_is_refused(
    run_of: MakeRun, small: FeatureSet, tmp_path: Path, statistics: tuple[int, ...]
) -> None:
    config = LightConfig(
        estimator="logistic",
        encoder="mae",
        fuse=("wide",),
        columns={"wide": (2, -3)},
        joint=("expr",),
        statistics=statistics,
    )
    run = _light(run_of, small, config)
    export_run(run, tmp_path / "light.onnx")
    content = (tmp_path / "light.onnx").read_bytes()
    assert verify(content, Subject.of(run)) < 1e-4
    with pytest.raises(PrecisionError, match=r"what 'made' gives, to 0\.0001, but differs"):
        verify(content, Subject.of(replace(run, model=_other(run.model))))


@pytest.mark.parametrize("head", ["light", "trees", "neural"])
def test_columns_are_drawn_as_the_embeddings_are(run_of: MakeRun, small: FeatureSet, head: str) -> None:
    if head == "neural":
        run = run_of(HeadConfig(encoder="mae", fuse=("au",), normalise=True, seq=4))
        run.model.prepare(small, small.frames.rows("train"))
    else:
        estimator = "logistic" if head == "light" else "lightgbm"
        config = LightConfig(
            estimator=estimator, encoder="mae", fuse=("au",), n_estimators=40, min_leaf_rows=3, normalise=True
        )
        run = _light(run_of, small, config)
    features, tensors = made_up(Subject.of(run))
    train = small.frames.rows("train")
    for name in ("mae", "au"):
        wanted = small.embeddings[name][train].float()  # type: ignore[index]
        found = tensors[name][features.usable_rows[name]]
        tolerance = 0.5 if head == "trees" else 0.3
        assert float(found.std(dim=0).mean()) == pytest.approx(float(wanted.std(dim=0).mean()), rel=tolerance)
        assert float(found.mean()) == pytest.approx(float(wanted.mean()), abs=0.01)


def test_what_tells_no_scale_is_drawn_from_the_standard_normal(run_of: MakeRun) -> None:
    plain = scales(Subject.of(run_of(HeadConfig(encoder="wide", temporal="none", seq=1, normalise=False))))
    assert (plain["wide"].mean == 0).all()
    assert (plain["wide"].scale == 1).all()


def test_trees_split_what_is_drawn(run_of: MakeRun, small: FeatureSet) -> None:
    run = _light(run_of, small, LightConfig(estimator="lightgbm", encoder="mae", n_estimators=4, min_leaf_rows=3))
    features, _ = made_up(Subject.of(run))
    model = run.model
    assert isinstance(model, LightModel)
    table = model.design.transform(features, features.frames.segments())
    for numbers in model.numbers.values():
        assert isinstance(numbers, Trees)
        assert len(np.unique(numbers.outputs(table.X), axis=0)) > 3
