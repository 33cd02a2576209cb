"""`abaw recipes` and `abaw leaderboard`."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from extractor.encoders.presets import find_preset
from heads.recipes.board import SCHEMA
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
    asked = ["leaderboard", "--only", "netease,baseline,scu", "--use", "vgg16=mae", "--epochs", 1, "--device", "cpu"]
    first = abaw(*asked, "--out", out, "-w", finished)
    assert first.code == 0, first.err
    for told in ("netease", "baseline: vgg16=mae (32 columns for 4096)", "scu: not fitted.", "x: epochs", "1.529"):
        assert told in first.out
    rows = pl.read_csv(out / "leaderboard.csv", schema=SCHEMA)
    assert set(rows["system"]) == {"netease", "baseline"}
    assert System.load(out / "netease_seed1").record.stand_ins
    again = abaw(*asked, "--out", out, "--json", "-w", finished).json()
    assert again["rows"] == rows.to_dicts()
    assert again["failed"] == {}
    missing = again["missing"]
    assert isinstance(missing, dict)
    assert missing["scu"][0]["command"].startswith("abaw extract --encoder dinov2_giant_238 --pooling tokens")
    assert (out / "leaderboard.md").is_file()
