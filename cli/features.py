"""The embeddings that a command reads."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurestore.store import FeatureStore
    from heads.features.featureset import FeatureSet


def load_features(store: "FeatureStore", names: "Sequence[str]", device: str, memory: str | None) -> "FeatureSet":
    """The embeddings of some encoders, loaded or, if they take more than `memory`, streamed, which is said."""
    from featurestore.bytesize import parse_bytes
    from heads.features.featureset import FeatureSet

    from .console import say

    budget = None if memory is None else parse_bytes(memory)
    features = FeatureSet.load(store, names, device=device, memory_bytes=budget)
    if features.placement is not None and features.stream_bytes is not None:
        say(features.placement.describe())
    return features
