"""Who is in a video and where: everything about it that does not move.

Identity is a nuisance to whoever reads the face, so it must be there, and must not swamp the expressions: proportions
differ by some per cent, as in crops that were aligned on the eyes; colours, hair and light differ more.
Lengths are in pixels of the 112-pixel crop, colours are RGB in 0..255.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

HAIR_STYLES: Final = ("short", "parted", "fringe", "long", "bun", "receding", "bald")
BEARDS: Final = ("none", "stubble", "full", "moustache")

_SKINS: Final = ((244, 212, 190), (234, 192, 164), (219, 172, 140), (193, 142, 108), (156, 107, 78), (112, 76, 56))
_HAIRS: Final = (
    (34, 27, 24),
    (62, 43, 31),
    (98, 66, 42),
    (146, 104, 62),
    (194, 158, 104),
    (128, 62, 34),
    (150, 147, 144),
)
_IRISES: Final = ((70, 46, 28), (92, 64, 36), (82, 98, 62), (74, 104, 132), (106, 118, 120))
_TOPS: Final = ((52, 60, 84), (110, 44, 44), (66, 88, 70), (176, 172, 164), (40, 40, 44), (140, 116, 70))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is behind a face, and the camera before it: `_left` and `_right` of one clip share it.

    Attributes
    ----------
    background : shape (height, width, 3), uint8
        A blurred room, larger than the crop, so that it can drift behind the face.
    light : shape (3,)
        Unit vector towards the light: x right, y down, z to the camera.
    contrast
        How much darker the side away from the light is, 0..1.
    tint : shape (3,)
        Colour of the light, about 1.
    noise
        Standard deviation of the sensor noise, in grey levels.
    blur_px
        Radius of the defocus, 0 for a sharp camera.
    """

    background: NDArray[np.uint8]
    light: NDArray[np.float32]
    contrast: float
    tint: NDArray[np.float32]
    noise: float
    blur_px: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A person: proportions (1 is the mean face), colours, hair, and how they look at rest."""

    face_width: float
    jaw_width: float
    chin: float  # px that the chin is lower than the mean
    eye_size: float
    eye_spacing: float
    eye_tilt: float  # px that the outer corner is higher than the inner one
    brow_thickness: float
    brow_height: float  # px that the brows are higher than the mean
    brow_arch: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_height: float  # px that the mouth is lower than the mean
    lip_thickness: float
    age: float  # 0 smooth .. 1 lined
    skin: Colour
    lips: Colour
    hair: Colour
    brow: Colour
    iris: Colour
    top: Colour
    hair_style: str
    beard: str
    glasses: bool
    earrings: bool


def shade(colour: Colour, factor: float) -> Colour:
    """A colour made darker (below 1) or lighter (above 1)."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of the second colour in the first."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def draw_identity(rng: np.random.Generator) -> Identity:
    """A person at random."""
    skin_tone = rng.beta(1.1, 1.2) * (len(_SKINS) - 1)
    skin = mix(_SKINS[int(skin_tone)], _SKINS[min(int(skin_tone) + 1, len(_SKINS) - 1)], skin_tone % 1)
    # Dark skin goes with dark hair more often than not.
    hair = _HAIRS[int(rng.integers(len(_HAIRS) if skin_tone < 3 else 3))]
    style = HAIR_STYLES[int(rng.choice(len(HAIR_STYLES), p=(0.26, 0.18, 0.14, 0.2, 0.1, 0.07, 0.05)))]
    bearded = style not in ("long", "bun", "fringe") and rng.random() < 0.4
    beard = BEARDS[int(rng.integers(1, len(BEARDS)))] if bearded else "none"

    def about(spread: float) -> float:
        return float(1 + spread * np.clip(rng.standard_normal(), -2, 2))

    return Identity(
        face_width=about(0.045),
        jaw_width=about(0.06) * (1.03 if bearded else 0.98),
        chin=float(rng.normal(0, 1.3)),
        eye_size=about(0.07),
        eye_spacing=about(0.025),
        eye_tilt=float(rng.normal(0.5, 0.6)),
        brow_thickness=about(0.18) * (1.1 if bearded else 0.95),
        brow_height=float(rng.normal(0, 0.7)),
        brow_arch=about(0.2),
        nose_width=about(0.1),
        nose_length=about(0.05),
        mouth_width=about(0.06),
        mouth_height=float(rng.normal(0, 0.7)),
        lip_thickness=about(0.14),
        age=float(rng.beta(1.3, 2.0)),
        skin=skin,
        lips=mix(shade(skin, 0.84), (178, 62, 66), float(rng.uniform(0.34, 0.62))),
        hair=hair,
        brow=shade(mix(hair, (40, 30, 26), 0.45), 0.9),
        iris=_IRISES[int(rng.integers(len(_IRISES) if skin_tone < 3 else 2))],
        top=_TOPS[int(rng.integers(len(_TOPS)))],
        hair_style=style,
        beard=beard,
        glasses=bool(rng.random() < 0.14),
        earrings=bool(style in ("bun", "long") and rng.random() < 0.4),
    )
