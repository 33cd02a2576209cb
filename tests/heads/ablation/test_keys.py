from dataclasses import replace

from featurestore.store import FeatureStore
from heads.ablation.keys import row_data, row_key
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.modules.config import HeadConfig

HEAD = HeadConfig(encoder="mae")


def test_whatever_decides_a_row_is_in_its_key(store: FeatureStore) -> None:
    loaded = FeatureSet.load(store, ("mae", "au"), device="cpu")
    key = row_key(loaded, "v", HEAD, FitConfig())
    assert row_key(loaded, "v", HEAD, FitConfig(device="cpu")) == key  # wherever it is computed
    others = [
        row_key(loaded, "a", HEAD, FitConfig()),
        row_key(loaded, "v", replace(HEAD, fuse=("au",)), FitConfig()),
        row_key(loaded, "v", HEAD, FitConfig(patience=5)),
    ]
    # The order in which a stream is read follows its budget.
    for memory_bytes in (4000, 5000):
        streamed = FeatureSet.load(store, ("mae", "au"), device="cpu", memory_bytes=memory_bytes)
        assert row_data(streamed, HEAD) == row_data(loaded, HEAD)
        others.append(row_key(streamed, "v", HEAD, FitConfig()))
    assert len({key, *others}) == 1 + len(others)
