import pytest

from featurestore.errors import ConfigError
from heads.losses.config import LossConfig, parse_mixture


def test_mixtures_are_read_and_kept_in_one_spelling() -> None:
    assert parse_mixture("ccc + .5*mse") == {"ccc": 1.0, "mse": 0.5}
    config = LossConfig(v=" 0.50*mse+ccc", a="0*ccc + 1*smooth_l1")
    assert (config.v, config.a) == ("ccc+0.5*mse", "smooth_l1")
    assert config == LossConfig(v="ccc+0.5*mse", a="smooth_l1")
    assert parse_mixture(config.v) == {"ccc": 1.0, "mse": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"Expected a loss such as ccc or ccc\+0\.5\*mse, got ''"),
        ("ccc-mse", r"Expected a loss such as ccc .*, got 'ccc-mse'"),
        ("ccc+mes", r"no loss of valence and arousal 'mes'\. Did you mean 'mse'\?"),
        ("ccc+0.5*ccc", r"'ccc' comes twice"),
        ("0*ccc", r"Every factor in '0\*ccc' is 0"),
    ],
)
def test_what_is_no_mixture_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_mixture(text)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"loss's configuration") as caught:
        LossConfig(
            au="bec",
            expr="cee",
            v="cc",
            weighting="dwaa",
            au_balance=-1,
            focal_gamma=float("nan"),
            label_smoothing=1,
            dwa_temperature=0,
            asymmetric_gammas=(1, -1),
        )
    for part in (
        "Did you mean 'bce'",
        "Did you mean 'ce'",
        "Did you mean 'ccc'",
        "Did you mean 'dwa'",
        "au_balance must be a number of at least 0, got -1",
        "focal_gamma must be a number of at least 0, got nan",
        "asymmetric_gammas must be a number of at least 0, got -1",
        "label_smoothing must be in [0, 1), got 1",
        "dwa_temperature must be a number above 0, got 0",
    ):
        assert part in str(caught.value)


def test_there_and_back() -> None:
    config = LossConfig(au="asymmetric", v="ccc+mse", asymmetric_gammas=(0, 2), class_balance=True, weighting="dwa")
    assert LossConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match=r"no setting 'gamma'.*focal_gamma"):
        LossConfig.from_dict({"gamma": 2})
