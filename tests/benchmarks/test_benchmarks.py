"""Every benchmark runs, at a size of seconds: whether it reaches its bars is not a test's question."""

import importlib.metadata
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks").glob("*.py"))
BENCHMARKS = [path.name for path in FILES if path.name.startswith("bench_")]


def test_there_are_benchmarks() -> None:
    assert len(BENCHMARKS) >= 6


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_measures_and_reports(name: str, tmp_path: Path) -> None:
    json_file = tmp_path / "measures.json"
    command = [sys.executable, f"benchmarks/{name}", "--smoke", "--json", str(json_file)]
    # The packages of this checkout; one thread, since on busy cores the threads of a product wait for each other.
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    measures = json.loads(json_file.read_text())
    assert isinstance(measures, list)
    assert measures
    table = done.stdout[done.stdout.index("measure  ") :].splitlines()[1:]
    for line, each in zip(table, measures, strict=False):
        assert each.keys() == {"measure", "value", "bar", "ok"}
        assert math.isfinite(each["value"])
        assert math.isfinite(each["bar"])
        assert isinstance(each["ok"], bool)
        assert line.startswith(each["measure"])
        assert f"  {'yes' if each['ok'] else 'MISSED'}" in line
    assert len(table) == len(measures) + 1  # the last line is about the machine


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_has_a_packages_name(path: Path) -> None:
    """The folder of a script comes first on sys.path: a file there hides a package of its name."""
    own = {folder.parent.name for folder in ROOT.glob("*/__init__.py")}
    assert own >= {"featurestore", "heads", "extractor", "cli"}
    assert path.stem not in own | sys.stdlib_module_names | importlib.metadata.packages_distributions().keys()
