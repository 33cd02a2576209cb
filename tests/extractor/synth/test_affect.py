import numpy as np
import pytest
from numpy.typing import NDArray

from extractor.synth.affect import AU_THRESHOLD, label_frames
from extractor.synth.video import VideoState
from featurestore.labels import ACTION_UNITS, EXPRESSIONS, SPLITS
from heads.scoring.metrics import concordance_correlation

REAL_RATES = (0.18, 0.08, 0.20, 0.30, 0.40, 0.37, 0.26, 0.02, 0.03, 0.05, 0.68, 0.10)


def held(frames: int, **units: float) -> NDArray[np.float32]:
    out = np.zeros((frames, len(ACTION_UNITS)), np.float32)
    for name, level in units.items():
        out[:, ACTION_UNITS.index(int(name.removeprefix("au")))] = level
    return out


def expression_of(units: NDArray[np.float32]) -> list[str]:
    return [EXPRESSIONS[number] for number in label_frames(np.random.default_rng(0), units).expression]


@pytest.mark.parametrize(
    ("expression", "units"),
    [
        ("Neutral", {}),
        ("Neutral", {"au25": 0.8}),
        ("Anger", {"au4": 0.8, "au7": 0.7, "au24": 0.7}),
        ("Disgust", {"au10": 0.9, "au4": 0.5, "au7": 0.6}),
        ("Fear", {"au1": 0.8, "au2": 0.5, "au4": 0.7, "au25": 0.6}),
        ("Happiness", {"au6": 0.7, "au12": 0.8, "au25": 0.7}),
        ("Sadness", {"au1": 0.8, "au4": 0.6, "au15": 0.5}),
        ("Surprise", {"au1": 0.8, "au2": 0.8, "au25": 0.9, "au26": 0.7}),
        ("Other", {"au4": 0.6, "au12": 0.5, "au24": 0.6}),
    ],
)
def test_prototypes_are_recognised(expression: str, units: dict[str, float]) -> None:
    assert expression_of(held(3, **units)) == [expression] * 3


def test_an_expression_is_kept_where_it_would_not_be_entered() -> None:
    smile, faint = held(5, au12=0.8, au6=0.7), held(5, au12=0.4, au6=0.37)
    assert expression_of(np.concatenate([smile, faint])) == ["Happiness"] * 10
    assert "Happiness" not in expression_of(faint)


def test_units_are_labelled_from_the_threshold_on() -> None:
    below, above = held(1, au6=AU_THRESHOLD - 0.01), held(1, au6=AU_THRESHOLD + 0.01)
    labels = label_frames(np.random.default_rng(0), np.concatenate([below, above])).units
    assert labels[:, ACTION_UNITS.index(6)].tolist() == [0, 1]
    assert labels.sum() == 1


def test_valence_and_arousal_know_the_past_and_not_the_future() -> None:
    calm, smile = held(60), held(60, au12=0.9, au6=0.8, au25=0.7)
    rng = np.random.default_rng
    still = label_frames(rng(0), np.concatenate([calm, calm, calm]))
    then = label_frames(rng(0), np.concatenate([calm, smile, calm]))
    for name in ("valence", "arousal"):
        before, after = getattr(still, name), getattr(then, name)
        np.testing.assert_array_equal(before[:60], after[:60])
        assert (np.diff(after[60:120]) > 0).all()
        assert after[150] > before[150] + 0.05


def windows(units: NDArray[np.float32], length: int) -> NDArray[np.float64]:
    """Each row with those before it: (n_rows, length * 12), the first row repeated at the start."""
    rows = np.clip(np.arange(len(units))[:, None] - np.arange(length), 0, None)
    return units[rows].reshape(len(units), -1).astype(np.float64)


def ridge_ccc(videos: list[VideoState], length: int) -> NDArray[np.float64]:
    """CCC of valence and arousal on val, predicted from the true intensities of the last rows."""
    x, y = {}, {}
    for split in ("train", "val"):
        members = [video for video in videos if video.plan.split == split]
        x[split] = np.concatenate([windows(video.state.units, length) for video in members])
        y[split] = np.concatenate(
            [np.stack([video.affect.valence, video.affect.arousal], 1) for video in members]
        ).astype(np.float64)
    x = {split: np.column_stack([values, np.ones(len(values))]) for split, values in x.items()}
    gram = x["train"].T @ x["train"] + np.eye(x["train"].shape[1])
    predicted = x["val"] @ np.linalg.solve(gram, x["train"].T @ y["train"])
    return np.array([concordance_correlation(y["val"][:, task], predicted[:, task]) for task in (0, 1)])


def test_the_past_tells_what_one_frame_cannot(default_videos: list[VideoState]) -> None:
    one, past = ridge_ccc(default_videos, 1), ridge_ccc(default_videos, 20)
    assert (one > 0.45).all()
    assert (one < 0.78).all()
    assert (past > 0.8).all()
    assert (past - one > 0.12).all()


def test_rates_are_near_the_real_ones(default_videos: list[VideoState]) -> None:
    train = [video.affect for video in default_videos if video.plan.split == "train"]
    rates = np.concatenate([affect.units for affect in train]).mean(0)
    assert (rates / REAL_RATES > 0.5).all()
    assert (rates / REAL_RATES < 2.0).all()
    counts = np.bincount(np.concatenate([affect.expression for affect in train]), minlength=8)
    assert counts.min() > 0.015 * counts.sum()
    assert {EXPRESSIONS[index] for index in np.argsort(counts)[-3:]} == {"Neutral", "Happiness", "Other"}


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_occurs_in_every_split(default_videos: list[VideoState], split: str) -> None:
    members = [video.affect for video in default_videos if video.plan.split == split]
    assert set(np.concatenate([affect.expression for affect in members]).tolist()) == set(range(8))
    assert np.concatenate([affect.units for affect in members]).any(0).all()
