"""What the train rows' labels are like, and the weights that follow from it."""

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

    def positive_weights(self, cap: float, power: float = 1.0) -> Float64Array:
        """Positive weight of each action unit: (negatives / positives) ** power, at most `cap`.

        Returns
        -------
        shape (12,), finite; 1 where one of the two never comes, for there is no balance to strike.
        """
        both = (self.au_positive > 0) & (self.au_negative > 0)
        ratios = np.divide(self.au_negative, self.au_positive, out=np.ones(len(self.au_positive)), where=both)
        weights: Float64Array = np.minimum(ratios**power, cap)
        return weights

    def class_weights(self) -> Float64Array:
        """What each expression weighs: the inverse of its share, scaled to mean 1 over the rows.

        Returns
        -------
        shape (8,), finite; scikit-learn's "balanced" weights over the expressions that come, 1 for one that does not.
        """
        present = self.expressions > 0
        even = self.expressions.sum() / max(1, present.sum())
        weights: Float64Array = np.divide(even, self.expressions, out=np.ones(len(EXPRESSIONS)), where=present)
        return weights

    def log_priors(self) -> Float64Array:
        """The logarithm of each expression's share.

        Returns
        -------
        shape (8,), finite: one that does not come counts as if it had come once.
        """
        counts = np.maximum(self.expressions, 1)
        return np.asarray(np.log(counts / counts.sum()))
