"""Whether a store still holds what was committed to it: every chunk hashed again, and the bad ones taken back.

Taking back the commit of a chunk is all the repair there is: its rows count as not there any more, and the next
extraction computes them, to the same bits. An encoder whose metadata cannot be read is told with its error, and the
check of the others goes on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from featurestore.embedding import Embedding
from featurestore.errors import AbawError, StoreError, unknown_name
from featurestore.store import FeatureStore

_MOST_TOLD: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class BadChunk:
    """A chunk whose committed rows are not what was written."""

    chunk: int
    start: int  # table row of its first
    n_rows: int  # of the table that it holds


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
    is_imported
        Whether the embeddings came from a file, and not from frames.
    error
        Why the encoder could not be checked; None if it could.
    """

    name: str
    n_chunks: int = 0
    bad: tuple[BadChunk, ...] = ()
    is_repaired: bool = False
    is_imported: bool = False
    error: str | None = None

    @property
    def n_bad_rows(self) -> int:
        """Rows of the bad chunks: what there is to compute again."""
        return sum(chunk.n_rows for chunk in self.bad)

    def sentence(self) -> str:
        """What is bad, with the chunks and their rows, or that nothing is."""
        if self.error is not None:
            return f"{self.name} cannot be checked: {self.error}"
        if not self.bad:
            return f"{self.name}: every committed chunk is sound"
        told = [f"chunk {bad.chunk}: rows {bad.start:,} to {bad.start + bad.n_rows - 1:,}" for bad in self.bad]
        more = f"; and {len(told) - _MOST_TOLD:,} chunks more" if len(told) > _MOST_TOLD else ""
        taken = ", whose commits were taken back" if self.is_repaired else ""
        return (
            f"{self.name}: {len(told):,} of {self.n_chunks:,} chunks with {self.n_bad_rows:,} rows are not what was "
            f"committed{taken} ({'; '.join(told[:_MOST_TOLD])}{more})"
        )

    @property
    def is_sound(self) -> bool:
        """Whether nothing bad is left in the store."""
        return self.error is None and (not self.bad or self.is_repaired)


def verify_store(
    store: FeatureStore,
    names: Sequence[str] = (),
    *,
    repair: bool = False,
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
        Take back the commits of bad chunks.
    on_chunk
        Called before each chunk with the chunks behind, all chunks of all encoders, and the encoder's name.

    Raises
    ------
    UnknownNameError
        If one of `names` is not in the store; nothing was looked at.
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
        found: list[int] = []
        try:
            for chunk in range(part.layout.n_chunks):
                if on_chunk is not None:
                    on_chunk(behind + chunk, total, name)
                if not part.is_sound(chunk):
                    found.append(chunk)
            verdicts.append(_judged(name, part, found, repair=repair))
        except (AbawError, OSError) as error:
            verdicts.append(Verdict(name=name, error=str(error)))
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
    damaged = [verdict.name for verdict in bad if verdict.bad]
    commands = [f"abaw store verify --encoder {','.join(damaged)} --repair"] if damaged else []
    commands += commands_to_restore(bad)
    unreadable = [verdict.name for verdict in bad if verdict.error is not None]
    advice = [f"Run `{'`, then `'.join(commands)}`."] if commands else []
    advice += [f"What `abaw store rm {name}` removes can be extracted anew." for name in unreadable]
    raise StoreError(
        f"A store holds what was committed to it; this one does not: {told} (store: {where}). {' '.join(advice)}"
    )


def _opened(store: FeatureStore, name: str) -> Embedding | str:
    """An encoder's embeddings, or why they cannot be opened."""
    try:
        return store.embedding(name)
    except (AbawError, OSError) as error:
        return str(error)


def _judged(name: str, embedding: Embedding, found: Sequence[int], *, repair: bool) -> Verdict:
    """The verdict over an encoder with these bad chunks, and its repair."""
    spans = [(chunk, *embedding.layout.span(chunk)) for chunk in found]
    if repair and spans:
        embedding.forget(np.array([start for _, start, _ in spans]))
    return Verdict(
        name=name,
        n_chunks=embedding.layout.n_chunks,
        bad=tuple(BadChunk(chunk=chunk, start=start, n_rows=stop - start) for chunk, start, stop in spans),
        is_repaired=repair and bool(spans),
        is_imported=embedding.provenance.architecture == "imported",
    )
