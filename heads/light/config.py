"""What a light head is made of, and how it is fitted: `LightConfig`.

A light head reads single frames, or single frames beside what the rows around them are like, and has one model a task.
Six of them, and what each is for action units and expressions / for valence and arousal:

    lightgbm   boosted trees, one model an action unit / least squares trees (Ke et al., 2017)
    logistic   scikit-learn's LogisticRegression / Ridge
    ridge      RidgeClassifier / Ridge
    svm        LinearSVC / LinearSVR; a kernel's cost grows with the square of the rows, and there are 100,000
    linear     one layer by gradient descent, cross-entropy / 1 - CCC
    mlp        the same with hidden layers (HSEmotion's action units: 128, ReLU, 12)

The defaults of the trees were chosen on simulated embeddings (768 wide, 14,000 rows of 40 videos), where trees of 15
leaves that see 64 columns each do as well as larger ones that see them all, at a sixth of their cost. What depends on
the number of rows is left open (None) and follows from them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from featurestore.errors import ConfigError, unknown_name
from heads.checking import at_least, from_json, in_unit_interval, raise_all, to_json
from heads.losses.config import BALANCED
from heads.modules.config import HeadConfig
from heads.tasks import TASKS, in_task_order

ESTIMATORS: Final = ("lightgbm", "logistic", "ridge", "svm", "linear", "mlp")
LAYERED: Final = ("linear", "mlp")
"""Those that are fitted by gradient descent, on the features' device."""
STOPPED_EARLY: Final = ("lightgbm", *LAYERED)
"""Those of which a fold of train says when to stop; the others are solved to their end."""
AFFECT_LOSSES: Final = ("ccc", "mse")
IN_EARLIER_RECORDS: Final = {"au_balance_power": 1.0}
"""Value of each setting in records that were written before the setting existed."""
BOOSTING_RATE: Final = 0.1
LAYERS_RATE: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LightConfig:
    """A light head and its fit.

    Attributes
    ----------
    estimator
        One of `ESTIMATORS`.
    encoder, fuse, columns
        As of `HeadConfig`; what is fused is concatenated.
    normalise
        Whether each input column is brought to mean 0 and variance 1 by the train rows' statistics. Trees, which do
        not change with it, leave it out.
    statistics
        Half widths of windows, in rows: for each, the mean, standard deviation, least and greatest value of the rows
        around a row, and how far it lies from the mean, are further inputs. Never across a video's end. None by
        default.
    components
        Of how many columns these statistics are: as many principal components of the train rows, or all columns if
        there are no more. Of all 768 columns they would take 2.6 GB a half width at s-Aff-Wild2's size.
    joint
        The tasks that are predicted, each by models of its own; kept in the order au, expr, v, a.
    au_balance, au_balance_power
        Cap of each action unit's positive weight, negatives : positives among the train rows, and the exponent of that
        ratio (see `LossConfig`); a cap of 0 weighs none.
    class_balance
        Whether each expression weighs as the inverse of its share of the train rows.
    C
        Of ``logistic``, ``svm`` and ``ridge``: the inverse of the penalty's strength, as scikit-learn counts it;
        a ridge's alpha is 1 / C. None: for each task by folds of whole clips of train (see `heads.light.penalty`).
    learning_rate
        Of trees and layers; None is `BOOSTING_RATE`, `LAYERS_RATE`.
    n_estimators, n_leaves, min_leaf_rows
        Of ``lightgbm``: rounds of boosting at most, leaves of a tree at most, rows of a leaf at least; None is a
        fortieth of the rows, 20 to 50.
    tree_columns
        How many columns, drawn anew, each tree sees at most.
    hidden, dropout
        Of ``mlp``: widths of its hidden layers, and the dropout after each.
    affect_loss
        Of ``linear`` and ``mlp`` for valence and arousal: ``"ccc"``, 1 - CCC of a batch, or ``"mse"``.
    epochs, batch_rows, weight_decay
        Of ``linear`` and ``mlp``: AdamW's passes over the rows at most, rows a step (None: see
        `heads.fitting.schedule`), decay.
    early_stopping_rounds
        Trees and layers stop after so many rounds or epochs without a gain on videos of train that are held out; what
        is kept is the best. 0 holds none out and goes on to the end.
    held_out
        Share of the train rows, in whole videos, that are held out for it.
    refit
        Whether trees and layers are then fitted anew on all train rows, for as many rounds as were best; trees for 100
        at least, layers for 1,000 steps (of valence and arousal 500), as far as `n_estimators` and `epochs` allow.
    seed
        Of everything that is drawn. The same seed gives the same bits on the same machine.

    Raises
    ------
    ConfigError
        With every mistake that was found.
    """

    estimator: str
    encoder: str = "mae"
    fuse: tuple[str, ...] = ()
    columns: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    normalise: bool = True
    statistics: tuple[int, ...] = ()
    components: int = 32
    joint: tuple[str, ...] = tuple(TASKS)
    au_balance: float = BALANCED.au_balance
    au_balance_power: float = BALANCED.au_balance_power
    class_balance: bool = BALANCED.class_balance
    C: float | None = None
    learning_rate: float | None = None
    n_estimators: int = 500
    n_leaves: int = 15
    min_leaf_rows: int | None = None
    tree_columns: int = 64
    hidden: tuple[int, ...] = (128,)
    dropout: float = 0.3
    affect_loss: str = "ccc"
    epochs: int = 100
    batch_rows: int | None = None
    weight_decay: float = 0.05
    early_stopping_rounds: int = 20
    held_out: float = 0.15
    refit: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        raise_all("light head", self._mistakes())
        object.__setattr__(self, "joint", in_task_order(self.joint))

    def _mistakes(self) -> list[str]:
        mistakes = []
        if self.estimator not in ESTIMATORS:
            mistakes.append(str(unknown_name("estimator", self.estimator, ESTIMATORS)))
        if self.affect_loss not in AFFECT_LOSSES:
            mistakes.append(str(unknown_name("loss of valence and arousal", self.affect_loss, AFFECT_LOSSES)))
        try:
            self.inputs()
        except ConfigError as error:
            mistakes.append(str(error).removeprefix("The head's configuration cannot be used: "))
        return mistakes + self._number_mistakes()

    def _number_mistakes(self) -> list[str]:
        mistakes = at_least(
            1,
            components=self.components,
            n_estimators=self.n_estimators,
            min_leaf_rows=self.min_leaf_rows,
            tree_columns=self.tree_columns,
            epochs=self.epochs,
            batch_rows=self.batch_rows,
        )
        mistakes += at_least(2, n_leaves=self.n_leaves)
        mistakes += at_least(0, early_stopping_rounds=self.early_stopping_rounds)
        mistakes += [f"statistics must hold half widths of at least 1, got {w}." for w in self.statistics if w < 1]
        if len(set(self.statistics)) < len(self.statistics):
            mistakes.append(f"statistics must name each half width once, got {self.statistics}.")
        mistakes += [f"hidden must hold widths of at least 1, got {width}." for width in self.hidden if width < 1]
        if self.estimator == "mlp" and not self.hidden:
            mistakes.append("mlp needs hidden layers, but hidden is (): name their widths, or choose 'linear'.")
        mistakes += in_unit_interval(dropout=self.dropout)
        if not 0 < self.held_out < 1:
            mistakes.append(f"held_out must be a share in (0, 1), got {self.held_out}.")
        above = {"learning_rate": self.rate} | ({} if self.C is None else {"C": self.C})
        mistakes += [
            f"{name} must be a number above 0, got {value}."
            for name, value in above.items()
            if not (math.isfinite(value) and value > 0)
        ]
        at_zero = {
            "au_balance": self.au_balance,
            "au_balance_power": self.au_balance_power,
            "weight_decay": self.weight_decay,
        }
        mistakes += [
            f"{name} must be a number of at least 0, got {value}."
            for name, value in at_zero.items()
            if not (math.isfinite(value) and value >= 0)
        ]
        if not 0 <= self.seed < 2**31:
            mistakes.append(f"seed must be in 0 .. 2^31 - 1, got {self.seed}.")
        return mistakes

    def inputs(self) -> HeadConfig:
        """What is read, said as a head that reads the same: single frames, concatenated.

        Raises
        ------
        ConfigError
            If encoders, columns or tasks are not what a head's may be.
        """
        return HeadConfig(
            encoder=self.encoder,
            fuse=self.fuse,
            columns=self.columns,
            joint=self.joint,
            fusion="concat" if self.fuse else "none",
            temporal="none",
            seq=1,
        )

    @property
    def encoders(self) -> tuple[str, ...]:
        """The base encoder and then the fused ones."""
        return (self.encoder, *self.fuse)

    @property
    def rate(self) -> float:
        """The learning rate as a number."""
        if self.learning_rate is None:
            return BOOSTING_RATE if self.estimator == "lightgbm" else LAYERS_RATE
        return self.learning_rate

    @property
    def hidden_layers(self) -> tuple[int, ...]:
        """Widths of the hidden layers; ``linear`` has none, whatever `hidden` says."""
        return self.hidden if self.estimator == "mlp" else ()

    @property
    def stops_early(self) -> bool:
        """Whether a fold of train has a say in the fit."""
        return self.estimator in STOPPED_EARLY and self.early_stopping_rounds > 0

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return to_json(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, JsonValue]) -> "LightConfig":
        """The inverse of `to_dict`.

        Raises
        ------
        ConfigError
            If a name is unknown, a type is wrong, or a value is out of range; or the estimator is not named.
        """
        return from_json(cls, values)
