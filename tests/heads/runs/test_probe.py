"""The linear probe is what scikit-learn's own models, fitted by hand on the same rows, score."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.fitting.parts import segment_rows
from heads.light.config import LightConfig
from heads.modules.config import HeadConfig
from heads.runs import probe as probe_module
from heads.runs.probe import fit_probe

Array = NDArray[np.float64]


def lins(values: Array, outputs: Array) -> float:
    """Lin's concordance; variances with ddof 0 on both sides or on neither give the same."""
    covariance = ((values - values.mean()) * (outputs - outputs.mean())).mean()
    return float(2 * covariance / (values.var() + outputs.var() + (values.mean() - outputs.mean()) ** 2))


def by_hand(
    features: FeatureSet, encoders: tuple[str, ...], learned: NDArray[np.int64], split: str
) -> dict[str, float]:
    """Each part's score of scikit-learn's models on standardised, concatenated embeddings."""
    rows = segment_rows(features.frames.segments(split))
    X = np.concatenate([features.embeddings[name].float().numpy() for name in encoders], axis=1).astype(np.float64)
    scaler = StandardScaler().fit(X[learned])
    train, judged = (scaler.transform(X[part]).astype(np.float32) for part in (learned, rows))
    targets = features.targets
    found: dict[str, float] = {}
    for part, values, valid in (
        ("ccc_valence", targets.valence, targets.valid_valence),
        ("ccc_arousal", targets.arousal, targets.valid_arousal),
    ):
        line = Ridge().fit(train[valid[learned]], values[learned][valid[learned]].astype(np.float64))
        outputs = np.clip(line.predict(judged[valid[rows]]), -1, 1)
        found[part] = lins(values[rows][valid[rows]].astype(np.float64), outputs.astype(np.float64))
    valid = targets.valid_expression
    logistic = LogisticRegression(max_iter=1000)
    said = logistic.fit(train[valid[learned]], targets.expression[learned][valid[learned]])
    truth = targets.expression[rows][valid[rows]]
    found["f1_expression"] = f1_score(truth, said.predict(judged[valid[rows]]), average="macro")
    each = []
    for unit in range(targets.action_units.shape[1]):
        valid = targets.valid_action_units[:, unit]
        labels = targets.action_units[:, unit]
        said = LogisticRegression(max_iter=1000).fit(train[valid[learned]], labels[learned][valid[learned]])
        each.append(f1_score(labels[rows][valid[rows]], said.predict(judged[valid[rows]])))
    found["f1_au"] = float(np.mean(each))
    return found


@pytest.mark.parametrize(
    ("config", "encoders", "split"),
    [
        (HeadConfig(), ("mae",), "val"),
        (HeadConfig(fuse=("wide", "v"), fusion="concat", normalise=False), ("mae", "wide", "v"), "val"),
        (LightConfig(estimator="lightgbm", encoder="au"), ("au",), "val"),
        (HeadConfig(), ("mae",), "train"),
    ],
    ids=["head", "fused", "light", "train"],
)
def test_it_is_scikit_learns_models_on_standardised_embeddings(
    features: FeatureSet, config: HeadConfig | LightConfig, encoders: tuple[str, ...], split: str
) -> None:
    found = fit_probe(features, config, split=split)
    assert found is not None
    expected = by_hand(features, encoders, segment_rows(features.frames.segments("train")), split)
    points = found.points()
    assert {name: points[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert points["P"] == pytest.approx(
        (expected["ccc_valence"] + expected["ccc_arousal"]) / 2 + expected["f1_expression"] + expected["f1_au"],
        abs=1e-6,
    )


def test_only_the_joined_tasks_are_probed(features: FeatureSet) -> None:
    found = fit_probe(features, HeadConfig(joint=("v", "au")))
    assert found is not None
    assert [name for name, part in found.parts.items() if part is not None] == ["ccc_valence", "f1_au"]


def test_of_large_data_it_learns_from_whole_videos(features: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "PROBE_ROWS", 130)  # of videos of 90, 70 and 33 rows, not all
    seen: list[NDArray[np.int64]] = []
    fit_light = probe_module.fit_light

    def spy(*given, parts, **named):  # type: ignore[no-untyped-def]
        seen.append(segment_rows(parts.learned))
        return fit_light(*given, parts=parts, **named)

    monkeypatch.setattr(probe_module, "fit_light", spy)
    found = fit_probe(features, HeadConfig(joint=("v", "a")))
    (learned,) = seen
    assert 0 < len(learned) <= 130
    train = features.frames.rows("train")
    whole = np.isin(features.video_ids, np.unique(features.video_ids[learned]))
    assert np.sort(learned).tolist() == [row for row in train if whole[row]]
    expected = by_hand(features, ("mae",), np.sort(learned), "val")
    assert found is not None
    assert found.points()["ccc_valence"] == pytest.approx(expected["ccc_valence"], abs=1e-6)


def test_there_is_none_of_tokens_or_of_tasks_without_labels(store: FeatureStore, features: FeatureSet) -> None:
    tokens = FeatureSet.load(store, ("tokens",), device="cpu")
    assert fit_probe(tokens, HeadConfig(encoder="tokens", framework="task-queries", temporal="none")) is None
    bare = replace(features)
    hidden = np.zeros(len(features.targets), dtype=np.bool_)
    bare.__dict__["targets"] = replace(features.targets, valid_arousal=hidden)
    found = fit_probe(bare, HeadConfig(joint=("v", "a")))
    assert found is not None
    assert found.points() == fit_probe(features, HeadConfig(joint=("v",))).points()  # type: ignore[union-attr]
    assert fit_probe(bare, HeadConfig(joint=("a",))) is None
