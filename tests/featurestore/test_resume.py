"""Extractions that are really killed: SIGKILL at random moments, then on to the end."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featurestore.store import FeatureStore

N_FRAMES, CHUNK_ROWS, BATCH_ROWS, N_KILLS = 2000, 32, 4, 12

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
            continue
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


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_extraction_ends_as_one_that_never_was(
    make_store: Callable[[int], FeatureStore], tmp_path: Path
) -> None:
    store = make_store(N_FRAMES)
    finish(start_worker(tmp_path, "whole"))

    rng = np.random.default_rng()
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
    # The kills were where they hurt: rows came in between them, and were not yet all there.
    assert len(set(n_rows_at_kill)) > N_KILLS // 3
    assert n_rows_at_kill[-1] < N_FRAMES
    finish(start_worker(tmp_path, "torn"))

    assert files_of(Path(store.location) / "torn") == files_of(Path(store.location) / "whole")
    assert store.embedding("torn").is_complete()
    assert len(store.embedding("torn").failures()) == len(range(0, N_FRAMES, 37))
    computed = Counter[int]()
    for line in (tmp_path / "torn.log").read_text().splitlines():
        computed.update(range(*map(int, line.split())))
    assert len(computed) == N_FRAMES
    assert computed.total() - N_FRAMES <= N_KILLS * CHUNK_ROWS


def test_workers_write_one_store_without_a_lock(make_store: Callable[[int], FeatureStore], tmp_path: Path) -> None:
    store = make_store(N_FRAMES)
    workers = [start_worker(tmp_path, "shared", worker=number, n_workers=2) for number in range(2)]
    for worker in workers:
        finish(worker)
    finish(start_worker(tmp_path, "alone"))
    assert files_of(Path(store.location) / "shared") == files_of(Path(store.location) / "alone")
    assert store.embedding("shared").is_complete()
