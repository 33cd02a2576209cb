"""A run: a fitted head on disk, with all that is needed to judge it, repeat it and use it.

    runs/<name>/
        config.json           head, training, judging, provenance of its encoders, versions
        head.safetensors      a neural head's weights, of the epochs kept
        light/                a light head's numbers (see heads/light/model.py)
        calibration.json      its post-processing, if any was calibrated
        metrics.json          scores on val (see `Scores.as_dict`), and what they are of
        predictions.parquet   every val row (see `prediction_table`), post-processed
        out_of_fold.parquet   every train row by a model that did not see its video, if folds were fitted; raw
        curve.csv, curve.png  losses and scores of every epoch of a neural head

The folder is written under a hidden name beside its place, each file is flushed to the disk, and the folder is renamed:
a kill, a crash or a full disk leaves no half of a run. Nothing here is ever unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
from pydantic import JsonValue, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, MissingFileError
from heads.calibration.calibration import Calibration
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.curve import draw_curve
from heads.fitting.epochs import curve_table
from heads.fitting.fit import FittedHead, score_rows
from heads.fitting.predict import predict
from heads.light.config import LightConfig
from heads.light.fit import FittedLight
from heads.light.model import LightModel
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores
from heads.scoring.tabulate import prediction_table

from .folder import present, replace_folder, write_json
from .judging import Judging
from .making import Made, calibrated
from .place import check_place
from .probe import fit_probe
from .record import CONFIG_FILE, RunRecord, read_record, run_name, versions

WEIGHTS_FILE: Final = "head.safetensors"
LIGHT_FOLDER: Final = "light"
CALIBRATION_FILE: Final = "calibration.json"
METRICS_FILE: Final = "metrics.json"
PREDICTIONS_FILE: Final = "predictions.parquet"
OUT_OF_FOLD_FILE: Final = "out_of_fold.parquet"
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
    calibration
        Its post-processing; None without one.
    metrics
        What `metrics.json` holds.
    predictions
        Of val (see `prediction_table`), post-processed.
    out_of_fold
        Of train, raw; None if no folds were fitted.
    curve
        One row an epoch (see `curve_table`); None of a light head.
    """

    record: RunRecord
    model: HeadModel | LightModel
    calibration: Calibration | None
    metrics: Mapping[str, JsonValue]
    predictions: pl.DataFrame
    out_of_fold: pl.DataFrame | None
    curve: pl.DataFrame | None

    @property
    def name(self) -> str:
        """Of the run."""
        return self.record.name

    @property
    def encoders(self) -> tuple[str, ...]:
        """What to load for it."""
        return self.record.head.encoders

    @property
    def head(self) -> HeadConfig | LightConfig:
        """What was fitted; `head.encoders` is what to load for it."""
        return self.record.head

    @classmethod
    def from_fit(
        cls,
        made: Made | FittedHead,
        features: FeatureSet,
        *,
        training: FitConfig | None = None,
        judging: Judging | None = None,
        name: str | None = None,
    ) -> "Run":
        """A run of what `make` or `fit` returned, on the features that it was given.

        Parameters
        ----------
        made, features
            The result of a fit and its input.
        training, judging
            What was asked for; by default what a neural head was fitted with, and no folds and no calibration.
        name
            Of the run; `run_name` by default.
        """
        made = Made.plain(made) if isinstance(made, FittedHead) else made
        fitted, calibration = made.fitted, made.calibration
        head = fitted.head.resolved() if isinstance(fitted, FittedHead) else fitted.config
        asked = training or (fitted.training if isinstance(fitted, FittedHead) else FitConfig())
        record = RunRecord(
            name=run_name(head, asked) if name is None else name,
            head=head,
            training=asked,
            judging=judging or Judging(),
            shapes=fitted.shapes,
            encoders={encoder: features.fingerprints[encoder] for encoder in head.encoders},
            frames=features.frames.fingerprint,
            labels=features.labels_digest,
            epoch=fitted.epoch if isinstance(fitted, FittedHead) else None,
            selected_on=fitted.selected_on,
            calibrated_on=None if calibration is None else calibration.fitted_on,
            parameters=fitted.n_parameters,
            seconds=fitted.seconds + (0.0 if made.out_of_fold is None else made.out_of_fold.seconds),
            versions=versions(),
            stream_bytes=features.stream_bytes,
            schedule=fitted.schedule if isinstance(fitted, FittedHead) else None,
            epochs=fitted.epochs if isinstance(fitted, FittedHead) else {},
            penalties=fitted.penalties if isinstance(fitted, FittedLight) else {},
            probe=None if made.probe is None else made.probe.points(),
            remarks=made.remarks,
        )
        metrics: dict[str, JsonValue] = made.scores.as_dict() | {
            "split": "val",
            "selected_on": record.selected_on,
            "epoch": record.epoch,
            "epochs": dict(record.epochs),
            "calibrated_on": record.calibrated_on,
            "in_sample": record.in_sample("val"),
            "probe": None if record.probe is None else dict(record.probe),
            "remarks": list(record.remarks),
        }
        if calibration is not None:
            metrics["uncalibrated"] = fitted.scores.as_dict()
        if made.out_of_fold is not None:
            held_out = made.out_of_fold
            about: dict[str, JsonValue] = {"folds": held_out.n_folds, "tuned_encoders": list(held_out.tuned)}
            metrics["out_of_fold"] = about | held_out.scores.as_dict()
        by_folds = None if made.out_of_fold is None else made.out_of_fold.predictions
        return cls(
            record=record,
            model=fitted.model,
            calibration=calibration,
            metrics=metrics,
            predictions=prediction_table(features.frames, made.predictions),
            out_of_fold=None if by_folds is None else prediction_table(features.frames, by_folds),
            curve=curve_table(fitted.curve) if isinstance(fitted, FittedHead) else None,
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
        check_place(self.record.configuration(), directory, force=force)
        with replace_folder(directory) as folder:
            self._write(folder)

    def _write(self, folder: Path) -> None:
        write_json(folder / CONFIG_FILE, self.record.to_dict())
        write_json(folder / METRICS_FILE, dict(self.metrics))
        if isinstance(self.model, LightModel):
            (folder / LIGHT_FOLDER).mkdir()
            self.model.save(folder / LIGHT_FOLDER)
        else:
            weights = {name: tensor.cpu().contiguous() for name, tensor in self.model.state_dict().items()}
            with replace_file(folder / WEIGHTS_FILE) as partial:
                save_file(weights, partial)
        if self.calibration is not None:
            write_json(folder / CALIBRATION_FILE, self.calibration.to_dict())
        for name, table in ((PREDICTIONS_FILE, self.predictions), (OUT_OF_FOLD_FILE, self.out_of_fold)):
            if table is not None:
                with replace_file(folder / name) as partial:
                    table.write_parquet(partial)
        if self.curve is not None:
            with replace_file(folder / CURVE_FILE) as partial:
                self.curve.write_csv(partial)
            with replace_file(folder / FIGURE_FILE) as partial:
                kept = self.record.epochs or dict.fromkeys(self.head.joint, self.record.epoch or 1)
                draw_curve(self.curve, partial, title=self.name, epochs=kept)

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
        neural = isinstance(record.head, HeadConfig)
        try:
            model = _load_model(directory, record)
            predictions = pl.read_parquet(present("run", directory / PREDICTIONS_FILE))
            held_out = directory / OUT_OF_FOLD_FILE
            out_of_fold = pl.read_parquet(held_out) if held_out.is_file() else None
            curve = pl.read_csv(present("run", directory / CURVE_FILE)) if neural else None
            metrics = TypeAdapter(dict[str, JsonValue]).validate_json(
                present("run", directory / METRICS_FILE).read_bytes()
            )
            calibration = None
            if record.calibrated_on is not None:
                calibration = Calibration.from_dict(
                    json.loads(present("run", directory / CALIBRATION_FILE).read_bytes())
                )
        except (SafetensorError, RuntimeError, ValueError, pl.exceptions.PolarsError) as error:
            if isinstance(error, (MissingFileError, ConfigError)):
                raise
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"A run's files were expected, but one of them cannot be read: {reason} (run: {directory}). "
                "Fit it again with --force."
            ) from error
        return cls(
            record=record,
            model=model,
            calibration=calibration,
            metrics=metrics,
            predictions=predictions,
            out_of_fold=out_of_fold,
            curve=curve,
        )

    def predict(self, features: FeatureSet, *, split: str = "val", raw: bool = False) -> Predictions:
        """Predict a split, once it is sure that its embeddings are of the kind that the head was fitted on.

        Parameters
        ----------
        features
            With the encoders of `head.encoders`; of any frames, if their encoders are the same. The model is
            moved to their device.
        split
            Which rows.
        raw
            Without the post-processing.

        Raises
        ------
        EncoderMismatchError, ShapeError
            If the embeddings are of other weights or another width.
        """
        features.check_origin(self.record.encoders, frames=None, shapes=self.record.shapes, fitted=self.name)
        if isinstance(self.model, LightModel):
            predictions = self.model.predict(features, split=split)
        else:
            self.model.to(features.device)
            predictions = predict(self.model, features, split=split)
        return predictions if raw else calibrated(self.calibration, predictions, features)

    def evaluate(self, features: FeatureSet, *, split: str = "val", raw: bool = False) -> Scores:
        """Predict a split and score it; raises as `predict` does."""
        return score_rows(features, self.predict(features, split=split, raw=raw))

    def probe(self, features: FeatureSet, *, split: str = "val") -> Mapping[str, float] | None:
        """``"P"`` and parts -> what a linear probe on the same embeddings scores on a split (see `fit_probe`).

        That of val is kept in the record; others, and that of other frames, are fitted. None if there can be no probe.
        """
        same = (features.frames.fingerprint, features.labels_digest) == (self.record.frames, self.record.labels)
        if split == "val" and same and self.record.probe is not None:
            return self.record.probe
        found = fit_probe(features, self.head, split=split)
        return None if found is None else found.points()


def _load_model(directory: Path, record: RunRecord) -> HeadModel | LightModel:
    if isinstance(record.head, LightConfig):
        return LightModel.load(directory / LIGHT_FOLDER, record.head, record.shapes)
    return HeadModel.from_weights(record.head, record.shapes, load_file(present("run", directory / WEIGHTS_FILE)))
