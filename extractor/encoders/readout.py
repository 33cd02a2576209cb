"""What is read from an encoder: which depth of it, and how its tokens become one embedding.

Pooling (ViT names). ``fc_norm`` averages the patch tokens and then applies LayerNorm, as MAE's fine-tuning does
(He et al., 2022, "Masked Autoencoders Are Scalable Vision Learners"; also the ABAW7 winner's encoder); ``mean``
averages normalised patch tokens; ``cls`` takes the class token; ``cls+mean`` sets the two side by side, as DINOv2's
linear probes do; ``tokens`` keeps every patch's token. ``default`` is whatever the architecture does. A network
without tokens has a map in their place, and no class token.

A layer is read as though the model ended there: the same norm and pooling follow.
"""

import re
from dataclasses import dataclass
from typing import Final, cast, get_args

from featurestore.errors import ConfigError, unknown_name

from .spec import Pooling

Grid = tuple[int, int]

_GRID: Final = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """One embedding of a frame, out of an encoder's forward pass.

    Attributes
    ----------
    pooling
        How tokens become an embedding (see the module's text).
    layer
        Block of a ViT, or stage of another network, counted from 1; None for the model's end.
    token_grid
        (rows, columns) that the patch tokens are averaged to; None for all of them.
    n_components
        Principal components that each token is reduced to; None for the token itself.
    flip
        The mean over a frame and its mirror image, tokens mirrored back.

    Raises
    ------
    ConfigError
        If a grid or components are asked for without ``tokens``, or a number is below one.
    """

    pooling: Pooling
    layer: int | None = None
    token_grid: Grid | None = None
    n_components: int | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        if self.pooling != "tokens" and (self.token_grid is not None or self.n_components is not None):
            raise ConfigError(
                f"A token grid and principal components are of tokens, but the pooling is {self.pooling!r}. "
                "Add --pooling tokens, or leave them out."
            )
        numbers = {"layer": self.layer, "number of components": self.n_components}
        for what, number in numbers.items():
            if number is not None and number < 1:
                raise ConfigError(f"The {what} counts from 1, but is {number}.")

    def describe(self) -> str:
        """In words, as the store's provenance has it: two readouts of one text put out the same."""
        words: list[str] = [self.pooling]
        if self.layer is not None:
            words.append(f"of layer {self.layer}")
        if self.token_grid is not None:
            words.append("on a {}x{} grid".format(*self.token_grid))
        if self.n_components is not None:
            words.append(f"in {self.n_components} principal components")
        if self.flip:
            words.append("averaged with the mirror image's")
        return " ".join(words)

    def suffix(self, own: Pooling) -> str:
        """What is added to an encoder's name in the store, such as ``-layer6``; nothing for its `own` pooling alone."""
        parts: list[str] = [] if self.pooling == own else [self.pooling]
        if self.layer is not None:
            parts.append(f"layer{self.layer}")
        if self.token_grid is not None:
            parts.append("{}x{}".format(*self.token_grid))
        if self.n_components is not None:
            parts.append(f"pca{self.n_components}")
        if self.flip:
            parts.append("flip")
        return "".join(f"-{part}" for part in parts)


def parse_pooling(text: str) -> Pooling:
    """A pooling by its name.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    for pooling in get_args(Pooling):
        if text == pooling:
            return cast("Pooling", pooling)
    raise unknown_name("pooling", text, get_args(Pooling))


def parse_grid(text: str) -> Grid:
    """A token grid as people write it, such as ``4x4``: (rows, columns)."""
    found = _GRID.fullmatch(text.strip().lower())
    if found is None:
        raise ConfigError(f"A token grid is rows x columns, such as 4x4, not {text!r}.")
    return int(found[1]), int(found[2])
