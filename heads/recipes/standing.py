"""What a store has of the encoders that a recipe is made for, what stands in for them, and what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from featurestore.errors import AbawError, MissingEmbeddingsError, unknown_name
from featurestore.store import FeatureStore

from .recipe import Recipe
from .told import Need


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One role of a recipe in a store.

    Attributes
    ----------
    role, need
        Of the recipe.
    encoder
        Which encoder of the store plays it.
    state
        ``"ready"``; ``"incomplete"``; ``"absent"``; ``"other"``: it holds vectors where tokens are read, or the
        reverse; ``"unreadable"``.
    shape
        Row shape of its embeddings; None if there are none.
    rows_done, n_frames
        Rows that are there, of how many.
    problem
        What is wrong with it, in a sentence; empty if nothing is.
    """

    role: str
    need: Need
    encoder: str
    state: str
    shape: tuple[int, ...] | None = None
    rows_done: int = 0
    n_frames: int = 0
    problem: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether a system can be fitted on it."""
        return self.state == "ready"

    @property
    def command(self) -> str:
        """What brings into the store what is missing; one of another kind gives way to it, or is left as it is."""
        meant = self.need.command or f"abaw extract --encoder {self.role}"
        if self.state == "other":
            return f"abaw store rm {self.encoder}; {meant}" if self.encoder == self.role else meant
        if self.encoder != self.role or self.state == "incomplete":
            return f"abaw extract --encoder {self.encoder}"
        return meant

    @property
    def brings(self) -> str:
        """What the command brings, where that is not quite the encoder that is meant; else empty."""
        is_own = self.encoder == self.role or self.state == "other"
        return self.need.brings if is_own else ""

    @property
    def remedy(self) -> str:
        """The command, and what it brings."""
        return f"{self.command} (brings {self.brings})" if self.brings else self.command

    @property
    def stand_in(self) -> str | None:
        """How what is there differs from what is meant, as far as that shows; None if it does not."""
        return None if self.shape is None else stand_in(self.role, self.need, self.encoder, self.shape)


def standings(recipe: Recipe, store: FeatureStore, roles: Mapping[str, str]) -> tuple[Standing, ...]:
    """Every role of a recipe in a store.

    Parameters
    ----------
    recipe, store
        Of which.
    roles
        Role -> encoder of the store, of those that another encoder plays.

    Raises
    ------
    UnknownNameError
        If there is no such role.
    """
    for role in roles:
        if role not in recipe.needs:
            raise unknown_name(f"role in recipe {recipe.name!r}", role, recipe.needs)
    return tuple(_standing(role, need, store, roles.get(role, role)) for role, need in recipe.needs.items())


def check_ready(recipe: Recipe, store: FeatureStore, roles: Mapping[str, str]) -> None:
    """Refuse a store that a recipe cannot be fitted on, with all that would bring what is missing.

    Parameters
    ----------
    recipe, store, roles
        As of `standings`.

    Raises
    ------
    UnknownNameError
        If there is no such role, or the encoder that is to play one is not in the store.
    MissingEmbeddingsError
        If encoders are missing, incomplete or of another kind.
    """
    found = standings(recipe, store, roles)
    for encoder in roles.values():
        if encoder not in store:
            raise unknown_name("encoder", encoder, store.names())
    lacking = [each for each in found if not each.is_ready]
    if not lacking:
        return
    problems = "; ".join(each.problem.removesuffix(".") for each in lacking)
    remedies = "; ".join(dict.fromkeys(each.remedy for each in lacking))
    raise MissingEmbeddingsError(
        f"Recipe {recipe.name!r} reads {', '.join(each.encoder for each in found)}, but {problems} "
        f"(store: {store.location}). To bring what is missing: {remedies}. Or let another encoder of the store stand "
        f"in for it: --use {lacking[0].role}=NAME."
    )


def stand_in(role: str, need: Need, encoder: str, shape: tuple[int, ...]) -> str | None:
    """In words: the encoder that plays a role, where it is another one or of other columns; None if neither."""
    named = role if encoder == role else f"{role}={encoder}"
    if shape != need.row_shape:
        return f"{named} ({_told(shape)} for {' x '.join(map(str, need.row_shape))})"
    return None if encoder == role else named


def _standing(role: str, need: Need, store: FeatureStore, encoder: str) -> Standing:
    facts = Standing(role=role, need=need, encoder=encoder, state="absent", n_frames=store.n_frames)
    if encoder not in store:
        return replace(facts, problem=f"encoder {encoder!r} is not in the store.")
    try:
        embedding = store.embedding(encoder)
        facts = replace(facts, state="ready", shape=embedding.row_shape, rows_done=embedding.rows_done())
        complete = embedding.is_complete()
    except AbawError as error:
        return replace(facts, state="unreadable", problem=str(error))
    if (len(embedding.row_shape) == 2) != bool(need.tokens):
        wanted = "patch tokens" if need.tokens else "one vector a frame"
        return replace(
            facts, state="other", problem=f"encoder {encoder!r} holds {_told(embedding.row_shape)}, not {wanted}."
        )
    if not complete:
        rows = f"{facts.rows_done:,} of {facts.n_frames:,} rows"
        return replace(facts, state="incomplete", problem=f"encoder {encoder!r} is not complete: {rows}.")
    return facts


def _told(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} columns" if len(shape) == 1 else f"{shape[0]} x {shape[1]} tokens"
