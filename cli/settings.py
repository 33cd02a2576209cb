"""Configurations from a command's options: those that were given, and any other field by `--set name=value`."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Final

from pydantic import JsonValue

from featurestore.errors import ConfigError, unknown_name
from heads.calibration.config import PostConfig

_SWITCHES: Final = ("thresholds", "class-bias", "rescale")


def parse_settings(texts: Sequence[str]) -> dict[str, JsonValue]:
    """Name -> value of texts such as ``attention_heads=16`` or ``hidden=[512, 256]``; a bare word is a text.

    Raises
    ------
    ConfigError
        If one has no name or no value, or a name comes twice.
    """
    found: dict[str, JsonValue] = {}
    for text in texts:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not (separator and name and value):
            raise ConfigError(f"Expected a setting such as attention_heads=16, got {text!r}. Write it as name=value.")
        if name in found:
            raise ConfigError(f"Setting {name!r} is given twice. Give it once.")
        found[name] = _value(value)
    return found


def settings_of(
    kinds: Mapping[str, type[object]], given: Mapping[str, Mapping[str, JsonValue]], texts: Sequence[str]
) -> dict[str, dict[str, JsonValue]]:
    """The fields of several configurations: those that options set, and any other by `--set`.

    Parameters
    ----------
    kinds
        A word for each -> its dataclass.
    given
        The same words -> the fields that an option set.
    texts
        What `--set` was given (see `parse_settings`).

    Returns
    -------
    The same words -> all fields that are set.

    Raises
    ------
    UnknownNameError
        If none of them has such a field.
    ConfigError
        If a setting repeats an option.
    """
    found = {word: dict(given[word]) for word in kinds}
    known = {word: {each.name for each in fields(kind)} for word, kind in kinds.items()}  # type: ignore[arg-type]
    for name, value in parse_settings(texts).items():
        holders = [word for word, names in known.items() if name in names]
        if not holders:
            raise unknown_name("setting", name, [each for names in known.values() for each in sorted(names)])
        for word in holders:
            if name in found[word]:
                raise ConfigError(f"{name!r} has an option of its own (or is set twice): give it there, not by --set.")
            found[word][name] = value
    return found


def parse_columns(text: str) -> dict[str, JsonValue]:
    """Encoder -> [start, stop) of texts such as ``hse=-10:`` or ``hse=0:1280,mae=0:64``.

    Raises
    ------
    ConfigError
        If it is not such a list.
    """
    found: dict[str, JsonValue] = {}
    for item in (part.strip() for part in text.split(",") if part.strip()):
        name, _, range_text = item.partition("=")
        start, separator, stop = range_text.partition(":")
        try:
            if not separator or not name:
                raise ValueError
            found[name] = [int(start or 0), int(stop) if stop else None]
        except ValueError:
            raise ConfigError(
                f"Expected columns such as hse=-10: or hse=0:1280, got {item!r}. Write encoder=start:stop."
            ) from None
    return found


def parse_post(text: str) -> PostConfig:
    """What is calibrated, of texts such as ``smooth,thresholds`` or ``smooth=box,class-bias``; of ``none`` nothing.

    ``smooth`` alone is ``smooth=exp``; it is done to expressions, valence and arousal, as HSEmotion does it.

    Raises
    ------
    UnknownNameError
        If there is no such post-processing.
    ConfigError
        If smoothing is of an unknown kind.
    """
    chosen: dict[str, JsonValue] = {}
    for item in () if text == "none" else (part.strip() for part in text.split(",") if part.strip()):
        name, _, kind = item.partition("=")
        if name not in ("smooth", *_SWITCHES) or (kind and name != "smooth"):
            raise unknown_name("post-processing", item, ("smooth", "smooth=box", *_SWITCHES))
        if name == "smooth":
            chosen["smoothing"] = dict.fromkeys(("expr", "v", "a"), kind or "exp")
        else:
            chosen[name.replace("-", "_")] = True
    return PostConfig.from_dict(chosen)


def _value(text: str) -> JsonValue:
    try:
        value: JsonValue = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
    return value
