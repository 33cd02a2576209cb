"""The loss of one task as a `LossConfig` names it."""

import torch
from torch import Tensor

from featurestore.errors import ConfigError, ShapeError
from heads.arrays import Float64Array
from heads.tasks import task_named

from .config import LossConfig, parse_mixture
from .masked import (
    concordance_loss,
    masked_asymmetric,
    masked_binary_cross_entropy,
    masked_cross_entropy,
    masked_smooth_l1,
    masked_squared_error,
)
from .statistics import LabelStatistics


class TaskLosses:
    """Every task's loss, with the weights that follow from the labels.

    Parameters
    ----------
    config
        Which losses.
    statistics
        Of the train rows; needed where the config weighs by them.

    Raises
    ------
    ConfigError
        If they are needed and not given.
    """

    def __init__(self, config: LossConfig, statistics: LabelStatistics | None = None) -> None:
        self.config = config
        self._mixtures = {"v": parse_mixture(config.v), "a": parse_mixture(config.a)}
        self._positive_weights: Tensor | None = None
        self._class_weights: Tensor | None = None
        self._adjustment: Tensor | None = None
        if not config.reads_statistics:
            return
        if statistics is None:
            raise ConfigError(
                "Losses that are balanced by labels (au_balance, class_balance, logit_adjustment) need the statistics "
                "of the train rows, got none. Give `statistics`, or leave the three at 0."
            )
        if config.au_balance:
            self._positive_weights = _constant(statistics.positive_weights(config.au_balance, config.au_balance_power))
        if config.class_balance:
            self._class_weights = _constant(statistics.class_weights())
        if config.logit_adjustment:
            self._adjustment = _constant(config.logit_adjustment * statistics.log_priors())

    def to(self, device: torch.device) -> None:
        """Bring the weights to a device, that of the outputs to come."""
        for name in ("_positive_weights", "_class_weights", "_adjustment"):
            held = getattr(self, name)
            setattr(self, name, None if held is None else held.to(device))

    def __call__(self, task: str, outputs: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        """The loss of one task over the valid elements of a batch.

        Parameters
        ----------
        task
            ``"au"``, ``"expr"``, ``"v"`` or ``"a"``.
        outputs : shape (..., n_outputs)
            Logits for ``au`` (12) and ``expr`` (8); for ``v`` and ``a`` (1) the prediction, in [-1, 1].
        targets : shape (..., 12) for ``au``, (...) otherwise; a trailing 1 is accepted for ``v`` and ``a``
        valid : bool, the shape of `targets`

        Returns
        -------
        Scalar tensor, float32 at least; 0 where nothing is valid.

        Raises
        ------
        ShapeError
            If the shapes do not belong together.
        """
        match task_named(task).name:
            case "au":
                _check(task, outputs.shape, targets.shape, valid.shape)
                return self._action_units(outputs, targets, valid)
            case "expr":
                _check(task, outputs.shape[:-1], targets.shape, valid.shape)
                return self._expression(outputs, targets, valid)
            case _:
                flat = outputs.squeeze(-1) if outputs.dim() == targets.dim() + 1 else outputs
                _check(task, flat.shape, targets.shape, valid.shape)
                return self._affect(task, flat, targets, valid)

    def _action_units(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        config, weights = self.config, self._positive_weights
        if config.au == "asymmetric":
            return masked_asymmetric(
                logits,
                targets,
                valid,
                gammas=config.asymmetric_gammas,
                clip=config.asymmetric_clip,
                positive_weights=weights,
            )
        gamma = config.focal_gamma if config.au == "focal" else 0.0
        return masked_binary_cross_entropy(logits, targets, valid, positive_weights=weights, gamma=gamma)

    def _expression(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        config = self.config
        return masked_cross_entropy(
            logits if self._adjustment is None else logits + self._adjustment,
            targets,
            valid,
            class_weights=self._class_weights,
            label_smoothing=config.label_smoothing,
            gamma=config.focal_gamma if config.expr == "focal" else 0.0,
        )

    def _affect(self, task: str, prediction: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        total: Tensor | None = None
        for name, factor in self._mixtures[task].items():
            loss = self._affect_term(name, prediction, targets, valid)
            term = loss if factor == 1 else factor * loss
            total = term if total is None else total + term
        if total is None:
            raise ConfigError(f"Task {task!r} has no loss. Name one in its mixture.")
        return total

    def _affect_term(self, name: str, prediction: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        match name:
            case "mse":
                return masked_squared_error(prediction, targets, valid)
            case "smooth_l1":
                return masked_smooth_l1(prediction, targets, valid, beta=self.config.smooth_l1_beta)
            case _:
                return concordance_loss(prediction, targets, valid)


def _constant(values: Float64Array) -> Tensor:
    return torch.from_numpy(values).float()


def _check(task: str, outputs: torch.Size, targets: torch.Size, valid: torch.Size) -> None:
    if outputs != targets or targets != valid:
        raise ShapeError(
            f"Outputs, targets and mask of task {task!r} must agree, got {tuple(outputs)}, {tuple(targets)} "
            f"and {tuple(valid)}. Give one target (for 'au' twelve) and one mask value a frame."
        )
