import pytest

from featurestore.errors import ConfigError, UnknownNameError
from heads.losses.config import LossConfig
from heads.losses.parsing import parse_losses


def test_settings_are_read_by_their_kind() -> None:
    text = "au=asymmetric, va=ccc+0.5*mse, class_balance=yes, asymmetric_gammas=0:2.5, label_smoothing=.1"
    assert parse_losses(text) == LossConfig(
        au="asymmetric",
        v="ccc+0.5*mse",
        a="ccc+0.5*mse",
        class_balance=True,
        asymmetric_gammas=(0, 2.5),
        label_smoothing=0.1,
    )


def test_what_is_not_named_comes_from_the_base() -> None:
    base = LossConfig(expr="focal", weighting="dwa", class_balance=True)
    assert parse_losses("", base=base) == base
    changed = parse_losses("class_balance=no,weighting=uncertainty", base=base)
    assert changed == LossConfig(expr="focal", weighting="uncertainty")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("focal", r"Expected losses such as .*, got 'focal' in 'focal'\. Write each as setting=value"),
        ("au=", r"got 'au='"),
        ("va=ccc,v=mse", r"'v' is set twice in 'va=ccc,v=mse'"),
        ("class_balance=maybe", r"class_balance is yes or no, got 'maybe'"),
        ("label_smoothing=x", r"label_smoothing is a number, got 'x'"),
        ("label_smoothing=1:2", r"label_smoothing is a number, got '1:2'"),
        ("asymmetric_gammas=1", r"asymmetric_gammas is 2 numbers apart by colons, such as 1:4, got '1'"),
        ("au=fokal", r"no loss of action units 'fokal'\. Did you mean 'focal'"),
        ("label_smoothing=2", r"label_smoothing must be in \[0, 1\), got 2"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_losses(text)


def test_an_unknown_setting_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no setting of the losses 'smoothing'\. .*label_smoothing"):
        parse_losses("smoothing=0.1")
