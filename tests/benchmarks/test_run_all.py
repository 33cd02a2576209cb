"""All benchmarks one after the other: the missed bars are one table, and a crash does not end the rest."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
MODULES = ("report", "run_all")

REPORTS = """
from report import Measure, parse_options, report

options = parse_options("A benchmark.")
measures = [
    Measure(measure=f"{options.size} reading : np.load", value=0.5, bar=1.0),
    Measure(measure="memory of a fit", value=3.0, bar=2.0, at_most=True),
    Measure(measure="writing : np.save", value=1.5, bar=1.0),
]
report(measures, options)
"""
REACHES = """
from report import Measure, parse_options, report

report([Measure(measure="ratio", value=2.0, bar=1.0)], parse_options("A benchmark."))
"""
MEASURES_NAN = REACHES.replace("value=2.0", 'value=float("nan")')


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """run_all.py, which finds report.py beside it as it does when it is run."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("run_all")
    for name in MODULES:
        sys.modules.pop(name)


def write(file: Path, *rows: tuple[str, float, float, bool]) -> Path:
    """A JSON file as a benchmark leaves it."""
    file.write_text(json.dumps([dict(zip(("measure", "value", "bar", "ok"), row, strict=True)) for row in rows]))
    return file


def run_all(folder: Path, **benchmarks: str) -> subprocess.CompletedProcess[str]:
    """Run run_all.py in a folder with these benchmarks."""
    for name in MODULES:
        shutil.copy(FOLDER / f"{name}.py", folder)
    for name, source in benchmarks.items():
        (folder / f"bench_{name}.py").write_text(source)
    return subprocess.run([sys.executable, folder / "run_all.py"], capture_output=True, text=True, check=False)


def test_the_table_has_what_is_missed_and_by_how_much(tmp_path: Path, module: ModuleType) -> None:
    store = write(tmp_path / "s.json", ("load : np.load", 0.94, 1.0, False), ("write : np.save", 0.8, 0.7, True))
    heads = write(tmp_path / "h.json", ("memory : 1 GB", 1.1936, 1.0, False))
    results = {"bench_store.py": module.read_results(store), "bench_heads.py": module.read_results(heads)}
    assert module.missed_table(results).splitlines() == [
        "Missed, 2 of 3 measures:",
        "measure         value      bar  benchmark",
        "load : np.load  0.940  >= 1.00  bench_store.py",
        "memory : 1 GB   1.194  <= 1.00  bench_heads.py",
    ]


def test_a_line_says_that_nothing_is_missed(tmp_path: Path, module: ModuleType) -> None:
    results = {"bench_store.py": module.read_results(write(tmp_path / "s.json", ("load : np.load", 1.2, 1.0, True)))}
    assert module.missed_table(results) == "No bar is missed (measures: 1, benchmarks: 1)."


@pytest.mark.parametrize("path", sorted((FOLDER / "results").glob("*.json")), ids=lambda path: path.name)
def test_the_results_beside_the_benchmarks_are_of_this_format(path: Path, module: ModuleType) -> None:
    assert module.read_results(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '[{"measure": "m", "value": NaN, "bar": 1, "ok": true}]'])
def test_files_without_finite_measures_are_refused(text: str, tmp_path: Path, module: ModuleType) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=r"validation error"):
        module.read_results(tmp_path / "m.json")


def test_a_missed_bar_is_no_crash(tmp_path: Path) -> None:
    done = run_all(tmp_path, first=REPORTS, second=REACHES)
    assert done.returncode == 0, done.stderr
    assert "== bench_first.py --quick" in done.stdout
    assert done.stdout.index("== bench_second.py --quick") < done.stdout.index("Missed, 2 of 4 measures:")
    assert done.stdout.splitlines()[-2:] == [
        "quick reading : np.load  0.500  >= 1.00  bench_first.py",
        "memory of a fit          3.000  <= 2.00  bench_first.py",
    ]


def test_a_crash_is_reported_and_the_others_run(tmp_path: Path) -> None:
    done = run_all(
        tmp_path,
        a_raises="raise RuntimeError('no such thing')",
        b_is_killed="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        c_says_nothing="",
        d_measures_nan=MEASURES_NAN,
        e_reaches=REACHES,
    )
    assert done.returncode == 1
    assert "RuntimeError: no such thing" in done.stderr
    summary = done.stdout[done.stdout.index("No bar is missed (measures: 1, benchmarks: 1).") :].splitlines()[1:]
    assert summary[:2] == [
        "CRASHED: bench_a_raises.py, exit status 1",
        "CRASHED: bench_b_is_killed.py, ended by signal 9",
    ]
    assert summary[2].startswith("CRASHED: bench_c_says_nothing.py, its JSON file cannot be read: ")
    assert summary[3:] == ["CRASHED: bench_d_measures_nan.py, exit status 1"]
