"""The record of a run, `config.json`: what was fitted, how, on which embeddings, with which versions."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from featurestore.errors import ConfigError, MissingFileError
from heads.checking import to_json
from heads.fitting.config import FitConfig
from heads.fitting.schedule import Schedule
from heads.light.config import IN_EARLIER_RECORDS as LIGHT_BEFORE
from heads.light.config import LightConfig
from heads.modules.config import IN_EARLIER_RECORDS as HEAD_BEFORE
from heads.modules.config import HeadConfig

from .judging import Judging

CONFIG_FILE: Final = "config.json"
FORMAT: Final = 2
"""Of the run's folder."""


def run_name(head: HeadConfig | LightConfig, training: FitConfig) -> str:
    """The default name of a run, such as ``mae+au+v_lstm-20-20_au-expr-v-a_seed1``."""
    encoders, tasks = "+".join(head.encoders), "-".join(head.joint)
    if isinstance(head, LightConfig):
        return f"{encoders}_{head.estimator}_{tasks}_seed{head.seed}"
    follows = "sum" if head.fuse else "none"
    fusion = "" if head.fusion in ("auto", follows) else f"_{head.fusion}"
    framework = "" if head.framework == "share-encoder" else f"_{head.framework}"
    time = f"{head.temporal}-{head.seq}-{head.step}{'f' if head.span == 'frames' else ''}"
    return f"{encoders}{fusion}_{time}{framework}_{tasks}_seed{training.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What `config.json` holds.

    Attributes
    ----------
    name
        Of the run.
    head
        As resolved; neural or light.
    training
        How a neural head was fitted; of a light one what was asked for, which it took nothing of.
    judging
        Folds and calibration, as asked for.
    shapes
        Encoder -> row shape of its embeddings: (D,), or (T, D) of tokens.
    encoders
        Encoder -> fingerprint of its embeddings' provenance.
    frames, labels
        Fingerprint of the frame table, digest of its labels and splits.
    epoch
        The one kept, from 1, of several the last; None of a light head.
    epochs
        Task -> the one kept of it; empty of a light head and in records of earlier versions.
    selected_on
        What picked it (see `FittedHead`).
    calibrated_on
        What the post-processing was calibrated on; None without one.
    parameters
        How many numbers were fitted.
    seconds
        Of the fit.
    versions
        Package -> version.
    stream_bytes
        Budget of the stream that the embeddings came by; None if they were loaded as a whole. With the seed it
        decides the order of the windows.
    schedule
        What the training came to on these rows: rows a step, epochs, patience; None of a light head.
    penalties
        Task -> C of a light head's models, given or chosen by folds.
    probe
        P and its parts of a linear probe on the same embeddings and rows of val (see `fit_probe`).
    remarks
        What made the fit look as if it had not learned what is there.
    format
        Of the folder.
    """

    name: str
    head: HeadConfig | LightConfig
    training: FitConfig
    judging: Judging
    shapes: Mapping[str, tuple[int, ...]]
    encoders: Mapping[str, str]
    frames: str
    labels: str
    epoch: int | None
    selected_on: str
    calibrated_on: str | None
    parameters: int
    seconds: float
    versions: Mapping[str, str]
    stream_bytes: int | None = None
    schedule: Schedule | None = None
    epochs: Mapping[str, int] = field(default_factory=dict)
    penalties: Mapping[str, float] = field(default_factory=dict)
    probe: Mapping[str, float] | None = None
    remarks: tuple[str, ...] = ()
    format: int = field(default=FORMAT)

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return to_json(self)

    def configuration(self) -> dict[str, JsonValue]:
        """What decides a fit (see `fit_configuration`)."""
        return fit_configuration(
            self.head, self.training, self.judging, self.encoders, frames=self.frames, labels=self.labels
        )

    def in_sample(self, split: str) -> str | None:
        """Why a score on a split is no score of unseen frames; None if it is one.

        That the epoch was picked by the score on val is less, and told apart (`selected_on`).
        """
        if split == "train":
            return "the head was trained on these frames"
        if split == self.calibrated_on:
            return "the post-processing was calibrated on these frames"
        return None


def fit_configuration(
    head: HeadConfig | LightConfig,
    training: FitConfig,
    judging: Judging,
    encoders: Mapping[str, str],
    *,
    frames: str,
    labels: str,
) -> dict[str, JsonValue]:
    """What decides a fit: head, training, judging, its encoders' fingerprints, frames and labels."""
    return {
        "head": head.to_dict(),
        "training": training.to_dict(),
        "judging": to_json(judging),
        "encoders": {name: encoders[name] for name in head.encoders},
        "frames": frames,
        "labels": labels,
    }


def read_record(directory: Path) -> RunRecord:
    """A run's record alone: which encoders to load, before anything heavy is read.

    Raises
    ------
    MissingFileError
        If there is no run.
    ConfigError
        If its config.json cannot be read as one.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        what = "holds no config.json" if directory.is_dir() else "is not there"
        raise MissingFileError(
            f"A run is a folder with a config.json; {directory} {what}. "
            "Run `abaw fit-heads` to make one, or give its path."
        )
    try:
        # The format first: a record of another one lacks what this one's must have.
        values = TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
        found = values.get("format")
        if isinstance(found, int) and found != FORMAT:
            raise ConfigError(
                f"Runs of format {FORMAT} can be read, this one has format {found} (file: {path}). "
                "Fit the run again, or use the version of abaw that wrote it."
            )
        # Of which kind the head is, before it is read: else a mistake in it is told for both.
        is_light = isinstance(values.get("head"), dict) and "estimator" in values["head"]
        if "head" in values:
            kind, earlier = (LightConfig, LIGHT_BEFORE) if is_light else (HeadConfig, HEAD_BEFORE)
            values["head"] = TypeAdapter(kind).validate_python(earlier | values["head"])
        record: RunRecord = TypeAdapter(RunRecord).validate_python(values)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3])
        raise ConfigError(f"A run's config.json cannot be read: {found} (file: {path}). Fit the run again.") from error
    return record


def versions() -> dict[str, str]:
    """Versions of what decides a fit's numbers."""
    found = {"python": platform.python_version()}
    for package in ("abaw", "torch", "numpy", "scikit-learn", "lightgbm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
