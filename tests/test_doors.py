"""The folders' doors: what they list exists, and opening them loads nothing heavy."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("folder", ["featurestore", "heads", "extractor"])
def test_every_listed_name_is_there(folder: str) -> None:
    door = importlib.import_module(folder)
    assert len(door.__all__) > 3
    for name in door.__all__:
        found = getattr(door, name)
        assert found.__name__ == name  # and not a module of that name
        assert found.__module__.startswith(folder)


def test_help_needs_no_heavy_import() -> None:
    script = (
        "import sys, cli.main\n"
        "heavy = {'torch', 'timm', 'polars', 'zarr', 'numpy', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"`abaw --help` would import {done.stderr}"
