"""`abaw recipes` and `abaw leaderboard`."""

import inspect
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from cli.recipe_tables import WIDE, recipe_line, recipes_table
from cli.workspace import open_workspace
from extractor.encoders.presets import find_preset
from featurestore.store import FeatureStore
from heads.leaderboard.rows import SCHEMA
from heads.recipes.catalogue import find_recipe, recipe_names
from heads.recipes.system import System
from heads.recipes.tomlfile import parse_recipe

Abaw = Callable[..., "Outcome"]


class Outcome:
    """What a command left, as `conftest` has it."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, object]:
        """Stdout, which is one JSON object."""
        raise NotImplementedError


OTHER_WIDTH = {("aim3", "densenet121"), ("hsemotion", "ddamfn"), ("scu", "dinov2_giant_238-tokens-pca128")}
"""Roles whose preset only comes near: the recipes' notes say how."""


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is in no workspace; the test runs inside it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", recipe_names())
def test_every_preset_that_a_recipe_names_is_one_of_its_width(name: str) -> None:
    for role, need in find_recipe(name).needs.items():
        if need.preset is not None:
            preset = find_preset(need.preset)
            assert preset is not None, need.preset
            assert (preset.dim == need.dim) == ((name, role) not in OTHER_WIDTH)
            if preset.dim != need.dim and not need.command:  # the preset is what the command brings
                assert str(preset.dim) in need.brings


def test_the_list_works_outside_a_workspace(abaw: Abaw, nowhere: Path) -> None:
    listed = abaw("recipes")
    assert listed.code == 0
    for name in recipe_names():
        assert name in listed.out
    assert "s-Aff-Wild2's 218,538 rows" in listed.out
    assert "in the store" not in listed.out
    facts = abaw("recipes", "--json").json()
    assert facts["store"] is None
    recipes = facts["recipes"]
    assert isinstance(recipes, dict)
    assert list(recipes) == list(recipe_names())
    scu = recipes["scu"]["needs"]["dinov2_giant_238-tokens-pca128"]
    assert scu["rows"] == 218_538
    assert 16.1e9 < scu["bytes"] < 16.3e9
    assert "state" not in scu


def test_the_list_says_what_the_store_has(abaw: Abaw, finished: Path) -> None:
    recipes = abaw("recipes", "--use", "iresnet100=au", "--json", "-w", finished).json()["recipes"]
    assert isinstance(recipes, dict)
    assert recipes["netease"]["can_be_fitted"] is True
    assert recipes["netease"]["needs"]["mae"]["stand_in"] == "mae (32 columns for 768)"
    aim3 = recipes["aim3"]["needs"]
    assert (aim3["iresnet100"]["encoder"], aim3["iresnet100"]["state"]) == ("au", "ready")
    assert (aim3["densenet121"]["state"], aim3["densenet121"]["missing"]) == (
        "absent",
        "abaw extract --encoder densenet121",
    )
    assert recipes["aim3"]["can_be_fitted"] is False
    told = abaw("recipes", "-w", finished).out
    assert "missing: abaw extract --encoder vgg16" in told
    assert "missing: abaw extract --encoder mae" not in told


def test_one_is_shown_in_full(abaw: Abaw, nowhere: Path, finished: Path) -> None:
    told = abaw("recipes", "show", "hsemotion").out
    for part in ("ABAW7, 2024", "efficientnet_b0", "10 scores", "P 1.2472", "v: efficientnet-va 0.8", "thresholds"):
        assert part in told
    assert "in the store: no" in abaw("recipes", "show", "hsemotion", "-w", finished).out


def test_a_recipe_is_printed_as_a_file_and_read_back(abaw: Abaw, nowhere: Path) -> None:
    text = abaw("recipes", "show", "aim3", "--toml").out
    assert parse_recipe(text) == find_recipe("aim3")
    (nowhere / "mine.toml").write_text(text.replace('name = "aim3"', 'name = "mine"', 1))
    assert abaw("recipes", "show", "mine.toml", "--json").json()["name"] == "mine"


def test_what_is_not_there_is_refused(refused: Callable[..., str], nowhere: Path, finished: Path) -> None:
    assert "Did you mean 'netease'?" in refused(2, "recipes", "show", "netease2")
    assert "Expected role=encoder" in refused(2, "recipes", "--use", "mae")
    assert "Role 'mae' is given twice" in refused(2, "recipes", "--use", "mae=au,mae=v")
    assert "Did you mean 'iresnet100'?" in refused(2, "recipes", "--use", "iresnet=au")
    assert "Make a workspace" in refused(1, "recipes", "-w", nowhere / "gone")
    assert "Make a workspace" in refused(1, "leaderboard")
    assert "Did you mean 'scu'?" in refused(2, "leaderboard", "--only", "scuu", "-w", finished)
    assert "There is no encoder 'nobody'" in refused(2, "leaderboard", "--use", "vgg16=nobody", "-w", finished)
    assert "no place to pick epochs 'test'" in refused(2, "leaderboard", "--select-on", "test", "-w", finished)


def test_the_leaderboard_fits_what_the_store_allows(abaw: Abaw, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "board"
    asked = ["leaderboard", "--only", "linear-probe,baseline,scu", "--use", "vgg16=mae", "--epochs", 1]
    asked += ["--device", "cpu"]
    first = abaw(*asked, "--out", out, "-w", finished)
    assert first.code == 0, first.err
    for told in ("linear-probe", "baseline: vgg16=mae (32 columns for 4096)", "scu: not fitted.", "x: epochs", "0.340"):
        assert told in first.out
    rows = pl.read_csv(out / "leaderboard.csv", schema=SCHEMA)
    assert set(rows["system"]) == {"linear-probe", "baseline"}
    assert System.load(out / "baseline_seed1-epochs1").record.stand_ins
    again = abaw(*asked, "--out", out, "--json", "-w", finished).json()
    assert again["rows"] == rows.to_dicts()
    assert again["failed"] == {}
    missing = again["missing"]
    assert isinstance(missing, dict)
    assert missing["scu"][0]["command"].startswith("abaw extract --encoder dinov2_giant_238 --pooling tokens")
    assert (out / "leaderboard.md").is_file()


def test_a_leaderboard_without_a_system_is_a_failure(abaw: Abaw, workspace: Path, nowhere: Path) -> None:
    lacking = abaw("leaderboard", "--only", "baseline", "-w", workspace)
    assert lacking.code == 1
    assert "baseline: not fitted. encoder 'vgg16' is not in the store." in lacking.out
    assert "No system was fitted." in lacking.err
    # Without --out the table lies in the workspace, wherever the command is run.
    assert (workspace / "leaderboard" / "leaderboard.csv").is_file()
    assert not (nowhere / "leaderboard").exists()
    (workspace / "leaderboard" / "linear-probe_seed1").mkdir()
    (workspace / "leaderboard" / "linear-probe_seed1" / "notes.txt").write_text("mine")
    failed = abaw("leaderboard", "--only", "linear-probe", "--json", "-w", workspace)
    assert failed.code == 1
    reasons = json.loads(failed.out)["failed"]
    assert "holds something that is not a system" in reasons["linear-probe"]["1"]


def test_a_system_says_how_its_parts_came_together(abaw: Abaw, finished: Path, tmp_path: Path) -> None:
    text = """
        name = "two"
        title = "two linear heads, blended"
        blend = { how = "fitted" }
        needs = { mae = { what = "MAE", dim = 32 }, au = { what = "AU", dim = 32 } }
        model = [
            { name = "first", tasks = ["v"], head = { encoder = "mae", joint = ["v"], temporal = "none", seq = 1 } },
            { name = "other", tasks = ["v"], head = { encoder = "au", joint = ["v"], temporal = "none", seq = 1 } },
        ]
    """
    for model in ("first", "other"):
        text = text.replace(f'name = "{model}", ', f'name = "{model}", training = {{ select = "v" }}, ')
    (tmp_path / "two.toml").write_text(inspect.cleandoc(text))
    copy = shutil.copytree(finished, tmp_path / "work")
    asked = ("fit-heads", "--recipe", tmp_path / "two.toml", "--epochs", 1, "--folds", 2, "--device", "cpu")
    fitted = abaw(*asked, "-w", copy)
    assert fitted.code == 0, fitted.err
    told = " ".join(fitted.out.split())
    assert "out of the heads' folds only: au were fine-tuned, and may know these frames" in told
    assert "out of 2 folds, each blended with weights of the others" in told
    assert "on folds that the weights were not fitted on: best member" in told
    assert "correlation of errors in v (train, out of fold): first and other" in told
    (folder,) = (copy / "runs").glob("two*")
    blend = json.loads((folder / "system.json").read_text())["blend"]
    assert blend["ways"]["v"] in ("best member", "equal weights", "fitted weights")
    assert set(blend["scores"]["v"]) == {"best member", "equal weights", "fitted weights"}
    assert pl.read_csv(folder / "errors.csv")["rows"].to_list() == ["train, out of fold"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["out_of_fold"]["blend"] == "each fold with weights fitted on the others"


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_list_fits_a_terminal(width: int, finished: Path) -> None:
    store = FeatureStore.open(str(finished / "features"))
    lines = [recipe_line(find_recipe(name), store, {"iresnet100": "au"}) for name in recipe_names()]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(recipes_table(lines, is_wide=width >= WIDE))
    text = console.export_text()
    assert "…" not in text
    n_needs = sum(len(line.recipe.needs) for line in lines)
    # A line a need, a space between recipes, two of the head; at 80 columns SCU's long name takes one more.
    assert len(text.strip("\n ").splitlines()) <= n_needs + len(lines) + 2
    assert ("PFLOP" in text) == (width == 120)
    assert text.count("1.634?") == 1


def test_a_system_of_the_leaderboard_is_found_by_name(
    abaw: Abaw, refused: Callable[..., str], finished: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(finished, tmp_path / "work")
    asked = ("leaderboard", "--only", "linear-probe", "--epochs", 1, "--device", "cpu", "-w", copy)
    assert abaw(*asked).code == 0
    name = "linear-probe_seed1-epochs1"
    scores = abaw("evaluate", name, "--json", "--device", "cpu", "-w", copy).json()
    assert scores["run"] == name
    assert abaw("compare", name, "joint", "-w", copy).code == 0
    predicted = abaw("predict", name, "--out", tmp_path / "predictions.txt", "--device", "cpu", "-w", copy)
    assert predicted.code == 0, predicted.err
    told = refused(2, "evaluate", "linear-probe_seed1", "-w", copy)
    assert f"Did you mean '{name}'?" in told
    assert f"Looked in {copy / 'runs'} and {copy / 'leaderboard'}" in told
    # What `fit-heads` leaves in runs/ comes first.
    shutil.copytree(copy / "leaderboard" / name, copy / "runs" / name)
    assert open_workspace(copy).find_run(name) == copy / "runs" / name


def test_finished_systems_move_the_bar(
    abaw: Abaw, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("leaderboard", "--only", "linear-probe", "--epochs", 1, "--device", "cpu", "--no-save")
    asked = (*asked, "--out", tmp_path / "board", "-w", finished)
    updates: list[tuple[int, int, str]] = []

    @contextmanager
    def bar(what: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
        yield lambda done, total, note: updates.append((done, total, note))

    monkeypatch.setattr("cli.console.progress_bar", bar)
    for state in ("fitted", "kept"):
        updates.clear()
        assert abaw(*asked).code == 0
        assert updates[-1] == (1, 1, f"linear-probe (seed 1): {state}")


def test_all_that_a_recipe_lacks_is_told(refused: Callable[..., str], finished: Path) -> None:
    fit = ("fit-heads", "-w", finished, "--recipe")
    scu = refused(1, *fit, "scu")
    assert "abaw extract --encoder dinov2_giant_238 --pooling tokens" in scu
    assert "--encoder dinov2_giant_238-tokens-pca128" not in scu
    aim3 = refused(1, *fit, "aim3")
    for told in ("--encoder iresnet100", "--encoder densenet121", "--use iresnet100=NAME"):
        assert told in aim3
    assert "There is no encoder 'nobody'" in refused(2, *fit, "aim3", "--use", "iresnet100=nobody")


def test_options_without_effect_are_told(
    abaw: Abaw, refused: Callable[..., str], finished: Path, tmp_path: Path
) -> None:
    on_val = refused(2, "fit-heads", "--recipe", "linear-probe", "--calibrate-on", "val", "-w", finished)
    assert "recipe 'linear-probe' has none, got 'val'" in on_val
    text = """
        name = "solved"
        title = "a ridge"
        needs = { mae = { what = "MAE", dim = 32 } }
        model = [{ name = "m", tasks = ["v"], light = { estimator = "ridge", joint = ["v"] } }]
    """
    (tmp_path / "solved.toml").write_text(inspect.cleandoc(text))
    copy = shutil.copytree(finished, tmp_path / "work")
    asked = ("fit-heads", "--recipe", tmp_path / "solved.toml", "--epochs", 3, "--device", "cpu", "-w", copy)
    fitted = abaw(*asked, "--json")
    assert fitted.code == 0, fitted.err
    assert "--epochs 3 changes nothing in recipe 'solved'" in fitted.err
    assert (fitted.json()["system"], fitted.json()["remarks"]) == ("solved_seed1", [])


def test_shortened_epochs_are_told(abaw: Abaw, finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "work")
    asked = ("fit-heads", "--recipe", "linear-probe", "--epochs", 1, "--device", "cpu", "-w", copy)
    facts = abaw(*asked, "--json").json()
    assert facts["system"] == "linear-probe_seed1-epochs1"
    assert (facts["epochs"], facts["remarks"]) == (1, ["epochs not the recipe's, but 1"])
    assert "x: epochs not the recipe's, but 1" in abaw(*asked).out
