from dataclasses import replace

import optuna
import polars as pl
import pytest

from featurestore.errors import ConfigError, UnknownNameError
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.ablation.tables import plain, plan
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig, check_together
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.search.space import FUSIONS, TEMPORALS, WEIGHTS, Space, strategy
from heads.tasks import TASKS

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _drawn(space: Space, n: int) -> list[dict[str, str | float | int]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(n):
        candidate = space.suggest(study.ask())
        check_together(candidate.head, candidate.training)
        HeadModel(candidate.head, {name: (width,) for name, width in space.widths.items()})
        found.append(strategy(candidate))
    return found


@pytest.mark.parametrize("task", ["p", *TASKS])
def test_whatever_is_drawn_can_be_fitted(features: FeatureSet, task: str) -> None:
    space = Space.of(features, task, FitConfig())
    drawn = _drawn(space, 60)
    assert {row["temporal"] for row in drawn} == set(TEMPORALS)
    assert {row["fusion"] for row in drawn} >= set(FUSIONS)  # `wide` is another width than the others
    assert {row["base"] for row in drawn} == set(features.names)
    for row in drawn:
        joined = str(row["joined"]).split("+")
        weights = dict(pair.split("=") for pair in str(row["weights"]).split())
        assert list(weights) == joined
        assert task == "p" or float(weights[task]) == 1
        assert all(WEIGHTS[0] * 0.99 <= float(weight) <= WEIGHTS[1] * 1.01 for weight in weights.values())
        assert (row["S"] == 1) == (row["temporal"] == "none")
        assert 1 <= int(row["W"]) <= int(row["S"])
        assert joined == list(TASKS) if task == "p" else task in joined


@pytest.mark.parametrize("task", TASKS)
def test_the_paper_s_choice_is_tried(features: FeatureSet, task: str) -> None:
    space = Space.of(features, task, FitConfig(learning_rate=1e-3))
    single, paper = (space.suggest(optuna.trial.FixedTrial(dict(each))) for each in space.first())
    assert single.head.encoders == (task,)
    assert (single.head.joint, single.head.temporal, single.head.resolved().fusion) == ((task,), "none", "none")
    best = max(
        (row for row in plan("joint", features.names).rows if row.task == task and row.published),
        key=lambda row: row.published.score,
    ).head.resolved()
    # Linear outputs on the task's own embedding in the au row: the paper's base was being trained.
    wanted = replace(best, encoder="au") if task == "au" else best
    # The paper's inputs, fusion and time; behind them a search has the default outputs, and not the paper's.
    assert plain(paper.head).resolved() == wanted
    assert {each.head.hidden_layers for each in (single, paper)} == {HeadConfig().hidden_layers}
    assert {paper.training.weights[name] for name in paper.head.joint} == {1.0}
    assert paper.training.select == task


def test_the_paper_s_choice_as_far_as_the_store_allows(store: FeatureStore) -> None:
    for names in (("wide",), ("v",), ("mae", "wide", "v"), ("wide", "au")):
        space = Space.of(FeatureSet.load(store, names, device="cpu"), "v", FitConfig())
        for parameters in space.first():
            head = space.suggest(optuna.trial.FixedTrial(dict(parameters))).head
            HeadModel(head, {name: (width,) for name, width in space.widths.items()})


def test_refusals(features: FeatureSet, store: FeatureStore) -> None:
    with pytest.raises(UnknownNameError, match=r"no task to search for 'valence'.*Known: a, au, expr, p, v"):
        Space.of(features, "valence", FitConfig())
    with pytest.raises(ConfigError, match="one vector a frame, but tokens hold tokens"):
        Space.of(FeatureSet.load(store, ("mae", "tokens"), device="cpu"), "v", FitConfig())
    bare = FrameTable(features.frames.data.with_columns(pl.lit(None, dtype=pl.Float32).alias("arousal")))
    without = replace(features, frames=bare)
    with pytest.raises(ConfigError, match=r"train rows with labels of a, but there are none.*`abaw frames`"):
        Space.of(without, "p", FitConfig())
    assert Space.of(without, "v", FitConfig()).joinable == ("au", "expr")


@pytest.mark.parametrize("width", [10, 15, 522])
def test_attention_is_had_at_any_width(width: int) -> None:
    space = Space(task="v", widths={"truth": width, "v": 16}, joinable=("a",), training=FitConfig(select="v"))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    heads = [space.suggest(study.ask()).head for _ in range(60)]
    attending = [head for head in heads if head.encoder == "truth" and "attention" in head.fusion]
    looking = [head for head in heads if head.encoder == "truth" and head.temporal == "transformer"]
    assert attending
    assert looking
    for head in (*attending, *looking):
        HeadModel(head, {name: (each,) for name, each in space.widths.items()})


def test_the_order_of_the_encoders_does_not_matter(store: FeatureStore) -> None:
    spaces = [
        Space.of(FeatureSet.load(store, names, device="cpu"), "v", FitConfig())
        for names in (("mae", "au", "wide"), ("wide", "mae", "au"))
    ]
    assert spaces[0].first() == spaces[1].first()
    assert _drawn(spaces[0], 10) == _drawn(spaces[1], 10)
