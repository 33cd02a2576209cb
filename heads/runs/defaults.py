"""What is calibrated unless it is asked otherwise: thresholds of action units and the expressions' bias, out of fold.

A head without class weights for action units seldom says that a rare one is active: at .5 its F1 is poor, at a
threshold of its own it is not. The folds cost about as much as the fit again. So they are left out where a fit is long
in itself, and where a fold would leave too little.
"""

from typing import Final

import numpy as np

from heads.calibration.config import PostConfig
from heads.features.featureset import FeatureSet
from heads.light.config import LightConfig
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel

from .judging import Judging

DEFAULT_FOLDS: Final = 3
LEAST_CLIPS: Final = 2 * DEFAULT_FOLDS
"""Videos of train, two of which belong to one clip if two people share it."""
MOST_WORK: Final = 2e10
"""Train rows x parameters on a CPU: an epoch is then a few seconds on two cores. On a GPU there is no limit."""
MOST_LIGHT_ROWS: Final = 20_000


def default_judging(features: FeatureSet, config: HeadConfig | LightConfig) -> tuple[Judging, str]:
    """The judging of a fit for which none is asked.

    Parameters
    ----------
    features
        With every encoder of the head.
    config
        The head.

    Returns
    -------
    The judging, and why nothing is calibrated; empty if something is.
    """
    post = PostConfig(thresholds="au" in config.joint, class_bias="expr" in config.joint)
    if post.is_empty:
        return Judging(), ""
    rows = features.frames.rows("train")
    rows = rows[features.usable(config.encoders)[rows]]
    labelled = np.logical_or.reduce([features.targets.labelled(task)[rows] for task in post.tasks])
    n_clips = len(np.unique(features.clip_ids[rows[labelled]]))
    if n_clips < LEAST_CLIPS:
        return (
            Judging(),
            f"train has {n_clips} clips with labels of {', '.join(post.tasks)}, at least {LEAST_CLIPS} needed",
        )
    if _is_long(features, config, len(rows)):
        return Judging(), "folds would take long on this device; --post thresholds,class-bias fits them all the same"
    return Judging(post=post, folds=DEFAULT_FOLDS), ""


def _is_long(features: FeatureSet, config: HeadConfig | LightConfig, n_rows: int) -> bool:
    if isinstance(config, LightConfig):
        return n_rows > MOST_LIGHT_ROWS
    if features.device.type != "cpu":
        return False
    return n_rows * HeadModel(config, features.shapes(config.encoders)).n_parameters() > MOST_WORK
