"""A system: a fitted recipe on disk.

    runs/<name>/
        system.json           recipe, roles, blend, provenance of its encoders, versions
        members/<member>/     each fit of its models, a run (see heads/runs/run.py)
        calibration.json      its post-processing, if any was calibrated
        metrics.json          scores on val (see `Scores.as_dict`), and what they are of
        predictions.parquet   every val row (see `prediction_table`), blended and post-processed
        errors.csv            how alike the errors of models that answer one task are, if several do, and on which rows

The folder is there as a whole or not at all, and nothing in it is ever unpickled. Members are read one at a time when
they predict: a system of large models takes no more memory than the largest.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import polars as pl
from pydantic import JsonValue, TypeAdapter

from featurestore.atomic import replace_file
from featurestore.errors import AbawError, ConfigError
from heads.calibration.calibration import Calibration
from heads.features.featureset import FeatureSet
from heads.fitting.fit import score_rows
from heads.runs.folder import check_replaceable, present, replace_folder, write_json
from heads.runs.making import calibrated
from heads.runs.place import check_run_name
from heads.runs.record import versions
from heads.runs.run import Run
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores
from heads.scoring.tabulate import prediction_table

from .fitting import FittedSystem
from .plan import SystemConfig
from .savedmembers import SavedMembers
from .standing import stand_in
from .systemrecord import SYSTEM_FILE, SystemRecord, read_system, system_configuration

MEMBERS_FOLDER: Final = "members"
CALIBRATION_FILE: Final = "calibration.json"
METRICS_FILE: Final = "metrics.json"
PREDICTIONS_FILE: Final = "predictions.parquet"
ERRORS_FILE: Final = "errors.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A fitted system with its record.

    Attributes
    ----------
    record
        What it is and where it comes from.
    members
        Name -> run; of a system that was loaded, each is read when it is asked for.
    calibration
        Its post-processing; None without one.
    metrics
        What `metrics.json` holds.
    predictions
        Of val (see `prediction_table`), post-processed.
    errors
        What `errors.csv` holds (see `error_correlation`); None if no task has several models.
    """

    record: SystemRecord
    members: Mapping[str, Run]
    calibration: Calibration | None
    metrics: Mapping[str, JsonValue]
    predictions: pl.DataFrame
    errors: pl.DataFrame | None = field(default=None)

    @property
    def name(self) -> str:
        """Of the system's folder."""
        return self.record.name

    @property
    def encoders(self) -> tuple[str, ...]:
        """What to load for it."""
        return tuple(self.record.encoders)

    @classmethod
    def from_fit(cls, fitted: FittedSystem, features: FeatureSet, *, name: str | None = None) -> "System":
        """A system of what `fit_recipe` returned, on the features that it was given.

        Parameters
        ----------
        fitted, features
            The result of a fit and its input.
        name
            Of the system; `system_name` by default.
        """
        config, calibration = fitted.config, fitted.calibration
        encoders = config.recipe.on(config.roles).encoders
        shapes = features.shapes(encoders)
        record = SystemRecord(
            name=system_name(config) if name is None else name,
            config=config,
            members=tuple(fitted.made),
            blend=fitted.blend,
            encoders={encoder: features.fingerprints[encoder] for encoder in encoders},
            shapes=shapes,
            stand_ins=stand_ins(config, shapes),
            frames=features.frames.fingerprint,
            labels=features.labels_digest,
            selected_on=tuple(dict.fromkeys(each.fitted.selected_on for each in fitted.made.values())),
            calibrated_on=None if calibration is None else calibration.fitted_on,
            parameters=fitted.n_parameters,
            seconds=fitted.seconds,
            versions=versions(),
            stream_bytes=features.stream_bytes,
        )
        members = {
            piece.name: Run.from_fit(
                fitted.made[piece.name], features, training=piece.training, judging=config.judging, name=piece.name
            )
            for piece in config.pieces()
        }
        return cls(
            record=record,
            members=members,
            calibration=calibration,
            metrics=_metrics(fitted, record),
            predictions=prediction_table(features.frames, fitted.predictions),
            errors=fitted.errors,
        )

    def save(self, directory: Path, *, force: bool = False) -> None:
        """Write the system's folder, all of it or nothing.

        Parameters
        ----------
        directory
            The folder, commonly ``runs/<name>``. A system of the same configuration there is replaced.
        force
            Replace also another system.

        Raises
        ------
        FileExistsAlreadyError
            If another system, or something that is no system, is there.
        StorageFullError
            If there is no space for it.
        """
        check_system_place(self.record.configuration(), directory, force=force)
        with replace_folder(directory) as folder:
            write_json(folder / SYSTEM_FILE, self.record.to_dict())
            write_json(folder / METRICS_FILE, dict(self.metrics))
            if self.calibration is not None:
                write_json(folder / CALIBRATION_FILE, self.calibration.to_dict())
            with replace_file(folder / PREDICTIONS_FILE) as partial:
                self.predictions.write_parquet(partial)
            if self.errors is not None:
                with replace_file(folder / ERRORS_FILE) as partial:
                    self.errors.write_csv(partial)
            for name, run in self.members.items():
                run.save(folder / MEMBERS_FOLDER / name)

    @classmethod
    def load(cls, directory: Path) -> "System":
        """Read a system's folder.

        Raises
        ------
        MissingFileError
            If there is no such folder, or it lacks a file or a member.
        ConfigError
            If a file cannot be read as what it should be.
        """
        record = read_system(directory)
        members = SavedMembers(directory / MEMBERS_FOLDER, record.members)
        try:
            predictions = pl.read_parquet(present("system", directory / PREDICTIONS_FILE))
            metrics = TypeAdapter(dict[str, JsonValue]).validate_json(
                present("system", directory / METRICS_FILE).read_bytes()
            )
            calibration = None
            if record.calibrated_on is not None:
                calibration = Calibration.from_dict(
                    json.loads(present("system", directory / CALIBRATION_FILE).read_bytes())
                )
            errors = pl.read_csv(directory / ERRORS_FILE) if (directory / ERRORS_FILE).is_file() else None
        except (ValueError, pl.exceptions.PolarsError) as error:
            if isinstance(error, AbawError):
                raise
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"A system's files were expected, but one of them cannot be read: {reason} (system: {directory}). "
                "Fit it again with --force."
            ) from error
        return cls(
            record=record,
            members=members,
            calibration=calibration,
            metrics=metrics,
            predictions=predictions,
            errors=errors,
        )

    def predict(self, features: FeatureSet, *, split: str = "val", raw: bool = False) -> Predictions:
        """Predict a split, once it is sure that its embeddings are of the kind that the system was fitted on.

        Parameters
        ----------
        features
            With the encoders of `encoders`; of any frames, if their encoders are the same.
        split
            Which rows.
        raw
            Blended, without the post-processing.

        Raises
        ------
        EncoderMismatchError, ShapeError
            If the embeddings are of other weights or another width.
        """
        features.check_origin(self.record.encoders, frames=None, shapes=self.record.shapes, fitted=self.name)
        blend = self.record.blend
        answers = {name: self.members[name].predict(features, split=split, raw=True) for name in blend.members}
        predictions = blend.apply(answers)
        return predictions if raw else calibrated(self.calibration, predictions, features)

    def evaluate(self, features: FeatureSet, *, split: str = "val", raw: bool = False) -> Scores:
        """Predict a split and score it; raises as `predict` does."""
        return score_rows(features, self.predict(features, split=split, raw=raw))


def system_name(config: SystemConfig) -> str:
    """The default name of a system, such as ``netease_seed1``, and what is not as by default (see `options`).

    Such as ``netease_seed1-val-epochs5``: calibrated on val, five epochs. So systems that differ in options do not
    replace each other; those that differ in roles do.
    """
    return "-".join([f"{config.recipe.name}_seed{config.seed}", *config.options])


def prepare_system_folder(
    runs: Path, name: str, config: SystemConfig, features: FeatureSet, *, force: bool = False
) -> Path:
    """The folder of a system that is to be fitted; what `System.save` would refuse is refused before the fit.

    Raises
    ------
    ConfigError
        If the name cannot be a folder's in `runs`.
    FileExistsAlreadyError
        As `System.save` does.
    """
    check_run_name(name)
    configuration = system_configuration(
        config, features.fingerprints, frames=features.frames.fingerprint, labels=features.labels_digest
    )
    check_system_place(configuration, runs / name, force=force)
    return runs / name


def check_system_place(configuration: Mapping[str, JsonValue], directory: Path, *, force: bool) -> None:
    """Refuse a folder that holds another system, or something that is none; with `force` only the latter.

    Raises
    ------
    FileExistsAlreadyError
        If it does.
    """

    def is_same() -> bool:
        return read_system(directory).configuration() == configuration

    check_replaceable("system", SYSTEM_FILE, directory, is_same=is_same, force=force)


def stand_ins(config: SystemConfig, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """The encoders that are not those the recipe is made for, in words."""
    told = []
    for role, need in config.recipe.needs.items():
        encoder = config.roles.get(role, role)
        words = stand_in(role, need, encoder, shapes[encoder])
        told += [] if words is None else [words]
    return tuple(told)


def _metrics(fitted: FittedSystem, record: SystemRecord) -> dict[str, JsonValue]:
    metrics: dict[str, JsonValue] = fitted.scores.as_dict() | {
        "split": "val",
        "selected_on": list(record.selected_on),
        "calibrated_on": record.calibrated_on,
        "in_sample": record.in_sample("val"),
        "stand_ins": list(record.stand_ins),
    }
    if fitted.calibration is not None:
        metrics["uncalibrated"] = fitted.raw_scores.as_dict()
    if fitted.out_of_fold is not None:
        weighed = "each fold with weights fitted on the others" if fitted.blend.fitted_on else None
        about: dict[str, JsonValue] = {"folds": fitted.config.n_folds, "blend": weighed}
        about["tuned_encoders"] = list(fitted.tuned)
        metrics["out_of_fold"] = about | fitted.out_of_fold.as_dict()
    return metrics
