"""A fitted light head: its design and the numbers of each task's models.

    light.safetensors        the design's arrays (``design.mean``), and each task's (``v.weight.0``, ``au.bias``)
    trees_au_0.txt           LightGBM's text of a task's first model, and so on

Nothing is pickled, and a loaded model predicts what the saved one did, to the bit.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, MissingFileError, ShapeError
from heads.arrays import Float64Array, FloatArray, IntArray
from heads.features.featureset import FeatureSet
from heads.fitting.parts import segment_rows
from heads.fitting.predict import predictions_of
from heads.modules.shapes import Shapes
from heads.scoring.predictions import Predictions
from heads.tasks import TASKS

from .config import LightConfig
from .design import BLOCK_ROWS, Design
from .layers import Layers
from .numbers import Array, Numbers, sigmoid, softmax
from .trees import Trees

ARRAYS_FILE: Final = "light.safetensors"
SEGMENT_ROWS: Final = 65536
"""Rows that are in memory at once when predicting, up to the end of a video."""


class LightModel:
    """A fitted light head.

    Parameters
    ----------
    config
        What it was fitted as.
    shapes
        Encoder -> row shape of its embeddings.
    design
        How embeddings become inputs.
    numbers
        Task -> its models.
    """

    def __init__(self, config: LightConfig, shapes: Shapes, design: Design, numbers: Mapping[str, Numbers]) -> None:
        self.config, self.shapes, self.design = config, dict(shapes), design
        self.numbers = {task: numbers[task] for task in config.joint}

    def predict(self, features: FeatureSet, *, split: str = "val", segments: IntArray | None = None) -> Predictions:
        """Predict every row of a split, or of some segments.

        Probabilities of action units and expressions are sigmoid and softmax of the models' outputs; valence and
        arousal are cut to [-1, 1].

        Parameters
        ----------
        features
            With all encoders of the head.
        split
            ``"train"``, ``"val"`` or ``"test"``.
        segments : shape (n_segments, 2), int64
            [start, stop) rows to predict in place of a split's, ascending.

        Returns
        -------
        Predictions
            One row for each of the split's, NaN where an encoder has no embedding.

        Raises
        ------
        ConfigError
            If there are no rows.
        ShapeError
            If embeddings have another shape than those that it was fitted on.
        """
        wanted = features.frames.segments(split) if segments is None else segments
        rows = segment_rows(wanted)
        if not len(rows):
            raise ConfigError(
                f"There is nothing to predict: the frame table has no {split!r} rows ({features.source})."
            )
        self._check_shapes(features)
        tables = []
        for some in _in_groups(wanted):
            read = self.design.transform(features, some)
            table = self.columns(read.X)
            table[~read.usable] = np.nan
            tables.append(table)
        return predictions_of(np.concatenate(tables), rows, self.config.joint)

    def columns(self, X: FloatArray) -> Float64Array:
        """Inputs (n, n_columns), after the design -> predictions, tasks side by side in their order, (n, n_outputs)."""
        n_outputs = sum(TASKS[task].n_outputs for task in self.config.joint)
        made = np.empty((len(X), n_outputs))
        for start in range(0, len(X), BLOCK_ROWS):
            block = X[start : start + BLOCK_ROWS]
            pieces = [_squashed(task, numbers.outputs(block)) for task, numbers in self.numbers.items()]
            made[start : start + BLOCK_ROWS] = np.concatenate(pieces, axis=1)
        return made

    def n_parameters(self) -> int:
        """Coefficients of linear models and layers, leaves of trees; the design's are not counted."""
        return sum(each.n_parameters() for each in self.numbers.values())

    def save(self, folder: Path) -> None:
        """Write the model's files into a folder that is there.

        Raises
        ------
        MissingFileError, StorageFullError
            If there is no such folder, or no space.
        """
        arrays: dict[str, Array] = {f"design.{name}": array for name, array in self.design.arrays().items()}
        for task, numbers in self.numbers.items():
            arrays |= {f"{task}.{name}": array for name, array in numbers.arrays().items()}
            if isinstance(numbers, Trees):
                for i, text in enumerate(numbers.texts):
                    with replace_file(_trees_path(folder, task, i)) as partial:
                        partial.write_text(text)
        with replace_file(folder / ARRAYS_FILE) as partial:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)

    @classmethod
    def load(cls, folder: Path, config: LightConfig, shapes: Shapes) -> "LightModel":
        """Read what `save` wrote.

        Parameters
        ----------
        folder
            With the model's files.
        config, shapes
            Of the model, as it was made.

        Raises
        ------
        MissingFileError
            If a file is missing.
        ConfigError
            If a file cannot be read, or belongs to another configuration.
        """
        path = _there(folder / ARRAYS_FILE)
        try:
            arrays = load_file(path)
            design = Design.plain(config, shapes).with_arrays(_of("design", arrays))
            numbers = {task: _load_numbers(folder, task, _of(task, arrays), config) for task in config.joint}
            model = cls(config, shapes, design, numbers)
            model._check_numbers()
        except (SafetensorError, KeyError, ShapeError) as error:
            raise ConfigError(
                f"A light head's arrays were expected, but they cannot be read: {error} (file: {path}). Fit it again."
            ) from error
        return model

    def _check_shapes(self, features: FeatureSet) -> None:
        for name, shape in features.shapes(self.config.encoders).items():
            if shape != tuple(self.shapes[name]):
                raise ShapeError(
                    f"Embeddings of encoder {name!r} have shape {shape}, but this light head was fitted on "
                    f"{tuple(self.shapes[name])} (store: {features.source}). Extract with the encoder it names, or fit "
                    "it again."
                )

    def _check_numbers(self) -> None:
        """One row through everything: files that do not belong together do not get far."""
        if len(self.design.mean) != Design.plain(self.config, self.shapes).n_columns:
            raise ShapeError(f"the design has {len(self.design.mean)} columns, which the configuration's has not")
        for task, numbers in self.numbers.items():
            made, wanted = numbers.n_outputs, TASKS[task].n_outputs
            read = numbers.n_inputs
            if made != wanted or read not in (None, self.design.n_columns):
                raise ShapeError(f"{task!r} reads {read} columns and gives {made}, not {wanted}")


def _squashed(task: str, outputs: Float64Array) -> Float64Array:
    match task:
        case "au":
            return sigmoid(outputs)
        case "expr":
            return softmax(outputs)
        case _:
            return np.clip(outputs, -1, 1)


def _in_groups(segments: IntArray) -> Iterator[IntArray]:
    """Segments, as many at a time as hold about `SEGMENT_ROWS` rows."""
    before = np.cumsum(segments[:, 1] - segments[:, 0]) - (segments[:, 1] - segments[:, 0])
    group = before // SEGMENT_ROWS
    for number in np.unique(group):
        yield segments[group == number]


def _of(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays under a prefix, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): array for name, array in arrays.items() if name.startswith(f"{prefix}.")}


def _load_numbers(folder: Path, task: str, arrays: Mapping[str, Array], config: LightConfig) -> Numbers:
    if config.estimator != "lightgbm":
        return Layers.from_arrays(arrays)
    paths = [_trees_path(folder, task, i) for i in range(Trees.count(arrays))]
    return Trees.from_arrays(arrays, [_there(path).read_text() for path in paths])


def _there(path: Path) -> Path:
    if not path.is_file():
        raise MissingFileError(
            f"A light head has a file {path.name}; it is missing (folder: {path.parent}). Fit the head again."
        )
    return path


def _trees_path(folder: Path, task: str, number: int) -> Path:
    return folder / f"trees_{task}_{number}.txt"
