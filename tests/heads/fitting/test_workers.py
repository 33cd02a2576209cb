import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch

from featurestore.errors import ConfigError, WorkerError
from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.features.loaded import LoadedEmbeddings
from heads.fitting.workers import Ask, Parallel, _attempt, _Failed, can_share, run_jobs


@dataclass(frozen=True)
class Result:
    total: float
    pid: int
    n_threads: int
    answers: tuple[bool, ...]


@dataclass(frozen=True)
class Sum:
    """The sum of an encoder's rows, once a file is there, or the process that it names is gone and buried.

    Writes the file `begun` first, if there is one.
    """

    name: str
    encoder: str = "mae"
    after: Path | None = None
    death: Path | None = None
    begun: Path | None = None

    def run(self, features: FeatureSet, ask: Ask) -> Result:
        if self.begun is not None:
            self.begun.touch()
        answers = (ask(1, 0.5), ask(2, 0.25))
        while self.after is not None and not self.after.exists():
            time.sleep(0.02)
        while self.death is not None and not _is_buried(self.death):
            time.sleep(0.02)
        assert isinstance(features.embeddings, LoadedEmbeddings)
        total = float(features.embeddings[self.encoder].double().sum())
        return Result(total, os.getpid(), torch.get_num_threads(), answers)


def _is_buried(note: Path) -> bool:
    return note.exists() and bool(note.read_text()) and not Path("/proc", note.read_text()).exists()


@dataclass(frozen=True)
class Failing:
    name: str
    how: str
    told: Path | None = None
    after: Path | None = None

    def run(self, features: FeatureSet, ask: Ask) -> Result:
        while self.after is not None and not self.after.exists():
            time.sleep(0.02)
        if self.how == "kill" and self.told is not None:
            self.told.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "config":
            raise ConfigError("Expected this, got that.")
        raise ZeroDivisionError(self.how)


@pytest.fixture
def own(store: FeatureStore) -> FeatureSet:
    return FeatureSet.load(store, ("mae", "wide"), device="cpu")


# Each process takes seconds to import torch: what can be seen of one pair of them is seen in one test.
def test_two_workers_share_rows_and_a_death_is_named(
    own: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a script without a __main__ guard: what it does must not be done again in each worker.
    script = tmp_path / "script.py"
    script.write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'run-again')!r}).touch()")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    loaded = own.embeddings
    assert isinstance(loaded, LoadedEmbeddings)
    before = {name: loaded[name].clone() for name in loaded.names}
    held = loaded["mae"]
    assert len(own.targets) == len(own.frames)  # cached here, and not sent along
    go, killed, begun = tmp_path / "go", tmp_path / "killed", tmp_path / "begun"
    results: dict[int, Result] = {}
    asked: list[tuple[int, int, float]] = []
    taken: list[tuple[int, int]] = []

    def jobs() -> Iterator[Sum | Failing]:
        killing = Failing("row 2", "kill", killed, after=begun)  # so row 3 has begun, however busy the machine is
        listed = [Sum("0", "mae", go), Sum("1", "wide", go), killing, Sum("3", death=killed, begun=begun)]
        for number, job in enumerate([*listed, Sum("never begun")]):
            taken.append((number, len(results)))
            yield job

    def on_ask(number: int, step: int, value: float) -> bool:
        asked.append((number, step, value))
        if {each for each, _, _ in asked} == {0, 1} and not go.exists():
            loaded["mae"][0] = 1  # what is in shared memory is seen by all
            go.touch()
        return step == 1

    with pytest.raises(WorkerError, match=r"^row 2: the process .* ended by signal 9 .* run the same command again"):
        run_jobs(own, jobs(), parallel=Parallel(2), on_done=results.__setitem__, on_ask=on_ask)
    assert held is loaded["mae"]  # moved in place: nobody holds the old copy
    assert torch.equal(held[1:], before["mae"][1:])
    assert results[0].total == pytest.approx(float(before["mae"][1:].double().sum()) + held.shape[1])
    assert results[1].total == pytest.approx(float(before["wide"].double().sum()))
    assert {(1, 0.5), (2, 0.25)} == {(step, value) for _, step, value in asked}
    assert [results[number].answers for number in (0, 1)] == [(True, False)] * 2
    workers = {result.pid for result in results.values()}
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert {result.n_threads for result in results.values()} == {1}
    assert set(results) == {0, 1, 3}  # the one under way was finished, no other begun
    assert [number for number, _ in taken] == [0, 1, 2, 3]
    # As workers became free; under load both of the first may have ended before the third is taken.
    n_done = [each for _, each in taken]
    assert n_done[:2] == [0, 0]
    assert 1 <= n_done[2] <= n_done[3]
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert not (tmp_path / "run-again").exists()


def test_what_a_job_raises_names_it(own: FeatureSet) -> None:
    with pytest.raises(ConfigError, match=r"^row 7: Expected this, got that\.$"):
        run_jobs(own, [Failing("row 7", "config")], parallel=Parallel(1), on_done=lambda number, result: None)
    ours, theirs = Pipe()
    with ours, theirs:
        named = _attempt(Failing("row 7", "config"), own, theirs)
        traced = _attempt(Failing("row 8", "why"), own, theirs)
    assert isinstance(named, _Failed)
    assert type(named.error) is ConfigError
    assert str(named.error) == "row 7: Expected this, got that."
    assert isinstance(traced, _Failed)
    assert isinstance(traced.error, WorkerError)
    assert str(traced.error).startswith("row 8: met ZeroDivisionError: why. Its trace:")
    assert "test_workers.py" in str(traced.error)


def test_streams_are_for_one(store: FeatureStore) -> None:
    streamed = FeatureSet.load(store, ("mae",), device="cpu", memory_bytes=4000)
    assert streamed.stream_bytes is not None
    assert not can_share(streamed)
    here: list[int] = []
    run_jobs(streamed, [_Where("here")], parallel=Parallel(2), on_done=lambda number, pid: here.append(pid))
    assert here == [os.getpid()]


@dataclass(frozen=True)
class _Where:
    name: str

    def run(self, features: FeatureSet, ask: Ask) -> int:
        return os.getpid()


def test_what_is_soon_done_starts_no_process(own: FeatureSet) -> None:
    here: list[int] = []
    several = Parallel(2, alone_s=600)
    run_jobs(own, [_Where("a"), _Where("b")], parallel=several, on_done=lambda number, pid: here.append(pid))
    assert here == [os.getpid()] * 2
