"""Configurations: every mistake reported at once, and there and back to JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from featurestore.errors import ConfigError, unknown_name

Config = TypeVar("Config")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """What reads and writes a kind of configuration; milliseconds to make, and asked for at every turn."""
    return TypeAdapter(kind)


def raise_all(what: str, mistakes: Iterable[str]) -> None:
    """Raise if something is wrong.

    Raises
    ------
    ConfigError
        With every mistake, in sentences.
    """
    found = list(mistakes)
    if found:
        raise ConfigError(f"The {what}'s configuration cannot be used: " + " ".join(found))


def to_json(config: object) -> dict[str, JsonValue]:
    """A configuration's fields as JSON has them: tuples as lists, mappings as objects.

    Parameters
    ----------
    config
        A dataclass whose fields hold numbers, texts, tuples, mappings, and dataclasses of these.
    """
    kind: Any = type(config)
    made: dict[str, JsonValue] = _adapter(kind).dump_python(config, mode="json")
    return made


def from_json(kind: type[Config], values: Mapping[str, JsonValue]) -> Config:
    """The inverse of `to_json`; fields that are not named take their defaults.

    Raises
    ------
    ConfigError
        If a name is unknown, a type is wrong, or a value is out of range; all of them are named.
    """
    dataclass_kind: Any = kind
    known = [each.name for each in fields(dataclass_kind)]
    raise_all("saved", [str(unknown_name("setting", name, known)) for name in values if name not in known])
    try:
        made: Config = _adapter(dataclass_kind).validate_python(dict(values))
    except ValidationError as error:
        problems = error.errors()
        own = [
            each["ctx"]["error"] for each in problems if not each["loc"] and "ctx" in each and "error" in each["ctx"]
        ]
        if len(own) == len(problems) == 1 and isinstance(own[0], ConfigError):
            raise own[0] from error  # what the configuration says of itself, in its own words
        found = [f"{'.'.join(map(str, each['loc']))}: {_said(each['msg'])}." for each in problems]
        raise ConfigError("The configuration cannot be used: " + " ".join(found)) from error
    return made


def _said(message: str) -> str:
    return message.removeprefix("Value error, ").rstrip(".")


def at_least(least: int, **values: int | None) -> list[str]:
    """Sentences on the numbers below `least`; None passes."""
    return [
        f"{name} must be at least {least}, got {value}."
        for name, value in values.items()
        if value is not None and value < least
    ]


def in_unit_interval(**values: float) -> list[str]:
    """Sentences on the numbers outside [0, 1), such as a dropout's."""
    return [f"{name} must be in [0, 1), got {value}." for name, value in values.items() if not 0 <= value < 1]
