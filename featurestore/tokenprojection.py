"""The linear map that took an encoder's tokens to fewer dimensions, kept with what it made.

It was fitted on a sample, and cannot be had again without that sample and that arithmetic; rows computed later, and
tokens of other videos, must go through the very same one. So it lies in the encoder's group, as three Zarr arrays of
one chunk each, and the provenance names its digest. It is made with the group and never changed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

from .errors import ShapeError, StoreError
from .storage.base import Storage

if TYPE_CHECKING:
    import zarr

Float32Array: TypeAlias = npt.NDArray[np.float32]

PROJECTION: Final = "projection"
"""Of the group within an encoder's."""

_ZARR_JSON: Final = "zarr.json"


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class TokenProjection:
    """A principal component analysis of tokens: ``(token - mean) @ components``.

    Attributes
    ----------
    mean : shape (dim,), float32
        Of the tokens that it was fitted on.
    components : shape (dim, n_components), float32
        Orthonormal columns, by falling variance.
    explained : shape (n_components,), float32, in [0, 1]
        Share of the tokens' variance that lies along each.

    Raises
    ------
    ShapeError
        If the three do not belong together, or a value is not finite.
    """

    mean: Float32Array
    components: Float32Array
    explained: Float32Array

    def __post_init__(self) -> None:
        for name in ("mean", "components", "explained"):
            values = np.array(getattr(self, name), dtype="<f4", order="C")  # its own copy, which nobody changes
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        shapes = self.mean.shape, self.components.shape, self.explained.shape
        belong = self.components.ndim == 2 and shapes == ((self.dim,), (self.dim, self.n_components), shapes[1][1:])
        if not belong or not 1 <= self.n_components <= self.dim:
            raise ShapeError(
                "A projection of tokens has a mean (dim,), components (dim, n_components) and the explained shares "
                f"(n_components,), with 1 to dim components; not {shapes[0]}, {shapes[1]} and {shapes[2]}. Fit it anew."
            )
        if not all(np.isfinite(values).all() for values in (self.mean, self.components, self.explained)):
            raise ShapeError(
                "A projection of tokens holds finite numbers; these arrays hold NaN or infinity. Fit it anew."
            )

    def __repr__(self) -> str:
        return f"TokenProjection({self.dim} -> {self.n_components}, {self.digest})"

    @property
    def dim(self) -> int:
        """Dimensions of a token before."""
        return int(self.components.shape[0])

    @property
    def n_components(self) -> int:
        """Dimensions of a token after."""
        return int(self.components.shape[-1])

    @property
    def digest(self) -> str:
        """xxh3-128, 32 hex digits, of the shape and of all values (see `docs/format.md`)."""
        digest = xxhash.xxh3_128(np.array([self.dim, self.n_components], dtype="<u4").tobytes())
        for values in (self.mean, self.components, self.explained):
            digest.update(values.tobytes())
        return digest.hexdigest()

    def add_to(self, group: "zarr.Group") -> None:
        """Put its arrays into an encoder's group, as a group of their own."""
        from zarr.codecs import BytesCodec

        inner = group.create_group(PROJECTION)
        for name, values in (("mean", self.mean), ("components", self.components), ("explained", self.explained)):
            inner.create_array(
                name,
                data=values,
                chunks=values.shape,
                fill_value=float("nan"),  # a chunk that is nothing but fill value would not be written
                filters=None,
                compressors=None,
                serializer=BytesCodec(endian="little"),
                chunk_key_encoding={"name": "default", "separator": "."},
            )


def read_projection(storage: Storage, name: str, shape: tuple[int, int], digest: str | None) -> TokenProjection:
    """The projection in an encoder's group.

    Parameters
    ----------
    storage, name
        The store's place, and the encoder.
    shape
        (dim, n_components), as the group says.
    digest
        What it must be, as the provenance says.

    Raises
    ------
    StoreError
        If it is not there as a whole, or not what was kept.
    """
    dim, n_components = shape
    arrays = {
        "mean": _values(storage, name, "mean", (dim,)),
        "components": _values(storage, name, "components", (dim, n_components)),
        "explained": _values(storage, name, "explained", (n_components,)),
    }
    try:
        projection = TokenProjection(**arrays)
    except ShapeError as error:
        raise _damaged(storage, name, "holds no finite numbers") from error
    if projection.digest != digest:
        raise _damaged(storage, name, "has other bytes than were kept")
    return projection


def check_readable(storage: Storage, name: str, shape: tuple[int, int]) -> None:
    """Refuse (StoreError) a projection whose arrays no Zarr reader would find; our own reading needs only the bytes."""
    dim, n_components = shape
    wanted = {"mean": [dim], "components": [dim, n_components], "explained": [n_components], "": None}
    for array, lengths in wanted.items():
        raw = storage.read(_key(name, array, _ZARR_JSON))
        try:
            metadata = json.loads(raw or b"")
        except ValueError:
            metadata = None
        if not isinstance(metadata, dict) or metadata.get("shape") != lengths:
            raise _damaged(storage, name, f"has no such {_key('', array, _ZARR_JSON).lstrip('/')} as was made")


def _values(storage: Storage, name: str, array: str, shape: Sequence[int]) -> Float32Array:
    key = _key(name, array, ".".join(["c", *("0" for _ in shape)]))
    raw = storage.read(key)
    if raw is None or len(raw) != 4 * prod(shape):
        found = "is not there as a whole" if raw is None else f"has {len(raw)} bytes of {array}, not {4 * prod(shape)}"
        raise _damaged(storage, name, found)
    values: Float32Array = np.frombuffer(raw, dtype="<f4").reshape(shape)
    return values


def _key(name: str, array: str, last: str) -> str:
    return "/".join(part for part in (name, PROJECTION, array, last) if part)


def _damaged(storage: Storage, name: str, what: str) -> StoreError:
    return StoreError(
        f"The projection of encoder {name!r} {what} ({storage.where(f'{name}/{PROJECTION}')}). Its embeddings can be "
        "read without it, and nothing can be added to them: restore that folder from a copy of the store, or remove "
        f"the encoder (`abaw store rm {name}`) and extract it again."
    )
