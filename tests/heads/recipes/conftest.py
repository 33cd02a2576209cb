"""A store of 60 rows for whole systems, and encoders that stand in for theirs."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet

STAND_INS: Mapping[str, Mapping[str, str]] = {
    "aim3": {"iresnet100": "au", "densenet121": "v"},
    "hfut-mac1": {"iresnet100": "au", "densenet121": "v"},
    "scu": {"dinov2_giant_238-tokens-pca128": "tokens"},
    "hsemotion": {"efficientnet_b0": "au", "ddamfn": "v"},
    "aiwell-uoc": {"mobilefacenet": "mae"},
    "baseline": {"vgg16": "mae"},
    "sun-gao": {"dinov2_large": "mae", "dinov3_convnext_large": "au"},
}
"""Recipe -> role -> encoder of the small store."""

_VIDEOS = {
    **{f"train{number}": ("train", 9) for number in range(4)},
    **{f"val{number}": ("val", 8) for number in range(2)},
    "test": ("test", 8),
}


@pytest.fixture(scope="session")
def small_frames(make_frames: Callable[..., FrameTable]) -> FrameTable:
    return make_frames(_VIDEOS)


@pytest.fixture(scope="session")
def fill_store(
    label_vectors: Callable[..., NDArray[np.float32]], add_encoder: Callable[..., None]
) -> Callable[[FeatureStore], None]:
    """Put encoders mae, au, expr, v, a of 16 columns into a store, and tokens, 3 of 4 columns."""

    def fill(store: FeatureStore) -> None:
        for seed, name in enumerate(("mae", "au", "expr", "v", "a")):
            add_encoder(store, name, label_vectors(store.frames, seed=seed, noise=0.3), weights=name)
        drawn = np.random.default_rng(0).normal(size=(len(store.frames), 3, 4))
        add_encoder(store, "tokens", drawn.astype(np.float32), weights="tokens")

    return fill


@pytest.fixture(scope="session")
def small_store(
    small_frames: FrameTable, fill_store: Callable[[FeatureStore], None], tmp_path_factory: pytest.TempPathFactory
) -> FeatureStore:
    """Nobody changes it."""
    made = FeatureStore.create(tmp_path_factory.mktemp("recipes") / "features", small_frames)
    fill_store(made)
    return made


@pytest.fixture(scope="session")
def small_features(small_store: FeatureStore) -> FeatureSet:
    return FeatureSet.load(small_store, small_store.names(), device="cpu")


@pytest.fixture(scope="session")
def stand_ins() -> Mapping[str, Mapping[str, str]]:
    return STAND_INS
