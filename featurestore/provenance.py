"""Where an encoder's embeddings come from, and the fingerprint that keeps two origins from being mixed.

The fingerprint covers what decides the numbers: architecture, weights, preprocessing, pooling, precision, and the
projection of tokens where there is one. It leaves out library versions, the time, the parent and how it was executed:
another build of a library, or another device, moves the last bit at most, and a run resumed after an update must be
able to go on. They are recorded all the same; a run that goes on asks `execution` for the arithmetic it began with.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Final, TypeAlias

import xxhash

from .errors import ConfigError, StoreError

JsonScalar: TypeAlias = str | int | float | bool | None
JsonValue: TypeAlias = JsonScalar | Sequence[JsonScalar]

_DECISIVE: Final = ("architecture", "weights", "preprocessing", "pooling", "precision", "projection")
_DIGEST_BLOCK_BYTES: Final = 1 << 20


def now_utc() -> str:
    """The time now, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def file_digest(path: Path) -> str:
    """xxh3-128 of a file's bytes, as 32 hex digits; read in blocks, so of any size."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_DIGEST_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What made the embeddings of one encoder.

    Raises
    ------
    ConfigError
        If a value is not a JSON scalar (NaN and infinity are not), or in the preprocessing a list of them.
    """

    architecture: str  # a timm name, "imported", ...
    weights: str  # digest of the weights file
    preprocessing: Mapping[str, JsonValue]  # input size, mean, std, interpolation, ...
    pooling: str  # cls, mean, fc_norm, tokens
    precision: str  # of the forward pass: float32, bfloat16, ...
    projection: str | None = None  # digest of the projection that took the tokens to fewer dimensions
    execution: Mapping[str, JsonScalar] = field(default_factory=dict)  # device, batch, compiled, ...: decides nothing
    parent: str | None = None  # the encoder that this one was fine-tuned from
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version
    made_at: str = field(default_factory=now_utc)  # ISO 8601, UTC

    def __post_init__(self) -> None:
        # Copied as JSON gives it back (tuples become lists), so that a value equals itself after a round trip.
        object.__setattr__(self, "preprocessing", {key: _plain(key, v) for key, v in self.preprocessing.items()})
        object.__setattr__(self, "execution", {key: _scalar(key, v) for key, v in self.execution.items()})
        object.__setattr__(self, "versions", dict(self.versions))
        self._canonical()  # refuses now what could not be saved later

    @property
    def fingerprint(self) -> str:
        """xxh3-128, 32 hex digits, of what decides the numbers."""
        return xxhash.xxh3_128_hexdigest(self._canonical().encode())

    def _canonical(self) -> str:
        parts = {key: value for key, value in self.to_dict().items() if key in _DECISIVE}
        if self.projection is None:
            del parts["projection"]  # which the first stores did not have
        try:
            return json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"A provenance holds JSON scalars and lists of them, not {self.preprocessing!r} "
                f"(architecture {self.architecture!r}): {error}. Convert the values first."
            ) from error

    def differences(self, other: "Provenance") -> tuple[str, ...]:
        """Names of the decisive fields in which two provenances differ."""
        ours, theirs = self.to_dict(), other.to_dict()
        # As JSON, as the fingerprint is: 1 and 1.0 are equal in Python, and another text.
        return tuple(name for name in _DECISIVE if json.dumps(ours[name]) != json.dumps(theirs[name]))

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON values, in the order of declaration."""
        return {
            "architecture": self.architecture,
            "weights": self.weights,
            "preprocessing": dict(self.preprocessing),
            "pooling": self.pooling,
            "precision": self.precision,
            "projection": self.projection,
            "execution": dict(self.execution),
            "parent": self.parent,
            "versions": dict(self.versions),
            "made_at": self.made_at,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Provenance":
        """The provenance that `to_dict` wrote.

        Raises
        ------
        StoreError
            If a field is missing or of another type.
        """
        preprocessing, versions = values.get("preprocessing"), values.get("versions", {})
        projection, parent = values.get("projection"), values.get("parent")
        execution = values.get("execution", {})
        if not (
            isinstance(preprocessing, Mapping) and isinstance(versions, Mapping) and isinstance(execution, Mapping)
        ):
            raise StoreError(
                "A provenance holds 'preprocessing', 'versions' and 'execution' as mappings, "
                f"not {preprocessing!r}, {versions!r} and {execution!r}. Remove the encoder and extract it again."
            )
        return cls(
            architecture=_text(values, "architecture"),
            weights=_text(values, "weights"),
            preprocessing=preprocessing,
            pooling=_text(values, "pooling"),
            precision=_text(values, "precision"),
            projection=None if projection is None else str(projection),
            execution=execution,
            parent=None if parent is None else str(parent),
            versions={str(package): str(version) for package, version in versions.items()},
            made_at=_text(values, "made_at"),
        )


def _plain(key: str, value: JsonValue) -> JsonValue:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Sequence):
        return list(value)
    raise ConfigError(
        f"Preprocessing {key!r} of a provenance is a JSON scalar or a list of them, "
        f"not {type(value).__name__} ({value!r}). Convert it first."
    )


def _scalar(key: str, value: JsonScalar) -> JsonScalar:
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and isfinite(value)):
        return value
    raise ConfigError(
        f"Execution {key!r} of a provenance is a JSON scalar, not {type(value).__name__} ({value!r}). Convert it first."
    )


def _text(values: Mapping[str, object], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise StoreError(f"A provenance holds {key!r} as text, not {value!r}. Remove the encoder and extract it again.")
    return value
