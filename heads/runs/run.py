"""A run: a fitted head on disk, with all that is needed to judge it, repeat it and use it.

    runs/<name>/
        config.json           head, training, provenance of its encoders, versions
        head.safetensors      the best epoch's weights
        metrics.json          scores on val (see `Scores.as_dict`), best epoch, selected_on
        predictions.parquet   every val row (see `prediction_table`)
        curve.csv, curve.png  losses and val scores of every epoch

The folder is written under a hidden name beside its place, each file is flushed to the disk, and the folder is renamed:
a kill, a crash or a full disk leaves no half of a run. Nothing here is ever unpickled.
"""

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
from pydantic import JsonValue, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from featurestore.atomic import replace_file, says_no_space
from featurestore.errors import ConfigError, FileExistsAlreadyError, MissingFileError, StorageFullError
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.curve import draw_curve
from heads.fitting.epochs import curve_table
from heads.fitting.fit import FittedHead, score_rows
from heads.fitting.predict import predict
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores
from heads.scoring.tabulate import prediction_table

from .record import CONFIG_FILE, RunRecord, fit_configuration, read_record, run_name, versions

WEIGHTS_FILE: Final = "head.safetensors"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")
METRICS_FILE: Final = "metrics.json"
PREDICTIONS_FILE: Final = "predictions.parquet"
CURVE_FILE: Final = "curve.csv"
FIGURE_FILE: Final = "curve.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A fitted head with its record.

    Attributes
    ----------
    record
        What it is and where it comes from.
    model
        In evaluation mode.
    metrics
        What `metrics.json` holds.
    predictions
        Of val (see `prediction_table`).
    curve
        One row an epoch (see `curve_table`).
    """

    record: RunRecord
    model: HeadModel
    metrics: Mapping[str, JsonValue]
    predictions: pl.DataFrame
    curve: pl.DataFrame

    @property
    def name(self) -> str:
        """Of the run."""
        return self.record.name

    @property
    def head(self) -> HeadConfig:
        """What was fitted; `head.encoders` is what to load for it."""
        return self.record.head

    @classmethod
    def from_fit(cls, fitted: FittedHead, features: FeatureSet, *, name: str | None = None) -> "Run":
        """A run of what `fit` returned, on the features that it was given.

        Parameters
        ----------
        fitted, features
            The result of a fit and its input.
        name
            Of the run; `run_name` by default.
        """
        head, training = fitted.head.resolved(), fitted.training
        record = RunRecord(
            name=run_name(head, training) if name is None else name,
            head=head,
            training=training,
            shapes=fitted.shapes,
            encoders={encoder: features.fingerprints[encoder] for encoder in head.encoders},
            frames=features.frames.fingerprint,
            labels=features.labels_digest,
            epoch=fitted.epoch,
            selected_on=fitted.selected_on,
            parameters=fitted.n_parameters,
            seconds=fitted.seconds,
            versions=versions(),
            stream_bytes=features.stream_bytes,
        )
        metrics = fitted.scores.as_dict() | {
            "split": "val",
            "selected_on": fitted.selected_on,
            "epoch": fitted.epoch,
        }
        return cls(
            record=record,
            model=fitted.model,
            metrics=metrics,
            predictions=prediction_table(features.frames, fitted.predictions),
            curve=curve_table(fitted.curve),
        )

    def save(self, directory: Path, *, force: bool = False) -> None:
        """Write the run's folder, all of it or nothing.

        Parameters
        ----------
        directory
            The folder, commonly ``runs/<name>``. A run of the same configuration there is replaced.
        force
            Replace also a run of another configuration.

        Raises
        ------
        FileExistsAlreadyError
            If another run, or something that is no run, is there.
        StorageFullError
            If there is no space for it.
        """
        _check_place(self.record.configuration(), directory, force=force)
        token = secrets.token_hex(4)
        hidden = directory.with_name(f".{directory.name}.{token}.partial")
        replaced = directory.with_name(f".{directory.name}.{token}.replaced")
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            hidden.mkdir()
            self._write(hidden)
            if directory.exists():
                directory.rename(replaced)
            hidden.rename(directory)
        except OSError as error:
            if not (isinstance(error, StorageFullError) or says_no_space(error)):
                raise
            raise StorageFullError(
                f"No space is left on the device for run {self.name!r}: it was not written, and what was there "
                f"before is as it was (run: {directory}). Free some, and run the same command again."
            ) from error
        finally:
            if replaced.exists() and not directory.exists():  # stopped between the two renames
                replaced.rename(directory)
            shutil.rmtree(hidden, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        _write_json(folder / CONFIG_FILE, self.record.to_dict())
        _write_json(folder / METRICS_FILE, dict(self.metrics))
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        with replace_file(folder / WEIGHTS_FILE) as partial:
            save_file(weights, partial)
        with replace_file(folder / PREDICTIONS_FILE) as partial:
            self.predictions.write_parquet(partial)
        with replace_file(folder / CURVE_FILE) as partial:
            self.curve.write_csv(partial)
        with replace_file(folder / FIGURE_FILE) as partial:
            draw_curve(self.curve, partial, title=self.name)

    @classmethod
    def load(cls, directory: Path) -> "Run":
        """Read a run's folder; the model is on the CPU.

        Raises
        ------
        MissingFileError
            If there is no such folder, or it lacks a file.
        ConfigError
            If a file cannot be read as what it should be.
        """
        record = read_record(directory)
        model = HeadModel(record.head, record.shapes)
        try:
            model.load_state_dict(load_file(_there(directory / WEIGHTS_FILE)))
            predictions = pl.read_parquet(_there(directory / PREDICTIONS_FILE))
            curve = pl.read_csv(_there(directory / CURVE_FILE))
            metrics = TypeAdapter(dict[str, JsonValue]).validate_json(_there(directory / METRICS_FILE).read_bytes())
        except (SafetensorError, RuntimeError, ValidationError, pl.exceptions.PolarsError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"A run's files were expected, but one of them cannot be read: {reason} (run: {directory}). "
                "Fit it again with --force."
            ) from error
        model.eval()
        return cls(record=record, model=model, metrics=metrics, predictions=predictions, curve=curve)

    def predict(self, features: FeatureSet, *, split: str = "val") -> Predictions:
        """Predict a split, once it is sure that its embeddings are of the kind that the head was fitted on.

        Parameters
        ----------
        features
            With the encoders of `head.encoders`; of any frames, if their encoders are the same. The model is
            moved to their device.
        split
            Which rows.

        Raises
        ------
        EncoderMismatchError, ShapeError
            If the embeddings are of other weights or another width.
        """
        features.check_origin(self.record.encoders, frames=None, shapes=self.record.shapes, fitted=self.name)
        self.model.to(features.device)
        return predict(self.model, features, split=split)

    def evaluate(self, features: FeatureSet, *, split: str = "val") -> Scores:
        """Predict a split and score it; raises as `predict` does."""
        return score_rows(features, self.predict(features, split=split))


def prepare_folder(
    runs: Path, name: str, head: HeadConfig, training: FitConfig, features: FeatureSet, *, force: bool = False
) -> Path:
    """The folder of a run that is to be fitted; what `Run.save` would refuse is refused before the fit.

    Raises
    ------
    ConfigError
        If the name cannot be a folder's in `runs`.
    FileExistsAlreadyError
        As `Run.save` does.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a run: use letters, digits and . _ @ + -, a letter or digit first. Choose another."
        )
    configuration = fit_configuration(head, training, features.fingerprints, frames=features.frames.fingerprint)
    _check_place(configuration, runs / name, force=force)
    return runs / name


def _check_place(configuration: dict[str, JsonValue], directory: Path, *, force: bool) -> None:
    if not directory.exists():
        return
    if not (directory / CONFIG_FILE).is_file() and (directory.is_file() or any(directory.iterdir())):
        raise FileExistsAlreadyError(
            f"A run is written to a new folder, but {directory} holds something that is not a run. "
            "Choose another name with --name."
        )
    if force or not (directory / CONFIG_FILE).is_file():
        return
    if read_record(directory).configuration() != configuration:
        raise FileExistsAlreadyError(
            f"A run of another configuration is in the way (run: {directory}). "
            "Choose another name with --name, or replace it with --force."
        )


def _there(path: Path) -> Path:
    if not path.is_file():
        raise MissingFileError(f"A run has a file {path.name}; it is missing (run: {path.parent}). Fit the run again.")
    return path


def _write_json(path: Path, values: dict[str, JsonValue]) -> None:
    with replace_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
