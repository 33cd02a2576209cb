"""What the benchmarks share: timing two things side by side, the table, the JSON file, the options.

Only ratios are judged. Both sides of one are measured in the same process, in alternation and in alternating order,
so that whatever else the machine is doing meets both; the median of the rounds' ratios is the value.

A new benchmark is one file, and nothing else names it: `make bench` and the test suite find it by its name.

- The file is ``benchmarks/bench_<thing>.py``. Its folder comes first on ``sys.path``, so no file here may have the name
  of a package or of a module of the standard library. It imports ``report`` and, for random material, ``material``.
- It runs as ``python benchmarks/bench_<thing>.py [--quick | --smoke] [--json FILE]``; the first line of its docstring
  is the help text. ``main`` calls `parse_options`, measures, and ends with one call of `report`.
- Every size is chosen by ``options.pick(full=..., quick=..., smoke=...)``: full for the figures in
  docs/benchmarks.md, quick to end within a minute on two cores (`make bench`), smoke to end within seconds beside its
  imports (the test suite, with one thread a process). Smoke runs every measure of the benchmark, on tiny material; its
  values mean nothing.
- Timings come from `side_by_side`, with ``budget_s=options.budget_s`` or a part of it. At smoke that is 0: one round
  counts.
- A line of the table is a `Measure`, whose ``measure`` names what was measured and, after `` : ``, against what. The
  JSON file is a list of ``{"measure", "value", "bar", "ok"}``, every value finite.
- It exits with 0 whether or not its bars are reached; another status means that it crashed. A comparison that makes
  no sense (an extraction that is not complete, say) raises. Its files go to a temporary folder.
- It runs without a GPU and without a network.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

Size = Literal["full", "quick", "smoke"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every benchmark is started with.

    Attributes
    ----------
    size
        How much to measure: see the module's docstring.
    json_file
        Where to write the measures, or None.
    """

    size: Size
    json_file: Path | None

    @property
    def budget_s(self) -> float:
        """Seconds after which no further round of one pair of timings begins."""
        return self.pick(full=240.0, quick=25.0, smoke=0.0)

    def pick(self, *, full: T, quick: T, smoke: T) -> T:
        """The value of this size."""
        return {"full": full, "quick": quick, "smoke": smoke}[self.size]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One line of the table.

    Attributes
    ----------
    measure
        What was measured, and against what.
    value
        The ratio.
    bar
        What it must reach, or may at most be.
    at_most
        Whether the bar is a ceiling.
    detail
        The figures behind the ratio, for the table alone: they are of this machine.
    """

    measure: str
    value: float
    bar: float
    at_most: bool = False
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the bar is reached."""
        return self.value <= self.bar if self.at_most else self.value >= self.bar


class Result(BaseModel):
    """A measure in the JSON file; what every machine has in common, without the detail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: str
    value: FiniteFloat
    bar: FiniteFloat
    ok: bool


_RESULTS: Final = TypeAdapter(Annotated[list[Result], Field(min_length=1)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two timings, side by side.

    Attributes
    ----------
    ours_s, other_s
        Medians of the rounds, in seconds.
    ratio
        Median of other_s / ours_s of each round; above 1 ours is the faster.
    """

    ours_s: float
    other_s: float
    ratio: float

    @property
    def detail(self) -> str:
        """Both medians, ours first."""
        return f"{_seconds(self.ours_s)} / {_seconds(self.other_s)}"


def parse_options(description: str) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    sizes = parser.add_mutually_exclusive_group()
    for size, text in (
        ("quick", "smaller and fewer: within a minute on two cores"),
        ("smoke", "tiny: every measure in a few seconds, for tests; the values mean nothing"),
    ):
        sizes.add_argument(f"--{size}", dest="size", action="store_const", const=size, default="full", help=text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to this file as well")
    parsed = parser.parse_args()
    return Options(size=parsed.size, json_file=parsed.json)


def wall_s(work: Callable[[], object]) -> float:
    """Seconds that `work` takes; its result lives until the clock has stopped."""
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    del result
    return seconds


def side_by_side(ours: Callable[[], float], other: Callable[[], float], *, rounds: int, budget_s: float) -> Pair:
    """Measure two things in alternation, after one round that does not count.

    Parameters
    ----------
    ours, other
        Each does its work once and returns the seconds it took.
    rounds
        How often; odd, for a median that occurred.
    budget_s
        No further round is begun, once one has counted, that would end later than this.
    """
    ours_s: list[float] = []
    other_s: list[float] = []
    began = time.perf_counter()
    for number in range(rounds + 1):
        round_began = time.perf_counter()
        first, second = (ours, other) if number % 2 else (other, ours)
        seconds = {first: first(), second: second()}
        if number:
            ours_s.append(seconds[ours])
            other_s.append(seconds[other])
        now = time.perf_counter()
        if number and now - began + (now - round_began) > budget_s:
            break
    ratios = [theirs / mine for mine, theirs in zip(ours_s, other_s, strict=True)]
    return Pair(ours_s=statistics.median(ours_s), other_s=statistics.median(other_s), ratio=statistics.median(ratios))


def report(measures: Sequence[Measure], options: Options) -> None:
    """Print the table, and write the JSON file if one was asked for."""
    lines = [("measure", "value", "bar", "ok", "ours / other")]
    for each in measures:
        bar = f"{'<=' if each.at_most else '>='} {each.bar:.2f}"
        lines.append((each.measure, f"{each.value:.2f}", bar, "yes" if each.ok else "MISSED", each.detail))
    print(aligned(lines))
    print(f"({os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()})")
    if options.json_file is not None:
        results = [
            Result(measure=each.measure, value=round(each.value, 4), bar=each.bar, ok=each.ok) for each in measures
        ]
        options.json_file.write_bytes(_RESULTS.dump_json(results, indent=2) + b"\n")


def read_results(json_file: Path) -> list[Result]:
    """What a benchmark wrote with --json.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is another file, holds no measure, or a value that is not finite.
    """
    return _RESULTS.validate_json(json_file.read_bytes())


def aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Rows of one table, a line each: the second and third column, which hold figures, end flush right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place in (1, 2) else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
