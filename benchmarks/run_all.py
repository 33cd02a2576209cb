"""Run every benchmark of this folder with --quick, also after one has crashed, and end with the bars that are missed.

Exit status 0, or 1 if a benchmark crashed: a missed bar is a result.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from report import Result, aligned, read_results

FOLDER = Path(__file__).resolve().parent


class CrashError(RuntimeError):
    """A benchmark ended without measures."""


def main() -> int:
    """Run them one after the other, since each takes all cores; print the summary."""
    results: dict[str, list[Result]] = {}
    crashes: dict[str, CrashError] = {}
    with tempfile.TemporaryDirectory() as folder:
        for benchmark in sorted(FOLDER.glob("bench_*.py")):
            print(f"== {benchmark.name} --quick", flush=True)
            try:
                results[benchmark.name] = run(benchmark, Path(folder) / f"{benchmark.stem}.json")
            except CrashError as error:
                crashes[benchmark.name] = error
            print(flush=True)
    print(missed_table(results))
    for name, crash in crashes.items():
        print(f"CRASHED: {name}, {crash}")
    return 1 if crashes else 0


def run(benchmark: Path, json_file: Path) -> list[Result]:
    """Run a benchmark, whose output goes where this process's does.

    Raises
    ------
    CrashError
        If it exits with another status than 0, or writes no JSON file as report.py describes it.
    """
    status = subprocess.run([sys.executable, benchmark, "--quick", "--json", json_file], check=False).returncode
    if status:
        raise CrashError(f"exit status {status}" if status > 0 else f"ended by signal {-status}")
    try:
        return read_results(json_file)
    except (OSError, ValueError) as error:
        raise CrashError(f"its JSON file cannot be read: {error}") from error


def missed_table(results: Mapping[str, Sequence[Result]]) -> str:
    """The measures that miss their bar as one table, or a line that says that none does.

    Parameters
    ----------
    results
        File name of a benchmark -> what it measured.
    """
    n_measures = sum(map(len, results.values()))
    lines = [
        # The file does not say on which side of the bar a measure must be: a missed one is on the other.
        (each.measure, f"{each.value:.3f}", f"{'>=' if each.value < each.bar else '<='} {each.bar:.2f}", name)
        for name, measured in results.items()
        for each in measured
        if not each.ok
    ]
    if not lines:
        return f"No bar is missed (measures: {n_measures}, benchmarks: {len(results)})."
    head = f"Missed, {len(lines)} of {n_measures} measures:"
    return f"{head}\n{aligned([('measure', 'value', 'bar', 'benchmark'), *lines])}"


if __name__ == "__main__":
    sys.exit(main())
