"""How much of a label an embedding knows, in one number: what the simplest reader gets right on frames held out.

Classes are read by the nearest class mean and scored by balanced accuracy (the mean over classes of the share that
is found); chance is 1 / n_classes whatever their frequencies. Reals are read by a ridge regression and scored by the
share of variance that it explains; chance, the mean of the other videos, is 0, and less than 0 is worse than that.

Frames of one video are nearly copies of each other, so whole videos are held out, a fifth of them at a time. Only
what video a frame is of cannot be asked of other videos: there, a fifth of every video's length is held out.
An encoder may have been fine-tuned on the labels of the train videos, and knows those by heart: where rows of val have
the label, and differ in it, they alone are scored, by readers fitted on all other videos.
A number for a picture, then, on a sample and without a choice to tune: a head fitted by `abaw fit-heads` reads more.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances_argmin
from sklearn.model_selection import GroupKFold

from .colouring import Colouring

_N_FOLDS: Final = 5
_RIDGE: Final = 0.1  # of the rows that are fitted: with components of variance 1, weights shrink by a tenth
_NO_VARIANCE: Final = 1e-6  # of the first component's standard deviation: rounding

FloatMatrix = npt.NDArray[np.float64]
FloatVector = npt.NDArray[np.float64]
BoolVector = npt.NDArray[np.bool_]
IntVector = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Knowledge:
    """What the simplest reader gets right.

    Attributes
    ----------
    measure
        What the score is.
    score
        Balanced accuracy in [0, 1], or the share of variance explained, at most 1; None if `reason` says why.
    chance
        What a reader scores that has not seen the embedding.
    held_out
        What each fold keeps from the reader.
    n_folds, n_components
        Folds, and principal components that are read.
    reason
        Why there is no score.
    """

    measure: Literal["balanced accuracy", "variance explained"]
    score: float | None
    chance: float
    held_out: Literal["videos", "val videos", "parts of every video"]
    n_folds: int
    n_components: int
    reason: str | None = None

    def as_dict(self) -> dict[str, object]:
        """The figure as JSON values."""
        return asdict(self)

    def sentence(self) -> str:
        """The figure in a line.

        >>> Knowledge(measure="balanced accuracy", score=0.4, chance=0.125, held_out="videos", n_folds=5,
        ...           n_components=50).sentence()
        'nearest class mean: balanced accuracy 0.40 on held-out videos (chance 0.125)'
        """
        if self.score is None:
            return f"no {self.measure}: {self.reason}"
        reader = "nearest class mean" if self.measure == "balanced accuracy" else "ridge"
        chance = f"{self.chance:.3f}".rstrip("0").rstrip(".")
        return f"{reader}: {self.measure} {self.score:.2f} on held-out {self.held_out} (chance {chance})"


def knowledge(
    components: FloatMatrix, colouring: Colouring, rows: IntVector, videos: IntVector, *, is_val: BoolVector
) -> Knowledge:
    """How much of a label the principal components of some rows know.

    Parameters
    ----------
    components : shape (n_rows, n_components)
        Of every row, the widest first.
    colouring
        The label.
    rows : shape (n_rows,)
        Table rows, ascending, all of them labelled.
    videos : shape (n_rows,)
        A number for every row's video.
    is_val : shape (n_rows,)
        Which rows are of the val split.

    Returns
    -------
    Without a score, and with a reason, where nothing can be held out or there is one class only.
    """
    values = colouring.values[rows]
    by_part, is_label = colouring.name == "video", colouring.name not in ("video", "split")
    groups = _parts(videos) if by_part else videos
    val_differs = is_label and len(np.unique(values[is_val])) > 1
    scored = is_val if val_differs else np.ones_like(is_val)
    n_folds, n_values = min(_N_FOLDS, len(np.unique(groups))), len(np.unique(values[scored]))
    reason = None
    if n_values < 2:
        reason = f"all rows have one and the same {colouring.name}"
    elif n_folds < 2:
        reason = "one row of every video" if by_part else "one video, none to hold out"
    score = None
    if reason is None:
        spread = components.std(axis=0)
        kept = spread > _NO_VARIANCE * spread.max()
        white = components[:, kept] / spread[kept]  # else the widest component, often who it is, would drown the rest
        score_of = _variance_explained if colouring.is_real else _accuracy
        score = score_of(white, values, groups, scored)
    return Knowledge(
        measure="variance explained" if colouring.is_real else "balanced accuracy",
        score=score,
        chance=0.0 if colouring.is_real else 1 / max(n_values, 1),
        held_out="parts of every video" if by_part else "videos" if scored.all() else "val videos",
        n_folds=n_folds,
        n_components=components.shape[1],
        reason=reason,
    )


def _parts(videos: IntVector) -> IntVector:
    """Which fifth of its video's rows each row is in, shape (n_rows,); a video's rows stand together."""
    starts = np.flatnonzero(np.diff(videos, prepend=videos[0] - 1))
    lengths = np.diff(starts, append=len(videos))
    within = np.arange(len(videos)) - np.repeat(starts, lengths)
    parts: IntVector = within * _N_FOLDS // np.repeat(lengths, lengths)
    return parts


def _folds(groups: IntVector, scored: BoolVector) -> Iterator[tuple[IntVector, IntVector]]:
    """Rows to fit on and rows to score, fold by fold; no group is in both."""
    folds = GroupKFold(min(_N_FOLDS, len(np.unique(groups))))
    for fitted, held_out in folds.split(np.empty((len(groups), 1)), groups=groups):
        if scored[held_out].any():
            yield fitted, held_out[scored[held_out]]


def _accuracy(X: FloatMatrix, y: FloatVector, groups: IntVector, scored: BoolVector) -> float:
    """Balanced accuracy of the nearest class mean, over the classes among the scored rows."""
    classes, numbers = np.unique(y, return_inverse=True)
    n_of_class = np.bincount(numbers[scored], minlength=len(classes))
    found = np.zeros(len(y), dtype=np.bool_)
    for fitted, held_out in _folds(groups, scored):
        members = np.bincount(numbers[fitted], minlength=len(classes))
        sums = np.zeros((len(classes), X.shape[1]))
        np.add.at(sums, numbers[fitted], X[fitted])
        # A class that no scored row has is no answer, or chance would not be 1 / n_classes; one that only the
        # held-out videos have cannot be found.
        answers = np.flatnonzero((members > 0) & (n_of_class > 0))
        if len(answers):
            nearest = pairwise_distances_argmin(X[held_out], sums[answers] / members[answers, None])
            found[held_out] = answers[nearest] == numbers[held_out]
    n_found = np.bincount(numbers, weights=found, minlength=len(classes))
    return float((n_found[n_of_class > 0] / n_of_class[n_of_class > 0]).mean())


def _variance_explained(X: FloatMatrix, y: FloatVector, groups: IntVector, scored: BoolVector) -> float:
    """The share of variance about the fitted videos' mean that a ridge regression explains."""
    errors, deviations = 0.0, 0.0
    for fitted, held_out in _folds(groups, scored):
        ridge = Ridge(alpha=_RIDGE * len(fitted)).fit(X[fitted], y[fitted])
        errors += float(((y[held_out] - ridge.predict(X[held_out])) ** 2).sum())
        deviations += float(((y[held_out] - y[fitted].mean()) ** 2).sum())
    return 1 - errors / deviations
