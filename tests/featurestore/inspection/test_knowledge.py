"""What the simplest reader gets right: all of what is there, chance where nothing is, and no credit for a video."""

import numpy as np
import numpy.typing as npt
import pytest

from featurestore.inspection.colouring import Colouring
from featurestore.inspection.knowledge import Knowledge, knowledge

N_VIDEOS, N_EACH = 20, 40
VIDEOS = np.repeat(np.arange(N_VIDEOS), N_EACH)
ROWS = np.arange(len(VIDEOS))
RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 4, len(ROWS))
NOISE = RNG.normal(size=(len(ROWS), 10))
NO_VAL = np.zeros(len(ROWS), dtype=np.bool_)


def asked(
    components: npt.NDArray[np.float64],
    values: npt.NDArray[np.generic],
    *,
    name: str = "expression",
    classes: tuple[str, ...] = ("a", "b", "c", "d"),
    is_val: npt.NDArray[np.bool_] = NO_VAL,
    videos: npt.NDArray[np.int64] = VIDEOS,
) -> Knowledge:
    colouring = Colouring(name=name, classes=classes, values=values.astype(np.float64))
    return knowledge(components, colouring, np.arange(len(videos)), videos, is_val=is_val)


def test_classes_that_are_there_are_found() -> None:
    found = asked(NOISE * 0.1 + np.eye(4, 10)[CLASSES], CLASSES)
    assert found.score == 1
    assert (found.chance, found.measure, found.held_out) == (0.25, "balanced accuracy", "videos")
    assert found.sentence() == "nearest class mean: balanced accuracy 1.00 on held-out videos (chance 0.25)"


def test_a_wide_component_that_says_nothing_drowns_no_narrow_one_that_does() -> None:
    components = NOISE * 0.1 + np.eye(4, 10)[CLASSES]
    components[:, 9] = RNG.normal(size=len(ROWS)) * 1000
    assert asked(components, CLASSES).score == 1


def test_noise_scores_chance_however_frequent_a_class_is() -> None:
    rare = (RNG.random(len(ROWS)) < 0.1).astype(np.int64)
    found = asked(NOISE, rare, name="au12", classes=("off", "on"))
    assert found.score == pytest.approx(found.chance, abs=0.1)
    assert found.chance == 0.5


def test_knowing_the_video_is_no_knowledge_of_its_label() -> None:
    # Every video shows one class, and every video looks like nothing but itself.
    per_video = RNG.integers(0, 4, N_VIDEOS)[VIDEOS]
    looks = RNG.normal(size=(N_VIDEOS, 10))[VIDEOS] + 0.01 * NOISE
    found = asked(looks, per_video)
    assert found.score is not None
    assert found.score < 0.6
    by_video = asked(looks, VIDEOS, name="video", classes=tuple(map(str, range(N_VIDEOS))))
    assert by_video.score == 1
    assert (by_video.chance, by_video.held_out) == (1 / N_VIDEOS, "parts of every video")


def test_only_val_is_scored_where_it_is_labelled() -> None:
    # A fine-tuned encoder knows the labels of the train videos by heart, and nothing of others.
    is_val = VIDEOS >= 14
    components = NOISE * 0.1 + np.where(is_val[:, None], 0, np.eye(4, 10)[CLASSES])
    by_heart, honest = asked(components, CLASSES), asked(components, CLASSES, is_val=is_val)
    assert by_heart.score is not None
    assert honest.score is not None
    assert by_heart.score > 0.7
    assert honest.score == pytest.approx(0.25, abs=0.12)
    assert honest.held_out == "val videos"
    assert asked(components, np.where(is_val, 0, CLASSES), is_val=is_val).held_out == "videos"  # val says nothing
    # The split itself is no label, and asked of all.
    assert asked(components, is_val, name="split", classes=("train", "val"), is_val=is_val).held_out == "videos"


def test_chance_is_of_the_classes_that_are_scored() -> None:
    # Nothing but the first two classes in val: a reader that could answer the others would score less than chance.
    is_val = VIDEOS >= 14
    classes = np.where(is_val, CLASSES % 2, CLASSES)
    found = asked(NOISE, classes, is_val=is_val)
    assert found.chance == 0.5
    assert found.score == pytest.approx(0.5, abs=0.12)


def test_a_class_of_one_video_alone_cannot_be_found_in_it() -> None:
    classes = np.where(VIDEOS == 3, 1, 0)
    assert asked(np.eye(2, 10)[classes] + 0.1 * NOISE, classes).score == 0.5


def test_a_real_is_read_by_a_ridge() -> None:
    values = np.tanh(RNG.normal(size=len(ROWS)))
    components = NOISE.copy()
    components[:, 4] = values * 0.01
    found = asked(components, values, name="valence", classes=())
    assert found.score == pytest.approx(1, abs=0.02)
    assert (found.chance, found.measure) == (0, "variance explained")
    assert asked(NOISE, values, name="valence", classes=()).score == pytest.approx(0, abs=0.05)


def test_a_level_of_its_own_in_every_video_is_not_explained() -> None:
    values = RNG.uniform(-1, 1, N_VIDEOS)[VIDEOS]
    looks = RNG.normal(size=(N_VIDEOS, 10))[VIDEOS] + 0.01 * NOISE
    found = asked(looks, values, name="arousal", classes=())
    assert found.score is not None
    assert found.score < 0.2


@pytest.mark.parametrize(
    ("values", "name", "videos", "reason"),
    [
        (np.zeros(80), "expression", np.repeat([0, 1], 40), "one and the same expression"),
        (np.arange(80) % 2, "expression", np.zeros(80, dtype=np.int64), "one video, none to hold out"),
        (np.arange(80), "video", np.arange(80), "one row of every video"),
        (np.zeros(80), "video", np.zeros(80, dtype=np.int64), "one and the same video"),
    ],
)
def test_nothing_to_hold_out(
    values: npt.NDArray[np.float64], name: str, videos: npt.NDArray[np.int64], reason: str
) -> None:
    found = asked(NOISE[:80], values, name=name, is_val=NO_VAL[:80], videos=videos)
    assert found.score is None
    assert reason in found.sentence()
    assert found.as_dict()["reason"] == found.reason
