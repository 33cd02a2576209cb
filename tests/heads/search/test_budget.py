import pytest

from featurestore.errors import ConfigError
from heads.search.budget import Budget, parse_budget


@pytest.mark.parametrize(
    ("text", "seconds", "trials"),
    [
        ("30m", 1800, None),
        ("90s", 90, None),
        ("1.5h", 5400, None),
        (" 2 H ", 7200, None),
        ("50 trials", None, 50),
        ("1trial", None, 1),
    ],
)
def test_what_is_understood(text: str, seconds: float | None, trials: int | None) -> None:
    made = parse_budget(text)
    assert made == Budget(seconds=seconds, trials=trials)
    assert parse_budget(made.describe()) == made


@pytest.mark.parametrize("text", ["", "30", "0m", "0 trials", "m", "-3m", "half an hour", "3d"])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"such as 30m, 90s, 2h or '50 trials', got {text!r}"):
        parse_budget(text)


def test_when_it_is_spent() -> None:
    timed, counted = Budget(seconds=60), Budget(trials=3)
    assert [timed.is_spent(seconds=s, trials=99) for s in (59.9, 60.0)] == [False, True]
    assert [counted.is_spent(seconds=1e6, trials=n) for n in (2, 3)] == [False, True]
    assert not counted.is_out_of_time(1e9)
