"""From a configuration to a run: fitted, judged, and if asked for calibrated on train by predictions out of fold.

What a fit may look at is said here once. The epoch (for a light head, the number of trees) is picked on val, or by all
folds of train together, or not at all. Post-processing is calibrated on out-of-fold predictions of train, each from a
model that never saw the video; or, if it is asked for by name, on val, and then the score there is in-sample.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from featurestore.errors import ConfigError
from heads.arrays import IntArray
from heads.calibration.calibrate import calibrate
from heads.calibration.calibration import Calibration
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.epochs import EpochReport
from heads.fitting.fit import FittedHead, fit, fit_each, score_rows
from heads.fitting.folds import video_folds
from heads.fitting.outoffold import OUT_OF_FOLD, FoldReport, fit_folds_each
from heads.fitting.parts import Parts
from heads.fitting.schedule import Schedule
from heads.light.config import LightConfig
from heads.light.fit import FittedLight, fit_light
from heads.modules.config import HeadConfig
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores

from .checks import check_calibrates, check_judged
from .judging import Judging
from .probe import fit_probe
from .remarks import remarks_on


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfFold:
    """Predictions of train by models that did not see the video.

    Attributes
    ----------
    predictions, scores
        Of all train rows.
    n_folds
        How many models.
    epochs, schedule
        Task -> the epoch that the folds kept, and how they ran; None of a light head.
    seconds
        Of all fits.
    tuned
        Encoders that were fine-tuned and so may have seen the labels of all folds: the folds are the head's only.
    """

    predictions: Predictions
    scores: Scores
    n_folds: int
    epochs: Mapping[str, int] | None
    seconds: float
    tuned: tuple[str, ...] = ()
    schedule: Schedule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A fitted head with what it is judged by.

    Attributes
    ----------
    fitted
        On all of train.
    out_of_fold
        Of train, if folds were fitted.
    calibration
        If something was asked for.
    predictions, scores
        Of val, post-processed; without a calibration those of the fit.
    probe
        What a linear probe on the same embeddings scores there (see `fit_probe`), if one was fitted.
    """

    fitted: FittedHead | FittedLight
    out_of_fold: OutOfFold | None
    calibration: Calibration | None
    predictions: Predictions
    scores: Scores
    probe: Scores | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What makes the fit look as if it had not learned what is there."""
        return remarks_on(self.fitted, self.scores, self.probe)

    @classmethod
    def plain(cls, fitted: FittedHead | FittedLight) -> "Made":
        """A fit without folds and without calibration."""
        return cls(
            fitted=fitted, out_of_fold=None, calibration=None, predictions=fitted.predictions, scores=fitted.scores
        )


def make(
    features: FeatureSet,
    config: HeadConfig | LightConfig,
    training: FitConfig,
    judging: Judging | None = None,
    *,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_fold: Callable[[FoldReport], None] | None = None,
) -> Made:
    """Fit a head, out of fold first where that is asked for.

    Parameters
    ----------
    features
        With every encoder of the head.
    config
        A neural head, or a light one.
    training
        How a neural head is fitted; of it a light one takes nothing.
    judging
        Folds and calibration; by default neither.
    on_epoch, on_fold
        Called after each epoch of the fit, and of a fold's.

    Raises
    ------
    ConfigError, ShapeError, PrecisionError
        As `fit`, `fit_folds` and `fit_light` do.
    """
    return make_each(features, config, training, (training.select,), judging, on_epoch=on_epoch, on_fold=on_fold)[0]


def make_each(
    features: FeatureSet,
    config: HeadConfig | LightConfig,
    training: FitConfig,
    selects: Sequence[str],
    judging: Judging | None = None,
    *,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_fold: Callable[[FoldReport], None] | None = None,
) -> tuple[Made, ...]:
    """What `make` does for each of several scores that pick an epoch, at the cost of one fit (see `fit_each`).

    Where the folds pick the epochs, which then differ, the folds are fitted once and the head once a score. A light
    head has no epochs: its one fit stands for all.
    """
    judging = judging or Judging()
    check_judged(features, config, training, selects, select_on_folds=judging.select_on_folds)
    check_calibrates(features, features.usable(config.encoders), config.joint, judging.post, judging.calibrate_on)
    folds = None
    if judging.n_folds is not None:
        folds = video_folds(features.frames, judging.n_folds, seed=judging.fold_seed)
    held_out: Sequence[OutOfFold | None] = [None] * len(selects)
    fitted: Sequence[FittedHead | FittedLight]
    if judging.select_on_folds and folds is not None and isinstance(config, HeadConfig):
        held_out = folded = out_of_fold_each(features, config, training, selects, folds, on_fold=on_fold)
        fitted = [
            _fit_as_folds(features, config, replace(training, select=select), each, on_epoch=on_epoch)
            for select, each in zip(selects, folded, strict=True)
        ]
    else:
        fitted = (
            [fit_light(features, config)] * len(selects)
            if isinstance(config, LightConfig)
            else fit_each(features, config, training, selects, on_epoch=on_epoch)
        )
        if folds is not None:
            held_out = out_of_fold_each(features, config, training, selects, folds, like=fitted, on_fold=on_fold)
    probe = fit_probe(features, config) if judging.probe else None
    return tuple(
        replace(_judged(features, judging, each, folded), probe=probe)
        for each, folded in zip(fitted, held_out, strict=True)
    )


def _fit_as_folds(
    features: FeatureSet,
    head: HeadConfig,
    training: FitConfig,
    folded: "OutOfFold",
    *,
    on_epoch: Callable[[EpochReport], None] | None,
) -> FittedHead:
    """The fit on all of train that ends at the epoch of its folds, without a look at val."""
    if folded.epochs is None or folded.schedule is None:
        raise ConfigError("Folds of a neural head pick its epoch, but these kept none. Fit a neural head.")
    schedule = replace(folded.schedule, epochs=max(folded.epochs.values()), patience=None)
    training = replace(training, epochs=schedule.epochs, select_on="last")
    return fit(features, head, training, schedule=schedule, epochs=folded.epochs, on_epoch=on_epoch)


def _judged(
    features: FeatureSet, judging: Judging, fitted: FittedHead | FittedLight, out_of_fold: OutOfFold | None
) -> Made:
    if judging.post.is_empty:
        return replace(Made.plain(fitted), out_of_fold=out_of_fold)
    held_out = out_of_fold.predictions if judging.calibrate_on == "train" and out_of_fold is not None else None
    calibration = calibrate(
        fitted.predictions if held_out is None else held_out,
        features.targets,
        judging.post,
        video_ids=features.video_ids,
        frame_numbers=features.frame_numbers,
        group_ids=features.clip_ids,
        fitted_on="val" if held_out is None else OUT_OF_FOLD,
    )
    predictions = calibrated(calibration, fitted.predictions, features)
    return Made(
        fitted=fitted,
        out_of_fold=out_of_fold,
        calibration=calibration,
        predictions=predictions,
        scores=score_rows(features, predictions),
    )


def calibrated(calibration: Calibration | None, predictions: Predictions, features: FeatureSet) -> Predictions:
    """Predictions of rows of some features, post-processed if there is a calibration."""
    if calibration is None:
        return predictions
    return calibration.apply(predictions, video_ids=features.video_ids, frame_numbers=features.frame_numbers)


def out_of_fold_each(
    features: FeatureSet,
    config: HeadConfig | LightConfig,
    training: FitConfig,
    selects: Sequence[str],
    folds: IntArray,
    *,
    like: Sequence[FittedHead | FittedLight] = (),
    on_fold: Callable[[FoldReport], None] | None = None,
) -> tuple[OutOfFold, ...]:
    """Predict train out of fold, by either kind of head, once for each score that picks an epoch.

    Parameters
    ----------
    features, config, training, selects
        As in `make_each`.
    folds : shape (n_frames,), int64
        As `video_folds` gives them.
    like
        The fits on all of train, one for each of `selects`: the folds keep their epochs. Without them the folds choose.
    on_fold
        Called after each epoch of each fold; for a light head after each fold.
    """
    n_folds = int(folds.max(initial=-1)) + 1
    if isinstance(config, HeadConfig):
        whole = [each for each in like if isinstance(each, FittedHead)]
        folded = fit_folds_each(
            features,
            config,
            training,
            selects,
            folds,
            schedule=whole[0].schedule if whole else None,
            epochs=[each.epochs for each in whole] or None,
            on_epoch=on_fold,
        )
        return tuple(
            OutOfFold(
                predictions=each.predictions,
                scores=each.scores,
                n_folds=n_folds,
                epochs=each.epochs,
                seconds=each.seconds,
                tuned=features.tuned(config.encoders),
                schedule=each.schedule,
            )
            for each in folded
        )
    whole_light = [each for each in like if isinstance(each, FittedLight)]
    penalties = whole_light[0].penalties if whole_light else None
    fits = []
    for number in range(n_folds):
        parts = Parts.of_fold(features, folds, number)
        fits.append(fit_light(features, config, parts=parts, penalties=penalties))
        if on_fold is not None:
            on_fold(FoldReport(number + 1, n_folds, 1, 1))
    predictions = Predictions.concatenated([each.predictions for each in fits])
    made = OutOfFold(
        predictions=predictions,
        scores=score_rows(features, predictions),
        n_folds=n_folds,
        epochs=None,
        seconds=sum(each.seconds for each in fits),
        tuned=features.tuned(config.encoders),
    )
    return (made,) * len(selects)
