import pytest

from featurestore.errors import ConfigError, UnknownNameError
from heads.tasks import TASKS, in_task_order, parse_names, parse_tasks, parse_weights, task_named


def test_outputs_and_shares() -> None:
    assert {task.name: task.n_outputs for task in TASKS.values()} == {"au": 12, "expr": 8, "v": 1, "a": 1}
    assert sum(task.share for task in TASKS.values()) == 3.0


def test_parse_tasks_keeps_the_one_order() -> None:
    assert parse_tasks("a, v,au,a") == ("au", "v", "a")
    assert in_task_order(["expr", "au"]) == ("au", "expr")
    assert parse_names(" v,,au ") == ("v", "au")


def test_an_unknown_task_is_answered_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"There is no task 'exp'\. Did you mean 'expr'"):
        task_named("exp")
    with pytest.raises(UnknownNameError, match="no task 'aux'"):
        parse_tasks("v,aux")
    with pytest.raises(ConfigError, match="Expected tasks, separated by commas, got ','"):
        parse_tasks(",")


def test_parse_weights() -> None:
    assert parse_weights("au=1, expr=0.5") == {"au": 1.0, "expr": 0.5}
    with pytest.raises(ConfigError, match="got 'au' in 'au'"):
        parse_weights("au")
    with pytest.raises(ConfigError, match="got 'v=much'"):
        parse_weights("v=much")
    with pytest.raises(UnknownNameError, match="no task 'va'"):
        parse_weights("va=1")
