"""How strong the penalty of a linear model is: chosen for each task by folds of whole clips of train.

A task's C is that whose models, each on all folds but one, score best on the fold that they did not see: expressions by
macro F1, valence and arousal by the CCC, action units by F1 at a threshold of 0 and at the best one, half each. At the
best one alone, small C won by chance: it shrinks the outputs of a support vector machine, whose thresholds then do not
carry over from a fold to a fit on all rows (200 rows of an embedding that is nearly perfect: .647 of F1 in place of
.752; means over five sets and three seeds: SVM .586 to .614, ridge .623 to .627, logistic regression .625 to .618).

Of large data a sample of whole clips decides: the best C moves slowly with the number of rows.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from heads.arrays import Float64Array, IntArray
from heads.calibration.folding import balanced_folds
from heads.scoring.metrics import concordance_correlation

from .layers import Layers

GRID: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ALONE: Final = 1.0
"""C where there is one clip only, scikit-learn's."""
N_FOLDS: Final = 3
MOST_ROWS: Final = 4000
"""That decide."""

Solve = Callable[[IntArray, float], Layers]
"""(places of the rows to learn from, C) -> a model."""
Predict = Callable[[Layers, IntArray], Float64Array]
"""(a model, places) -> outputs (n, n_outputs)."""
Score = Callable[[IntArray, Float64Array], float]
"""(places, outputs (n, n_outputs)) -> a score."""


def choose_penalty(groups: IntArray, solve: Solve, predict: Predict, score: Score, *, seed: int) -> float:
    """The C of one task.

    Parameters
    ----------
    groups : shape (n,)
        The clip of each row that has labels of the task.
    solve, predict, score
        Of some of these rows, by their places 0 .. n - 1.
    seed
        Of the sample and the folds.
    """
    places = _sampled(groups, seed=seed)
    if len(np.unique(groups[places])) < 2:
        return ALONE
    fold = balanced_folds(groups[places], N_FOLDS, seed=seed)
    scores = []
    for C in GRID:
        held_out: list[Float64Array] = []
        order: list[IntArray] = []
        for number in range(int(fold.max()) + 1):
            judged = places[fold == number]
            held_out.append(predict(solve(places[fold != number], C), judged))
            order.append(judged)
        scores.append(score(np.concatenate(order), np.concatenate(held_out)))
    return GRID[int(np.argmax(scores))]


def unit_f1(units: Float64Array, outputs: Float64Array) -> float:
    """Mean over units of F1 at a threshold of 0 and at each one's best threshold, half each.

    Parameters
    ----------
    units : shape (n, n_units)
        0 or 1; NaN where unlabelled.
    outputs : shape (n, n_units)
    """
    found = []
    for labels, values in zip(units.T, outputs.T, strict=True):
        valid = ~np.isnan(labels)
        order = np.argsort(-values[valid], kind="stable")
        descending, hits = values[valid][order], np.cumsum(labels[valid][order])
        if len(hits) and hits[-1]:
            scores = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
            is_cut = np.append(np.diff(descending) != 0, True)  # no threshold parts equal outputs
            n_above = int((descending > 0).sum())
            found += [float(scores[is_cut].max()), float(scores[n_above - 1]) if n_above else 0.0]
    return float(np.mean(found)) if found else 0.0


def macro_f1(classes: IntArray, outputs: Float64Array) -> float:
    """Macro F1 of the largest output over all columns; a class that is neither there nor predicted counts 0.

    Parameters
    ----------
    classes : shape (n,)
        In 0 .. n_classes - 1.
    outputs : shape (n, n_classes)
    """
    said = outputs.argmax(axis=1)
    n_classes = outputs.shape[1]
    table = np.bincount(classes * n_classes + said, minlength=n_classes**2).reshape(n_classes, n_classes)
    total = table.sum(axis=0) + table.sum(axis=1)
    return float((2 * np.diag(table) / np.maximum(1, total)).mean())


def concordance(values: Float64Array, outputs: Float64Array) -> float:
    """The CCC, or 0 where either does not vary; values (n,), outputs (n, 1)."""
    found = concordance_correlation(values, np.clip(outputs[:, 0], -1, 1))
    return float(found) if np.isfinite(found) else 0.0


def _sampled(groups: IntArray, *, seed: int) -> IntArray:
    """Places of whole groups drawn at random until they hold `MOST_ROWS` rows, or all."""
    if len(groups) <= MOST_ROWS:
        return np.arange(len(groups))
    names, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    n_taken = max(2, int(np.searchsorted(np.cumsum(sizes[order]), MOST_ROWS)))
    return np.flatnonzero(np.isin(which, order[:n_taken]))
