"""Recipes as files: any recipe is read as it was written, and every mistake in one is told at once."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import ConfigError
from heads.calibration.config import PostConfig
from heads.fitting.config import FitConfig
from heads.light.config import LightConfig
from heads.losses.config import LossConfig
from heads.modules.config import HeadConfig
from heads.recipes.catalogue import find_recipe
from heads.recipes.member import BlendPlan, Member
from heads.recipes.recipe import Recipe
from heads.recipes.tables import recipe_from_table, recipe_to_table
from heads.recipes.told import Need, Published
from heads.recipes.tomlfile import format_recipe, parse_recipe, read_recipe, write_recipe

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
shares = st.floats(0, 0.9, allow_nan=False)
tasks = st.lists(st.sampled_from(["au", "expr", "v", "a"]), min_size=1, unique=True).map(tuple)
columns = st.tuples(st.integers(-20, 20), st.none()) | st.tuples(st.integers(0, 5), st.integers(6, 20))

needs = st.builds(Need, what=st.just("it"), dim=st.integers(1, 99), gflops=st.none() | st.floats(0.01, 900))


@st.composite
def neural(draw: st.DrawFn, name: str) -> Member:
    joint = draw(tasks)
    fusion = draw(st.sampled_from(["auto", "concat", "affine"]))
    head = HeadConfig(
        encoder="one",
        fuse=draw(st.sampled_from([(), ("two words",), ("two words", "three")])),
        columns={"one": draw(columns)} if draw(st.booleans()) else {},
        joint=joint,
        fusion=fusion,
        width=None if fusion == "auto" else draw(st.none() | st.integers(1, 9)),
        hidden=draw(st.lists(st.integers(1, 9), max_size=2).map(tuple)),
        fusion_dropout=draw(shares),
        seq=draw(st.integers(5, 9)),
        window=draw(st.none() | st.integers(1, 5)),
    )
    training = FitConfig(
        epochs=draw(st.integers(1, 99)),
        learning_rate=draw(st.floats(1e-9, 1e3)),
        weights={"au": draw(st.floats(0.1, 9))},
        loss=LossConfig(label_smoothing=draw(shares), v=draw(st.sampled_from(["ccc", "mse", "ccc+0.5*mse"]))),
        seed=draw(st.integers(0, 5)),
    )
    return Member(name=name, tasks=joint, head=head, training=training, epoch_per_task=draw(st.booleans()))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    models = [draw(neural("a")), draw(neural("b"))]
    light = LightConfig(estimator="ridge", encoder="one", fuse=("two words",), C=draw(st.floats(0.01, 9)))
    models.append(Member(name="c", tasks=("v",), head=light))
    used = {role for model in models for role in model.head.encoders}
    score = st.none() | st.floats(0, 1)
    how = draw(st.sampled_from(["given", "fitted", "best"]))
    return Recipe(
        name="drawn",
        title=draw(texts.filter(bool)),
        models=tuple(models),
        needs={role: draw(needs) for role in sorted(used)},
        blend=BlendPlan(how=how, weights={"v": {"c": draw(st.floats(0.1, 2))}} if how == "given" else {}),
        post=PostConfig(smoothing={"v": "box"}, widths={"v": (draw(st.floats(0, 9)),)}, thresholds=draw(st.booleans())),
        folds=draw(st.none() | st.integers(2, 9)),
        seeds=draw(st.integers(1, 3)),
        year=draw(st.none() | st.integers(1990, 2030)),
        source=draw(texts),
        published={"test": Published(p=draw(score), va=draw(score))} if draw(st.booleans()) else {},
        notes=tuple(draw(st.lists(texts, max_size=2))),
    )


@settings(max_examples=40, deadline=None)
@given(recipes())
def test_any_recipe_is_read_as_it_was_written(recipe: Recipe) -> None:
    assert parse_recipe(format_recipe(recipe)) == recipe
    assert recipe_from_table(recipe_to_table(recipe, full=True)) == recipe


def test_a_file_is_written_and_read(tmp_path: Path) -> None:
    write_recipe(tmp_path / "r.toml", find_recipe("cprl"))
    assert read_recipe(tmp_path / "r.toml") == find_recipe("cprl")


def test_what_equals_its_default_is_left_out() -> None:
    table = tomllib.loads(format_recipe(find_recipe("linear-probe")))
    assert table["model"] == [
        {
            "name": "linear",
            "tasks": ["au", "expr", "v", "a"],
            "head": {"encoder": "mae", "normalise": False, "temporal": "none", "hidden": [], "seq": 1},
            "training": {"epochs": 20, "loss": {}, "select": "p"},
        }
    ]
    assert "post" not in table


def test_seed_and_device_are_no_part_of_a_recipe() -> None:
    one = find_recipe("linear-probe").models[0]
    assert one.training is not None
    other = replace(one, training=replace(one.training, seed=7, device="cpu"))
    assert other == one


LEAST = """
name = "r"
title = "t"
[needs.mae]
what = "w"
dim = 4
[[model]]
name = "m"
tasks = ["v"]
[model.head]
joint = ["v"]
"""


def test_the_least_recipe_is_one() -> None:
    recipe = parse_recipe(LEAST)
    assert recipe.models[0].head == HeadConfig(joint=("v",)).resolved()
    assert recipe.models[0].training == FitConfig()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("name =", "nam ="), r"no entry of a recipe 'nam'. Did you mean 'name'\?.*name is missing"),
        (('name = "r"', 'name = "a b"'), r"name must be letters, digits"),
        (('title = "t"', "title = 3"), r"title: Input should be a valid string, got 3"),
        (("dim = 4", "dim = 4\nflops = 1"), r"needs.mae: There is no setting 'flops'. Did you mean 'gflops'"),
        (("dim = 4", "dim = 0"), r"needs.mae: dim must be at least 1, got 0"),
        (
            ("needs.mae", "needs.mea"),
            r"needs must say which encoders are meant by mae. needs names mea, which no model",
        ),
        (("dim = 4", "dim = 4\ntokens = 2"), r"model 'm' reads one vector a frame, which 'mae' of needs is not"),
        (('tasks = ["v"]', 'tasks = ["v", "a"]'), r"model 'm': it answers a, but joins only v"),
        (('tasks = ["v"]', "tasks = []"), r"tasks must name what the model answers"),
        (('tasks = ["v"]', 'tasks = "v"'), r"model 'm': Input should be a valid tuple"),
        (
            ('joint = ["v"]', 'joint = ["v"]\nfuze = 1'),
            r"model 'm': head: There is no setting 'fuze'. Did you mean 'fuse'",
        ),
        (
            ('joint = ["v"]', 'joint = ["v"]\nseq = 0'),
            r"model 'm': head: seq \(S, rows in a window\) must be at least 1",
        ),
        (('joint = ["v"]', 'joint = ["v"]\ncolumns = { mae = "x" }'), r"model 'm': head: columns.mae"),
        (
            ("[model.head]", "[model.training]\nseed = 3\n[model.head]"),
            r"training.seed is given when the recipe is fitted",
        ),
        (("[model.head]", "[model.light]\nestimator = 'ridge'\n[model.head]"), r"needs a head or a light, one of them"),
        (("[model.head]", "[model.heads]"), r"no entry of a model 'heads'. Did you mean 'head'"),
        (("[[model]]", "[model]"), r"begin each with \[\[model\]\]"),
        (
            ("[needs.mae]", '[blend]\nhow = "fited"\n[needs.mae]'),
            r"blend: There is no blend 'fited'. Did you mean 'fitted'",
        ),
        (("[needs.mae]", "[blend.weights]\nv = { x = 1.0 }\n[needs.mae]"), r"no model that answers it 'x'"),
        (("[needs.mae]", "[post]\nthreshold = true\n[needs.mae]"), r"post: There is no setting 'threshold'"),
        (
            ("[needs.mae]", "[published.train]\np = 1.0\n[needs.mae]"),
            r"published is of val, test or untold, not 'train'",
        ),
        (("[needs.mae]", "[published.val]\np = 9.0\n[needs.mae]"), r"published.val: p must be in \[-1, 3\], got 9.0"),
        (('title = "t"', 'title = "t"\nfolds = 1'), r"folds must be at least 2, got 1"),
        (('title = "t"', 'title = "t'), r"not valid TOML: .*Correct that line"),
    ],
)
def test_a_mistake_is_refused(change: tuple[str, str], told: str) -> None:
    assert change[0] in LEAST
    with pytest.raises(ConfigError, match=told):
        parse_recipe(LEAST.replace(*change))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = LEAST.replace("title", "titel").replace("dim = 4", "dim = 0").replace('joint = ["v"]', 'joint = ["vv"]')
    path = tmp_path / "r.toml"
    path.write_text(text.replace("[model.head]", "[model.training]\nepochs = 0\nseed = 2\n[model.head]"))
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    for told in ("'titel'", "title is missing", "dim must", "no task 'vv'", "epochs must", "training.seed", str(path)):
        assert told in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"r\.toml"):
        read_recipe(path)
