"""Boosted trees by LightGBM (Ke et al., 2017): binned once, however many models are fitted on the rows.

Finding and filling the bins of 768 columns costs as much as a hundred rounds of a model, and twelve action units read
the same rows. So the rows are binned as one dataset, and each model takes those of them that carry its label; the bins
are of the inputs alone. A model's trees are kept up to the round that was best on the held-out fold.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import lightgbm
import numpy as np
import torch

from heads.arrays import Float64Array, FloatArray, IntArray

from .config import LightConfig
from .holdout import hold_out
from .numbers import constant_logit
from .trees import Trees

MAX_BIN: Final = 63
"""Bins of a column: scores as with LightGBM's 255, at half the cost."""
LEAST_ROUNDS: Final = 100
"""Minimum number of rounds of the refit on all rows; 100 is LightGBM's default. On a held-out fold of about 100 rows
early stopping chose about 10 rounds, and the CCC of such a model was half that of 100 rounds."""
LEAST_LEAF_ROWS: Final = 20
"""LightGBM's default; with 5 the CCC of valence on 200 rows was .13 in place of .23."""
BIN_ROWS: Final = 20_000
"""Rows that say where the bins are; LightGBM's 200,000 are held as doubles meanwhile, 1.2 GB of 768 columns."""


class BinnedRows:
    """Inputs as LightGBM holds them: a byte a value.

    Parameters
    ----------
    X : shape (n, n_columns), float32 or float64, finite
        Not needed afterwards.
    """

    def __init__(self, X: FloatArray) -> None:
        self.n_columns = X.shape[1]
        self._dataset = lightgbm.Dataset(np.ascontiguousarray(X), params=_dataset_settings()).construct()

    def part(self, rows: IntArray, target: Float64Array, weight: Float64Array) -> lightgbm.Dataset:
        """Some rows, ascending, with a target and a weight each."""
        part = self._dataset.subset(rows.tolist()).construct()
        return part.set_label(target).set_weight(weight)


@dataclass(frozen=True, slots=True, eq=False)
class Boosted:
    """Trees, and after how many rounds each model was best; 0 of a unit whose labels are all alike."""

    trees: Trees
    best_rounds: tuple[int, ...]


def boost_units(
    binned: BinnedRows,
    rows: IntArray,
    units: Float64Array,
    weights: Float64Array,
    groups: IntArray,
    config: LightConfig,
) -> Boosted:
    """One binary model a unit.

    Parameters
    ----------
    binned, rows : rows of shape (n,), ascending
        Which of the binned rows.
    units : shape (n, n_units)
        0 or 1; NaN where unlabelled: such a row has no part in this unit's model.
    weights : shape (n, n_units)
    groups : shape (n,)
        Of which whole ones are held out.
    config
        How.
    """
    texts, columns, bias = [], [], np.zeros(units.shape[1])
    best = np.zeros(units.shape[1], dtype=np.int64)
    for number in range(units.shape[1]):
        valid = np.flatnonzero(~np.isnan(units[:, number]))
        labels = units[valid, number]
        if len(np.unique(labels)) < 2:  # nothing to tell apart
            bias[number] = constant_logit(labels.sum(keepdims=True), (1 - labels).sum(keepdims=True))[0]
            continue
        columns.append(np.array([number]))
        text, best[number] = _boost(
            binned, rows[valid], labels, weights[valid, number], groups[valid], config, {"objective": "binary"}
        )
        texts.append(text)
    return Boosted(Trees(tuple(texts), tuple(columns), bias), tuple(best.tolist()))


def boost_classes(
    binned: BinnedRows,
    rows: IntArray,
    classes: IntArray,
    weights: Float64Array,
    groups: IntArray,
    config: LightConfig,
) -> Boosted:
    """One model of several classes, numbered 0 .. n_classes - 1 of which every one occurs; else as `boost_units`."""
    n_classes = int(classes.max()) + 1
    target = classes.astype(np.float64)
    bias = np.zeros(n_classes)
    if n_classes == 1:
        return Boosted(Trees((), (), bias), (0,))
    # Of two classes one output is enough, the other's logit being 0.
    objective: dict[str, str | int] = {"objective": "binary"}
    columns = np.array([1])
    if n_classes > 2:
        objective = {"objective": "multiclass", "num_class": n_classes}
        columns = np.arange(n_classes)
    text, best = _boost(binned, rows, target, weights, groups, config, objective)
    return Boosted(Trees((text,), (columns,), bias), (best,))


def boost_values(
    binned: BinnedRows,
    rows: IntArray,
    values: Float64Array,
    weights: Float64Array,
    groups: IntArray,
    config: LightConfig,
) -> Boosted:
    """One model of a number, by least squares; else as `boost_units`."""
    text, best = _boost(binned, rows, values, weights, groups, config, {"objective": "regression"})
    return Boosted(Trees((text,), (np.array([0]),), np.zeros(1)), (best,))


def _boost(
    binned: BinnedRows,
    rows: IntArray,
    target: Float64Array,
    weight: Float64Array,
    groups: IntArray,
    config: LightConfig,
    objective: Mapping[str, str | int],
) -> tuple[str, int]:
    """A model as text, and its best round."""
    settings = _settings(config, binned.n_columns, len(rows)) | dict(objective)
    rounds = config.early_stopping_rounds
    held = hold_out(groups, config.held_out, seed=config.seed) if rounds else np.zeros(len(rows), dtype=np.bool_)
    learned = binned.part(rows[~held], target[~held], weight[~held])
    if not rounds:
        return lightgbm.train(settings, learned, config.n_estimators).model_to_string(), config.n_estimators
    judged = binned.part(rows[held], target[held], weight[held])
    stop = lightgbm.early_stopping(rounds, verbose=False)
    booster = lightgbm.train(settings, learned, config.n_estimators, valid_sets=[judged], callbacks=[stop])
    best = booster.best_iteration
    if config.refit:
        best = min(config.n_estimators, max(best, LEAST_ROUNDS))
        booster = lightgbm.train(settings, binned.part(rows, target, weight), best)
    return booster.model_to_string(num_iteration=best), best


def _dataset_settings() -> dict[str, str | int | float | bool]:
    return {
        "max_bin": MAX_BIN,
        "bin_construct_sample_cnt": BIN_ROWS,
        "feature_pre_filter": False,  # leaves differ in their least rows from model to model
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": torch.get_num_threads(),
        "verbosity": -1,
    }


def _settings(config: LightConfig, n_columns: int, n_rows: int) -> dict[str, str | int | float | bool]:
    return _dataset_settings() | {
        "learning_rate": config.rate,
        "num_leaves": config.n_leaves,
        "min_data_in_leaf": config.min_leaf_rows or min(50, max(LEAST_LEAF_ROWS, n_rows // 40)),
        "feature_fraction": min(1.0, config.tree_columns / n_columns),
        "seed": config.seed,
    }
