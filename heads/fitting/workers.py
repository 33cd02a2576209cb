"""Several jobs at once on one device: processes that read the same embeddings, which are in memory once.

On a CPU the loaded tensors move into shared memory in place (a memfd: unlike /dev/shm no mount limits it), on a GPU
processes open each other's memory. What a job returns comes back through a pipe of the worker's own: a lock that all
share would be held for ever by one that was killed at the wrong moment.

Workers are started as programs of their own, not by `multiprocessing`: that would import the caller's script again in
each of them, and a script without a ``__main__`` guard would start workers in its workers.
"""

import json
import mmap
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from multiprocessing.connection import Connection, Pipe, wait
from typing import Final, Generic, Protocol, Self, TypeVar, cast

import torch

# Registers how tensors on a GPU go through a pipe: as handles, not as copies.
import torch.multiprocessing
from torch import Tensor

from featurestore.errors import AbawError, WorkerError
from heads.features.featureset import FeatureSet
from heads.features.loaded import LoadedEmbeddings

Ask = Callable[[int, float], bool]
"""How far a job is and its score there -> whether it is to go on."""

Result = TypeVar("Result")
_Result_co = TypeVar("_Result_co", covariant=True)

_GRACE_S: Final = 5.0
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from heads.fitting.workers import work; work()"
)


class Job(Protocol[_Result_co]):
    """Something to compute on features; it can be pickled, and so can what it returns."""

    @property
    def name(self) -> str:
        """What it is, for people."""
        ...

    def run(self, features: FeatureSet, ask: Ask) -> _Result_co:
        """Compute.

        Parameters
        ----------
        features
            The same in every worker.
        ask
            To be called now and then, such as once an epoch: a job whose caller is gone ends there. If it says no, the
            job is to come to an end.
        """
        ...


@dataclass(frozen=True, slots=True)
class Parallel:
    """How many jobs are done at once.

    Attributes
    ----------
    n
        Processes; with one the jobs are done in the caller's.
    alone_s
        With several: how long jobs are done in the caller's first. A process takes seconds to start.
    """

    n: int = 1
    alone_s: float = 0.0


ONE: Final = Parallel()


def run_jobs(
    features: FeatureSet,
    jobs: Iterable[Job[Result]],
    *,
    parallel: Parallel = ONE,
    on_done: Callable[[int, Result], None],
    on_ask: Callable[[int, int, float], bool] | None = None,
) -> None:
    """Run jobs, several at once.

    Parameters
    ----------
    features
        Loaded; loaded tensors on a CPU are moved into shared memory, and are otherwise as they were.
    jobs
        Taken one by one as workers become free, after `on_done` of what was finished before: a generator may choose
        the next by the results so far.
    parallel
        How many at once; on features that cannot be shared (see `can_share`) always one: the budget of memory of a
        stream is not for several.
    on_done
        Called with the number of a job, from 0 in the order in which they were taken, and what it returned, as they
        finish.
    on_ask
        Called with a job's number when it asks; by default the answer is yes.

    Raises
    ------
    AbawError
        What a job raised, its name before the message; the others are ended where they are.
    WorkerError
        If a job raised anything else (the message holds the trace), or its worker died; then no further job begins
        and those under way are finished.
    """
    answer = (lambda number, step, value: True) if on_ask is None else on_ask
    numbered = enumerate(jobs)
    several = parallel.n > 1 and can_share(features)
    started = time.monotonic()
    while not several or time.monotonic() - started < parallel.alone_s:
        taken = next(numbered, None)
        if taken is None:
            return
        number, job = taken
        try:
            result = job.run(features, partial(answer, number))
        except AbawError as error:
            raise _with_name(error, job.name) from error
        on_done(number, result)
    first = next(numbered, None)
    if first is not None:
        workers: _Workers[Result] = _Workers(features, parallel.n)
        with workers:
            workers.run(chain([first], numbered), on_done, answer)


def can_share(features: FeatureSet) -> bool:
    """Whether several processes can read these: loaded ones on a GPU, or on a CPU where there are memfds (Linux)."""
    shares = {"cpu": hasattr(os, "memfd_create"), "cuda": True}
    return isinstance(features.embeddings, LoadedEmbeddings) and shares.get(features.device.type, False)


def _with_name(error: AbawError, name: str) -> AbawError:
    return type(error)(f"{name}: {error}")


@dataclass(frozen=True, slots=True)
class _Asked:
    step: int
    value: float


@dataclass(frozen=True, slots=True)
class _Done(Generic[Result]):
    result: Result


@dataclass(frozen=True, slots=True)
class _Failed:
    error: AbawError


@dataclass(slots=True, eq=False)
class _Worker(Generic[Result]):
    process: "subprocess.Popen[bytes]"
    pipe: "Connection"
    number: int = -1
    job: Job[Result] | None = None


class _Workers(Generic[Result]):
    """The processes, each at the end of its own pipe."""

    def __init__(self, features: FeatureSet, n_workers: int) -> None:
        self._features = features
        # Each at least one thread; together no more than this process would take.
        self._threads = max(1, torch.get_num_threads() // n_workers)
        self._n_workers = n_workers
        self._workers: list[_Worker[Result]] = []

    def __enter__(self) -> Self:
        shipped = _ship(self._features)
        try:
            for _ in range(self._n_workers):
                self._workers.append(self._start(shipped))
            for worker in self._workers:  # once all of them are on their way
                with suppress(OSError):  # one that has died is told of when it is given a job
                    worker.pipe.send(shipped)
        except BaseException:
            self.__exit__()
            raise
        finally:
            shipped.close()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.pipe.close()
            if worker.job is not None:
                worker.process.terminate()
        for worker in self._workers:
            try:
                worker.process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def _start(self, shipped: "_Shipped") -> _Worker[Result]:
        ours, theirs = Pipe()
        threads = str(self._threads)
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno())],
                pass_fds=(theirs.fileno(), *shipped.descriptors),
                env=os.environ
                | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "POLARS_MAX_THREADS": threads},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt from the keyboard is this process's alone to answer
            )
        finally:
            theirs.close()  # so that its end is seen here
        return _Worker(process, ours)

    def run(
        self,
        jobs: Iterator[tuple[int, Job[Result]]],
        on_done: Callable[[int, Result], None],
        answer: Callable[[int, int, float], bool],
    ) -> None:
        """Hand out jobs until none is left, or one of the workers is."""
        deaths: list[WorkerError] = []
        free = list(self._workers)
        while True:
            while free and not deaths and (taken := next(jobs, None)) is not None:
                worker = free.pop(0)
                worker.number, worker.job = taken
                with suppress(OSError):  # dead: the end of its pipe says so below
                    worker.pipe.send(worker.job)
            busy = {worker.pipe: worker for worker in self._workers if worker.job is not None}
            if not busy:
                break
            for pipe in wait(list(busy)):
                worker = busy[cast("Connection", pipe)]
                message = self._received(worker)
                match message:
                    case _Asked():
                        going = answer(worker.number, message.step, message.value)
                        with suppress(OSError):
                            worker.pipe.send(going)
                    case _Done():
                        number, worker.job = worker.number, None
                        free.append(worker)
                        on_done(number, message.result)
                    case _Failed():
                        worker.job = None
                        raise message.error
                    case WorkerError():
                        deaths.append(message)
                        worker.job = None
        if deaths:
            raise deaths[0]

    @staticmethod
    def _received(worker: _Worker[Result]) -> "_Asked | _Done[Result] | _Failed | WorkerError":
        try:
            return cast("_Asked | _Done[Result] | _Failed", worker.pipe.recv())
        except (EOFError, OSError):
            code = worker.process.wait()
            how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            name = "" if worker.job is None else worker.job.name
            return WorkerError(
                f"{name}: the process that computed it {how} before it was done (a kill, or too little memory). What "
                "was finished is kept: run the same command again, with a smaller --parallel if memory is short."
            )


@dataclass(frozen=True, slots=True)
class _SharedRows:
    """A tensor in a memfd."""

    descriptor: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """Move a tensor's content into shared memory; the tensor is the same to whoever holds it."""
        descriptor = os.memfd_create("abaw-embeddings")
        os.ftruncate(descriptor, tensor.nbytes)
        shared = cls(descriptor, tuple(tensor.shape), tensor.dtype)
        tensor.set_(shared.open().copy_(tensor))  # type: ignore[call-overload] # from a tensor: undeclared
        return shared

    def open(self) -> Tensor:
        """The tensor, without a copy."""
        size = self.dtype.itemsize * torch.Size(self.shape).numel()
        return torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=self.dtype).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class _Shipped:
    """Features as they go to a worker: everything but the embeddings, and where these are."""

    features: FeatureSet
    rows: Mapping[str, "Tensor | _SharedRows"]

    @property
    def descriptors(self) -> tuple[int, ...]:
        return tuple(each.descriptor for each in self.rows.values() if isinstance(each, _SharedRows))

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    def open(self) -> FeatureSet:
        rows = {name: each.open() if isinstance(each, _SharedRows) else each for name, each in self.rows.items()}
        return replace(self.features, embeddings=LoadedEmbeddings(rows))


def _ship(features: FeatureSet) -> _Shipped:
    loaded = cast("LoadedEmbeddings", features.embeddings)
    on_host = features.device.type == "cpu"
    rows = {name: _SharedRows.of(loaded[name]) if on_host else loaded[name] for name in loaded.names}
    # A new object: what the old one has cached stays here.
    return _Shipped(replace(features, embeddings=LoadedEmbeddings({})), rows)


class _Gone(Exception):  # noqa: N818 - nothing went wrong
    """Whoever asked for the result is gone."""


def work() -> None:
    """What each process does: it is started by `run_jobs` alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(int(sys.argv[2]))
    with suppress(EOFError, OSError, _Gone):
        features = cast("_Shipped", pipe.recv()).open()
        while True:
            job = cast("Job[object]", pipe.recv())
            pipe.send(_attempt(job, features, pipe))


def _attempt(job: Job[Result], features: FeatureSet, pipe: "Connection") -> _Done[Result] | _Failed:
    def ask(step: int, value: float) -> bool:
        try:
            pipe.send(_Asked(step, value))
            return bool(pipe.recv())
        except (EOFError, OSError) as error:
            raise _Gone from error

    try:
        return _Done(job.run(features, ask))
    except _Gone:
        raise
    except AbawError as error:
        return _Failed(_with_name(error, job.name))
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        return _Failed(WorkerError(f"{job.name}: met {type(error).__name__}: {error}. Its trace:\n{trace}"))
