"""What is listed of a store, also when part of it is damaged."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import MissingEmbeddingsError
from featurestore.inspection.overview import EncoderEntry, UnreadableEntry, describe, overview
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

StoreMaker = Callable[[int], FeatureStore]


def fill(store: FeatureStore, name: str, provenance: Provenance, row_shape: tuple[int, ...], stop: int) -> None:
    rows = np.random.default_rng(0).normal(size=(store.n_frames, *row_shape))
    with store.writer(name, provenance, row_shape=row_shape, chunk_rows=8, batch_rows=2) as writer:
        for task in writer.pending():
            if task.start < stop:
                failures = {3: "no such file"} if task.start == 0 else {}
                writer.append(task.start, rows[task.start : min(task.stop, stop)], failures)


def test_entries_say_what_is_there(make_store: StoreMaker, provenance: Provenance) -> None:
    store = make_store(20)
    assert overview(store) == ()
    fill(store, "au", provenance, (6,), 20)
    fill(store, "tokens", provenance, (3, 4), 10)
    whole, partial = overview(store)
    assert isinstance(whole, EncoderEntry)
    assert isinstance(partial, EncoderEntry)
    assert (whole.name, whole.rows_done, whole.n_failed, whole.is_complete) == ("au", 20, 1, True)
    assert (whole.n_chunks, whole.chunk_rows, whole.batch_rows, whole.dtype) == (3, 8, 2, "float16")
    assert (partial.row_shape, partial.rows_done, partial.is_complete) == ((3, 4), 10, False)
    assert whole.size_bytes >= 3 * 8 * 6 * 2
    assert whole.provenance == provenance
    told = whole.as_dict()
    assert json.loads(json.dumps(told)) == told
    assert (told["dim"], told["complete"], told["fingerprint"]) == (6, True, provenance.fingerprint)


def test_a_damaged_encoder_hides_no_other(make_store: StoreMaker, provenance: Provenance, tmp_path: Path) -> None:
    store = make_store(20)
    for name in ("a", "b", "c", "d"):
        fill(store, name, provenance, (6,), 20)
    (tmp_path / "features" / "a" / "zarr.json").write_text("{")
    (tmp_path / "features" / "b" / "embedding" / "zarr.json").write_text("[]")
    layout = store.embedding("c").layout
    (tmp_path / "features" / "c" / "commits" / layout.commit_key(0)).write_bytes(b"short")
    entries = overview(FeatureStore.open(tmp_path / "features"))
    assert [type(entry) for entry in entries] == [UnreadableEntry] * 3 + [EncoderEntry]
    assert "should hold JSON" in str(entries[0].as_dict()["error"])
    assert "A commit is 16 bytes" in str(entries[2].as_dict()["error"])


def test_neither_frames_nor_rows_are_read(make_store: StoreMaker, provenance: Provenance, tmp_path: Path) -> None:
    store = make_store(20)
    fill(store, "au", provenance, (6,), 20)
    (tmp_path / "features" / "frames.parquet").unlink()
    layout = store.embedding("au").layout
    for chunk in range(layout.n_chunks):
        (tmp_path / "features" / "au" / "embedding" / layout.key(chunk)).write_bytes(b"")
    assert isinstance(overview(FeatureStore.open(tmp_path / "features"))[0], EncoderEntry)


def test_an_encoder_that_is_not_there(make_store: StoreMaker, provenance: Provenance) -> None:
    store = make_store(20)
    fill(store, "au", provenance, (6,), 20)
    with pytest.raises(MissingEmbeddingsError, match=r"no encoder 'aux'\. Did you mean 'au'"):
        describe(store, "aux")
