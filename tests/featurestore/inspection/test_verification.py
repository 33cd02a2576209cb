"""Damage to real chunk files and records: found, told with chunks and rows, taken back, and written again."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import StoreError, UnknownNameError
from featurestore.inspection.verification import BadChunk, Verdict, check_sound, commands_to_restore, verify_store
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

ROWS = np.random.default_rng(0).normal(size=(20, 6))


def fill(store: FeatureStore, name: str, provenance: Provenance) -> None:
    with store.writer(name, provenance, row_shape=(6,), chunk_rows=8) as writer:
        for task in writer.pending():
            writer.append(task.start, ROWS[task.start : task.stop])


@pytest.fixture
def store(make_store: Callable[[int], FeatureStore], provenance: Provenance) -> FeatureStore:
    store = make_store(20)
    for name in ("au", "v"):
        fill(store, name, provenance)
    return store


def chunk_file(store: FeatureStore, name: str, chunk: int) -> Path:
    return Path(store.location) / name / "embedding" / store.embedding(name).layout.key(chunk)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def test_a_sound_store(store: FeatureStore) -> None:
    seen: list[tuple[int, int, str]] = []
    verdicts = verify_store(store, on_chunk=lambda *told: seen.append(told))
    assert [(verdict.name, verdict.bad, verdict.is_sound) for verdict in verdicts] == [
        ("au", (), True),
        ("v", (), True),
    ]
    assert seen == [(chunk, 6, "au" if chunk < 3 else "v") for chunk in range(6)]
    check_sound(verdicts, where="features")
    assert commands_to_restore(verdicts) == ()


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "record"])
def test_damage_is_found_taken_back_and_written_again(
    store: FeatureStore, provenance: Provenance, tmp_path: Path, damage: str
) -> None:
    chunk = chunk_file(store, "v", 2)
    whole = store.embedding("v").load().copy()
    if damage == "record":
        (tmp_path / "features" / "v" / "commits" / store.embedding("v").layout.commit_key(2)).write_bytes(b"short")
    elif damage == "flipped":
        flip(chunk)
    elif damage == "short":
        chunk.write_bytes(chunk.read_bytes()[:50])
    else:
        chunk.unlink()
    opened = FeatureStore.open(tmp_path / "features")
    sound, damaged = verify_store(opened)
    assert sound.is_sound
    assert damaged.bad == (BadChunk(chunk=2, start=16, n_rows=4),)
    with pytest.raises(
        StoreError,
        match=r"v: 1 of 3 chunks with 4 rows .*\(chunk 2: rows 16 to 19\) \(store: here\)\. Run "
        r"`abaw store verify --encoder v --repair`, then `abaw extract --encoder v`\.$",
    ):
        check_sound((sound, damaged), where="here")

    _, repaired = verify_store(opened, repair=True)
    assert repaired.is_repaired
    assert repaired.is_sound
    check_sound((repaired,), where="here")
    assert commands_to_restore((repaired,)) == ("abaw extract --encoder v",)
    assert opened.embedding("v").rows_done() == 16
    assert verify_store(opened, ("v",))[0].bad == ()
    fill(opened, "v", provenance)
    np.testing.assert_array_equal(FeatureStore.open(tmp_path / "features").embedding("v").load(), whole)


def test_unreadable_metadata_does_not_end_the_check(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "features" / "au" / "zarr.json").write_text("{")
    flip(chunk_file(store, "v", 0))
    verdicts = verify_store(FeatureStore.open(tmp_path / "features"), repair=True)
    assert [(verdict.is_sound, verdict.n_bad_rows) for verdict in verdicts] == [(False, 0), (True, 8)]
    with pytest.raises(StoreError, match=r"au cannot be checked: .*`abaw store rm au` removes can be extracted anew"):
        check_sound(verdicts, where="here")


def test_an_error_of_the_system_does_not_end_the_check(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from featurestore.embedding import Embedding

    is_sound = Embedding.is_sound

    def fail(self: Embedding, chunk: int) -> bool:
        if self.name == "au":
            raise PermissionError(13, "Permission denied", "au/embedding/c/0/0")
        return is_sound(self, chunk)

    monkeypatch.setattr(Embedding, "is_sound", fail)
    first, second = verify_store(store)
    assert "Permission denied" in str(first.error)
    assert second.is_sound


def test_only_the_named_ones_are_checked_and_all_names_are_known(store: FeatureStore) -> None:
    flip(chunk_file(store, "v", 1))
    assert [verdict.name for verdict in verify_store(store, ("au", "au"))] == ["au"]
    with pytest.raises(UnknownNameError, match=r"no encoder 'aux'\. Did you mean 'au'"):
        verify_store(store, ("v", "aux"), repair=True)
    assert store.embedding("v").rows_done() == 20  # nothing was touched


def test_many_bad_chunks_are_told_in_one_line() -> None:
    bad = tuple(BadChunk(chunk=chunk, start=chunk * 8, n_rows=8) for chunk in range(1000))
    verdict = Verdict(name="truth", n_chunks=2000, bad=bad, is_imported=True)
    with pytest.raises(StoreError, match=re.escape("; and 995 chunks more")) as caught:
        check_sound((verdict,), where="here")
    assert len(str(caught.value)) < 600
    assert "`abaw store import FILE --encoder truth`" in str(caught.value)
