"""Losses as they are written on the command line: ``au=focal,v=ccc+0.5*mse,label_smoothing=0.1``."""

from typing import Final

from pydantic import JsonValue

from featurestore.errors import ConfigError, unknown_name
from heads.tasks import parse_names

from .config import LossConfig

_BOTH: Final = "va"
"""Short for valence and arousal at once."""
_TRUTHS: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def parse_losses(text: str, *, base: LossConfig | None = None) -> LossConfig:
    """The losses of an option such as ``"au=asymmetric,va=ccc+0.5*mse,class_balance=yes"``.

    Parameters
    ----------
    text
        ``setting=value`` items, separated by commas; the settings are the fields of `LossConfig`, and ``va`` is short
        for ``v`` and ``a``. The two exponents of ``asymmetric_gammas`` stand apart by a colon: ``1:4``.
    base
        Where settings that are not named come from; the defaults by default.

    Raises
    ------
    UnknownNameError
        If a setting is unknown.
    ConfigError
        If an item cannot be read, a setting comes twice, or a value is out of range.
    """
    base = LossConfig() if base is None else base
    kinds = base.to_dict()
    changes: dict[str, JsonValue] = {}
    for item in parse_names(text):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise ConfigError(
                f"Expected losses such as 'au=focal,v=ccc+0.5*mse', got {item!r} in {text!r}. "
                "Write each as setting=value."
            )
        if name != _BOTH and name not in kinds:
            raise unknown_name("setting of the losses", name, [*kinds, _BOTH])
        for each in ("v", "a") if name == _BOTH else (name,):
            if each in changes:
                raise ConfigError(f"{each!r} is set twice in {text!r}. Set each once.")
            changes[each] = _value(each, value, kinds[each])
    return LossConfig.from_dict({**kinds, **changes})


def _value(name: str, text: str, like: JsonValue) -> JsonValue:
    """A setting's value, of the kind that its present one is."""
    if isinstance(like, bool):
        if text not in _TRUTHS:
            raise ConfigError(f"{name} is yes or no, got {text!r}.")
        return _TRUTHS[text]
    if isinstance(like, str):
        return text
    try:
        numbers: list[JsonValue] = [float(part) for part in text.split(":")]
    except ValueError as error:
        raise ConfigError(_expected(name, like, text)) from error
    if isinstance(like, list):
        if len(numbers) != len(like):
            raise ConfigError(_expected(name, like, text))
        return numbers
    if len(numbers) != 1:
        raise ConfigError(_expected(name, like, text))
    return numbers[0]


def _expected(name: str, like: JsonValue, text: str) -> str:
    what = f"{len(like)} numbers apart by colons, such as 1:4" if isinstance(like, list) else "a number"
    return f"{name} is {what}, got {text!r}."
