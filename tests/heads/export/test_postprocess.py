"""Post-processing within a graph against `Calibration.apply`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heads.calibration.calibration import Affine, Calibration
from heads.calibration.smoothing import Smoothing
from heads.export.answers import Answer
from heads.export.graph import Graph
from heads.export.postprocess import postprocessed, unit_thresholds
from heads.scoring.predictions import Predictions

Evaluate = Callable[..., list[Any]]
SMOOTHINGS = st.one_of(
    st.builds(Smoothing, kind=st.just("box"), width=st.floats(0.5, 12), clip_rows=st.just(50)),
    st.builds(Smoothing, kind=st.just("gaussian"), width=st.floats(0.5, 30), clip_rows=st.integers(1, 12)),
    st.builds(Smoothing, kind=st.just("exp"), width=st.floats(1, 1e5), clip_rows=st.integers(1, 12)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SMOOTHINGS, st.integers(1, 25), st.floats(-3, 3), st.floats(-1, 1), st.integers(0, 2**16))
def test_smoothing_bias_and_factor(
    evaluate: Evaluate, smoothing: Smoothing, n: int, scale: float, offset: float, seed: int
) -> None:
    drawn = np.random.default_rng(seed)
    values = drawn.uniform(-1, 1, n)
    probabilities = drawn.dirichlet(np.full(8, 0.2), size=n)
    probabilities[0] = np.eye(8)[3]  # a probability of 0 has a logit, too
    missing = drawn.random(n) < 0.2
    frames = np.cumsum(drawn.integers(1, 9, n))
    calibration = Calibration(
        fitted_on="train",
        smoothing={"v": smoothing, "expr": smoothing},
        class_bias=tuple(drawn.normal(size=8).tolist()),
        rescale={"v": Affine(scale=scale, offset=offset)},
    )
    predictions = Predictions(
        rows=np.arange(n),
        valence=np.where(missing, np.nan, values),
        expression=np.where(missing[:, None], np.nan, probabilities),
    )
    wanted = calibration.apply(predictions, video_ids=np.zeros(n, dtype=np.int64), frame_numbers=frames)
    graph = Graph()
    said = {"v": Answer("v", "known"), "expr": Answer("expr", "known")}
    made = postprocessed(graph, said, calibration, frame="frame", n_rows=graph.length("frame"))
    inputs = {"v": values[:, None], "expr": probabilities}
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
    found = evaluate(graph, {**inputs, "known": ~missing, "frame": frames}, [made["v"].table, made["expr"].table])
    assert wanted.valence is not None
    assert wanted.expression is not None
    np.testing.assert_allclose(found[0][~missing, 0], wanted.valence[~missing], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[1][~missing], wanted.expression[~missing], rtol=0, atol=1e-5)
    assert np.isfinite(found[0]).all()


def test_a_class_without_probability_can_be_shifted_to(evaluate: Evaluate) -> None:
    certain = np.eye(8, dtype=np.float32)[:1]
    calibration = Calibration(fitted_on="train", class_bias=(-4.0, 28.0, *[-4.0] * 6))
    graph = Graph()
    made = postprocessed(
        graph, {"expr": Answer("expr", "known")}, calibration, frame="frame", n_rows=graph.length("frame")
    )
    given = {"expr": certain, "known": np.ones(1, dtype=np.bool_), "frame": np.arange(1)}
    (found,) = evaluate(graph, given, [made["expr"].table])
    wanted = calibration.apply(
        Predictions(rows=np.arange(1), expression=certain.astype(np.float64)),
        video_ids=np.zeros(1, dtype=np.int64),
        frame_numbers=np.arange(1),
    ).expression
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert found.argmax() == 1


def test_thresholds() -> None:
    assert unit_thresholds(None) == unit_thresholds(Calibration(fitted_on="val")) == (0.5,) * 12
    fitted = tuple(number / 20 for number in range(12))
    assert unit_thresholds(Calibration(fitted_on="val", thresholds=fitted)) == pytest.approx(fitted)
