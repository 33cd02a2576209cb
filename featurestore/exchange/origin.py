"""Where exported vectors came from, as the files that can hold a note carry it: the attribute ``abaw``, JSON.

An import of such a file restores the encoder's provenance, so that embeddings which travelled are still known by
the weights that made them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from featurestore.errors import AbawError, StoreError
from featurestore.provenance import Provenance

ORIGIN: Final = "abaw"
"""Name of the attribute, or of the metadata entry."""

_VERSION: Final = 1
_BATCHES: Final = tuple(1 << power for power in range(17))


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The encoder that vectors were exported from."""

    encoder: str
    provenance: Provenance
    batch_rows: int = 1  # computed together, so that an extraction can go on in the same batches

    def to_json(self) -> str:
        """The note as text."""
        provenance = self.provenance.to_dict()
        note = {"encoder": self.encoder, "batch_rows": self.batch_rows, "provenance": provenance}
        return json.dumps({"format": _VERSION, **note})

    @classmethod
    def from_json(cls, text: object, path: Path) -> "Origin":
        """The note that `to_json` wrote in the file `path`.

        Raises
        ------
        StoreError
            If it is malformed, or of a newer format.
        """
        try:
            note = json.loads(text) if isinstance(text, str | bytes) else text
            if not isinstance(note, dict) or note.get("format") != _VERSION:
                raise ValueError(f"it is no JSON object of format {_VERSION}")
            encoder, provenance = note.get("encoder"), note.get("provenance")
            if not isinstance(encoder, str) or not isinstance(provenance, dict):
                raise ValueError("it lacks 'encoder' or 'provenance'")
            batch_rows = note.get("batch_rows", 1)
            if batch_rows not in _BATCHES or not isinstance(batch_rows, int):
                raise ValueError(f"its batch_rows is {batch_rows!r}, no power of two up to {_BATCHES[-1]}")
            return cls(encoder=encoder, provenance=Provenance.from_dict(provenance), batch_rows=batch_rows)
        except (ValueError, AbawError) as error:
            reason = str(error).partition(". ")[0].rstrip(".")
            raise StoreError(
                f"The note {ORIGIN!r} of an exported file holds the encoder's name and provenance; this one cannot be "
                f"read: {reason} (file: {path}). Export the file again, or delete its note to import it as a "
                "stranger's."
            ) from error
