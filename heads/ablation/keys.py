"""What decides the numbers of a row, as a key: rows of one key are the same row."""

from typing import Final

from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.modules.config import HeadConfig
from heads.sharing import digest_of

PROTOCOL: Final = 3
"""Part of every key and of `data`; raised when a change to fitting or scoring makes old rows incomparable."""


def row_key(features: FeatureSet, task: str, head: HeadConfig, training: FitConfig) -> str:
    """The xxh3-128 of all that decides a row's numbers; the device and the table's name are left out."""
    return digest_of(
        {
            "task": task,
            "head": head.to_dict(),
            "training": {name: value for name, value in training.to_dict().items() if name != "device"},
            "data": row_data(features, head),
        }
        # The order of a stream follows its budget.
        | ({} if features.stream_bytes is None else {"stream_bytes": features.stream_bytes})
    )


def row_data(features: FeatureSet, head: HeadConfig) -> str:
    """The xxh3-128 of what a head's row is computed from: embeddings of its encoders, frames, labels.

    Raises
    ------
    KeyError
        If the store lacks one of the encoders.
    """
    return digest_of(
        {
            "protocol": PROTOCOL,
            "encoders": {name: features.fingerprints[name] for name in head.encoders},
            "frames": features.frames.fingerprint,
            "labels": features.labels_digest,
        }
    )
