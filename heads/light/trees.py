"""Boosted trees as LightGBM's own texts: what is saved, what predicts, and what can be read by anybody."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from featurestore.errors import ShapeError
from heads.arrays import Float64Array, FloatArray, IntArray

from .numbers import ABSENT_LOGIT, Array

if TYPE_CHECKING:
    import lightgbm


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Boosted models side by side, each with outputs of its own.

    Attributes
    ----------
    texts
        Each model as `Booster.model_to_string` writes it; numbers are written so that they come back the same.
    columns : each shape (n_of_model,), int64
        Which outputs each model gives, as raw scores.
    bias : shape (n_outputs,), float64
        Added to them; the whole of an output that no model gives.
    """

    texts: tuple[str, ...]
    columns: tuple[IntArray, ...]
    bias: Float64Array
    _boosters: "list[lightgbm.Booster]" = field(default_factory=list, repr=False)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], texts: Sequence[str]) -> "Trees":
        """The inverse of `arrays`, with the texts.

        Raises
        ------
        KeyError
            If an array is missing.
        ShapeError
            If a text is no model, or arrays and models do not belong together.
        """
        import lightgbm

        columns = tuple(arrays[f"columns.{i}"].astype(np.int64) for i in range(len(texts)))
        made = cls(tuple(texts), columns, arrays["bias"].astype(np.float64))
        try:
            outputs = [booster.num_model_per_iteration() for booster in made.boosters]
            n_inputs = {booster.num_feature() for booster in made.boosters}
        except lightgbm.basic.LightGBMError as error:
            raise ShapeError(f"trees cannot be read: {error}") from error
        if outputs != [len(each) for each in columns] or len(n_inputs) > 1:
            raise ShapeError(f"models of {outputs} outputs and {n_inputs} inputs do not belong together")
        return made

    @staticmethod
    def count(arrays: Mapping[str, Array]) -> int:
        """How many texts belong to these arrays."""
        return sum(name.startswith("columns.") for name in arrays)

    @property
    def n_inputs(self) -> int | None:
        """Columns of its inputs; None if there is no tree."""
        return self.boosters[0].num_feature() if self.texts else None

    @property
    def n_outputs(self) -> int:
        """Columns of its outputs."""
        return len(self.bias)

    @property
    def boosters(self) -> "list[lightgbm.Booster]":
        """The models, read from their texts; LightGBMError if one is none."""
        if not self._boosters:
            # Here, since it takes a while to import and every reader of a run imports this module.
            import lightgbm

            self._boosters.extend(lightgbm.Booster(model_str=text) for text in self.texts)
        return self._boosters

    def outputs(self, X: FloatArray) -> Float64Array:
        """Inputs (n, n_columns) -> outputs (n, n_outputs)."""
        made = np.tile(self.bias, (len(X), 1))
        for booster, columns in zip(self.boosters, self.columns, strict=True):
            raw = np.asarray(booster.predict(X, raw_score=True, num_threads=torch.get_num_threads()))
            made[:, columns] += raw.reshape(len(X), len(columns))
        return made

    def n_parameters(self) -> int:
        """Leaves of all trees."""
        lines = (line for text in self.texts for line in text.splitlines())
        return sum(int(line.removeprefix("num_leaves=")) for line in lines if line.startswith("num_leaves="))

    def spread(self, classes: IntArray, n_classes: int) -> "Trees":
        """Logits of some classes as logits of all (see `Numbers.spread`)."""
        bias = np.full(n_classes, ABSENT_LOGIT)
        bias[classes] = self.bias
        return Trees(self.texts, tuple(classes[each] for each in self.columns), bias)

    def arrays(self) -> Mapping[str, Array]:
        """What is saved beside the texts: ``bias``, and each model's ``columns.0`` and so on."""
        return {"bias": self.bias, **{f"columns.{i}": each for i, each in enumerate(self.columns)}}
