import json

import pytest

from featurestore.errors import ConfigError
from heads.fitting.config import FitConfig, check_together
from heads.modules.config import HeadConfig


def test_round_trip_through_json() -> None:
    head = HeadConfig(encoder="mae", fuse=("v", "au"), joint=("a", "v"), seq=20, window=15)
    assert HeadConfig.from_dict(json.loads(json.dumps(head.to_dict()))) == head.resolved()
    training = FitConfig(weights={"au": 2.0}, seed=7, select="v")
    assert FitConfig.from_dict(json.loads(json.dumps(training.to_dict()))) == training


def test_defaults_are_resolved() -> None:
    assert HeadConfig(fuse=("au",)).resolved().fusion == "sum"
    assert HeadConfig().resolved().fusion == "none"
    assert HeadConfig(fusion="sum").resolved().fusion == "sum"
    assert HeadConfig(seq=7).to_dict() == HeadConfig(seq=7, window=7, fusion="none").to_dict()
    assert HeadConfig(joint=("a", "au")).joint == ("au", "a")
    assert HeadConfig(encoder="x", fuse=("y",)).encoders == ("x", "y")
    assert FitConfig(weights={"au": 2}).weights == {"au": 2.0, "expr": 1.0, "v": 1.0, "a": 1.0}


def test_all_mistakes_of_a_head_come_at_once() -> None:
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        HeadConfig(encoder="au", fuse=("au", "v", "v"), joint=("exp",), fusion="none", seq=5, window=6)
    for part in ("again", "each encoder once", "Did you mean 'expr'", "would ignore", "W=6, S=5"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="at least one task"):
        HeadConfig(joint=())
    with pytest.raises(ConfigError, match=r"no temporal module 'lst'\. Did you mean 'lstm'"):
        HeadConfig(temporal="lst")
    with pytest.raises(ConfigError, match="no fusion 'summ'"):
        HeadConfig(fusion="summ")
    with pytest.raises(ConfigError, match="encoder must be a name"):
        HeadConfig(encoder="")


def test_all_mistakes_of_a_training_come_at_once() -> None:
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        FitConfig(
            epochs=0,
            batch_frames=0,
            learning_rate=float("nan"),
            weight_decay=-1,
            gradient_clip=0,
            weights={"vv": 1, "a": -1},
            select="pp",
            seed=-1,
            device="gpu",
        )
    for part in (
        "epochs",
        "batch_frames",
        "learning_rate",
        "weight_decay",
        "no task 'vv'",
        "'a' must",
        "seed",
        "'gpu'",
    ):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="no precision 'fp16'"):
        FitConfig(precision="fp16")


def test_saved_configurations_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'fused'\. Did you mean 'fuse'"):
        HeadConfig.from_dict({"fused": ["au"]})
    with pytest.raises(ConfigError, match="seq: Input should be a valid integer"):
        HeadConfig.from_dict({"seq": "many"})
    with pytest.raises(ConfigError, match="epochs must be at least 1"):
        FitConfig.from_dict({"epochs": 0})


def test_head_and_training_must_fit_each_other() -> None:
    check_together(HeadConfig(joint=("v",)), FitConfig(select="v"))
    with pytest.raises(ConfigError, match="selected by 'au', but the joined tasks are v"):
        check_together(HeadConfig(joint=("v",)), FitConfig(select="au"))
    with pytest.raises(ConfigError, match=r"Every joined task \(v, a\) weighs 0"):
        check_together(HeadConfig(joint=("v", "a")), FitConfig(weights={"v": 0, "a": 0}))
