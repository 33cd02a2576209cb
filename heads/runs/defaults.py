"""Default calibration: thresholds for the action units of light heads, fitted on out-of-fold predictions.

Chosen on the sets of benchmarks/bench_defaults. With a threshold of its own each unit of a solved or boosted head gains
up to .05 of F1, of a support vector machine most, and folds cost seconds. Neural heads and the layers of light heads,
whose losses are balanced half the way, are fitted to a threshold of .5. Of neural heads thresholds out of fold changed
F1 by .000 on average (-.021 to +.023 in 16 fits) and doubled the time; of `linear` on 200 rows they lowered it from
.48 to .42. A class bias lowered macro F1 of balanced heads more often than it raised it.
"""

from typing import Final

import numpy as np

from heads.calibration.config import PostConfig
from heads.features.featureset import FeatureSet
from heads.light.config import LAYERED, LightConfig
from heads.modules.config import HeadConfig

from .judging import Judging

DEFAULT_FOLDS: Final = 3
LEAST_CLIPS: Final = 2 * DEFAULT_FOLDS
"""Videos of train, two of which belong to one clip if two people share it."""
MOST_ROWS: Final = 20_000


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
    The judging, and why thresholds of a light head are not fitted; empty if there is nothing to say.
    """
    if isinstance(config, HeadConfig) or config.estimator in LAYERED or "au" not in config.joint:
        return Judging(), ""
    rows = features.frames.rows("train")
    rows = rows[features.usable(config.encoders)[rows]]
    n_clips = len(np.unique(features.clip_ids[rows[features.targets.labelled("au")[rows]]]))
    if n_clips < LEAST_CLIPS:
        return Judging(), f"train has {n_clips} clips with labels of action units, at least {LEAST_CLIPS} needed"
    if len(rows) > MOST_ROWS:
        return Judging(), "folds of so many rows take long; --post thresholds fits them all the same"
    return Judging(post=PostConfig(thresholds=True), folds=DEFAULT_FOLDS), ""
