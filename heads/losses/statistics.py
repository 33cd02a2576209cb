"""What the train rows' labels are like: what losses weigh by."""

from dataclasses import dataclass

import numpy as np

from featurestore.labels import EXPRESSIONS
from heads.arrays import Float64Array, IntArray
from heads.features.targets import Targets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelStatistics:
    """Counts of labels over some rows.

    Attributes
    ----------
    au_positive, au_negative : shape (12,)
        Rows in which each action unit is active, and in which it is not.
    expressions : shape (8,)
        Rows of each expression.
    """

    au_positive: Float64Array
    au_negative: Float64Array
    expressions: Float64Array

    @classmethod
    def of(cls, targets: Targets, rows: IntArray) -> "LabelStatistics":
        """Of the labels of some rows; never of rows that judge."""
        taken = targets.take(rows)
        active = (taken.action_units > 0.5) & taken.valid_action_units
        idle = (taken.action_units <= 0.5) & taken.valid_action_units
        labels = taken.expression[taken.valid_expression]
        return cls(
            au_positive=active.sum(axis=0).astype(np.float64),
            au_negative=idle.sum(axis=0).astype(np.float64),
            expressions=np.bincount(labels, minlength=len(EXPRESSIONS)).astype(np.float64),
        )
