"""What a frame is labelled with: valence and arousal, one of eight expressions, twelve action units.

Names, order and ranges are those of the ABAW challenges on Aff-Wild2 and s-Aff-Wild2 (Kollias, 2022, "ABAW:
Valence-Arousal Estimation, Expression Recognition, Action Unit Detection & Multi-Task Learning Challenges").
AffectNet's order (with Contempt, without Other) is a different one.
"""

from typing import Final

EXPRESSIONS: Final = (
    "Neutral",
    "Anger",
    "Disgust",
    "Fear",
    "Happiness",
    "Sadness",
    "Surprise",
    "Other",
)
"""The eight classes; the class number is the index."""

ACTION_UNITS: Final = (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)
"""The twelve FACS action units, in the challenge's order."""

AU_COLUMNS: Final = tuple(f"au{number}" for number in ACTION_UNITS)

LABEL_COLUMNS: Final = ("valence", "arousal", "expression", *AU_COLUMNS)
"""The label columns of a frame table, in the order of the annotation files."""

SPLITS: Final = ("train", "val", "test")
