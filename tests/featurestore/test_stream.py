"""Streams against the plain gather of the same rows: what comes, how often, in which order, in how much memory."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featurestore.errors import ConfigError, MissingEmbeddingsError, ShapeError, StoreError
from featurestore.frames import FrameTable
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from featurestore.stream import WindowBatch, WindowStream

N_FRAMES, CHUNK_ROWS, ROW_BYTES = 400, 16, 5 * 2 + 2 * 3 * 4
IntArray = NDArray[np.int64]


def write(store: FeatureStore, name: str, made_by: Provenance, rows: NDArray[np.floating], chunk_rows: int) -> None:
    with store.writer(
        name, made_by, row_shape=rows.shape[1:], dtype=rows.dtype, chunk_rows=chunk_rows, batch_rows=chunk_rows
    ) as writer:
        for task in writer.pending():
            writer.append(task.start, rows[task.start : task.stop])


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, make_frames: Callable[[int], FrameTable], provenance: Provenance
) -> FeatureStore:
    """Vectors in float16, tokens in float32, in chunks of another size; every row tells its number."""
    made = FeatureStore.create(tmp_path_factory.mktemp("stream") / "features", make_frames(N_FRAMES))
    number = np.arange(N_FRAMES, dtype=np.float16)
    write(made, "au", provenance, np.repeat(number[:, None], 5, axis=1), CHUNK_ROWS)
    write(made, "tokens", provenance, np.tile(number[:, None, None], (1, 2, 3)).astype(np.float32), 4 * CHUNK_ROWS)
    return made


def windows_of(n_frames: int, length: int, step: int) -> IntArray:
    """Windows as the heads make them: the last ones repeat their last row."""
    starts = np.arange(0, n_frames, step)[:, None]
    return np.minimum(starts + np.arange(length), n_frames - 1).astype(np.int64)


def make_stream(store: FeatureStore, rows: IntArray, **options: int) -> WindowStream:
    settings = {"batch_windows": 7, "memory_bytes": (100 + 7 * rows.shape[-1]) * ROW_BYTES} | options
    return WindowStream({name: store.embedding(name) for name in ("au", "tokens")}, rows, **settings)


def checked(batches: Iterator[WindowBatch], store: FeatureStore, rows: IntArray, batch_windows: int = 7) -> list[int]:
    """Numbers of the windows in the order in which they came, each with the rows that are its own."""
    came: list[int] = []
    for batch in batches:
        for name, held in batch.rows.items():
            assert np.array_equal(held, store.embedding(name).gather(rows[batch.numbers]))
        came += batch.numbers.tolist()
        assert len(batch.numbers) == batch_windows or len(came) == len(rows)
    return came


@given(
    length=st.integers(1, 40),
    step=st.integers(1, 40),
    batch_windows=st.integers(1, 30),
    n_held=st.integers(0, 500),
    seed=st.integers(0, 2**63),
    number=st.integers(0, 5),
    part=st.floats(0.1, 1),
)
@settings(max_examples=30, deadline=None)
def test_every_window_comes_once_with_its_own_rows(
    store: FeatureStore, length: int, step: int, batch_windows: int, n_held: int, seed: int, number: int, part: float
) -> None:
    rows = windows_of(N_FRAMES, length, step)
    rows = rows[np.random.default_rng(seed).random(len(rows)) < part]  # not every row is needed, nor any chunk
    batch_bytes = batch_windows * length * ROW_BYTES
    smallest = (CHUNK_ROWS + length) * ROW_BYTES
    stream = make_stream(
        store,
        rows,
        batch_windows=batch_windows,
        memory_bytes=batch_bytes + smallest + n_held * ROW_BYTES,
        seed=seed,
    )
    assert sorted(checked(stream.epoch(number), store, rows, batch_windows)) == list(range(len(rows)))
    assert [n for batch in stream.in_order() for n in batch.numbers] == list(range(len(rows)))
    for batch in stream.in_order():
        assert np.array_equal(batch.rows["au"], store.embedding("au").gather(rows[batch.numbers]))


def test_seed_and_epoch_decide_the_order(store: FeatureStore) -> None:
    rows = windows_of(N_FRAMES, 4, 3)

    def order(seed: int, number: int) -> tuple[int, ...]:
        return tuple(checked(make_stream(store, rows, seed=seed).epoch(number), store, rows))

    assert order(1, 0) == order(1, 0)
    assert len({order(seed, number) for seed in (1, 2) for number in (0, 1, 2)} | {tuple(range(len(rows)))}) == 7


def chunks_that_share_a_batch(stream: WindowStream, rows: IntArray, number: int) -> set[tuple[int, int]]:
    pairs = set()
    for batch in stream.epoch(number):
        chunks = set((rows[batch.numbers, 0] // CHUNK_ROWS).tolist())
        pairs |= {(a, b) for a in chunks for b in chunks if a < b}
    return pairs


def test_a_small_budget_mixes_chunks_anew_each_epoch(store: FeatureStore) -> None:
    rows = windows_of(N_FRAMES, 1, 1)
    stream = make_stream(store, rows, memory_bytes=(7 + 5 * CHUNK_ROWS) * ROW_BYTES)  # five chunks of 25
    once = chunks_that_share_a_batch(stream, rows, 0)
    assert len(once) < 100  # of 300: what is in different buffers does not meet
    met = once.union(*(chunks_that_share_a_batch(stream, rows, number) for number in range(1, 25)))
    assert len(met) > 290
    firsts = {int(rows[next(stream.epoch(number)).numbers[0], 0]) // CHUNK_ROWS for number in range(25)}
    assert len(firsts) > 10


def test_a_budget_that_holds_everything_is_a_uniform_shuffle(store: FeatureStore) -> None:
    rows = windows_of(N_FRAMES, 1, 1)
    stream = make_stream(store, rows, batch_windows=100, memory_bytes=(100 + N_FRAMES) * ROW_BYTES)
    orders = np.array([checked(stream.epoch(number), store, rows, 100) for number in range(40)])
    # Where a window comes has nothing to do with where it lies: the mean of 40 places of 400 has a deviation of 18.
    assert np.abs(np.argsort(orders, axis=1).mean(axis=0) - 199.5).max() < 90
    # Neighbours are not kept together: 1/200 of the steps are to a neighbour.
    assert np.mean(np.abs(np.diff(orders, axis=1)) == 1) < 0.01


@pytest.mark.parametrize(("length", "step"), [(8, 2), (8, 7), (8, 8)])
def test_each_row_is_read_once_a_buffer(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, length: int, step: int
) -> None:
    rows = windows_of(N_FRAMES, length, step)
    read: list[int] = []
    embedding = store.embedding("au")
    plain = embedding.read_into

    def spy(start: int, stop: int, out: NDArray[np.float16]) -> None:
        read.extend(range(start, stop))
        assert stop <= (start // CHUNK_ROWS + 1) * CHUNK_ROWS
        plain(start, stop, out)

    monkeypatch.setattr(embedding, "read_into", spy)
    whole = WindowStream({"au": embedding}, rows, batch_windows=5, memory_bytes=1 << 20)
    list(whole.epoch(0))
    assert sorted(read) == list(range(N_FRAMES))
    read.clear()
    list(whole.in_order())
    assert read == list(range(N_FRAMES))
    read.clear()
    few = WindowStream({"au": embedding}, rows, batch_windows=5, memory_bytes=(40 + 4 * 23) * 10)
    list(few.epoch(0))
    assert set(read) == set(range(N_FRAMES))
    assert len(read) < N_FRAMES * (1 + 8 / CHUNK_ROWS)  # a window's reach into the next chunk is all that comes twice


def test_the_next_buffer_is_read_ahead_and_no_further(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = windows_of(N_FRAMES, 1, 1)
    embedding, read = store.embedding("au"), 0
    plain = embedding.read_into

    def spy(start: int, stop: int, out: NDArray[np.float16]) -> None:
        nonlocal read
        read += stop - start
        plain(start, stop, out)

    monkeypatch.setattr(embedding, "read_into", spy)
    stream = WindowStream({"au": embedding}, rows, batch_windows=1, memory_bytes=(1 + 16 * CHUNK_ROWS) * 10)
    used = 0
    for used, _ in enumerate(stream.epoch(0), start=1):
        assert read <= used + 16 * CHUNK_ROWS
    assert used == read == N_FRAMES


def test_the_smallest_budget_is_told_and_is_enough(store: FeatureStore) -> None:
    rows = windows_of(N_FRAMES, 10, 10)
    n_bytes = 7 * 10 * ROW_BYTES + 20 * ROW_BYTES  # a batch; two windows begin in some chunk
    stream = make_stream(store, rows, memory_bytes=n_bytes - 1)
    with pytest.raises(
        ConfigError,
        match=r"Streaming au, tokens in batches of 7 windows of 10 rows takes at least 3\.1kB .* but the budget is "
        r"3\.1kB\. Give --memory 3\.1kB or more, or smaller batches",
    ):
        stream.epoch(0)
    assert len(list(make_stream(store, rows, memory_bytes=n_bytes).epoch(0))) == 6
    with pytest.raises(ConfigError, match="takes at least"):
        make_stream(store, rows, memory_bytes=n_bytes, spare_row_bytes=1).epoch(0)
    # In order, batches shrink before a budget is too small.
    tiny = make_stream(store, rows, memory_bytes=20 * ROW_BYTES)
    assert [len(batch.numbers) for batch in tiny.in_order()] == [1] * 40
    with pytest.raises(ConfigError, match=r"in batches of 1 windows of 10 rows takes at least 680B"):
        make_stream(store, rows, memory_bytes=20 * ROW_BYTES - 1).in_order()


def test_rows_that_are_not_there_are_an_error_on_the_way(
    tmp_path: Path, store: FeatureStore, make_frames: Callable[[int], FrameTable], provenance: Provenance
) -> None:
    made = FeatureStore.create(tmp_path / "features", make_frames(64))
    with made.writer("au", provenance, row_shape=(5,), chunk_rows=16, batch_rows=16) as writer:
        for start in (0, 16, 32):
            writer.append(start, np.full((16, 5), start, dtype=np.float16))
    rows = windows_of(64, 1, 1)
    there = WindowStream({"au": made.embedding("au")}, rows[:48], batch_windows=4, memory_bytes=1 << 20)
    assert sum(len(batch.numbers) for batch in there.epoch(0)) == 48
    absent = WindowStream({"au": made.embedding("au")}, rows, batch_windows=4, memory_bytes=1 << 20)
    with pytest.raises(MissingEmbeddingsError, match=r"'au' are not complete"):
        list(absent.epoch(0))


def test_damage_is_an_error_of_the_consumer(
    tmp_path: Path, make_frames: Callable[[int], FrameTable], provenance: Provenance
) -> None:
    made = FeatureStore.create(tmp_path / "features", make_frames(64))
    write(made, "au", provenance, np.zeros((64, 5), dtype=np.float16), 16)
    for path in (tmp_path / "features" / "au" / "embedding").rglob("*"):
        if path.is_file() and path.name != "zarr.json":
            path.write_bytes(b"")
    stream = WindowStream({"au": made.embedding("au")}, windows_of(64, 1, 1), batch_windows=4, memory_bytes=1 << 20)
    with pytest.raises(StoreError, match="'au'"):
        list(stream.epoch(0))


def test_a_stream_that_is_left_leaves_no_thread(store: FeatureStore) -> None:
    stream = make_stream(store, windows_of(N_FRAMES, 1, 1))
    batches = stream.epoch(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("abaw-stream")]


def test_no_window_at_all(store: FeatureStore) -> None:
    stream = make_stream(store, np.empty((0, 5), dtype=np.int64))
    assert len(stream) == 0
    assert list(stream.epoch(0)) == list(stream.in_order()) == []


def test_refusals(store: FeatureStore, make_store: Callable[[int], FeatureStore], provenance: Provenance) -> None:
    rows = windows_of(N_FRAMES, 2, 2)
    with pytest.raises(ConfigError, match="batch_windows of a stream must be at least 1, got 0"):
        make_stream(store, rows, batch_windows=0)
    with pytest.raises(ConfigError, match="memory_bytes of a stream must be at least 1, got -5"):
        make_stream(store, rows, memory_bytes=-5)
    with pytest.raises(ConfigError, match="at least one encoder, got none"):
        WindowStream({}, rows, batch_windows=1, memory_bytes=1)
    for wrong in (rows[0], rows[:, :0], rows.astype(np.int32)):
        with pytest.raises(ShapeError, match=r"have shape \(n_windows, S\) and type int64"):
            make_stream(store, wrong)
    for shift in (-1, 1):
        with pytest.raises(ShapeError, match="within the table's 400 frames"):
            make_stream(store, rows + shift)
    other = make_store(3)
    write(other, "au", provenance, np.zeros((3, 5), dtype=np.float16), 16)
    with pytest.raises(ShapeError, match=r"of one frame table, .*'mine': 400, 'other': 3"):
        WindowStream(
            {"mine": store.embedding("au"), "other": other.embedding("au")}, rows, batch_windows=1, memory_bytes=1
        )
