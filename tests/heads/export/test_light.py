"""Trees within a graph: where they split, and what cannot be said of them."""

from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import ConfigError
from heads.export.graph import Graph
from heads.export.light import Forest, rounded_down

Evaluate = Callable[..., list[Any]]


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e30, 1e30), st.floats(-(2.0**100), 2.0**100, width=32))
def test_no_input_falls_on_the_other_side_of_a_threshold(threshold: float, value: float) -> None:
    limit = rounded_down(threshold)
    for x in (np.float32(value), limit, np.nextafter(limit, np.float32(np.inf)), np.float32(threshold)):
        assert (x <= limit) == (float(x) <= threshold)


def test_trees_of_several_classes_and_lone_leaves(evaluate: Evaluate) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
    quiet = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "num_leaves": 6}
    three = lightgbm.train({**quiet, "objective": "multiclass", "num_class": 3}, lightgbm.Dataset(X, y), 4)
    stump = lightgbm.train({**quiet, "objective": "regression"}, lightgbm.Dataset(X, np.full(200, 0.7)), 1)
    forest, graph = Forest(5), Graph()
    forest.add(three.dump_model(), [4, 0, 2])
    forest.add(stump.dump_model(), [1])
    (found,) = evaluate(graph, {"X": X}, [forest.node(graph, "X")])
    wanted = np.zeros((200, 5))
    wanted[:, [4, 0, 2]] = three.predict(X, raw_score=True)
    wanted[:, 1] = stump.predict(X, raw_score=True)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert len(np.unique(found[:, 0])) > 3


def test_splits_by_category_are_refused() -> None:
    X = np.repeat(np.arange(6), 40)[:, None].astype(float)
    data = lightgbm.Dataset(X, (X[:, 0] % 2), categorical_feature=[0])
    model = lightgbm.train({"verbose": -1, "num_threads": 1, "min_data_in_leaf": 1, "max_cat_to_onehot": 9}, data, 1)
    with pytest.raises(ConfigError, match=r"Trees that split by <= can be exported, this one splits by '=='"):
        Forest(1).add(model.dump_model(), [0])
