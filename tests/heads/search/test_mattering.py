import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from matplotlib.image import imread

from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.search.mattering import MIN_TRIALS, Choice, choices
from heads.search.picture import draw_search, search_figure
from heads.search.reporting import trial_table
from heads.search.space import Space
from heads.search.study import FinishedTrial
from heads.search.trials import Outcome


@pytest.fixture(scope="module")
def space(few: FeatureSet) -> Space:
    return Space.of(few, "v", FitConfig())


def _trials(space: Space, n: int) -> list[FinishedTrial]:
    """Scores that follow from the temporal module, a little from `fuse au`, and from nothing else."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    rng = np.random.default_rng(0)
    made = []
    for number in range(n):
        candidate = space.suggest(study.ask())
        score = 0.3 + 0.3 * (candidate.head.temporal == "lstm") + 0.05 * ("au" in candidate.head.fuse)
        outcome = Outcome(scores=(score + 0.005 * rng.normal(),), epochs=(2,), n_parameters=7, seconds=1.5)
        made.append(FinishedTrial(number=number, state="complete", candidate=candidate, outcome=outcome))
    return made


def test_what_makes_the_scores_is_found(space: Space) -> None:
    found = choices(_trials(space, 80), space)
    assert found[0].name == "temporal"
    assert found[0].importance > 0.6
    assert found[0].medians[0][0] == "lstm"
    assert 0.9 < sum(choice.importance for choice in found) < 1
    assert found[1].importance < 0.03
    assert sum(choice.importance > 0 for choice in found) < 6
    assert all(sum(n for _, _, n in choice.medians) == 80 for choice in found)
    by_name = {choice.name: {label: score for label, score, _ in choice.medians} for choice in found}
    assert set(by_name["fuse au"]) == {"yes", "no"}
    assert len(by_name["learning rate"]) == 2
    assert {"none"} < set(by_name["weight a"])
    assert set(by_name["W / S"]) == {"1", "0.75", "0.5"}


def test_of_few_trials_nothing_is_told(space: Space) -> None:
    trials = _trials(space, MIN_TRIALS)
    assert choices(trials[1:], space) == ()
    assert choices(trials, space) != ()
    pruned = [replace(trial, state="pruned", outcome=Outcome(ended=True)) for trial in trials]
    assert choices([*trials[1:], *pruned], space) == ()
    alike = [replace(trial, outcome=replace(trial.outcome, scores=(0.5,))) for trial in trials]
    assert choices(alike, space) == ()


def _noise(space: Space, n: int, seed: int) -> list[FinishedTrial]:
    """The same choices with scores that follow from nothing."""
    rng = np.random.default_rng(seed)
    return [
        replace(trial, outcome=replace(trial.outcome, scores=(0.5 + 0.05 * rng.normal(),)))
        for trial in _trials(space, n)
    ]


@pytest.mark.parametrize("n", [MIN_TRIALS, 60])
def test_of_noise_nothing_is_told(space: Space, n: int) -> None:
    for seed in range(3):
        assert sum(choice.importance for choice in choices(_noise(space, n, seed), space)) < 0.05


def test_a_strong_signal_is_told_from_few_trials(space: Space) -> None:
    found = choices(_trials(space, MIN_TRIALS), space)
    assert found[0].name == "temporal"
    assert found[0].importance > 0.4
    assert sum(choice.importance > 0 for choice in found) < 6


def test_the_picture_says_what_it_shows(space: Space) -> None:
    figure = search_figure(_trials(space, 40), space, title="search")
    figure.draw_without_rendering()
    axes = figure.axes[1]
    ticks = [tick for tick in axes.get_xticks() if tick <= axes.get_xlim()[1]]
    labels = [label.get_text().rstrip("%") for label in axes.get_xticklabels()]
    assert [float(label) / 100 for label in labels[: len(ticks)]] == pytest.approx(ticks)
    assert "predicts" in axes.get_xlabel()
    assert re.search(r"not shown: \d+, no better than chance", axes.get_xlabel())
    noise = search_figure(_noise(space, 40, 1), space, title="search")
    assert "better than chance" in noise.axes[1].texts[0].get_text()


def test_ticks_between_whole_per_cents_say_so(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Choice(name="base", importance=0.12, medians=(("mae", 0.5, 40),))
    monkeypatch.setattr("heads.search.picture.choices", lambda *_: (made,))
    figure = search_figure(_trials(space, 3), space, title="search")
    figure.axes[1].set_xticks([0, 0.025, 0.05])
    figure.draw_without_rendering()
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["0.0%", "2.5%", "5.0%"]


def test_trials_are_drawn_at_their_numbers(space: Space) -> None:
    # What a kill ended leaves gaps in the numbers.
    trials = [replace(trial, number=3 * trial.number + 2) for trial in _trials(space, 6)]
    trials[1] = replace(trials[1], state="pruned", outcome=Outcome(ended=True))
    axes = search_figure(trials, space, title="search").axes[0]
    complete, pruned, best = (each.get_offsets()[:, 0].tolist() for each in axes.collections[:3])
    assert complete == [2, 8, 11, 14, 17]
    assert pruned == [5]
    (told,) = [text.get_text() for text in axes.texts if re.fullmatch(r"trial \d+: [\d.]+", text.get_text())]
    assert told.startswith(f"trial {best[0]:.0f}:")
    assert axes.get_xlabel().startswith("trial")


@pytest.mark.parametrize("n", [1, 3, 20])
def test_it_can_be_drawn(space: Space, tmp_path: Path, n: int) -> None:
    trials = _trials(space, n)
    trials += [replace(trial, state="failed", outcome=Outcome(error="why")) for trial in trials[:2]]
    draw_search(trials, space, tmp_path / "a.png", title="search")
    assert imread(tmp_path / "a.png").std() > 0.01


def test_the_table(space: Space) -> None:
    trials = _trials(space, 3)
    trials[0] = replace(trials[0], state="failed", outcome=Outcome(error="too steep"))
    trials[1] = replace(trials[1], outcome=replace(trials[1].outcome, scores=(0.1, 0.3), epochs=(1, 4)))
    table = trial_table(trials)
    assert table["error"].to_list() == ["too steep", None, None]
    assert table["score"][0] is None
    assert table["score"][1] == pytest.approx(0.2)
    assert table["std"][1] == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert table["is_best"].to_list() == [False, False, True]
