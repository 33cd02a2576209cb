"""Calibration: every choice is judged on videos that it was not made on.

The videos of the predictions are dealt into folds. Each step (a width, a shift, a factor, a threshold) is fitted on
all folds but one and applied to that one, for each in turn, and is kept only if the folds together score better than
without it; its numbers are then fitted on all rows. Each task is on its own: first its smoothing, then on smoothed
values its class bias, factor or thresholds.

This is honest where the predictions are: predictions of train by models that did not see the video. On a model's own
train predictions, which are too good, it learns too little; on val it makes the score there in-sample, whatever the
folds inside say, because those that are reported are the ones it was fitted on.
"""

from typing import TypeVar

from heads.arrays import IntArray
from heads.features.targets import Targets
from heads.scoring.predictions import Predictions

from .calibration import Calibration, Step
from .config import PostConfig
from .folding import balanced_folds
from .smoothing import Smoothing
from .steps import ClassBias, Following, Ground, Rescale, Thresholds, fit_task

Fitted = TypeVar("Fitted")


def calibrate(
    predictions: Predictions,
    targets: Targets,
    config: PostConfig,
    *,
    video_ids: IntArray,
    frame_numbers: IntArray,
    fitted_on: str,
    group_ids: IntArray | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit post-processing.

    Parameters
    ----------
    predictions
        To fit on; in honest use those of train by models that did not see the video. Rows without a prediction are
        left out, thresholds that they carry are not looked at.
    targets, video_ids, frame_numbers
        Labels, a number a video (n_frames,), the source's frame numbers (n_frames,): of the WHOLE frame table.
        Labels of rows that are not predicted are not read.
    config
        What to fit. What concerns tasks that are not predicted is passed over.
    fitted_on
        What the predictions are of: a split, and after a comma how they came about (see `Calibration`).
    group_ids : shape (n_frames,), int64
        What a fold keeps together, for the whole table; videos by default.
    seed
        Of the folds.

    Returns
    -------
    Calibration
        With what was kept, and a record of all that was tried.

    Raises
    ------
    ConfigError
        If something is to be fitted and there are fewer than two videos.
    """
    if config.is_empty:
        return Calibration(fitted_on=fitted_on)
    rows = predictions.rows
    video, frames = video_ids[rows], frame_numbers[rows]
    fold = balanced_folds(video if group_ids is None else group_ids[rows], config.n_folds, seed=seed)
    ground = Ground(targets.take(rows), fold, int(fold.max()) + 1, config.least_gain)
    arrays = predictions.arrays()
    steps: list[Step] = []
    smoothing: dict[str, Smoothing] = {}

    def fit(task: str, following: Following[Fitted] | None) -> Fitted | None:
        """What follows the smoothing of a task, which is kept here."""
        if task not in arrays:
            return None
        candidates = _smoothings(config, task)
        smoothed = [each.apply(arrays[task], rows=rows, video=video, frames=frames) for each in candidates]
        best, fitted, tried = fit_task(ground, task, [arrays[task], *smoothed], following)
        steps.extend(tried)
        if best > 0:
            smoothing[task] = candidates[best - 1]
        return fitted

    thresholds = fit("au", Thresholds(ground, config.threshold_grid) if config.thresholds else None)
    class_bias = fit("expr", ClassBias(ground) if config.class_bias else None)
    rescale = {task: fit(task, Rescale(ground, task) if config.rescale else None) for task in ("v", "a")}
    return Calibration(
        fitted_on=fitted_on,
        smoothing=smoothing,
        class_bias=class_bias,
        rescale={task: affine for task, affine in rescale.items() if affine is not None},
        thresholds=thresholds,
        steps=tuple(steps),
    )


def _smoothings(config: PostConfig, task: str) -> list[Smoothing]:
    kind = config.smoothing[task]
    if kind == "none":
        return []
    clip = config.clip_rows[task]
    return [Smoothing(kind=kind, width=width, clip_rows=clip) for width in config.widths[task] if width > 0]
