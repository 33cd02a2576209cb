"""Which loss each task is fitted with, and how they are weighed: `LossConfig`.

The defaults are the ABAW7 winner's (Netease Fuxi): binary cross-entropy, cross-entropy, 1 - CCC, fixed weights. Two
configurations mean the same exactly if they are equal: mixtures are kept in one spelling.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from featurestore.errors import ConfigError, unknown_name
from heads.checking import from_json, in_unit_interval, raise_all, to_json

AU_LOSSES: Final = ("bce", "focal", "asymmetric")
EXPR_LOSSES: Final = ("ce", "focal")
AFFECT_LOSSES: Final = ("ccc", "mse", "smooth_l1")
WEIGHTINGS: Final = ("fixed", "normalised", "uncertainty", "dwa")

_TERM: Final = re.compile(r"(?:(?P<factor>\d*\.?\d+)\*)?(?P<name>[a-z0-9_]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """The losses of the four tasks and how they are weighed against each other.

    Attributes
    ----------
    au
        ``"bce"``, ``"focal"`` or ``"asymmetric"``.
    expr
        ``"ce"`` or ``"focal"``.
    v, a
        ``"ccc"`` (1 - CCC over the batch), ``"mse"``, ``"smooth_l1"``, or a mixture such as ``"ccc+0.5*mse"``.
    au_balance
        Cap of each action unit's positive weight, negatives : positives among the train rows; 0 weighs none.
        HSEmotion's goes to 21.
    au_balance_power
        Exponent of that ratio, before the cap: 1 balances the two, .5 goes half the way. F1 is best at a threshold of
        half its value (Lipton et al., 2014), of .3 at an F1 of .6; with .5 a unit that is active in a tenth of the
        rows is called active from a probability of .25 on.
    class_balance
        Whether each expression weighs as the inverse of its share of the train rows, with mean 1 over the rows
        (scikit-learn's "balanced").
    label_smoothing
        Share of an expression's probability that goes to all classes.
    logit_adjustment
        tau: the expressions' logits get tau * log(share among the train rows) in training (Menon et al., 2021).
    focal_gamma
        Exponent of the focal losses (Lin et al., 2017).
    asymmetric_gammas, asymmetric_clip
        Of the asymmetric loss: exponents of positives and negatives, and how far a negative's probability is
        shifted (Ridnik et al., 2021).
    smooth_l1_beta
        Where the smooth L1 turns from square to straight.
    weighting
        How the tasks' losses are weighed, on top of the fit's `weights`: ``"fixed"`` (by these alone),
        ``"normalised"`` (each by the inverse of its own value), ``"uncertainty"`` (learned; Kendall et al., 2018),
        ``"dwa"`` (by how fast each falls; Liu et al., 2019).
    dwa_temperature
        Of ``"dwa"``: how evenly it weighs.

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    au: str = "bce"
    expr: str = "ce"
    v: str = "ccc"
    a: str = "ccc"
    au_balance: float = 0.0
    au_balance_power: float = 1.0
    class_balance: bool = False
    label_smoothing: float = 0.0
    logit_adjustment: float = 0.0
    focal_gamma: float = 2.0
    asymmetric_gammas: tuple[float, float] = (1.0, 4.0)
    asymmetric_clip: float = 0.05
    smooth_l1_beta: float = 0.1
    weighting: str = "fixed"
    dwa_temperature: float = 2.0

    def __post_init__(self) -> None:
        raise_all("loss", self._mistakes())
        object.__setattr__(self, "v", _mixture_text(self.v))
        object.__setattr__(self, "a", _mixture_text(self.a))

    def _mistakes(self) -> list[str]:
        mistakes = []
        if self.au not in AU_LOSSES:
            mistakes.append(str(unknown_name("loss of action units", self.au, AU_LOSSES)))
        if self.expr not in EXPR_LOSSES:
            mistakes.append(str(unknown_name("loss of expressions", self.expr, EXPR_LOSSES)))
        for text in dict.fromkeys((self.v, self.a)):
            try:
                parse_mixture(text)
            except ConfigError as error:
                mistakes.append(str(error))
        if self.weighting not in WEIGHTINGS:
            mistakes.append(str(unknown_name("weighting", self.weighting, WEIGHTINGS)))
        numbers = {
            "au_balance": self.au_balance,
            "au_balance_power": self.au_balance_power,
            "logit_adjustment": self.logit_adjustment,
            "focal_gamma": self.focal_gamma,
            "asymmetric_gammas": min(self.asymmetric_gammas),
        }
        mistakes += [
            f"{name} must be a number of at least 0, got {value}."
            for name, value in numbers.items()
            if not (math.isfinite(value) and value >= 0)
        ]
        mistakes += in_unit_interval(label_smoothing=self.label_smoothing, asymmetric_clip=self.asymmetric_clip)
        above = {"smooth_l1_beta": self.smooth_l1_beta, "dwa_temperature": self.dwa_temperature}
        return mistakes + [
            f"{name} must be a number above 0, got {value}."
            for name, value in above.items()
            if not (math.isfinite(value) and value > 0)
        ]

    @property
    def reads_statistics(self) -> bool:
        """Whether the losses weigh by what the train rows' labels are like (see `LabelStatistics`)."""
        return self.au_balance > 0 or self.class_balance or self.logit_adjustment > 0

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return to_json(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, JsonValue]) -> "LossConfig":
        """The inverse of `to_dict`.

        Raises
        ------
        ConfigError
            If a name is unknown, a type is wrong, or a value is out of range.
        """
        return from_json(cls, values)


def parse_mixture(text: str) -> dict[str, float]:
    """Loss -> factor of a text such as ``"ccc+0.5*mse"``.

    Raises
    ------
    ConfigError
        If it is no such sum, a name is unknown or comes twice, or every factor is 0.
    """
    terms: dict[str, float] = {}
    for part in text.replace(" ", "").split("+"):
        match = _TERM.fullmatch(part)
        if match is None:
            raise ConfigError(f"Expected a loss such as ccc or ccc+0.5*mse, got {text!r}.")
        if match["name"] not in AFFECT_LOSSES:
            raise ConfigError(str(unknown_name("loss of valence and arousal", match["name"], AFFECT_LOSSES)))
        if match["name"] in terms:
            raise ConfigError(f"Loss {match['name']!r} comes twice in {text!r}. Name each once.")
        terms[match["name"]] = float(match["factor"] or 1)
    if not any(terms.values()):
        raise ConfigError(f"Every factor in {text!r} is 0. Give one of the losses a factor.")
    return terms


def _mixture_text(text: str) -> str:
    """A mixture in its one spelling: losses in a fixed order, no factor of 1, no term of 0."""
    terms = parse_mixture(text)
    told = ((name, terms.get(name, 0.0)) for name in AFFECT_LOSSES)
    return "+".join(name if factor == 1 else f"{factor!r}*{name}" for name, factor in told if factor)


BALANCED: Final = LossConfig(class_balance=True, au_balance=10.0, au_balance_power=0.5)
"""Default of `FitConfig`, and of `LightConfig` for its two balances."""
