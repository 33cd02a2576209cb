"""Recipes as plain tables (JSON, TOML) and back, every mistake told at once.

The tables are those of the file (see `tomlfile`): `model` is a list of tables, each with a `head` and a `training` or
with a `light`; columns are texts such as ``"-10:"``, since TOML has no null.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from functools import partial
from typing import Any, Final, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from featurestore.errors import AbawError, ConfigError, unknown_name
from heads.calibration.config import PostConfig
from heads.checking import from_json, raise_all, to_json
from heads.fitting.config import FitConfig
from heads.light.config import LightConfig
from heads.modules.config import HeadConfig

from .member import BlendPlan, Member
from .recipe import Recipe
from .told import Need, Published

Made = TypeVar("Made")
Given = TypeVar("Given")
Table = Mapping[str, JsonValue]

_COLUMNS: Final = re.compile(r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*")
_INTRODUCED: Final = re.compile(r"(: Value error, )?The ([^.]{1,60} )?configuration cannot be used: ")
_ANSWERS: Final[tuple[str, ...]] = ("tasks", "epoch_per_task")
_MODEL_KEYS: Final = ("name", *_ANSWERS, "head", "training", "light")
_WHEN_FITTED: Final = ("seed", "device")
_ALWAYS: Final = ("encoder",)
"""Written even where they are the default, since a reader looks for them."""
_PLAIN: Final[Mapping[str, Any]] = {
    "name": str,
    "title": str,
    "folds": int | None,
    "seeds": int,
    "challenge": str,
    "year": int | None,
    "source": str,
    "link": str,
    "notes": tuple[str, ...],
}


def recipe_from_table(table: Table) -> Recipe:
    """The recipe of a table.

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """
    known = (*_PLAIN, "published", "needs", "model", "blend", "post")
    mistakes = [str(unknown_name("entry of a recipe", name, known)) for name in table if name not in known]
    mistakes += [f"{name} is missing." for name in ("name", "title") if name not in table]
    values: dict[str, Any] = {
        name: _tried(mistakes, name, partial(_checked, kind), table[name])
        for name, kind in _PLAIN.items()
        if name in table
    }
    values["published"] = _entries(mistakes, "published", Published, table.get("published", {}))
    values["needs"] = _entries(mistakes, "needs", Need, table.get("needs", {}))
    values["models"] = _members(mistakes, table.get("model", []))
    values["blend"] = _tried(mistakes, "blend", partial(_made, BlendPlan), table.get("blend", {}))
    values["post"] = _tried(mistakes, "post", partial(_made, PostConfig), table.get("post", {}))
    raise_all("recipe", mistakes)
    return Recipe(**values)


def recipe_to_table(recipe: Recipe, *, full: bool = False) -> dict[str, JsonValue]:
    """The table of a recipe.

    Parameters
    ----------
    recipe
        Which one.
    full
        Write also what equals its default: what a fitted system keeps, whose defaults may change.
    """
    told = _told(recipe, full=full)
    nested = ("published", "needs", "models", "blend", "post")
    table = {name: value for name, value in told.items() if name not in nested}
    published = {name: _told(each, full=full) for name, each in recipe.published.items()}
    table |= {"published": dict(published)} if published else {}
    table["needs"] = {role: _told(need, full=full) for role, need in recipe.needs.items()}
    table["model"] = [_member_table(member, full=full) for member in recipe.models]
    for name, part in (("blend", recipe.blend), ("post", recipe.post)):
        inner = _told(part, full=full)
        table |= {name: inner} if inner else {}
    return table


def _members(mistakes: list[str], value: JsonValue) -> tuple[Member | None, ...]:
    if not isinstance(value, list) or not all(isinstance(model, dict) for model in value):
        mistakes.append("model must be a list of tables: begin each with [[model]].")
        return ()
    return tuple(_member(mistakes, number, _as_table(model)) for number, model in enumerate(value, start=1))


def _member(mistakes: list[str], number: int, table: dict[str, JsonValue]) -> Member | None:
    where = f"model {table['name']!r}" if isinstance(table.get("name"), str) else f"model {number}"
    found = [str(unknown_name("entry of a model", name, _MODEL_KEYS)) for name in table if name not in _MODEL_KEYS]
    found += [f"{name} is missing." for name in ("name", "tasks") if name not in table]
    if ("head" in table) == ("light" in table):
        found.append("it needs a head or a light, one of them.")
    if "training" in table and "light" in table:
        found.append("a light head has no training.")
    is_light = "light" in table
    asked = table.get("training", {})
    for part in ("training", "light"):
        inner = table.get(part, {})
        given = [name for name in _WHEN_FITTED if isinstance(inner, dict) and name in inner]
        found += [f"{part}.{name} is given when the recipe is fitted: leave it out." for name in given]
    head: HeadConfig | LightConfig | None
    if is_light:
        head = _tried(found, "light", lambda value: _made(LightConfig, _read_columns(value)), table["light"])
    else:
        head = _tried(found, "head", lambda value: _made(HeadConfig, _read_columns(value)), table.get("head", {}))
    training = None if is_light else _tried(found, "training", partial(_made, FitConfig), asked)
    made = None
    if not found and head is not None:
        rest: dict[str, JsonValue] = {name: table[name] for name in _ANSWERS if name in table}
        made = _tried(found, "", lambda value: _member_of(str(table["name"]), head, training, value), rest)
    mistakes += [f"{where}: {mistake}" for mistake in found]
    return made


def _member_of(name: str, head: HeadConfig | LightConfig, training: FitConfig | None, rest: Table) -> Member:
    tasks = _checked(tuple[str, ...], rest["tasks"])
    each = _checked(bool, rest.get("epoch_per_task", False))
    return Member(name=name, tasks=tasks, head=head, training=training, epoch_per_task=each)


def _member_table(member: Member, *, full: bool) -> dict[str, JsonValue]:
    table = _told(member, full=full)
    table.pop("head")
    table.pop("training", None)
    if isinstance(member.head, LightConfig):
        light = _write_columns(_told(member.head, full=full))
        light.pop("seed", None)
        return table | {"light": light}
    head = _write_columns(_told(member.head, full=full))
    training = {} if member.training is None else _told(member.training, full=full)
    if not full:
        # What follows from the rest (see `HeadConfig.resolved`).
        if member.head.fusion == ("sum" if member.head.fuse else "none"):
            head.pop("fusion", None)
        if member.head.window == member.head.seq:
            head.pop("window", None)
    for name in _WHEN_FITTED:
        training.pop(name, None)
    return table | {"head": head, "training": training}


def _told(config: object, *, full: bool) -> dict[str, JsonValue]:
    """A dataclass's fields as JSON has them: those that differ from their defaults, or all; null is left out."""
    kind: Any = type(config)
    defaults = _defaults(kind)
    written: dict[str, JsonValue] = {}
    for name, value in to_json(config).items():
        here = getattr(config, name)
        if value is None or (not full and name not in _ALWAYS and name in defaults and here == defaults[name]):
            continue
        if hasattr(here, "__dataclass_fields__"):
            written[name] = _told(here, full=full)
        elif not full and isinstance(value, dict) and isinstance(defaults.get(name), Mapping):
            # Of a value a task, those that are not the default's.
            written[name] = {key: each for key, each in value.items() if defaults[name].get(key) != here[key]}
        else:
            written[name] = value
    return written


def _defaults(kind: Any) -> dict[str, Any]:
    """Field -> what it is if it is left out, as the configuration puts it; fields that may not be are not there."""
    made = {each.name: _default(each) for each in fields(kind)}
    if MISSING in made.values():
        return {name: value for name, value in made.items() if value is not MISSING}
    standard = kind()
    return {name: getattr(standard, name) for name in made}


def _default(entry: "Field[Any]") -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _read_columns(value: JsonValue) -> dict[str, JsonValue]:
    """A head's table with its columns as pairs."""
    table = _as_table(value)
    columns = table.get("columns")
    if isinstance(columns, dict):
        table["columns"] = {name: _pair(part) for name, part in columns.items()}
    return table


def _pair(part: JsonValue) -> JsonValue:
    match = _COLUMNS.fullmatch(part) if isinstance(part, str) else None
    if match is None:
        return part  # whatever it is, its kind is told by who checks it
    start, stop = match.groups()
    return [int(start or 0), None if stop is None else int(stop)]


def _write_columns(table: dict[str, JsonValue]) -> dict[str, JsonValue]:
    columns = table.get("columns")
    if isinstance(columns, dict):
        pairs = {name: pair for name, pair in columns.items() if isinstance(pair, list)}
        table["columns"] = {
            name: ":".join("" if end is None else str(end) for end in pair) for name, pair in pairs.items()
        }
    return table


def _entries(mistakes: list[str], name: str, kind: type[Made], value: JsonValue) -> dict[str, Made | None]:
    """What a table of tables holds."""
    if not isinstance(value, dict) or not all(isinstance(each, dict) for each in value.values()):
        mistakes.append(f"{name} must hold tables, such as [{name}.one].")
        return {}
    return {key: _tried(mistakes, f"{name}.{key}", partial(_made, kind), each) for key, each in value.items()}


def _made(kind: type[Made], value: JsonValue) -> Made:
    return from_json(kind, _as_table(value))


def _as_table(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise ConfigError(f"a table was expected, got {value!r}.")
    return dict(value)


def _checked(kind: Any, value: JsonValue) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ConfigError(" ".join(f"{each['msg']}, got {value!r}." for each in error.errors())) from error


def _tried(mistakes: list[str], where: str, make: Callable[[Given], Made], value: Given) -> Made | None:
    """What is made of a value, or None and one mistake more, without the words that introduce it."""
    try:
        return make(value)
    except AbawError as error:
        told = _INTRODUCED.sub("", str(error))
        mistakes.append(f"{where}: {told}" if where else told)
        return None
