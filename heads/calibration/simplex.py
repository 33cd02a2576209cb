"""Weights of a blend: twentieths that sum to 1, chosen by the score itself.

F1 is a step function of the weights and CCC has no closed optimum on the simplex, so weights are picked, not solved
for: one twentieth after another goes to the member that raises the score of the blend most (Caruana et al. 2004,
Ensemble Selection from Libraries of Models), then single twentieths move between members while that helps. Of equals
the member that comes first wins, so the same members give the same weights. Coarse shares fit little noise.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Final

import numpy as np

from featurestore.labels import EXPRESSIONS
from heads.arrays import Float64Array, IntArray
from heads.features.targets import Targets
from heads.scoring.metrics import concordance_correlation, confusion_counts, f1_from_counts
from heads.scoring.predictions import AU_THRESHOLD

N_SHARES: Final = 20
N_SWEEPS: Final = 10
"""Over all pairs of members, at most."""
_LEAST_GAIN: Final = 1e-9
"""A gain below it is rounding."""
MAX_ROWS: Final = 20_000
"""On which weights are looked for: the frames of a video are nearly copies of each other."""

Score = Callable[[Float64Array], float]
"""Of a blend, which has a member's shape."""


def score_of(task: str, truth: Targets) -> Score:
    """The task's score as a function of a blend's values: for action units these are distances from a threshold.

    Parameters
    ----------
    task
        Which.
    truth
        Labels of exactly the blend's rows, each labelled.
    """
    target, valid = truth.of(task)
    if task == "expr":
        expression = truth.expression
        n_classes = len(EXPRESSIONS)

        def macro_f1(blend: Float64Array) -> float:
            said = blend.argmax(axis=1)
            return float(f1_from_counts(confusion_counts(expression, said, n_classes=n_classes)).mean())

        return macro_f1
    if task == "au":
        active, inactive = (target > AU_THRESHOLD) & valid, (target <= AU_THRESHOLD) & valid
        n_active = active.sum(axis=0)

        def mean_f1(blend: Float64Array) -> float:
            said = blend > 0
            hits, wrong = np.count_nonzero(said & active, axis=0), np.count_nonzero(said & inactive, axis=0)
            return float(f1_from_counts(np.stack([hits, wrong, n_active - hits]).astype(np.float64)).mean())

        return mean_f1
    values = target.astype(np.float64)
    return lambda blend: concordance_correlation(values, blend)


def best_member(members: Sequence[Float64Array], score: Score) -> Float64Array:
    """All the weight on the member with the highest score, (n_members,)."""
    return np.asarray(np.eye(len(members))[int(np.argmax([score(member) for member in members]))])


def equal_weights(members: Sequence[Float64Array], score: Score) -> Float64Array:
    """The same weight for each, (n_members,); nothing is fitted."""
    return np.full(len(members), 1 / len(members))


def fit_weights(members: Sequence[Float64Array], score: Score) -> Float64Array:
    """The weights that picking and moving twentieths finds.

    Parameters
    ----------
    members
        Arrays of one shape, without NaN.
    score
        What to maximise.

    Returns
    -------
    shape (n_members,), multiples of 1/20, sum 1
    """
    shares = np.zeros(len(members), dtype=np.int64)
    total = np.zeros_like(members[0])
    for n_given in range(1, N_SHARES + 1):
        scores = [score((total + member) / n_given) for member in members]
        picked = _first_best(scores)
        shares[picked] += 1
        total = total + members[picked]
    return np.asarray(_move(members, score, shares, total, scores[picked]) / N_SHARES)


def _move(
    members: Sequence[Float64Array], score: Score, shares: IntArray, total: Float64Array, reached: float
) -> IntArray:
    """Shares after single ones have moved wherever that raised the score."""
    shares = shares.copy()
    for _ in range(N_SWEEPS):
        has_moved = False
        for giver, taker in permutations(range(len(members)), 2):
            while shares[giver]:
                moved = total + (members[taker] - members[giver])
                found = score(moved / N_SHARES)
                if found <= reached + _LEAST_GAIN:
                    break
                shares[giver] -= 1
                shares[taker] += 1
                total, reached, has_moved = moved, found, True
        if not has_moved:
            break
    return shares


def _first_best(scores: Sequence[float]) -> int:
    best = max(scores)
    return next(number for number, score in enumerate(scores) if score >= best - _LEAST_GAIN)


Way = Callable[[Sequence[Float64Array], Score], Float64Array]
WAYS: Final[Mapping[str, Way]] = {
    "best member": best_member,
    "equal weights": equal_weights,
    "fitted weights": fit_weights,
}
"""The simplest first: it wins where nothing is gained."""


def weights_by(task: str, arrays: Sequence[Float64Array], truth: Targets, places: IntArray, way: Way) -> Float64Array:
    """The weights that a way finds on some places, each k-th of them if they are many."""
    thinned = places[:: -(-len(places) // MAX_ROWS)]
    return way([each[thinned] for each in arrays], score_of(task, truth.take(thinned)))


def held_out_score(
    task: str,
    arrays: Sequence[Float64Array],
    truth: Targets,
    fold: IntArray,
    way: Way,
) -> float:
    """The score over all folds, each blended with the weights that the others lead to."""
    blended = np.empty_like(arrays[0])
    for number in range(int(fold.max()) + 1):
        here = np.flatnonzero(fold == number)
        weights = weights_by(task, arrays, truth, np.flatnonzero(fold != number), way)
        blended[here] = sum(weight * each[here] for weight, each in zip(weights, arrays, strict=True) if weight > 0)
    return score_of(task, truth)(blended)
