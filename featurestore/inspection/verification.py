"""Whether a store still holds what was committed to it: every chunk hashed again, and the bad ones taken back.

Taking back the commit of a chunk is all the repair there is: its rows count as not there any more, and the next
extraction computes them, to the same bits. A projection of tokens is hashed as well; it cannot be computed again from
what is there, and nothing is repaired of it. An encoder whose metadata cannot be read is told with its error, and the
check of the others goes on. A chunk that the disk does not give is bad; one that a network did not bring is not, since
nothing is known of it: the check ends there.
"""

import errno
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from featurestore.committed import COMMITS
from featurestore.embedding import Embedding
from featurestore.errors import AbawError, NotWritableError, StoreError, UnreachableStoreError, unknown_name
from featurestore.metadata import ZARR_JSON
from featurestore.store import FeatureStore
from featurestore.tokenprojection import check_readable, read_projection

_MOST_TOLD: Final = 5
# What a disk answers for a file whose bytes it has lost; anything else, such as a permission, may pass or be mended.
_LOST: Final = (errno.EIO, errno.EUCLEAN)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadChunk:
    """A chunk whose committed rows are not what was written."""

    chunk: int
    start: int  # table row of its first
    n_rows: int  # of the table that it holds
    reason: str | None = None  # why it cannot be read; None where it can, and holds something else
    is_lost: bool = True  # whether its bytes are gone for good, and there is nothing to keep

    def __str__(self) -> str:
        unreadable = f", which cannot be read: {self.reason}" if self.reason is not None else ""
        return f"chunk {self.chunk}: rows {self.start:,} to {self.start + self.n_rows - 1:,}{unreadable}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a check found of one encoder.

    Attributes
    ----------
    name
        Of the encoder.
    n_chunks
        Chunks that were looked at.
    bad
        Those that are damaged, ascending.
    is_repaired
        Whether the commits of these were taken back.
    obstacle
        Why they could not all be taken back, where that was tried.
    is_imported
        Whether the embeddings come from a file, and cannot be computed from frames here.
    error
        Why the encoder could not be checked; None if it could.
    projection_error
        What is wrong with the projection of its tokens; None if nothing is, or there is none.
    """

    name: str
    n_chunks: int = 0
    bad: tuple[BadChunk, ...] = ()
    is_repaired: bool = False
    obstacle: str | None = None
    is_imported: bool = False
    error: str | None = None
    projection_error: str | None = None

    @property
    def n_bad_rows(self) -> int:
        """Rows of the bad chunks: what there is to compute again."""
        return sum(chunk.n_rows for chunk in self.bad)

    def sentence(self) -> str:
        """What is bad, with the chunks and their rows, or that nothing is."""
        if self.error is not None:
            return f"{self.name} cannot be checked: {self.error}"
        if not self.bad:
            chunks = f"{self.name}: every committed chunk is sound"
            return chunks if self.projection_error is None else f"{chunks}, but: {self.projection_error}"
        told = [str(bad) for bad in self.bad]
        n_more = len(told) - _MOST_TOLD
        more = "" if n_more <= 0 else "; and 1 chunk more" if n_more == 1 else f"; and {n_more:,} chunks more"
        taken = ", whose commits were taken back" if self.is_repaired else ""
        chunks = "1 chunk" if self.n_chunks == 1 else f"{self.n_chunks:,} chunks"
        rows = "1 row" if self.n_bad_rows == 1 else f"{self.n_bad_rows:,} rows"
        left = f". It cannot be repaired here: {self.obstacle}" if self.obstacle is not None else ""
        return (
            f"{self.name}: {len(told):,} of {chunks} with {rows} are not what was "
            f"committed{taken} ({'; '.join(told[:_MOST_TOLD])}{more}){left}"
            + (f". Besides: {self.projection_error}" if self.projection_error is not None else "")
        )

    @property
    def is_sound(self) -> bool:
        """Whether nothing bad is left in the store."""
        return self.error is None and self.projection_error is None and (not self.bad or self.is_repaired)


def verify_store(
    store: FeatureStore,
    names: Sequence[str] = (),
    *,
    repair: bool = False,
    extractable: Collection[str] | None = None,
    on_chunk: Callable[[int, int, str], None] | None = None,
) -> tuple[Verdict, ...]:
    """Hash every committed chunk again.

    Parameters
    ----------
    store
        The store.
    names
        Encoders to check; none for all.
    repair
        Take back the commits of bad chunks; one that cannot be read now, but may be later, is left.
    extractable
        Encoders that can be computed from frames here; None for all but those that came from a file.
    on_chunk
        Called before each chunk with the chunks behind, all chunks of all encoders, and the encoder's name.

    Raises
    ------
    UnknownNameError
        If one of `names` is not in the store; nothing was looked at.
    UnreachableStoreError, NotWritableError
        If an object store does not answer, or not to these credentials: nothing is known of what it holds.
    """
    wanted = tuple(dict.fromkeys(names)) or store.names()
    for name in wanted:
        if name not in store:
            raise unknown_name("encoder", name, store.names())
    opened = [(name, _opened(store, name)) for name in wanted]
    total = sum(part.layout.n_chunks for _, part in opened if isinstance(part, Embedding))
    behind, verdicts = 0, []
    for name, part in opened:
        if not isinstance(part, Embedding):
            verdicts.append(Verdict(name=name, error=part))
            continue
        found: list[BadChunk] = []
        for chunk in range(part.layout.n_chunks):
            if on_chunk is not None:
                on_chunk(behind + chunk, total, name)
            if (bad := _looked_at(part, chunk)) is not None:
                found.append(bad)
        verdicts.append(_judged(name, part, found, repair=repair, extractable=extractable))
        behind += part.layout.n_chunks
    return tuple(verdicts)


def commands_to_restore(verdicts: Iterable[Verdict]) -> tuple[str, ...]:
    """What a person runs for the rows whose commits were, or will be, taken back."""
    broken = [verdict for verdict in verdicts if verdict.bad]
    extracted = [verdict.name for verdict in broken if not verdict.is_imported]
    imports = [f"abaw store import FILE --encoder {verdict.name}" for verdict in broken if verdict.is_imported]
    return (*([f"abaw extract --encoder {','.join(extracted)}"] if extracted else []), *imports)


def check_sound(verdicts: Sequence[Verdict], *, where: str) -> None:
    """Refuse what a check found and did not repair.

    Parameters
    ----------
    verdicts
        Of every encoder that was checked.
    where
        The store, for the message.

    Raises
    ------
    StoreError
        If something bad is left; it names encoders, chunks and rows, and the commands that mend them.
    """
    bad = [verdict for verdict in verdicts if not verdict.is_sound]
    if not bad:
        return
    told = "; ".join(verdict.sentence().rstrip(".") for verdict in bad)
    mendable = [verdict for verdict in bad if verdict.obstacle is None and not verdict.is_repaired]
    damaged = [verdict.name for verdict in mendable if verdict.bad]
    commands = [f"abaw store verify --encoder {','.join(damaged)} --repair"] if damaged else []
    commands += commands_to_restore(mendable)
    unreadable = [verdict.name for verdict in bad if verdict.error is not None]
    advice = [f"Run `{'`, then `'.join(commands)}`."] if commands else []
    advice += [f"What `abaw store rm {name}` removes can be extracted anew." for name in unreadable]
    raise StoreError(
        " ".join([f"A store holds what was committed to it; this one does not: {told} (store: {where}).", *advice])
    )


def _opened(store: FeatureStore, name: str) -> Embedding | str:
    """An encoder's embeddings, or why they cannot be opened."""
    try:
        embedding = store.embedding(name)
        _check_commits(embedding)
        return embedding
    except (UnreachableStoreError, NotWritableError):
        raise
    except (AbawError, OSError) as error:
        return str(error)


def _projection_error(embedding: Embedding) -> str | None:
    """What is wrong with the projection that is kept with an encoder's tokens."""
    shape = embedding.record.projection_shape
    if shape is None:
        return None
    try:
        check_readable(embedding.storage, embedding.name, shape)
        read_projection(embedding.storage, embedding.name, shape, embedding.provenance.projection)
    except (UnreachableStoreError, NotWritableError):
        raise
    except (AbawError, OSError) as error:
        return str(error)
    return None


def _check_commits(embedding: Embedding) -> None:
    """Refuse (StoreError) commits that no Zarr reader would find: our own reading does not need their metadata."""
    key = f"{embedding.name}/{COMMITS}/{ZARR_JSON}"
    raw = embedding.storage.read(key)
    try:
        metadata = None if raw is None else json.loads(raw)
    except ValueError:
        metadata = None
    shape = metadata.get("shape") if isinstance(metadata, dict) else None
    if not isinstance(shape, list) or len(shape) != 2 or shape[1] != 2:
        found = "is not there" if raw is None else "is not that of an array of shape (n_chunks, 2)"
        raise StoreError(
            f"The commits of an encoder are a Zarr array; its metadata {found} ({embedding.storage.where(key)}). "
            "Restore that file from a copy of the store; the embeddings themselves can be read without it."
        )


def _looked_at(embedding: Embedding, chunk: int) -> BadChunk | None:
    """What is bad about a chunk; None if it is sound, or nothing of it is committed."""
    reason, is_lost = None, True
    try:
        if embedding.is_sound(chunk):
            return None
    except (UnreachableStoreError, NotWritableError):
        raise
    except OSError as error:
        reason, is_lost = error.strerror or str(error), error.errno in _LOST
    start, stop = embedding.layout.span(chunk)
    return BadChunk(chunk=chunk, start=start, n_rows=stop - start, reason=reason, is_lost=is_lost)


def _judged(
    name: str, embedding: Embedding, found: Sequence[BadChunk], *, repair: bool, extractable: Collection[str] | None
) -> Verdict:
    """The verdict over an encoder with these bad chunks, and its repair."""
    obstacle = _taken_back(embedding, found) if repair else None
    is_imported = embedding.provenance.architecture == "imported"
    return Verdict(
        name=name,
        n_chunks=embedding.layout.n_chunks,
        bad=tuple(found),
        is_repaired=repair and bool(found) and obstacle is None,
        obstacle=obstacle,
        is_imported=is_imported or (extractable is not None and name not in extractable),
        projection_error=_projection_error(embedding),
    )


def _taken_back(embedding: Embedding, found: Sequence[BadChunk]) -> str | None:
    """Take back the commits of bad chunks; why one is left, or None if none is."""
    lost = [bad.start for bad in found if bad.is_lost]
    try:
        if lost:
            embedding.forget(np.array(lost))
    except UnreachableStoreError:
        raise
    except OSError as error:
        return str(error)
    if len(lost) < len(found):
        return "what cannot be read now may still be whole. Make it readable (permissions, disk), and verify again"
    return None
