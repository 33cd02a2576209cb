"""What is refused before anything is fitted, since otherwise it would be refused once the folds are."""

from collections.abc import Sequence

import numpy as np

from featurestore.errors import ConfigError
from heads.arrays import BoolArray
from heads.calibration.config import PostConfig
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.light.config import LightConfig
from heads.modules.config import HeadConfig


def check_judged(
    features: FeatureSet,
    config: HeadConfig | LightConfig,
    training: FitConfig,
    selects: Sequence[str],
    *,
    select_on_folds: bool = False,
) -> None:
    """Refuse a fit that val could not judge.

    Parameters
    ----------
    features, config, training, selects
        As of `make_each`.
    select_on_folds
        Whether the folds pick the epoch; the reason is then another one.

    Raises
    ------
    ConfigError
        If val has no row to pick an epoch by, or none to score.
    """
    rows = features.frames.rows("val")
    usable = features.usable(config.encoders)[rows]
    counts = {task: int((features.targets.labelled(task)[rows] & usable).sum()) for task in config.joint}
    is_light = isinstance(config, LightConfig)
    least = 1 if is_light else 2  # rows; an epoch is also picked by a CCC, of which one row has none
    picks = not is_light and training.select_on == "val" and not select_on_folds
    for select in ("p",) if is_light else selects:
        needed = [select] if select in counts else list(counts)
        if any(counts[task] >= least for task in needed):
            continue
        purpose = "The best epoch is picked on val" if picks else "What is fitted is scored on val"
        raise ConfigError(
            f"{purpose}, but of its {len(rows)} rows too few have both an embedding and a label of "
            f"{', '.join(needed)} ({', '.join(str(counts[task]) for task in needed)}; at least {least} "
            f"needed; store: {features.source}). Give a validation set to `abaw frames`."
        )


def check_calibrates(
    features: FeatureSet, usable: BoolArray, joint: Sequence[str], post: PostConfig, calibrate_on: str
) -> None:
    """Refuse post-processing that `calibrate` would refuse after the fit.

    Parameters
    ----------
    features
        What is fitted on.
    usable : shape (n_frames,)
        Which rows are predicted.
    joint
        Tasks that are predicted.
    post, calibrate_on
        As of `Judging`.

    Raises
    ------
    ConfigError
        If it is of other tasks, or there are fewer than two clips to judge it on.
    """
    if post.is_empty:
        return
    wanted = post.tasks
    if not set(wanted) & set(joint):
        raise ConfigError(
            f"Post-processing of {', '.join(wanted)} was asked for, but what is predicted is {', '.join(joint)}. "
            "Join one of these tasks, or leave the post-processing out."
        )
    rows = features.frames.rows(calibrate_on)
    n_clips = len(np.unique(features.clip_ids[rows[usable[rows]]]))
    if n_clips < 2:
        raise ConfigError(
            f"Post-processing is judged on videos that it was not fitted on, but {calibrate_on} has embeddings "
            f"of {n_clips}. Calibrate on {'val' if calibrate_on == 'train' else 'train'}, or leave it out."
        )
