"""Every shipped recipe: it loads, it is written and read again the same, and its parts are of the published sizes."""

from pathlib import Path

import pytest
import torch

from featurestore.errors import MissingFileError, UnknownNameError
from heads.light.config import LightConfig
from heads.modules.model import HeadModel
from heads.recipes import catalogue
from heads.recipes.catalogue import find_recipe, recipe_names
from heads.recipes.member import Member
from heads.recipes.recipe import Recipe
from heads.recipes.tables import recipe_from_table, recipe_to_table
from heads.recipes.tomlfile import format_recipe, parse_recipe

FUSION_768 = 1_181_184
LSTM_768 = 9_449_472


def member(recipe: Recipe, name: str) -> Member:
    return next(each for each in recipe.models if each.name == name)


def model(recipe: Recipe, name: str) -> HeadModel:
    """A model of a recipe at its real size; those that are large, without memory for their numbers."""
    head = member(recipe, name).head
    assert not isinstance(head, LightConfig)
    with torch.device("cpu" if head.reads_tokens else "meta"):
        return HeadModel(head, {role: need.row_shape for role, need in recipe.needs.items()})


def test_every_file_is_listed() -> None:
    folder = Path(catalogue.__file__).parent
    assert sorted(path.stem for path in folder.glob("*.toml")) == sorted(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_round_trips(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    assert parse_recipe(format_recipe(recipe)) == recipe
    assert recipe_from_table(recipe_to_table(recipe, full=True)) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_answers_all_tasks_and_its_heads_can_be_built(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.tasks == ("au", "expr", "v", "a")
    for each in recipe.models:
        if not isinstance(each.head, LightConfig):
            assert model(recipe, each.name).n_parameters() > 0


def test_a_file_is_a_recipe_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(format_recipe(find_recipe("scu")))
    assert find_recipe(str(path)) == find_recipe("scu")


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"no recipe 'netese'. Did you mean 'netease'\?"):
        find_recipe("netese")
    with pytest.raises(MissingFileError, match=r"gone\.toml is not there"):
        find_recipe("gone.toml")


class TestNetease:
    def test_its_models_have_the_inputs_of_table_4(self) -> None:
        recipe = find_recipe("netease")
        heads = {each.name: each.head for each in recipe.models}
        inputs = {
            name: (head.fuse, head.joint, head.temporal, head.seq, head.step)
            for name, head in heads.items()
            if not isinstance(head, LightConfig)
        }
        assert inputs == {
            "au": ((), ("au", "v"), "none", 1, 1),
            "expr": (("au", "v"), ("au", "expr", "v"), "lstm", 5, 5),
            "v": (("au", "v"), ("au", "v", "a"), "lstm", 20, 20),
            "a": (("au", "v"), ("au", "v", "a"), "lstm", 30, 30),
        }

    @pytest.mark.parametrize(("name", "outputs"), [("expr", 12 + 8 + 1), ("v", 12 + 1 + 1), ("a", 12 + 1 + 1)])
    def test_its_fusion_and_lstm_are_of_the_published_size(self, name: str, outputs: int) -> None:
        linear = 769 * outputs
        assert model(find_recipe("netease"), name).n_parameters() == FUSION_768 + LSTM_768 + linear


class TestAim3:
    def test_its_transformer_is_of_the_published_size(self) -> None:
        width, feedforward, n_layers, in_width = 1024, 2048, 4, 768 + 512 + 342
        attention = 4 * (width * width + width)
        layer = attention + 2 * width * feedforward + feedforward + width + 4 * width
        outputs = sum(1024 * 512 + 512 + 512 * 256 + 256 + 256 * n + n for n in (12, 8, 1, 1))
        wanted = in_width * width + width + n_layers * layer + outputs
        assert model(find_recipe("aim3"), "share-transformer").n_parameters() == wanted

    def test_its_frameworks_and_its_training_are_the_paper_s(self) -> None:
        recipe = find_recipe("aim3")
        frameworks = {each.head.framework for each in recipe.models if not isinstance(each.head, LightConfig)}
        assert frameworks == {"share-encoder", "share-bottom", "hidden-feedback"}
        for each in recipe.models:
            training = each.training
            assert training is not None
            assert (training.learning_rate, training.betas, training.epochs) == (5e-5, (0.5, 0.999), 50)
            assert training.weights == {"au": 1.0, "expr": 0.35, "v": 12.0, "a": 12.0}
            assert (training.loss.v, training.loss.a, training.schedule) == ("mse", "mse", "linear")


def test_what_is_not_published_is_said() -> None:
    for name in recipe_names():
        assert find_recipe(name).notes, name


def test_hsemotion_reads_v_and_a_from_ten_scores_only() -> None:
    recipe = find_recipe("hsemotion")
    columns = {each.name: each.head.columns for each in recipe.models}
    assert columns["efficientnet-va"] == {"efficientnet_b0": (-10, None)}
    assert columns["efficientnet-au"] == {}
    assert recipe.blend.weights["v"] == {"efficientnet-va": 0.8, "ddamfn-va": 0.2}


def test_published_scores_add_up_to_p() -> None:
    for name in recipe_names():
        for scores in find_recipe(name).published.values():
            parts = (scores.au, scores.expr, scores.va)
            if scores.p is not None and None not in parts:
                assert sum(part or 0 for part in parts) == pytest.approx(scores.p, abs=2e-3), name
