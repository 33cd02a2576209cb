"""What a recipe tells about its system besides the models: what was published of it, and which encoders it is made for.

An encoder stands in a recipe under the name of its role. A store may hold it under that name, or another encoder is
put in its place, which is said wherever the system's score is printed.
"""

import math
from dataclasses import dataclass
from typing import Final

from featurestore.layout import plan_layout
from heads.checking import at_least, raise_all

SETS: Final = ("val", "test", "untold")
"""On which scores are published; ``untold``: a score that is given without its set."""

AFF_WILD_ROWS: Final = 218_538
"""Distinct rows of s-Aff-Wild2, all splits: what an encoder's cost is told for where there is no store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a paper or a leaderboard gives, on one set; None where it does not.

    Attributes
    ----------
    p
        P.
    au, expr, va
        Its parts: F1 of the action units, macro F1 of the expressions, mean CCC of valence and arousal.

    Raises
    ------
    ConfigError
        If a number cannot be such a score.
    """

    p: float | None = None
    au: float | None = None
    expr: float | None = None
    va: float | None = None

    def __post_init__(self) -> None:
        parts = {"p": (self.p, 3.0), "au": (self.au, 1.0), "expr": (self.expr, 1.0), "va": (self.va, 1.0)}
        raise_all(
            "published score",
            [
                f"{name} must be in [-1, {most:g}], got {value}."
                for name, (value, most) in parts.items()
                if value is not None and not -1 <= value <= most
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """An encoder that a system is made for.

    Attributes
    ----------
    what
        Which one, for people.
    dim
        Columns of its embedding, or of each token.
    tokens
        Patch tokens a frame; 0 for one vector a frame.
    gflops
        Of its forward pass, a frame, in 1e9 floating-point operations, two a multiply-add; None where unknown.
    preset
        The preset of `abaw encoders` that it is, or that comes nearest to it.
    command
        What brings it into the store; ``abaw extract --encoder`` and the role's name by default.
    brings
        What the command brings, where that is not quite the encoder that is meant.

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    what: str
    dim: int
    tokens: int = 0
    gflops: float | None = None
    preset: str | None = None
    command: str = ""
    brings: str = ""

    def __post_init__(self) -> None:
        mistakes = [] if self.what else ["what must say which encoder is meant."]
        mistakes += at_least(1, dim=self.dim) + at_least(0, tokens=self.tokens)
        if self.gflops is not None and not (math.isfinite(self.gflops) and self.gflops > 0):
            mistakes.append(f"gflops must be a number above 0, got {self.gflops}.")
        raise_all("need", mistakes)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(D,), or (T, D) of tokens."""
        return (self.tokens, self.dim) if self.tokens else (self.dim,)

    def store_bytes(self, n_frames: int) -> int:
        """What its embeddings of so many frames take in a store, in float16."""
        return plan_layout(n_frames, self.row_shape).disk_bytes

    def petaflops(self, n_frames: int) -> float | None:
        """What embedding so many frames costs, in 1e15 floating-point operations; None where unknown."""
        return None if self.gflops is None else self.gflops * n_frames / 1e6
