"""Calibration: every choice is judged on videos that it was not made on.

The videos of the predictions are dealt into folds. Each step (a width, a shift, a factor, a threshold) is fitted on
all folds but one and applied to that one, for each in turn, and is kept only if the folds together score better than
without it; its numbers are then fitted on all rows. The steps follow each other, each on what the kept ones before it
made: smoothing, class bias and rescaling, thresholds.

This is honest where the predictions are: predictions of train by models that did not see the video. On a model's own
train predictions, which are too good, it learns too little; on val it makes the score there in-sample, whatever the
folds inside say, because those that are reported are the ones it was fitted on.
"""

from heads.arrays import Float64Array, IntArray
from heads.features.targets import Targets
from heads.scoring.predictions import Predictions

from .calibration import Affine, Calibration, Step
from .config import PostConfig
from .folding import balanced_folds
from .smoothing import Smoothing
from .steps import Ground, choose_smoothing, fit_affine, fit_bias, fit_thresholds


def calibrate(
    predictions: Predictions,
    targets: Targets,
    config: PostConfig,
    *,
    video_ids: IntArray,
    frame_numbers: IntArray,
    fitted_on: str,
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
    fold = balanced_folds(video, config.n_folds, seed=seed)
    ground = Ground(targets.take(rows), fold, int(fold.max()) + 1, config.least_gain)
    steps: list[Step] = []
    arrays = predictions.arrays()
    smoothing: dict[str, Smoothing] = {}
    rescale: dict[str, Affine] = {}
    for task, values in arrays.items():
        candidates = _candidates(config, task)
        smoothed = [each.apply(values, rows=rows, video=video, frames=frames) for each in candidates]
        rescales = config.rescale and task in ("v", "a")
        best, affine, tried = _fit_task(ground, task, values, smoothed, rescales=rescales)
        steps += tried
        if best is not None:
            smoothing[task], arrays[task] = candidates[best], smoothed[best]
        if affine is not None:
            rescale[task] = affine
    class_bias = thresholds = None
    if config.class_bias and "expr" in arrays:
        class_bias, step = fit_bias(ground, arrays["expr"])
        steps.append(step)
    if config.thresholds and "au" in arrays:
        thresholds, unit_steps = fit_thresholds(ground, arrays["au"], config.threshold_grid)
        steps += unit_steps
    return Calibration(
        fitted_on=fitted_on,
        smoothing=smoothing,
        class_bias=class_bias,
        rescale=rescale,
        thresholds=thresholds,
        steps=tuple(steps),
    )


def _candidates(config: PostConfig, task: str) -> list[Smoothing]:
    kind = config.smoothing[task]
    if kind == "none":
        return []
    clip = config.clip_rows[task]
    return [Smoothing(kind=kind, width=width, clip_rows=clip) for width in config.widths[task] if width > 0]


def _fit_task(
    ground: Ground, task: str, values: Float64Array, smoothed: list[Float64Array], *, rescales: bool
) -> tuple[int | None, Affine | None, list[Step]]:
    """Which of the smoothed ones and which factor are kept, and what was tried."""
    steps: list[Step] = []
    best = None
    if smoothed:
        best, step = choose_smoothing(ground, task, values, smoothed, by_correlation=rescales)
        steps.append(step)
    if not rescales:
        return best, None, steps
    affine, step = fit_affine(ground, task, values if best is None else smoothed[best])
    if affine is None and best is not None:
        # Chosen in view of a factor that is not there: choose by the score itself.
        best, _, again = _fit_task(ground, task, values, smoothed, rescales=False)
        return best, None, [*again, step]
    return best, affine, [*steps, step]
