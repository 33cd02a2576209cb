"""Fitting a recipe: its models, their blend, and what is done to the predictions afterwards.

What is fitted to predictions (weights of the blend, smoothing, thresholds, ...) is fitted to those of train, each by a
model that did not see its video; every model is therefore fitted once more a fold. On request the post-processing is
calibrated on val, and then the score there is in-sample; a blend is never fitted there. What is scored or calibrated
on train is blended, fold by fold, with weights that the other folds lead to.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from heads.calibration.blend import Blend, error_correlation
from heads.calibration.calibrate import calibrate
from heads.calibration.calibration import Calibration
from heads.features.featureset import FeatureSet
from heads.fitting.epochs import EpochReport
from heads.fitting.fit import score_rows
from heads.fitting.folds import video_folds
from heads.fitting.outoffold import OUT_OF_FOLD, FoldReport
from heads.modules.config import HeadConfig
from heads.runs.checks import check_calibrates, check_judged
from heads.runs.making import Made, calibrated, make_each
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores

from .blending import blend_held_out, held_out_of, piece_blend
from .plan import SystemConfig
from .recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class FitStep:
    """Where the fit of a system is: after an epoch of one of its fits.

    Attributes
    ----------
    done, n_fits
        Fits that are finished, of how many; a fold's is one.
    model
        Of what.
    fold
        In which fold, from 1; None for the fit on all of train.
    epoch, n_epochs
        Of the fit.
    """

    done: int
    n_fits: int
    model: str
    fold: int | None
    epoch: int
    n_epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSystem:
    """A fitted recipe.

    Attributes
    ----------
    config
        What was asked for.
    made
        Piece -> its fit, raw.
    blend
        Task -> piece -> weight.
    calibration
        None if there is no post-processing.
    raw_predictions, raw_scores
        Of val, blended.
    predictions, scores
        The same, post-processed; equal to the raw ones if there is no post-processing.
    out_of_fold
        Scores of train's out-of-fold predictions, blended and raw, each fold with weights of the others (see
        `blend_held_out`); None if no folds were fitted.
    errors
        How alike the errors of models that answer one task are (see `error_correlation`); a column ``rows`` says of
        what: ``"train, out of fold"``, or without folds ``"val"``. None if no task has several models.
    seconds
        Of everything.
    """

    config: SystemConfig
    made: Mapping[str, Made]
    blend: Blend
    calibration: Calibration | None
    raw_predictions: Predictions
    raw_scores: Scores
    predictions: Predictions
    scores: Scores
    out_of_fold: Scores | None
    errors: pl.DataFrame | None
    seconds: float

    @property
    def n_parameters(self) -> int:
        """How many numbers were fitted, of all pieces."""
        return sum(each.fitted.n_parameters for each in self.made.values())

    @property
    def tuned(self) -> tuple[str, ...]:
        """Encoders that were fine-tuned and so may know the frames of every fold (see `OutOfFold`)."""
        folded = [each.out_of_fold for each in self.made.values()]
        return tuple(dict.fromkeys(name for each in folded if each is not None for name in each.tuned))


def fit_recipe(
    features: FeatureSet,
    recipe: Recipe,
    *,
    roles: Mapping[str, str] | None = None,
    seed: int = 1,
    calibrate_on: str = "train",
    folds: int | None = None,
    epochs: int | None = None,
    select_on_folds: bool = False,
    on_step: Callable[[FitStep], None] | None = None,
) -> FittedSystem:
    """Fit a system.

    Parameters
    ----------
    features
        With every encoder of the recipe, by the names of `roles`; they say the device.
    recipe
        What to fit.
    roles, seed, calibrate_on, folds, epochs, select_on_folds
        As of `SystemConfig`.
    on_step
        Called after each epoch of each fit; what it raises ends the fit.

    Raises
    ------
    ConfigError, UnknownNameError, ShapeError, PrecisionError
        As `SystemConfig`, `fit`, `fit_folds` and `fit_light` do.
    """
    config = SystemConfig(
        recipe=recipe,
        roles=dict(roles or {}),
        seed=seed,
        calibrate_on=calibrate_on,
        folds=folds,
        epochs=epochs,
        select_on_folds=select_on_folds,
    )
    return fit_system(features, config, on_step=on_step)


def fit_system(
    features: FeatureSet, config: SystemConfig, *, on_step: Callable[[FitStep], None] | None = None
) -> FittedSystem:
    """What `fit_recipe` does, of a configuration."""
    started = time.monotonic()
    _check(features, config)
    made = _made(features, config, on_step)
    blend = piece_blend(features, config.recipe, config.pieces(), held_out_of(made))
    raw = blend.apply({name: each.fitted.predictions for name, each in made.items()})
    held_out = _held_out(features, config, made)
    calibration = _calibration(features, config, raw, held_out)
    predictions = calibrated(calibration, raw, features)
    raw_scores = score_rows(features, raw)
    return FittedSystem(
        config=config,
        made=made,
        blend=blend,
        calibration=calibration,
        raw_predictions=raw,
        raw_scores=raw_scores,
        predictions=predictions,
        scores=raw_scores if calibration is None else score_rows(features, predictions),
        out_of_fold=None if held_out is None else score_rows(features, held_out),
        errors=_errors(features, config, made),
        seconds=time.monotonic() - started,
    )


def _check(features: FeatureSet, config: SystemConfig) -> None:
    """Refuse before the first fit what would be refused after it: the blend is calibrated, and not its parts."""
    usable = np.zeros(len(features.frames), dtype=np.bool_)
    for pieces in config.fits():
        head, training = pieces[0].head, pieces[0].training
        selects = [piece.training.select for piece in pieces]
        check_judged(features, head, training, selects, select_on_folds=config.select_on_folds)
        usable |= features.usable(head.encoders)
    check_calibrates(features, usable, config.recipe.tasks, config.post, config.calibrate_on)


def _held_out(features: FeatureSet, config: SystemConfig, made: Mapping[str, Made]) -> Predictions | None:
    """Train out of fold, blended; None if no folds were fitted."""
    if config.n_folds is None:
        return None
    folds = video_folds(features.frames, config.n_folds, seed=config.judging.fold_seed)
    return blend_held_out(features, config.recipe, config.pieces(), held_out_of(made), folds)


def _errors(features: FeatureSet, config: SystemConfig, made: Mapping[str, Made]) -> pl.DataFrame | None:
    held_out = held_out_of(made)
    answers = held_out or {name: each.fitted.predictions for name, each in made.items()}
    members = {piece.name: answers[piece.name].only(piece.tasks) for piece in config.pieces()}
    found = error_correlation(members, features.targets)
    return found.with_columns(pl.lit(OUT_OF_FOLD if held_out else "val").alias("rows")) if found.height else None


def _made(features: FeatureSet, config: SystemConfig, on_step: Callable[[FitStep], None] | None) -> dict[str, Made]:
    """Piece -> its fit."""
    fits, n_folds = config.fits(), config.n_folds or 0
    made: dict[str, Made] = {}
    for number, pieces in enumerate(fits):
        first = pieces[0]
        folds_first = config.select_on_folds and isinstance(first.head, HeadConfig)
        tell = _Teller(on_step, first.model, number * (n_folds + 1), n_folds if folds_first else 0, config.n_fits)
        results = make_each(
            features,
            first.head,
            first.training,
            [piece.training.select for piece in pieces],
            config.judging,
            on_epoch=tell.epoch,
            on_fold=tell.fold,
        )
        made |= {piece.name: result for piece, result in zip(pieces, results, strict=True)}
    return made


@dataclass(frozen=True, slots=True)
class _Teller:
    """Reports the epochs of one model and of its folds.

    Attributes
    ----------
    n_before
        Fits of the models before it.
    n_first
        Its folds that are fitted before the whole: all where they pick its epoch, else none.
    """

    on_step: Callable[[FitStep], None] | None
    model: str
    n_before: int
    n_first: int
    n_fits: int

    def epoch(self, report: EpochReport) -> None:
        self._tell(None, report.epoch, report.n_epochs)

    def fold(self, report: FoldReport) -> None:
        self._tell(report.fold, report.epoch, report.n_epochs)

    def _tell(self, fold: int | None, epoch: int, n_epochs: int) -> None:
        if self.on_step is None:
            return
        current = self.n_before + (self.n_first if fold is None else fold - 1 if self.n_first else fold)
        self.on_step(
            FitStep(
                done=current + (epoch == n_epochs),
                n_fits=self.n_fits,
                model=self.model,
                fold=fold,
                epoch=epoch,
                n_epochs=n_epochs,
            )
        )


def _calibration(
    features: FeatureSet, config: SystemConfig, raw: Predictions, held_out: Predictions | None
) -> Calibration | None:
    """What is fitted to the blended predictions, of train out of fold or of val; None if nothing is asked for."""
    if config.post.is_empty:
        return None
    on_train = held_out is not None and config.calibrate_on == "train"
    return calibrate(
        held_out if held_out is not None and on_train else raw,
        features.targets,
        config.post,
        video_ids=features.video_ids,
        frame_numbers=features.frame_numbers,
        group_ids=features.clip_ids,
        fitted_on=OUT_OF_FOLD if on_train else "val",
    )
