"""`abaw search` on a workspace, and the recipe that it leaves."""

import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore.errors import ConfigError
from heads.search import trials

Abaw = Callable[..., object]
Refused = Callable[..., str]
SMALL = ("--task", "v", "--encoders", "mae,au,v", "--epochs", 1, "--batch-frames", 4096)


def test_a_search_and_its_recipe(workspace: Path, abaw: Abaw) -> None:
    first = abaw("search", *SMALL, "--budget", "2 trials")
    assert first.code == 0, first.err
    assert "best of 2 trials, val, selected there: optimistic" in first.out
    assert re.search(r"2 trials complete, \d+ s \(budget: 2 trials; a larger one goes on\)", first.out)
    made = abaw("search", *SMALL, "--budget", "3 trials", "--json")
    assert made.code == 0, made.err
    found = made.json()
    assert sum(found["trials"].values()) == 3
    assert found["selected_on"] == "val"
    assert found["val_is_honest"] is False
    folder = workspace / "searches" / "v"
    assert found["files"] == {name: str(folder / name) for name in ("trials.csv", "recipe.toml", "search.png")}
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = max(float(row["score"]) for row in rows)
    assert found["score"] == pytest.approx(best)
    fitted = abaw("fit-heads", "--recipe", folder / "recipe.toml", "--json")
    assert fitted.code == 0, fitted.err
    score = fitted.json()["ccc_valence"]
    assert (score["score"] if isinstance(score, dict) else score) == pytest.approx(best)


def test_an_honest_search_says_so(workspace: Path, abaw: Abaw) -> None:
    made = abaw("search", *SMALL, "--budget", "1 trial", "--honest", "--folds", 2, "--seeds", "2,1")
    assert made.code == 0, made.err
    assert "val, honest: it had no part in the search" in made.out
    assert "selected on train, out of 2 folds" in made.out
    recipe = workspace / "searches" / "v-honest" / "recipe.toml"
    assert recipe.is_file()
    assert f"abaw fit-heads --recipe {recipe} --seed 2\n" in made.out


def test_without_labels_on_val_that_is_said(workspace: Path, abaw: Abaw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heads.search.searching.judge", lambda *_: None)
    made = abaw("search", *SMALL, "--budget", "1 trial")
    assert made.code == 0, made.err
    assert "best of 1 trials; val has no labels to score it by" in made.out
    assert abaw("search", *SMALL, "--budget", "1 trial", "--json").json()["val"] is None


def test_failed_trials_are_told(workspace: Path, abaw: Abaw, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, fits = trials.fit, []

    def fit(*arguments: object, **named: object) -> object:
        fits.append(arguments)
        if len(fits) == 3:
            raise ConfigError("not this one")
        return whole(*arguments, **named)

    monkeypatch.setattr(trials, "fit", fit)
    made = abaw("search", *SMALL, "--budget", "3 trials")
    assert made.code == 0, made.err
    assert "trial 2 failed: not this one" in made.err
    assert "2 trials complete, 1 failed" in made.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "valence", "--budget", "1 trial"], "no task to search for 'valence'"),
        (["--task", "v", "--budget", "long"], "Expected a budget such as 30m"),
        (["--task", "v", "--budget", "1 trial", "--seeds", "1,1"], "each once"),
        (["--task", "v", "--budget", "1 trial", "--name", "../x"], "got '../x'"),
        (["--task", "v", "--budget", "1 trial", "--parallel", "many"], "parallel must be auto or a number"),
        (
            ["--task", "v", "--budget", "1 trial", "--honest", "--folds", "500"],
            "500 folds of whole clips were asked for",
        ),
    ],
)
def test_refusals(workspace: Path, refused: Refused, options: list[str], message: str) -> None:
    assert message in refused(2, "search", *options)
    assert not (workspace / "searches").exists()


def test_without_optuna(workspace: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'abaw[search]'" in refused(2, "search", *SMALL)
