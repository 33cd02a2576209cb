"""Damage to real chunk files and records: found, told with chunks and rows, taken back, and written again."""

import errno
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import NotWritableError, StoreError, UnknownNameError, UnreachableStoreError
from featurestore.inspection.verification import BadChunk, Verdict, check_sound, commands_to_restore, verify_store
from featurestore.provenance import Provenance
from featurestore.storage.zipped import write_members
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


def fail_on(monkeypatch: pytest.MonkeyPatch, error: OSError, *, chunk: int) -> None:
    """Let looking at one chunk of `au` end with an error."""
    from featurestore.embedding import Embedding

    is_sound = Embedding.is_sound

    def fail(self: Embedding, number: int) -> bool:
        if self.name == "au" and number == chunk:
            raise error
        return is_sound(self, number)

    monkeypatch.setattr(Embedding, "is_sound", fail)


def test_a_chunk_that_the_disk_has_lost_is_one_bad_chunk(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(chunk_file(store, "au", 2))
    fail_on(monkeypatch, OSError(errno.EIO, "Input/output error"), chunk=1)
    first, second = verify_store(store, repair=True)
    assert [bad.chunk for bad in first.bad] == [1, 2]
    assert "(chunk 1: rows 8 to 15, which cannot be read: Input/output error; chunk 2: rows 16" in first.sentence()
    assert first.is_repaired
    assert second.is_sound
    assert store.embedding("au").rows_done() == 8


def test_what_cannot_be_read_now_is_bad_and_kept(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(chunk_file(store, "au", 2))
    fail_on(monkeypatch, PermissionError(errno.EACCES, "Permission denied"), chunk=1)
    first, second = verify_store(store, repair=True)
    assert second.is_sound
    with pytest.raises(StoreError, match=r"which cannot be read: Permission denied; .* cannot be repaired here: what"):
        check_sound((first, second), where="here")
    assert store.embedding("au").committed().tolist() == [True] * 16 + [False] * 4


@pytest.mark.parametrize("kind", [UnreachableStoreError, NotWritableError])
def test_a_network_that_fails_ends_the_check_and_drops_nothing(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, kind: type[OSError]
) -> None:
    flip(chunk_file(store, "au", 0))
    fail_on(monkeypatch, kind("The object store did not answer"), chunk=1)
    with pytest.raises(kind, match="did not answer"):
        verify_store(store, repair=True)
    assert store.embedding("au").rows_done() == 20


def test_a_store_that_cannot_be_written_keeps_its_findings(store: FeatureStore, tmp_path: Path) -> None:
    flip(chunk_file(store, "v", 2))
    keys = store.storage.sizes()
    write_members(tmp_path / "features.zip", store.storage, keys)
    sound, damaged = verify_store(FeatureStore.open(tmp_path / "features.zip"), repair=True)
    assert sound.is_sound
    assert [bad.chunk for bad in damaged.bad] == [2]
    with pytest.raises(
        StoreError, match=r"\(chunk 2: rows 16 to 19\)\. It cannot be repaired here: .*not written"
    ) as told:
        check_sound((sound, damaged), where="here")
    assert "store rm" not in str(told.value)
    assert "--repair" not in str(told.value)


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_commits_that_no_zarr_reader_finds(store: FeatureStore, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "features" / "au" / "commits" / "zarr.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    first, second = verify_store(store, repair=True)
    assert "The commits of an encoder are a Zarr array; its metadata is not" in str(first.error)
    assert not first.is_sound
    assert second.is_sound
    assert store.embedding("au").rows_done() == 20


def test_what_cannot_be_extracted_here_is_imported_again(store: FeatureStore) -> None:
    for name in ("au", "v"):
        flip(chunk_file(store, name, 0))
    verdicts = verify_store(store, repair=True, extractable={"v"})
    assert commands_to_restore(verdicts) == ("abaw extract --encoder v", "abaw store import FILE --encoder au")


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
