import json

import pytest

from featurestore.errors import ConfigError
from heads.calibration.config import PostConfig


def test_nothing_is_asked_for_by_default() -> None:
    assert PostConfig().is_empty
    assert PostConfig(smoothing={"v": "none"}, widths={"v": (3,)}).is_empty
    for asked in (
        PostConfig(smoothing={"v": "box"}),
        PostConfig(thresholds=True),
        PostConfig(class_bias=True),
        PostConfig(rescale=True),
    ):
        assert not asked.is_empty


def test_published_defaults() -> None:
    config = PostConfig(smoothing={"v": "box", "expr": "exp"})
    assert config.smoothing == {"au": "none", "expr": "exp", "v": "box", "a": "none"}
    assert config.widths["v"] == (5, 10, 15)
    assert config.widths["expr"][-1] == 1e5
    assert config.widths["au"] == ()
    assert config.clip_rows == {"au": 50, "expr": 50, "v": 10, "a": 10}
    assert config.threshold_grid == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def test_there_and_back() -> None:
    config = PostConfig(smoothing={"a": "gaussian"}, widths={"a": (0, 3)}, clip_rows={"a": 7}, thresholds=True)
    assert PostConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert PostConfig.from_dict({"rescale": True}) == PostConfig(rescale=True)


def test_every_mistake_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        PostConfig(
            smoothing={"va": "box", "v": "boxx"},
            widths={"a": (-1.0,)},
            clip_rows={"v": 0},
            threshold_grid=(0.0,),
            n_folds=1,
            least_gain=-1,
        )
    for part in (
        r"There is no task 'va'",
        r"There is no smoothing (of 'v') 'boxx'. Did you mean 'box'?",
        r"The widths of 'a' must be numbers of at least 0, got -1.0",
        r"clip_rows of 'v' must be at least 1, got 0",
        r"threshold_grid must hold numbers in (0, 1), got [0.0]",
        r"n_folds must be at least 2, got 1",
        r"least_gain must be a number of at least 0, got -1",
    ):
        assert part in str(caught.value)
