"""What decides the numbers of a leaderboard's rows, as keys: rows of one key are of the same system.

An option that changes nothing in a system (see `SystemConfig.effective`) is in no key. Whether embeddings were streamed
is: their order follows the budget of the stream, and the bits of a fit follow the order.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from featurestore.errors import AbawError
from featurestore.store import FeatureStore
from heads.features.targets import labels_digest
from heads.recipes.plan import SystemConfig
from heads.recipes.systemrecord import SystemRecord
from heads.recipes.tables import recipe_to_table
from heads.sharing import digest_of

PROTOCOL: Final = 3
"""Part of every key and of `data`; raised when a change to fitting or scoring makes old rows incomparable."""

_TOLD: Final = ("title", "challenge", "year", "source", "link", "published", "notes", "needs")
"""What a recipe tells of itself, and decides nothing. Its name does not either, but it tells whose row it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """What a store holds, as far as it decides numbers.

    Attributes
    ----------
    fingerprints
        Encoder -> fingerprint of its embeddings' provenance; those that cannot be read are left out.
    shapes
        Encoder -> row shape of its embeddings; the same encoders.
    frames, labels
        Fingerprint of the frame table, digest of its labels and splits.
    tuned
        Encoders that were fine-tuned from another one; it is told, and decides nothing.
    """

    fingerprints: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    frames: str
    labels: str
    tuned: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, store: FeatureStore) -> "StoreState":
        """As the store is now."""
        prints: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        tuned = set()
        for name in store.names():
            with contextlib.suppress(AbawError):  # told by who reads it
                embedding = store.embedding(name)
                prints[name], shapes[name] = embedding.provenance.fingerprint, embedding.row_shape
                tuned |= set() if embedding.provenance.parent is None else {name}
        frames = store.frames
        return cls(
            fingerprints=prints,
            shapes=shapes,
            frames=frames.fingerprint,
            labels=labels_digest(frames),
            tuned=frozenset(tuned),
        )


def board_key(state: StoreState, config: SystemConfig, *, stream_bytes: int | None) -> str:
    """The xxh3-128 of all that decides a system's numbers; what its recipe only tells is left out.

    Parameters
    ----------
    state, config
        Which system on what.
    stream_bytes
        As of `FeatureSet`.
    """
    return digest_of({**_decisive(state, config, stream_bytes), "seed": config.seed})


def board_variant(state: StoreState, config: SystemConfig, *, stream_bytes: int | None) -> str:
    """The same without the seed: what rows that are averaged over seeds have in common."""
    return digest_of(_decisive(state, config, stream_bytes))


def record_key(record: SystemRecord) -> str:
    """The key of a system on disk, by what it was fitted on."""
    state = StoreState(fingerprints=record.encoders, shapes=record.shapes, frames=record.frames, labels=record.labels)
    return board_key(state, record.config, stream_bytes=record.stream_bytes)


def board_data(state: StoreState, encoders: Sequence[str]) -> str:
    """The xxh3-128 of what a system is computed from: embeddings of its encoders, frames, labels.

    Raises
    ------
    KeyError
        If the store lacks one of the encoders.
    """
    return digest_of(
        {
            "protocol": PROTOCOL,
            "encoders": {name: state.fingerprints[name] for name in encoders},
            "frames": state.frames,
            "labels": state.labels,
        }
    )


def _decisive(state: StoreState, config: SystemConfig, stream_bytes: int | None) -> dict[str, object]:
    config = config.effective()
    recipe = recipe_to_table(config.recipe, full=True)
    return {
        "recipe": {name: value for name, value in recipe.items() if name not in _TOLD},
        "roles": {role: config.roles.get(role, role) for role in config.recipe.needs},
        "calibrate_on": config.calibrate_on,
        "folds": config.n_folds,
        "epochs": config.epochs,
        "select_on_folds": config.select_on_folds,
        "data": board_data(state, config.recipe.on(config.roles).encoders),
    } | ({} if stream_bytes is None else {"stream_bytes": stream_bytes})
