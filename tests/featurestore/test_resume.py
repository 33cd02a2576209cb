"""Extractions that are really killed: SIGKILL at random moments, then on to the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import StoreError
from featurestore.store import FeatureStore

N_FRAMES, CHUNK_ROWS, BATCH_ROWS, N_KILLS = 4000, 32, 4, 50

EXTRACTS = f"""
import os, sys, time
from pathlib import Path
import numpy as np
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

store_path, name, log_path, worker, n_workers, pause_s = sys.argv[1:]
log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
made = Provenance(architecture="a", weights="w", preprocessing={{}}, pooling="cls", precision="float32", made_at="now")
print("opening", flush=True)
store = FeatureStore.open(Path(store_path))
with store.writer(
    name, made, row_shape=(64,), chunk_rows={CHUNK_ROWS}, batch_rows={BATCH_ROWS}, commit_every_s=0.01
) as writer:
    print("writing", flush=True)
    for task in writer.pending():
        if task.chunk % int(n_workers) != int(worker):
            continue  # worker 0 of 1 owns all
        for start in range(task.start, task.stop, writer.batch_rows):
            stop = min(start + writer.batch_rows, task.stop)
            os.write(log, f"{{start}} {{stop}}\\n".encode())
            time.sleep(float(pause_s))
            rows = np.random.default_rng(start).standard_normal((stop - start, 64)).astype(np.float32)
            # The batch shows in every row: computed in another batch, a row would differ.
            failures = {{row: f"frame {{row}} is gone" for row in range(start, stop) if row % 37 == 0}}
            writer.append(start, rows, failures)
"""


def start_worker(
    folder: Path, name: str, *, worker: int = 0, n_workers: int = 1, pause_s: float = 0.0
) -> "subprocess.Popen[str]":
    script = folder / "extracts.py"
    if not script.exists():  # rewriting it would hand an empty program to a worker that is just starting
        script.write_text(EXTRACTS)
    arguments = [str(folder / "features"), name, str(folder / f"{name}.log"), str(worker), str(n_workers), str(pause_s)]
    return subprocess.Popen(
        [sys.executable, str(script), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file, what a killed process may have left half-written included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def finish(worker: "subprocess.Popen[str]") -> None:
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0, errors


def seen_files(folder: Path) -> dict[str, bytes]:
    """Every file but what killed processes left half-written, under names that no reader looks at."""
    return {name: raw for name, raw in files_of(folder).items() if not Path(name).name.startswith(".")}


def rows_in(log: Path) -> list[int]:
    """Every row that was computed, as often as it was."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [row for line in lines for row in range(*map(int, line.split()))]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_extraction_ends_as_one_that_never_was(
    make_store: Callable[[int], FeatureStore], tmp_path: Path
) -> None:
    store = make_store(N_FRAMES)
    finish(start_worker(tmp_path, "whole"))

    rng = np.random.default_rng()
    log = tmp_path / "torn.log"
    n_rows_at_kill: list[int] = []
    for kill in range(N_KILLS):
        worker = start_worker(tmp_path, "torn", pause_s=0.002)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "opening\n"
        if kill:  # the first one comes while the group is made, the others while rows are written
            assert worker.stdout.readline() == "writing\n"
        time.sleep(rng.uniform(0, 0.1))
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        assert worker.returncode == -signal.SIGKILL
        if "torn" in store:
            embedding = store.embedding("torn")
            assert embedding.verify() == []  # every commit that stands is true, at any moment
            n_rows_at_kill.append(embedding.rows_done())
            lost = set(rows_in(log)) - set(np.flatnonzero(embedding.committed()).tolist())
            assert len({row // CHUNK_ROWS for row in lost}) <= 1, f"kill {kill}: rows {sorted(lost)} are computed again"
    # The kills were where they hurt: rows came in between them, and were not yet all there.
    assert len(set(n_rows_at_kill)) > N_KILLS // 3
    assert n_rows_at_kill[-1] < N_FRAMES
    finish(start_worker(tmp_path, "torn"))

    assert seen_files(Path(store.location) / "torn") == files_of(Path(store.location) / "whole")
    assert store.embedding("torn").is_complete()
    assert len(store.embedding("torn").failures()) == len(range(0, N_FRAMES, 37))
    computed = rows_in(log)
    assert set(computed) == set(range(N_FRAMES))
    assert len(computed) - N_FRAMES <= N_KILLS * CHUNK_ROWS


def test_what_a_kill_left_long_ago_is_tidied_away(make_store: Callable[[int], FeatureStore], tmp_path: Path) -> None:
    store = make_store(N_FRAMES)
    finish(start_worker(tmp_path, "torn"))
    folder = Path(store.location) / "torn" / "embedding"
    old, new = folder / ".ab12.partial.c.3.0", folder / ".cd34.partial.c.3.0"
    for path in (old, new):
        path.write_bytes(b"half")
    hour_ago_s = time.time() - 3700
    os.utime(old, (hour_ago_s, hour_ago_s))
    finish(start_worker(tmp_path, "torn"))
    assert not old.exists()
    assert new.exists()  # someone may be writing it


@pytest.mark.parametrize("n_workers", [4, 1])
def test_four_processes_write_one_store_without_a_lock(
    make_store: Callable[[int], FeatureStore], tmp_path: Path, n_workers: int
) -> None:
    """Each with chunks of its own; and, with 1, all four given every chunk, which makes them write the same bytes."""
    store = make_store(N_FRAMES)
    workers = [
        start_worker(tmp_path, "shared", worker=number % n_workers, n_workers=n_workers, pause_s=0.0005)
        for number in range(4)
    ]
    for worker in workers:
        finish(worker)
    finish(start_worker(tmp_path, "alone"))
    assert files_of(Path(store.location) / "shared") == files_of(Path(store.location) / "alone")
    assert store.embedding("shared").is_complete()
    assert store.embedding("shared").verify() == []
    if n_workers == 4:
        assert sorted(rows_in(tmp_path / "shared.log")) == list(range(N_FRAMES))  # nothing was computed twice


def test_a_shorter_version_under_a_longer_commit_is_noticed(
    make_store: Callable[[int], FeatureStore], tmp_path: Path
) -> None:
    """What is left if one of two workers on a chunk is killed between its chunk and its commit."""
    store = make_store(N_FRAMES)
    finish(start_worker(tmp_path, "torn"))
    embedding = store.embedding("torn")
    whole = embedding.load()
    short = np.array(whole[64:96])
    short[20:] = np.nan
    embedding.chunks.write(2, short)
    for read in (store.embedding("torn").load, lambda: store.embedding("torn").read(70, 72)):
        with pytest.raises(StoreError, match=r"Chunk 2 of encoder 'torn'.*rows of it are missing"):
            read()
    finish(start_worker(tmp_path, "torn"))
    assert store.embedding("torn").load().tobytes() == whole.tobytes()
