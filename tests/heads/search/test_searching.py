import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread

from featurestore.errors import ConfigError, FileExistsAlreadyError
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.folds import video_folds
from heads.fitting.outoffold import fit_folds
from heads.recipes.fitting import fit_recipe
from heads.recipes.tomlfile import read_recipe
from heads.search.budget import Budget
from heads.search.claiming import claimed
from heads.search.config import SearchConfig
from heads.search.searching import N_HOPELESS, SearchProgress, SearchResult, search
from heads.search.space import Candidate, Space
from heads.search.study import FinishedTrial

ROOT = Path(__file__).parents[3]
TRAINING = FitConfig(epochs=2, learning_rate=1e-3, batch_frames=128)
Search = Callable[..., SearchResult]


def _same(a: tuple[FinishedTrial, ...], b: tuple[FinishedTrial, ...]) -> bool:
    """The same choices with the same scores; numbers count what a kill ended, too, and seconds differ."""
    return [(each.state, each.candidate, each.outcome.scores) for each in a] == [
        (each.state, each.candidate, each.outcome.scores) for each in b
    ]


def test_what_is_left_in_the_folder(finished: SearchResult, few: FeatureSet) -> None:
    folder = finished.folder
    assert len(finished.trials) == 12
    table = pl.read_csv(folder / "trials.csv")
    assert table["trial"].to_list() == list(range(12))
    complete = table.filter(state="complete")
    assert table.filter("is_best")["score"].to_list() == [complete["score"].max()]
    assert finished.best.outcome.score == pytest.approx(complete["score"].max())
    assert table["temporal"].null_count() == 0
    assert table.filter(pl.col("state") != "complete")["score"].null_count() == 12 - complete.height
    result = json.loads((folder / "result.json").read_text())
    assert result["val_is_honest"] is False
    assert result["selected_on"] == finished.selected_on == "val"
    # Selected on val: fitted again, the best one scores there what it was selected for.
    assert result["val"]["ccc_valence"]["score"] == pytest.approx(finished.best.outcome.score)
    assert imread(folder / "search.png").shape[2] == 4
    assert finished.spent_s > 0


def test_the_recipe_is_the_best_trial(finished: SearchResult, few: FeatureSet) -> None:
    recipe = read_recipe(finished.folder / "recipe.toml")
    assert recipe.tasks == ("v",)
    assert "the score on val is optimistic" in recipe.notes[0]
    score = fit_recipe(few, recipe, seed=1).scores.parts["ccc_valence"]
    assert score is not None
    assert score.score == pytest.approx(finished.best.outcome.score)


def test_it_goes_on_where_it_stopped(finished: SearchResult, searched: Search, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    seen: list[SearchProgress] = []

    def stop(progress: SearchProgress) -> None:
        seen.append(progress)
        if len(seen) == 5:
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        searched(folder, 12, on_trial=stop)
    # What is there is written.
    assert pl.read_csv(folder / "trials.csv").height == 5
    assert read_recipe(folder / "recipe.toml").models
    assert [each.n_finished for each in seen] == [1, 2, 3, 4, 5]
    again = searched(folder, 12, on_trial=seen.append)
    assert [each.n_finished for each in seen[5:]] == list(range(6, 13))
    assert _same(again.trials, finished.trials)
    assert again.spent_s > seen[4].spent_s
    # The budget is that of all its parts: nothing is left.
    assert _same(searched(folder, 12, on_trial=seen.append).trials, finished.trials)
    assert len(seen) == 12


SCRIPT = """
import sys
from pathlib import Path
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.search.budget import Budget
from heads.search.config import SearchConfig
from heads.search.searching import search

features = FeatureSet.load(FeatureStore.open(sys.argv[1]), ("mae", "au", "v", "wide"), device="cpu")
config = SearchConfig(task="v", training=FitConfig(epochs=2, learning_rate=1e-3, batch_frames=128))
search(features, config, Budget(trials=12), folder=Path(sys.argv[2]), on_trial=lambda each: print(each, flush=True))
"""


def test_killed_it_goes_on(store: FeatureStore, finished: SearchResult, searched: Search, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # as here: threads decide bits
    command = [sys.executable, "-c", SCRIPT, store.location, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for _ in range(4):
            assert "SearchProgress" in process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    # What the first trials came to is there, though not how it looks.
    assert pl.read_csv(folder / "trials.csv").height >= 1
    assert read_recipe(folder / "recipe.toml").models
    assert not (folder / "search.png").exists()
    # What a kill at the worst moments leaves: half a line, and the lock of one who writes.
    with (folder / "journal.log").open("a") as file:
        file.write('{"op_code": 5, "wor')
    lock = Path(f"{folder / 'journal.log'}.lock")
    if not lock.is_symlink():
        lock.symlink_to(folder / "journal.log")
    again = searched(folder, 12)
    assert _same(again.trials, finished.trials)
    assert searched(folder, 13).trials[12].candidate != finished.trials[11].candidate


def test_other_settings_are_refused(finished: SearchResult, few: FeatureSet, tmp_path: Path) -> None:
    config = SearchConfig(task="v", training=replace(TRAINING, epochs=3))
    before = {path: path.read_bytes() for path in finished.folder.iterdir()}
    with pytest.raises(FileExistsAlreadyError, match=r"but epochs was 2, is 3 \(search.*another --name"):
        search(few, config, Budget(trials=1), folder=finished.folder)
    relabelled = FrameTable(few.frames.data.with_columns(valence=pl.lit(0.5, dtype=pl.Float32)))
    with pytest.raises(FileExistsAlreadyError, match=r"but the labels are others \(search"):
        search(
            replace(few, frames=relabelled),
            replace(config, training=TRAINING),
            Budget(trials=1),
            folder=finished.folder,
        )
    assert {path: path.read_bytes() for path in finished.folder.iterdir()} == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsAlreadyError, match="holds something else"):
        search(few, config, Budget(trials=1), folder=tmp_path)
    with pytest.raises(ConfigError, match=r"name must be letters, digits .* got 'a\.b'"):
        search(few, config, Budget(trials=1), folder=tmp_path / "a.b")


def test_one_process_at_a_time(finished: SearchResult, few: FeatureSet, searched: Search) -> None:
    description = SearchConfig(task="v", training=TRAINING).describe(few)
    with (
        claimed(finished.folder, description),
        pytest.raises(ConfigError, match=r"another is at this one .*--parallel"),
    ):
        searched(finished.folder, 12)


def test_honest_selection_never_sees_val(few: FeatureSet, searched: Search, tmp_path: Path) -> None:
    made = searched(tmp_path / "honest", 3, n_folds=2, seeds=(1, 2))
    assert made.selected_on == "train, out of 2 folds"
    best = made.best
    folds = video_folds(few.frames, 2)
    trainings = [replace(best.candidate.training, seed=seed) for seed in (1, 2)]
    folded = [fit_folds(few, best.candidate.head, training, folds) for training in trainings]
    points = [each.scores.parts["ccc_valence"].score for each in folded]
    assert best.outcome.scores == pytest.approx(points)
    assert best.outcome.score == pytest.approx(np.mean(points))
    recipe = read_recipe(tmp_path / "honest" / "recipe.toml")
    training = recipe.models[0].training
    assert (training.select_on, training.epochs) == ("last", best.outcome.epoch)
    assert json.loads((tmp_path / "honest" / "result.json").read_text())["val_is_honest"] is True
    # With other labels on val all is the same but the score there.
    is_val = pl.col("split") == "val"
    data = few.frames.data.with_columns(valence=pl.when(is_val).then(-pl.col("valence")).otherwise("valence"))
    other = searched(tmp_path / "other", 3, n_folds=2, seeds=(1, 2), features=replace(few, frames=FrameTable(data)))
    assert _same(other.trials, made.trials)
    assert other.scores.parts["ccc_valence"] != made.scores.parts["ccc_valence"]


def test_time_that_is_up_ends_what_is_under_way(few: FeatureSet, tmp_path: Path) -> None:
    config = SearchConfig(task="v", training=replace(TRAINING, epochs=60))
    seen: list[SearchProgress] = []
    # The first is finished though the time is up: else there would be no result.
    made = search(few, config, Budget(seconds=0.01), folder=tmp_path / "v", on_trial=seen.append)
    assert [trial.state for trial in made.trials] == ["complete"]
    more = Budget(seconds=made.spent_s + 0.05)
    again = search(few, config, more, folder=tmp_path / "v", on_trial=seen.append)
    assert again.trials == made.trials
    assert [each.trial is None for each in seen] == [False, True]


def test_what_cannot_be_fitted_is_a_failed_trial(few: FeatureSet, tmp_path: Path) -> None:
    config = SearchConfig(task="v", training=replace(TRAINING, gradient_clip=1e30, weight_decay=1e30))
    with pytest.raises(ConfigError, match=r"No trial is complete, .*(loss became|No prediction is a number)"):
        search(few, config, Budget(trials=2), folder=tmp_path / "v")


def _refusing(monkeypatch: pytest.MonkeyPatch, **changed: object) -> None:
    """Of 16 columns no five heads can be made."""
    suggest = Space.suggest

    def spoilt(space: Space, trial: object) -> Candidate:
        candidate = suggest(space, trial)
        return replace(candidate, head=replace(candidate.head, attention_heads=5, **changed))

    monkeypatch.setattr(Space, "suggest", spoilt)


def test_a_choice_that_is_refused_costs_one_trial(
    searched: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refusing(monkeypatch)
    seen: list[SearchProgress] = []
    made = searched(tmp_path / "v", 10, on_trial=seen.append)
    states = [trial.state for trial in made.trials]
    assert {"failed", "complete"} <= set(states)
    table = pl.read_csv(tmp_path / "v" / "trials.csv")
    assert table["state"].to_list() == states
    assert all("multiple of 5" in error for error in table.filter(state="failed")["error"])
    assert [each.trial.outcome.error for each in seen if each.trial is not None] == [
        each or "" for each in table["error"].to_list()
    ]
    # And the same after it was stopped.
    assert len(searched(tmp_path / "v", 11).trials) == 11


def test_where_nothing_can_be_fitted_the_search_ends(
    searched: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refusing(monkeypatch, temporal="transformer")
    for n_before in (0, N_HOPELESS):
        with pytest.raises(ConfigError, match=r"No trial is complete, .*Attention of 5 heads needs"):
            searched(tmp_path / "v", 10_000)
        assert pl.read_csv(tmp_path / "v" / "trials.csv").height == n_before + N_HOPELESS
    # Nothing is lost with them: the folder is free for other settings.
    monkeypatch.undo()
    assert len(searched(tmp_path / "v", 1, seeds=(2,)).trials) == 1


def _without_val_labels(few: FeatureSet) -> FeatureSet:
    hidden = pl.when(pl.col("split") == "val").then(None).otherwise("valence").alias("valence")
    return replace(few, frames=FrameTable(few.frames.data.with_columns(hidden)))


def test_folds_select_without_labels_on_val(few: FeatureSet, searched: Search, tmp_path: Path) -> None:
    made = searched(tmp_path / "v", 1, n_folds=2, features=_without_val_labels(few))
    assert made.scores is None
    result = json.loads((tmp_path / "v" / "result.json").read_text())
    assert result["val"] is None
    assert result["score"] == made.best.outcome.score
    assert read_recipe(tmp_path / "v" / "recipe.toml").models


def test_what_cannot_be_selected_by_is_refused_before_the_folder_is_made(
    few: FeatureSet, searched: Search, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^A search for 'v' selects on val, but of its 98 rows none has.*--honest"):
        searched(tmp_path / "v", 1, features=_without_val_labels(few))
    with pytest.raises(ConfigError, match=r"^500 folds of whole clips were asked for, but the train split has 3"):
        searched(tmp_path / "v", 1, n_folds=500)
    assert not (tmp_path / "v").exists()
    assert len(searched(tmp_path / "v", 1, n_folds=2).trials) == 1


def test_it_goes_on_with_the_encoders_in_another_order(store: FeatureStore, searched: Search, tmp_path: Path) -> None:
    for n, names in ((2, ("mae", "au")), (3, ("au", "mae"))):
        made = searched(tmp_path / "v", n, features=FeatureSet.load(store, names, device="cpu"))
        assert len(made.trials) == n


def test_tables_are_there_from_the_first_trial_on(searched: Search, tmp_path: Path) -> None:
    there: list[set[str]] = []
    searched(tmp_path / "v", 2, on_trial=lambda _: there.append({path.name for path in (tmp_path / "v").iterdir()}))
    assert {"trials.csv", "recipe.toml"} <= there[0]
    assert "search.png" not in there[1]
    assert pl.read_csv(tmp_path / "v" / "trials.csv").height == 2


def test_a_recipe_names_its_seeds(few: FeatureSet, searched: Search, tmp_path: Path) -> None:
    made = searched(tmp_path / "v", 1, seeds=(7, 8))
    recipe = read_recipe(tmp_path / "v" / "recipe.toml")
    assert recipe.notes[1] == "The score is the mean of seeds 7, 8."
    fitted = [fit_recipe(few, recipe, seed=seed).scores.parts["ccc_valence"].score for seed in (7, 8)]
    assert fitted == pytest.approx(made.best.outcome.scores)


def test_configurations_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"at least one, and each once"):
        SearchConfig(task="v", training=TRAINING, seeds=(1, 1))
    with pytest.raises(ConfigError, match="folds must be at least 2, got 1"):
        SearchConfig(task="v", training=TRAINING, n_folds=1)
