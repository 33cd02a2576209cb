"""What a head says about some frames, one row a frame, overlapping windows already averaged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from featurestore.errors import ShapeError
from featurestore.labels import ACTION_UNITS
from heads.arrays import BoolArray, Float64Array, IntArray
from heads.tasks import in_task_order

AU_THRESHOLD: Final = 0.5
FIELDS: Final[Mapping[str, str]] = {"au": "action_units", "expr": "expression", "v": "valence", "a": "arousal"}
"""Task -> the attribute of `Predictions` that holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Predictions for n rows of a frame table; None where a task was not joined.

    Rows whose embedding is missing hold NaN in every array: they have no prediction.

    Attributes
    ----------
    rows : shape (n,), int64
        Row numbers in the frame table, ascending.
    valence, arousal : shape (n,), float64 in [-1, 1]
    expression : shape (n, 8), float64
        Probabilities; they sum to 1.
    action_units : shape (n, 12), float64
        Probability that each is active.
    thresholds : shape (12,), float64 in [0, 1]
        A unit is active where its probability is above its threshold; None: .5 for each.

    Raises
    ------
    ShapeError
        If an array has another number of rows, or the thresholds are not twelve numbers in [0, 1].
    """

    rows: IntArray
    valence: Float64Array | None = None
    arousal: Float64Array | None = None
    expression: Float64Array | None = None
    action_units: Float64Array | None = None
    thresholds: Float64Array | None = None

    def __post_init__(self) -> None:
        for task, array in self.arrays().items():
            if len(array) != len(self.rows):
                raise ShapeError(
                    f"Predictions must have one row a frame, got {len(array)} of {task} for {len(self.rows)} rows."
                )
        limits = self.thresholds
        if limits is not None and (limits.shape != (len(ACTION_UNITS),) or not ((limits >= 0) & (limits <= 1)).all()):
            raise ShapeError(
                f"Thresholds must be {len(ACTION_UNITS)} numbers in [0, 1], one an action unit, got "
                f"{np.array2string(limits, precision=3, threshold=16)} of shape {limits.shape}."
            )

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def together(cls, members: Mapping[str, "Predictions"]) -> "Predictions":
        """Each task from predictions of its own, as of systems that are one model a task.

        Parameters
        ----------
        members
            Task -> where it is taken from; all of the same rows. The thresholds are those of ``members["au"]``.

        Raises
        ------
        UnknownNameError
            If a key is not a task.
        ShapeError
            If the rows differ, a member lacks its task, or there is none.
        """
        tasks = in_task_order(members)
        if not tasks:
            raise ShapeError("Predictions of at least one task are needed to put together, got none.")
        first = members[tasks[0]]
        for task in tasks:
            if not np.array_equal(members[task].rows, first.rows):
                raise ShapeError(
                    f"Predictions that are put together must be of the same rows: {tasks[0]!r} has {len(first)}, "
                    f"{task!r} {len(members[task])}, or others. Predict the same split with each."
                )
        arrays = {FIELDS[task]: members[task].of(task) for task in tasks}
        return cls(rows=first.rows, **arrays, thresholds=members["au"].thresholds if "au" in tasks else None)

    @classmethod
    def concatenated(cls, pieces: Sequence["Predictions"]) -> "Predictions":
        """Predictions of disjoint rows as one, its rows ascending: such as every fold's by the model that left it out.

        Raises
        ------
        ShapeError
            If a row is in two pieces, their tasks or thresholds differ, or there is none.
        """
        if not pieces:
            raise ShapeError("At least one piece of predictions is needed, got none.")
        first = pieces[0]
        for piece in pieces[1:]:
            if piece.joint != first.joint:
                raise ShapeError(
                    f"Pieces of predictions must hold the same tasks, got {', '.join(first.joint)} and "
                    f"{', '.join(piece.joint)}. Take those that both have with `only`."
                )
            if not np.array_equal(piece.active_above(), first.active_above()):
                raise ShapeError("Pieces of predictions must have the same thresholds. Calibrate them together.")
        rows = np.concatenate([piece.rows for piece in pieces])
        order = np.argsort(rows, kind="stable")
        if (np.diff(rows[order]) == 0).any():
            raise ShapeError("A row must be in one piece of predictions alone, but some are in several.")
        arrays = {FIELDS[task]: np.concatenate([piece.of(task) for piece in pieces])[order] for task in first.joint}
        return cls(rows=rows[order], **arrays, thresholds=first.thresholds)

    @property
    def joint(self) -> tuple[str, ...]:
        """The tasks that are predicted, in the order au, expr, v, a."""
        return tuple(self.arrays())

    def arrays(self) -> dict[str, Float64Array]:
        """Task -> what is predicted of it, in the order au, expr, v, a."""
        every = {task: getattr(self, name) for task, name in FIELDS.items()}
        return {task: array for task, array in every.items() if array is not None}

    def of(self, task: str) -> Float64Array:
        """What is predicted of one task: (n, 12) of ``au``, (n, 8) of ``expr``, (n,) of ``v`` and ``a``.

        Raises
        ------
        UnknownNameError
            If there is no such task.
        ShapeError
            If it was not predicted.
        """
        (name,) = in_task_order([task])
        array: Float64Array | None = getattr(self, FIELDS[name])
        if array is None:
            raise ShapeError(f"No {name!r} was predicted (joined: {', '.join(self.joint)}). Join {name!r}.")
        return array

    def predicted(self) -> BoolArray:
        """Which rows have a prediction of every task, shape (n,)."""
        known = np.ones(len(self.rows), dtype=np.bool_)
        for array in self.arrays().values():
            known &= ~np.isnan(array.reshape(len(array), -1)).any(axis=1)
        return known

    def where(self, keep: BoolArray) -> "Predictions":
        """Some of the rows, by a mask of shape (n,)."""
        return self._at(np.flatnonzero(keep))

    def take(self, rows: IntArray) -> "Predictions":
        """The predictions of some rows of the frame table, in the order given.

        Raises
        ------
        ShapeError
            If one of them is not predicted here.
        """
        order = np.argsort(self.rows, kind="stable")
        places = np.searchsorted(self.rows[order], rows)
        known = places < len(order)
        known[known] = self.rows[order][places[known]] == rows[known]
        if not known.all():
            missing = np.asarray(rows)[~known]
            raise ShapeError(f"{len(missing):,} of {len(rows):,} rows are not predicted, such as row {missing[0]}.")
        return self._at(order[places])

    def only(self, tasks: Iterable[str]) -> "Predictions":
        """Some of the tasks.

        Raises
        ------
        UnknownNameError
            If there is no such task.
        ShapeError
            If one was not predicted, or none is asked for.
        """
        return Predictions.together(dict.fromkeys(in_task_order(tasks), self))

    def with_arrays(self, arrays: Mapping[str, Float64Array]) -> "Predictions":
        """The same rows with other values of some tasks: task -> array."""
        named = {FIELDS[task]: array for task, array in (self.arrays() | dict(arrays)).items()}
        return Predictions(rows=self.rows, **named, thresholds=self.thresholds)

    def with_thresholds(self, thresholds: Float64Array | None) -> "Predictions":
        """The same predictions, action units active above other thresholds."""
        named = {FIELDS[task]: array for task, array in self.arrays().items()}
        return Predictions(rows=self.rows, **named, thresholds=thresholds)

    def expression_classes(self) -> IntArray:
        """The most probable expression of each row; -1 where there is no prediction.

        Raises
        ------
        ShapeError
            If expressions were not predicted.
        """
        probabilities = self.expression
        if probabilities is None:
            raise ShapeError(f"No expression was predicted (joined: {', '.join(self.joint)}). Join 'expr'.")
        known = ~np.isnan(probabilities).any(axis=1)
        return np.where(known, np.nan_to_num(probabilities).argmax(axis=1), -1).astype(np.int64)

    def active_above(self) -> Float64Array:
        """The threshold of every action unit, shape (12,)."""
        return np.full(len(ACTION_UNITS), AU_THRESHOLD) if self.thresholds is None else self.thresholds

    def active_units(self) -> BoolArray:
        """Which action units are active, shape (n, 12); False where there is no prediction.

        Raises
        ------
        ShapeError
            If action units were not predicted.
        """
        if self.action_units is None:
            raise ShapeError(f"No action unit was predicted (joined: {', '.join(self.joint)}). Join 'au'.")
        return np.nan_to_num(self.action_units) > self.active_above()

    def _at(self, places: IntArray) -> "Predictions":
        arrays = {FIELDS[task]: array[places] for task, array in self.arrays().items()}
        return Predictions(rows=self.rows[places], **arrays, thresholds=self.thresholds)
