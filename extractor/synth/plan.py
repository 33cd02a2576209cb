"""What is in a dataset, decided before anything is drawn: videos, splits, source frames, what remains unlabelled.

The figures are those of s-Aff-Wild2: about 62/20/18 % of the videos in train, val and test; only every fifth row
next to the one before it in time, gaps of 2/4/8 source frames at the quartiles with a long tail; valence and arousal
unlabelled in 27 % of the training rows, the expression in 36 % (validation 42 %), action units in 27 %; .7 % of the
rows twice. Each kind of expression gets its share of every split by dealing from a deck, not by luck.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featurestore.labels import SPLITS

from .dynamics import EPISODE_S, FPS

BoolArray = NDArray[np.bool_]

TASKS: Final = ("affect", "expression", "units")
UNLABELLED: Final = {
    "train": {"affect": 0.27, "expression": 0.36, "units": 0.27},
    "val": {"affect": 0.0, "expression": 0.42, "units": 0.0},
    "test": {"affect": 0.0, "expression": 0.0, "units": 0.0},
}
DUPLICATES: Final = 0.007
MIN_VIDEOS: Final = 6
_DECK: Final = {
    "Neutral": 8,
    "Anger": 2,
    "Disgust": 2,
    "Fear": 2,
    "Happiness": 6,
    "Sadness": 3,
    "Surprise": 2,
    "Other": 7,
}
# How a video's mood goes with an emotion: real videos differ more in their mean than within.
_MOOD: Final = {"Happiness": 1.0, "Surprise": 0.4, "Anger": -1.0, "Disgust": -0.8, "Sadness": -0.8, "Fear": -0.6}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPlan:
    """One video, before it is drawn.

    Attributes
    ----------
    frames : shape (n_rows,), int64
        Numbers of the listed source frames, ascending from 1.
    kinds
        Kind of each episode, in order.
    seed
        Of the person and of how they move.
    scene_seed
        Of the place and the camera; shared by the two people of one clip.
    """

    name: str
    split: str
    frames: NDArray[np.int64]
    kinds: list[str]
    seed: tuple[int, ...]
    scene_seed: tuple[int, ...]


def plan_videos(seed: int, n_videos: int, frames_per_video: int) -> list[VideoPlan]:
    """Plan the videos of a dataset, by split."""
    rng = np.random.default_rng([seed, 0])
    splits = _deal_splits(n_videos)
    names = _name_videos(rng, splits)
    counts = _draw_counts(rng, n_videos, frames_per_video)
    frames = [_draw_frames(rng, int(count)) for count in counts]
    plans = []
    for split in SPLITS:
        members = [index for index, name in enumerate(splits) if name == split]
        lengths = [max(2, round(frames[index][-1] / FPS / EPISODE_S)) for index in members]
        for index, kinds in zip(members, _deal_episodes(rng, lengths), strict=True):
            plans.append(
                VideoPlan(
                    name=names[index],
                    split=split,
                    frames=frames[index],
                    kinds=kinds,
                    seed=(seed, 1, index),
                    scene_seed=(seed, 2, index - names[index].endswith("_right")),
                )
            )
    return plans


def draw_unlabelled(
    rng: np.random.Generator, lengths: list[int], rate: float, accept: Callable[[list[BoolArray]], bool]
) -> list[BoolArray]:
    """Choose rows to be unlabelled, in whole videos and long runs, such that `accept` is content if that can be.

    Parameters
    ----------
    lengths
        Rows of each video of a split.
    rate
        Share of the split's rows.
    accept
        Whether what remains still holds every class.

    Returns
    -------
    For each video, shape (n_rows,), bool.
    """
    chosen = [np.zeros(length, np.bool_) for length in lengths]
    for _ in range(200):
        chosen = _draw_runs(rng, lengths, rate)
        if accept(chosen):
            break
    return chosen


def draw_duplicates(rng: np.random.Generator, n_rows: int) -> NDArray[np.int64]:
    """The order of a file's rows with some of them twice, the copies anywhere: indices into the distinct rows."""
    n_copies = max(1, round(DUPLICATES * n_rows))
    copies = rng.choice(n_rows, n_copies, replace=False)
    places = rng.integers(0, n_rows + 1, n_copies)
    return np.insert(np.arange(n_rows), places, copies)


def _deal_splits(n_videos: int) -> list[str]:
    n_val, n_test = max(1, round(0.2 * n_videos)), max(1, round(0.18 * n_videos))
    return ["train"] * (n_videos - n_val - n_test) + ["val"] * n_val + ["test"] * n_test


def _name_videos(rng: np.random.Generator, splits: list[str]) -> list[str]:
    """Names like the real ones; the first of val is prefixed by the first of train, two of train are one clip."""
    numbers = rng.choice(np.arange(10, 600), len(splits), replace=False).tolist()
    sizes = ("640x360", "1280x720", "1920x1080", "1080x1920", "854x480")
    names = []
    for number in numbers:
        form = rng.random()
        size = sizes[int(rng.integers(len(sizes)))]
        names.append(f"{number}-{rng.choice((24, 25, 30))}-{size}" if form < 0.35 else str(number))
    names[0] = str(numbers[0])
    names[splits.index("val")] = f"{numbers[0]}-30-632x360"
    names[1], names[2] = f"video{numbers[1]}_left", f"video{numbers[1]}_right"
    return names


def _draw_counts(rng: np.random.Generator, n_videos: int, mean: int) -> NDArray[np.int64]:
    """Rows of each video: irregular, and close to the mean in sum."""
    counts = np.exp(rng.normal(0, 0.6, n_videos))
    low, high = max(2, round(mean * 0.17)), max(4, round(mean * 3))
    for _ in range(4):
        counts = np.clip(counts * mean * n_videos / counts.sum(), low, high)
    return np.round(counts).astype(np.int64)


def _draw_frames(rng: np.random.Generator, n_rows: int) -> NDArray[np.int64]:
    gaps = np.exp(rng.normal(np.log(4), 1.03, n_rows))
    far = rng.random(n_rows) < 0.025
    gaps[far] = rng.uniform(25, 160, int(far.sum()))
    return np.cumsum(np.clip(np.round(gaps), 1, 543).astype(np.int64))


def _deal_episodes(rng: np.random.Generator, lengths: list[int]) -> list[list[str]]:
    """Kinds of episode for the videos of a split, dealt from one deck after another."""
    deck: list[str] = []
    dealt = []
    for length in lengths:
        mood = rng.choice((-1.0, 1.0)) * rng.uniform(0.2, 1.0)
        kinds: list[str] = []
        while len(kinds) < length:
            if len(deck) < 3:
                fresh = [kind for kind, count in _DECK.items() for _ in range(count)]
                deck += rng.permutation(fresh).tolist()
            reach = rng.permutation(min(3, len(deck)))
            kinds.append(deck.pop(int(max(reach, key=lambda place: mood * _MOOD.get(deck[place], 0.0)))))
        dealt.append(kinds)
    return dealt


def _draw_runs(rng: np.random.Generator, lengths: list[int], rate: float) -> list[BoolArray]:
    masks = [np.zeros(length, np.bool_) for length in lengths]
    left = round(rate * sum(lengths))
    order = rng.permutation(len(lengths)).tolist()
    for video in order:
        whole = rng.random() < 0.6 and lengths[video] <= left
        # Shorter than that is no run; what is left over goes to the next video.
        size = lengths[video] if whole else min(left, int(lengths[video] * rng.uniform(0.25, 0.6)))
        start = int(rng.integers(0, lengths[video] - size + 1))
        masks[video][start : start + size] = True
        left -= size
        if left <= 0:
            break
    return masks
