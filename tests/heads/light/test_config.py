import pytest

from featurestore.errors import ConfigError
from heads.light.config import ESTIMATORS, LightConfig


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_there_and_back(estimator: str) -> None:
    config = LightConfig(
        estimator=estimator,
        encoder="hse",
        fuse=("mae",),
        columns={"hse": (-10, None)},
        joint=("a", "v"),
        statistics=(5, 15),
        learning_rate=0.5,
        hidden=(64, 32),
    )
    assert LightConfig.from_dict(config.to_dict()) == config
    assert config.joint == ("v", "a")
    assert config.encoders == ("hse", "mae")


def test_what_follows_from_the_estimator() -> None:
    assert LightConfig(estimator="lightgbm").rate == 0.1
    assert LightConfig(estimator="mlp").rate == 1e-3
    assert LightConfig(estimator="mlp").hidden_layers == (128,)
    assert LightConfig(estimator="linear").hidden_layers == ()
    assert LightConfig(estimator="lightgbm").stops_early
    assert not LightConfig(estimator="lightgbm", early_stopping_rounds=0).stops_early
    assert not LightConfig(estimator="ridge").stops_early


def test_every_mistake_is_told() -> None:
    with pytest.raises(ConfigError) as error:
        LightConfig(
            estimator="lightgbn",
            encoder="mae",
            fuse=("mae",),
            columns={"au": (0, 3)},
            statistics=(0, 2, 2),
            held_out=1.0,
            C=0.0,
            n_leaves=1,
            dropout=1.0,
            seed=-1,
            affect_loss="mae",
        )
    told = str(error.value)
    for part in (
        "The light head's configuration cannot be used: There is no estimator 'lightgbn'. Did you mean 'lightgbm'?",
        "fuse must not hold the base encoder 'mae' again.",
        "columns names 'au'",
        "half widths of at least 1, got 0.",
        "each half width once",
        "held_out must be a share in (0, 1), got 1.0.",
        "C must be a number above 0",
        "n_leaves must be at least 2",
        "dropout must be in [0, 1)",
        "seed must be",
        "There is no loss of valence and arousal 'mae'",
    ):
        assert part in told
    assert told.count("configuration cannot be used") == 1
    with pytest.raises(ConfigError, match="mlp needs hidden layers"):
        LightConfig(estimator="mlp", hidden=())


def test_the_estimator_has_no_default() -> None:
    with pytest.raises(ConfigError, match="estimator"):
        LightConfig.from_dict({"encoder": "mae"})
    with pytest.raises(ConfigError, match=r"There is no setting 'estimater'. Did you mean 'estimator'\?"):
        LightConfig.from_dict({"estimater": "ridge"})
