"""Several devices of one machine: a process each, whole chunks each, one store.

The first process prepares what all need (how encoders run, the projection of tokens, their groups in the store); then
every device computes its share, as workers on different machines do. A worker that dies takes nothing with it: the
others finish their shares, and the same command computes what it left.
"""

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, cast

import numpy as np
import torch

from extractor.encoders.encoder import Encoder
from extractor.encoders.folder import load_encoder, save_encoder
from extractor.encoders.readout import Readout
from featurestore.errors import AbawError, ConfigError, WorkerError
from featurestore.images.imagesource import ImageSource
from featurestore.store import FeatureStore
from featurestore.writer import Share
from heads.devices import resolve_device

from .config import ExtractConfig, ExtractReport
from .extract import extract, forget_unreadable
from .planning import begin, plan

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Progress:
    done: int
    total: int
    failed: int


@dataclass(frozen=True, slots=True)
class _Result:
    report: ExtractReport | None
    error: BaseException | None


def parse_devices(text: str) -> tuple[str, ...]:
    """Devices as people list them: ``0,1`` are GPUs; ``cpu,cpu`` are two processes on the processor.

    Raises
    ------
    ConfigError
        If the list is empty, a GPU is named twice, or one is not on this machine.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("--devices names no device. Give some, such as --devices 0,1,2,3.")
    devices = tuple(f"cuda:{name}" if name.isdecimal() else name for name in names)
    for name in devices:
        resolve_device(name)
        if name != "cpu" and devices.count(name) > 1:
            raise ConfigError(f"--devices {text} names {name} twice. Name each once.")
    return devices


def extract_on(
    devices: Sequence[str],
    store: FeatureStore,
    encoders: Mapping[str, Encoder],
    images: ImageSource,
    config: ExtractConfig,
    *,
    on_progress: Callable[[int, int, int], None] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> ExtractReport:
    """As `extract`, on several devices of this machine at once.

    Parameters
    ----------
    devices
        From `parse_devices`; each computes an equal part of the config's share.
    store, encoders, images, config, on_progress, on_note
        As of `extract`; the config's own device does not count.

    Raises
    ------
    WorkerError
        If a worker's process died; the other shares are complete, and nothing committed is lost.
    AbawError
        What `extract` raises, from whichever worker it came first; the others are then stopped.
    """
    if len(devices) == 1:
        config = replace(config, device=devices[0])
        return extract(store, encoders, images, config, on_progress=on_progress, on_note=on_note)
    started = time.perf_counter()
    first = resolve_device(devices[0])
    planned = plan(store, encoders, images, config, first, n_workers=len(devices), on_note=on_note)
    begin(store, planned, images, config, first, on_progress=on_progress, on_note=on_note)
    if config.retry_unreadable:
        forget_unreadable(store, encoders, images)
    n_before = n_incomplete(store, encoders)
    with tempfile.TemporaryDirectory(prefix="abaw-") as folder:
        job = _Job(store, _ship(encoders, Path(folder)), images, config)
        with _Workers(devices, job) as workers:
            report = _together(workers.collect(on_progress))
    for name in encoders:
        report.left[name] = store.n_frames - store.embedding(name).rows_done()
        report.reused[name] = store.n_frames - report.computed[name] - report.left[name]
    report.n_frames = n_before - n_incomplete(store, encoders)  # workers whose chunks differ decode some frames twice
    report.seconds = time.perf_counter() - started
    report.busy_s /= len(devices)
    return report


def n_incomplete(store: FeatureStore, names: Iterable[str]) -> int:
    """Rows that at least one of the encoders has not."""
    return int((~np.logical_and.reduce([store.embedding(name).committed() for name in names])).sum())


def _ship(encoders: Mapping[str, Encoder], folder: Path) -> dict[str, tuple[Path, Readout]]:
    """Write every backbone once, for the workers to map: through a pipe, or shared memory, large ones may not fit."""
    there: dict[int, Path] = {}
    for encoder in encoders.values():
        key = id(encoder.backbone)
        if key not in there:
            there[key] = folder / str(len(there))
            save_encoder(there[key], encoder, encoder.spec)
    return {name: (there[id(encoder.backbone)], encoder.readout) for name, encoder in encoders.items()}


def _unship(shipped: Mapping[str, tuple[Path, Readout]]) -> dict[str, Encoder]:
    backbones = {folder: load_encoder(folder) for folder, _ in shipped.values()}
    return {name: backbones[folder].with_readout(readout) for name, (folder, readout) in shipped.items()}


@dataclass(frozen=True, slots=True)
class _Job:
    """What every worker is given."""

    store: FeatureStore
    encoders: Mapping[str, tuple[Path, Readout]]
    images: ImageSource
    config: ExtractConfig


class _Workers:
    """The processes, one a device, each at the end of a pipe of its own.

    A lock that all of them share, as in a queue, would be held for ever by one that was killed at the wrong moment.
    """

    def __init__(self, devices: Sequence[str], job: _Job) -> None:
        self._devices = devices
        self._context = multiprocessing.get_context("spawn")
        n_on_cpu = devices.count("cpu")
        self._threads = max(1, torch.get_num_threads() // n_on_cpu) if n_on_cpu else None
        self._job = job
        self._processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> Self:
        for number, device in enumerate(self._devices):
            outer, of = self._job.config.share
            share = Share((outer - 1) * len(self._devices) + number + 1, of * len(self._devices))
            config = replace(self._job.config, device=device, share=share, retry_unreadable=False)
            ours, theirs = self._context.Pipe()
            arguments = (replace(self._job, config=config), self._threads, theirs)
            process = self._context.Process(target=_work, args=arguments, name=f"extract on {device}")
            process.start()
            theirs.close()  # so that its end is seen here
            self._processes.append(process)
            self._pipes.append(ours)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        for process in self._processes:
            process.join(_GRACE_S)  # interrupted from the keyboard, they write what they have
            if process.is_alive():
                process.terminate()
                process.join()

    def collect(self, on_progress: Callable[[int, int, int], None] | None) -> list[ExtractReport]:
        """Wait for all; an error ends the others where they are, a death does not, and either is raised at last."""
        states: dict[int, _Progress] = {}
        results: dict[int, _Result] = {}
        while len(results) < len(self._processes):
            waiting = [pipe for number, pipe in enumerate(self._pipes) if number not in results]
            for pipe in wait(waiting):
                number = self._pipes.index(cast("Connection", pipe))
                message = self._received(number)
                if isinstance(message, _Progress):
                    states[number] = message
                    continue
                results[number] = message
                if message.error is not None and not isinstance(message.error, _DeathError):
                    self._stop()
            if on_progress is not None and states:
                each = states.values()
                on_progress(sum(s.done for s in each), sum(s.total for s in each), sum(s.failed for s in each))
        errors = [result.error for result in results.values() if result.error is not None]
        if errors:
            raise errors[0]
        return [result.report for result in results.values() if result.report is not None]

    def _received(self, number: int) -> "_Progress | _Result":
        try:
            return cast("_Progress | _Result", self._pipes[number].recv())
        except (EOFError, OSError):
            self._processes[number].join()
            return _Result(None, self._died(number, self._processes[number].exitcode or 0))

    def _stop(self) -> None:
        """Tell all to end; those that have ended do not hear it."""
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.send(None)

    def _died(self, number: int, exit_code: int) -> "_DeathError":
        how = f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with code {exit_code}"
        return _DeathError(
            f"The worker on {self._devices[number]} {how} before its share was done (a kill, or too little memory). "
            "The others finished theirs, and what it committed is safe: run the same command again."
        )


class _DeathError(WorkerError):
    """A worker's process ended without a word; the others go on."""


class _StoppedError(Exception):
    """Nobody waits for the result any more."""


def _work(job: _Job, threads: int | None, pipe: "Connection") -> None:
    """What each process does."""
    if threads is not None:
        torch.set_num_threads(threads)

    def on_progress(done: int, total: int, failed: int) -> None:
        if pipe.poll():  # told to stop, or the other end is gone
            raise _StoppedError  # what was computed is committed on the way out
        pipe.send(_Progress(done, total, failed))

    result = _Result(None, None)
    try:
        report = extract(job.store, _unship(job.encoders), job.images, job.config, on_progress=on_progress)
        result = _Result(report, None)
    except (_StoppedError, KeyboardInterrupt, BrokenPipeError):
        pass  # told by whoever stopped it
    except AbawError as error:
        result = _Result(None, error)
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        told = f"The worker on {job.config.device} met {type(error).__name__}: {error}. Its trace:\n{trace}"
        result = _Result(None, WorkerError(told))
    with suppress(OSError):
        pipe.send(result)


def _together(reports: Sequence[ExtractReport]) -> ExtractReport:
    """The reports of all shares as one."""
    whole = ExtractReport()
    stages: dict[str, float] = {}
    for report in reports:
        for name, n_rows in report.computed.items():
            whole.computed[name] = whole.computed.get(name, 0) + n_rows
        for stage, seconds in report.stages.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
        whole.failures.update(report.failures)
        whole.notes += [note for note in report.notes if note not in whole.notes]
        whole.n_frames += report.n_frames
        whole.busy_s += report.busy_s
    whole.stages = stages
    return whole
