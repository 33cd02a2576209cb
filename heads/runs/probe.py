"""The linear probe beside every fit: a number that anyone can place.

Standardised embeddings, concatenated, under scikit-learn's logistic regression (action units, expressions) and ridge
regression (valence, arousal), each at its default penalty. It takes seconds, and a head that scores below it has not
learned what is there.
"""

from typing import Final

import numpy as np

from featurestore.errors import AbawError
from heads.arrays import IntArray
from heads.features.featureset import FeatureSet
from heads.fitting.parts import Parts, segment_rows
from heads.light.config import LightConfig
from heads.light.fit import fit_light
from heads.modules.config import HeadConfig
from heads.scoring.scores import Scores

PROBE_ROWS: Final = 4000
"""Train rows that a probe learns from at most, in whole videos drawn at random."""


def fit_probe(features: FeatureSet, config: HeadConfig | LightConfig, *, split: str = "val") -> Scores | None:
    """Fit a linear probe on the embeddings that a head reads.

    Parameters
    ----------
    features
        With every encoder of the head.
    config
        The head.
    split
        Which rows are scored.

    Returns
    -------
    Scores of the head's tasks that train has labels of; None where there can be no probe: of patch tokens, or if the
    split has nothing to score.
    """
    if isinstance(config, HeadConfig) and config.reads_tokens:
        return None
    parts = Parts(_sampled(features.frames.segments("train")), features.frames.segments(split), split)
    rows = segment_rows(parts.learned)
    rows = rows[features.usable(config.encoders)[rows]]
    probe = LightConfig(
        estimator="logistic",
        encoder=config.encoder,
        fuse=config.fuse,
        columns=config.columns,
        joint=tuple(task for task in config.joint if features.targets.labelled(task)[rows].any()) or config.joint,
        au_balance=0.0,
        class_balance=False,
        C=1.0,
    )
    try:
        return fit_light(features, probe, parts=parts).scores
    except AbawError:
        return None  # the head's own fit has been possible; that a probe is not is no reason to lose it


def _sampled(segments: IntArray) -> IntArray:
    """Whole segments drawn at random, as many as hold `PROBE_ROWS` rows at most, and one at least."""
    order = np.random.default_rng(0).permutation(len(segments))
    sizes = (segments[:, 1] - segments[:, 0])[order]
    n_taken = max(1, int(np.searchsorted(np.cumsum(sizes), PROBE_ROWS, side="right")))
    return segments[np.sort(order[:n_taken])]
