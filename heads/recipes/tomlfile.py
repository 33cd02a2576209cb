"""Recipes as TOML: read with every mistake told at once, written so that reading gives the same recipe again.

    name = "two-stage"
    title = "Whose system, and what it is"

    [published.test]                    # or val, or untold; optional, as all that is known: p, au, expr, va
    p = 1.2

    [needs.mae]                         # one table a role; models name encoders by these
    what = "MAE ViT-B/16"
    dim = 768

    [[model]]                           # one a model
    name = "affect"
    tasks = ["v", "a"]                  # what it answers
    [model.head]                        # the fields of HeadConfig; or [model.light], those of LightConfig
    encoder = "mae"
    joint = ["au", "v", "a"]
    columns = { mae = "-10:" }          # start:stop of the columns that are read
    [model.training]                    # the fields of FitConfig but for seed and device
    epochs = 20
    [model.training.loss]               # those of LossConfig

    [blend]                             # optional: how = "given", "fitted" or "best"; weights of what is given
    [post]                              # optional: the fields of PostConfig

What is left out takes its default, and what equals its default is left out in writing. Notes and comments that people
add are theirs: comments are lost when a recipe is read and written again.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, MissingFileError

from .recipe import Recipe
from .tables import recipe_from_table, recipe_to_table

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_INDENT: Final = " " * 4


def read_recipe(path: Path) -> Recipe:
    """A recipe's file.

    Raises
    ------
    MissingFileError
        If there is none.
    ConfigError
        If it is no TOML, or no recipe; with every mistake that was found.
    """
    if not path.is_file():
        raise MissingFileError(f"A recipe is a TOML file, but {path} is not there. `abaw recipes` lists those known.")
    try:
        return parse_recipe(path.read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{error} (file: {path})") from error


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe's file, the whole of it or nothing."""
    with replace_file(path) as partial:
        partial.write_text(format_recipe(recipe), encoding="utf-8")


def parse_recipe(text: str) -> Recipe:
    """The recipe of a TOML text.

    Raises
    ------
    ConfigError
        If it is no TOML, or no recipe; with every mistake that was found.
    """
    try:
        table: dict[str, JsonValue] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"A recipe is a TOML file, and this is not valid TOML: {error}. Correct that line."
        ) from error
    return recipe_from_table(table)


def format_recipe(recipe: Recipe) -> str:
    """A recipe as a TOML text."""
    return "\n".join(_lines(recipe_to_table(recipe))) + "\n"


def _lines(table: Mapping[str, JsonValue]) -> Iterator[str]:
    """The top of the file, then its tables; what stands inside a table is written in line."""
    tables = {name: value for name, value in table.items() if isinstance(value, dict)}
    models = table["model"] if isinstance(table["model"], list) else []
    yield from _pairs({name: value for name, value in table.items() if name not in tables and name != "model"})
    for name in ("published", "needs"):
        for key, inner in _items(tables.pop(name, {})):
            yield from ("", f"[{name}.{_key(key)}]", *_pairs(dict(_items(inner))))
    for model in models:
        facts = dict(_items(model))
        parts = {name: facts.pop(name) for name in ("head", "training", "light") if name in facts}
        yield from ("", "[[model]]", *_pairs(facts))
        for name, part in parts.items():
            yield from (f"[model.{name}]", *_pairs(dict(_items(part))))
    for name, inner in tables.items():
        yield from ("", f"[{name}]", *_pairs(dict(_items(inner))))


def _items(value: JsonValue) -> list[tuple[str, JsonValue]]:
    return list(value.items()) if isinstance(value, dict) else []


def _pairs(table: Mapping[str, JsonValue]) -> Iterator[str]:
    for key, value in table.items():
        # Sentences, a line each.
        if key == "notes" and isinstance(value, list):
            yield from (f"{_key(key)} = [", *(f"{_INDENT}{_value(each)}," for each in value), "]")
        else:
            yield f"{_key(key)} = {_value(value)}"


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _text(name)


def _value(value: JsonValue) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return "{ " + ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items()) + " }"
        case _:
            return repr(value)


def _text(text: str) -> str:
    """A basic string; TOML's escapes are JSON's, and delete is one of the characters that it wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
