"""Every package that the sources import is declared in pyproject.toml, with one lower bound a package."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
RUNTIME = [*PYPROJECT["project"]["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]
DEVELOPMENT: list[str] = PYPROJECT["dependency-groups"]["dev"]
PACKAGES = ("featurestore", "heads", "extractor", "cli")
_INSTALLED = packages_distributions()
# Functions whose first argument names a module.
_IMPORTING = frozenset({"importorskip", "import_module", "find_spec"})


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "benchmarks"])
def test_what_a_folder_imports_is_declared(folder: str) -> None:
    allowed = _names([*RUNTIME, *DEVELOPMENT] if folder in ("tests", "benchmarks") else RUNTIME)
    undeclared = {
        f"{module} ({where})"
        for module, where in _imported(ROOT / folder)
        if not _is_own(module, ROOT / folder)
        and not _is_tested(module, folder)
        and allowed.isdisjoint(_distributions(module))
    }
    assert not undeclared, f"add these to pyproject.toml: {', '.join(sorted(undeclared))}"


def test_every_requirement_has_one_lower_bound() -> None:
    unbounded = [each for each in (*RUNTIME, *DEVELOPMENT) if not re.fullmatch(r"[\w.-]+(\[\w+\])?>=[\d.]+", each)]
    assert not unbounded


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_is_in_the_dev_group_with_the_same_bounds(extra: str) -> None:
    assert set(EXTRAS[extra]) <= set(DEVELOPMENT)


def test_imports_inside_functions_and_by_name_are_found(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        "import first.part\n"
        "from .sibling import nothing\n"
        "def late():\n"
        "    from second import part\n"
        "    pytest.importorskip('third.part')\n"
        "    importlib.import_module(name)\n",
        encoding="utf-8",
    )
    assert [module for module, _ in _imported(tmp_path)] == ["first", "second", "third"]


def _imported(folder: Path) -> Iterator[tuple[str, str]]:
    """Top-level name of every imported module, and the file that imports it."""
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.pyi")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module in _modules(node):
                yield module.partition(".")[0], str(path.relative_to(folder.parent))


def _modules(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case ast.Call(func=ast.Name(id=function) | ast.Attribute(attr=function), args=[ast.Constant(str(name)), *_]):
            return [name] if function in _IMPORTING else []
    return []


def _is_own(module: str, folder: Path) -> bool:
    """Whether the module is Python's, the project's, or lies in the folder itself (benchmarks import each other)."""
    return module in sys.stdlib_module_names or module in PACKAGES or (folder / f"{module}.py").exists()


def _is_tested(module: str, folder: str) -> bool:
    """Whether it is one of the benchmarks, of which tests import some."""
    return folder == "tests" and (ROOT / "benchmarks" / f"{module}.py").exists()


def _distributions(module: str) -> set[str]:
    """Normalized names of the installed distributions that provide a module; its own name if none does."""
    return {_normalized(name) for name in _INSTALLED.get(module, [module])}


def _names(requirements: list[str]) -> set[str]:
    return {_normalized(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in requirements}


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
