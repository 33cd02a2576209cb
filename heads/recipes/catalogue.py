"""The recipes that come with the toolkit: every published system, one TOML file each beside this one."""

from importlib import resources
from pathlib import Path
from typing import Final

from featurestore.errors import unknown_name

from .recipe import Recipe
from .tomlfile import parse_recipe, read_recipe

ORDER: Final = (
    "netease",
    "aim3",
    "scu",
    "hsemotion",
    "hfut-mac1",
    "aiwell-uoc",
    "cprl",
    "sun-gao",
    "baseline",
    "linear-probe",
)
"""Winners first, then the rest of the leaderboards, and what they are held against."""


def recipe_names() -> tuple[str, ...]:
    """The names of all recipes here, in the order in which they are listed."""
    return ORDER


def find_recipe(name: str) -> Recipe:
    """A recipe: one of those here by name, or a file.

    Parameters
    ----------
    name
        Such as ``netease``; or a path, which ends in ``.toml``.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    MissingFileError, ConfigError
        As `read_recipe` does.
    """
    if name in ORDER:
        return parse_recipe(resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    if name.endswith(".toml"):
        return read_recipe(Path(name))
    raise unknown_name("recipe", name, ORDER)
