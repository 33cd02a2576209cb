from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.search.budget import Budget
from heads.search.config import SearchConfig
from heads.search.searching import SearchProgress, SearchResult, search

TRAINING = FitConfig(epochs=2, learning_rate=1e-3, batch_frames=128)
Search = Callable[..., SearchResult]


@pytest.fixture(scope="session")
def few(store: FeatureStore) -> FeatureSet:
    return FeatureSet.load(store, ("mae", "au", "v", "wide"), device="cpu")


@pytest.fixture(scope="session")
def searched(few: FeatureSet) -> Search:
    """Search for V."""

    def run(
        folder: Path,
        n_trials: int,
        *,
        features: FeatureSet | None = None,
        on_trial: Callable[[SearchProgress], None] | None = None,
        n_folds: int | None = None,
        seeds: tuple[int, ...] = (1,),
    ) -> SearchResult:
        config = SearchConfig(task="v", training=TRAINING, n_folds=n_folds, seeds=seeds)
        return search(features or few, config, Budget(trials=n_trials), folder=folder, on_trial=on_trial)

    return run


@pytest.fixture(scope="session")
def finished(searched: Search, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A search of twelve trials that nobody interrupted; nobody changes its folder."""
    return searched(tmp_path_factory.mktemp("searches") / "v", 12)
