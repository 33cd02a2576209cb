"""How the twelve action units and the head move in time, at 30 frames a second.

A video is a row of episodes: the prototypes of six emotions (EMFACS: Friesen and Ekman, 1983; for surprise and fear
without AU5 and AU20, which are not annotated here), mixtures that are none of them, and rest. Each rises, holds and
fades. Talk, habits and single units that come and go by themselves lie over them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from featurestore.labels import ACTION_UNITS

from .layers import FloatArray, Pose
from .state import FaceState

FPS: Final = 30
EPISODE_S: Final = 6.0
"""Mean length of an episode, with its onset and offset."""

# Intensity at the apex, and how often the unit takes part.
_PROTOTYPES: Final[dict[str, dict[int, tuple[float, float]]]] = {
    "Anger": {4: (0.85, 1), 7: (0.75, 1), 23: (0.75, 0.45), 24: (0.8, 0.45), 10: (0.4, 0.25)},
    "Disgust": {10: (0.9, 1), 4: (0.55, 0.8), 7: (0.65, 0.9), 25: (0.5, 0.5), 6: (0.4, 0.3)},
    "Fear": {1: (0.8, 1), 2: (0.5, 1), 4: (0.7, 1), 7: (0.55, 0.7), 25: (0.7, 1), 26: (0.4, 0.45)},
    "Happiness": {12: (0.85, 1), 6: (0.8, 1), 7: (0.6, 0.65), 10: (0.5, 0.45), 25: (0.75, 0.85), 26: (0.35, 0.15)},
    "Sadness": {1: (0.8, 1), 4: (0.6, 1), 15: (0.62, 0.55), 7: (0.4, 0.3), 24: (0.45, 0.1)},
    "Surprise": {1: (0.85, 1), 2: (0.8, 1), 25: (0.9, 1), 26: (0.75, 0.85)},
}
_MIXTURES: Final[tuple[dict[int, float], ...]] = (
    {4: 0.6, 7: 0.65},
    {7: 0.6, 10: 0.6, 25: 0.6},
    {6: 0.6, 7: 0.65, 10: 0.55},
    {6: 0.5, 10: 0.6, 25: 0.6},
    {7: 0.6, 10: 0.65},
    {6: 0.55, 7: 0.6, 23: 0.3},
    {10: 0.6, 26: 0.5, 25: 0.8},
    {1: 0.7, 2: 0.35},
    {12: 0.6, 24: 0.4},
)
# Chance a second, for each unit, that it moves by itself.
_SPONTANEOUS: Final = dict(zip(ACTION_UNITS, (2, 0.8, 1.5, 5, 8, 7, 4, 0.25, 0.6, 0.7, 3, 1.5), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A stretch of a video under one emotion: `Neutral`, `Other`, or the name of a prototype."""

    kind: str
    start_s: float
    stop_s: float


def move_face(rng: np.random.Generator, n_frames: int, kinds: list[str]) -> FaceState:
    """The state of every source frame of a video, over a schedule of kinds of episode.

    Parameters
    ----------
    n_frames
        Source frames at 30 fps.
    kinds
        Kind of each episode, in order; they share the time in about equal parts.
    """
    time_s = np.arange(n_frames) / FPS
    units = np.zeros((n_frames, len(ACTION_UNITS)), np.float32)
    for episode in _lay_out(rng, time_s[-1], kinds):
        for number, level in _draw_apex(rng, episode.kind).items():
            _rise(rng, units[:, ACTION_UNITS.index(number)], time_s, (episode.start_s, episode.stop_s), level)
    _add_spontaneous(rng, units, time_s)
    _add_talk(rng, units, time_s)
    _add_habits(rng, units, time_s)
    return FaceState(
        units=_exclude(units), pose=_move_head(rng, time_s), blink=_blink(rng, time_s), gaze=_look_about(rng, time_s)
    )


def smooth_noise(rng: np.random.Generator, time_s: FloatArray, *, slowest_hz: float, fastest_hz: float) -> FloatArray:
    """A smooth random course of mean 0 and standard deviation about 1: a sum of eight waves."""
    rates = np.exp(rng.uniform(np.log(slowest_hz), np.log(fastest_hz), 8))
    phases = rng.uniform(0, 2 * np.pi, 8)
    waves = np.sin(2 * np.pi * rates[:, None] * time_s + phases[:, None])
    course: FloatArray = (waves.sum(0) / 2).astype(np.float32)
    return course


def _lay_out(rng: np.random.Generator, length_s: float, kinds: list[str]) -> list[Episode]:
    shares = rng.uniform(0.6, 1.4, len(kinds))
    edges = np.concatenate([[0], np.cumsum(shares)]) / shares.sum() * length_s
    return [
        Episode(kind=kind, start_s=float(start), stop_s=float(stop))
        for kind, start, stop in zip(kinds, edges[:-1], edges[1:], strict=True)
    ]


def _draw_apex(rng: np.random.Generator, kind: str) -> dict[int, float]:
    """Which units an episode moves, and how far."""
    if kind == "Neutral":
        return {}
    if kind == "Other":
        chosen = _MIXTURES[int(rng.integers(len(_MIXTURES)))]
        return {number: float(level * rng.uniform(0.8, 1.25)) for number, level in chosen.items()}
    strength = rng.uniform(0.72, 1.12)
    apex: dict[int, float] = {}
    for number, (level, chance) in _PROTOTYPES[kind].items():
        takes_part = rng.random() < chance
        jitter = rng.uniform(0.85, 1.15)
        if takes_part:
            apex[number] = float(level * strength * jitter)
    return apex


def _rise(
    rng: np.random.Generator, course: FloatArray, time_s: FloatArray, span: tuple[float, float], level: float
) -> None:
    """Raise one unit over a span of time, in place: onset, apex, offset, each with its own delay."""
    start, stop = span[0] + rng.normal(0, 0.12), span[1] + rng.normal(0, 0.25)
    onset, offset = rng.uniform(0.3, 0.9), rng.uniform(0.5, 1.4)
    breath = 1 + 0.12 * np.sin(2 * np.pi * rng.uniform(0.15, 0.5) * time_s + rng.uniform(0, 6.3))
    shape = _ease((time_s - start) / onset) * _ease((stop - time_s) / offset)
    np.maximum(course, level * breath * shape, out=course)


def _ease(x: FloatArray) -> FloatArray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _add_spontaneous(rng: np.random.Generator, units: FloatArray, time_s: FloatArray) -> None:
    for column, number in enumerate(ACTION_UNITS):
        for _ in range(rng.poisson(_SPONTANEOUS[number] / 60 * time_s[-1])):
            start = rng.uniform(0, time_s[-1])
            span = (start, start + rng.uniform(0.9, 3.5))
            _rise(rng, units[:, column], time_s, span, float(rng.uniform(0.25, 0.8)))


def _add_talk(rng: np.random.Generator, units: FloatArray, time_s: FloatArray) -> None:
    """Talk parts the lips most of the time, in syllables; the jaw goes with it a little, the upper lip too."""
    talk = _ease(0.5 + 0.8 * (smooth_noise(rng, time_s, slowest_hz=0.03, fastest_hz=0.2) + rng.normal(0.75, 0.5)))
    syllables = smooth_noise(rng, time_s, slowest_hz=1.0, fastest_hz=3.2)
    for number, level, swing in ((25, 0.62, 0.16), (26, 0.12, 0.1), (10, 0.22, 0.06)):
        course = units[:, ACTION_UNITS.index(number)]
        np.maximum(course, talk * np.clip(level + swing * syllables, 0, 1), out=course)


def _add_habits(rng: np.random.Generator, units: FloatArray, time_s: FloatArray) -> None:
    """A face at rest is not at zero, and never still."""
    for column, number in enumerate(ACTION_UNITS):
        habit = rng.beta(1, 6) * (0.6 if number in (6, 7, 10, 25) else 0.3)
        unrest = 0.025 * smooth_noise(rng, time_s, slowest_hz=0.1, fastest_hz=1.0)
        units[:, column] += habit * (1 - units[:, column]) + unrest


def _exclude(units: FloatArray) -> FloatArray:
    """What muscles and jaw cannot do at once."""
    units = np.clip(units, 0, 1)
    column = {number: units[:, index] for index, number in enumerate(ACTION_UNITS)}
    column[15][:] *= 1 - 0.8 * column[12]
    column[25][:] *= 1 - 0.95 * np.maximum(column[24], 0.7 * column[23])
    column[26][:] *= 1 - 0.9 * np.maximum(column[24], column[23])
    column[25][:] = np.maximum(column[25], np.minimum(1, 1.1 * column[26]))
    return units.astype(np.float32)


def _move_head(rng: np.random.Generator, time_s: FloatArray) -> Pose:
    def drift(spread: float, habit: float) -> FloatArray:
        course = smooth_noise(rng, time_s, slowest_hz=0.03, fastest_hz=0.45)
        return np.asarray(spread * course + rng.normal(0, habit), np.float32)

    yaw, pitch, roll = drift(0.13, 0.09), drift(0.07, 0.05), drift(0.025, 0.02)
    shift = np.stack([drift(0.5, 0.7), drift(0.5, 0.7)], -1)
    return Pose(yaw=yaw, pitch=pitch, roll=roll, shift=shift, scale=1 + drift(0.01, 0.015))


def _blink(rng: np.random.Generator, time_s: FloatArray) -> FloatArray:
    blink = np.zeros(len(time_s), np.float32)
    for _ in range(rng.poisson(time_s[-1] / 4)):
        middle = rng.uniform(0, time_s[-1])
        np.maximum(blink, _ease(1.6 - np.abs(time_s - middle) / 0.09), out=blink)
    return blink


def _look_about(rng: np.random.Generator, time_s: FloatArray) -> FloatArray:
    """Gaze jumps from point to point."""
    n_points = max(1, int(time_s[-1] / 1.2))
    points = np.clip(rng.normal(0, 0.4, (n_points + 1, 2)), -1, 1)
    since = np.sort(rng.uniform(0, time_s[-1], n_points))
    return points[np.searchsorted(since, time_s)].astype(np.float32)
