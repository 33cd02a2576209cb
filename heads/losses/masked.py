"""The losses of the four tasks, each masked.

Pure functions of plain tensors of shape (..., outputs), so that end-to-end fine-tuning uses the same ones:
binary cross-entropy over action units with an element-wise mask, cross-entropy over expressions, and
1 - CCC over the valid elements of the batch for valence and arousal each (ABAW7, the Netease Fuxi system;
CCC as a loss: Weninger et al., 2016, "Discriminatively Trained Recurrent Neural Networks for Continuous
Dimensional Emotion Recognition from Audio"). They are computed in float32 at least, whatever autocast says:
the variances of a half-precision batch are not worth having.

A batch without a valid element costs 0 and keeps the graph, so `backward` works on it. What stands where the
mask is False, NaN included, changes neither value nor gradient. Nothing here waits for the device.
"""

import torch
from torch import Tensor
from torch.nn import functional

from featurestore.errors import ShapeError
from heads.tasks import task_named

CCC_EPSILON = 1e-8
"""Added to the CCC's denominator: a batch with one target value and one predicted value costs 1, not NaN."""


def task_loss(task: str, outputs: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
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
    Scalar tensor, 0 where nothing is valid.

    Raises
    ------
    ShapeError
        If the shapes do not belong together.
    """
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    match task_named(task).name:
        case "au":
            _check(task, outputs.shape, targets.shape, valid.shape)
            return masked_binary_cross_entropy(outputs, targets, valid)
        case "expr":
            _check(task, outputs.shape[:-1], targets.shape, valid.shape)
            return masked_cross_entropy(outputs, targets, valid)
        case _:
            flat = outputs.squeeze(-1) if outputs.dim() == targets.dim() + 1 else outputs
            _check(task, flat.shape, targets.shape, valid.shape)
            return concordance_loss(flat, targets, valid)


def masked_binary_cross_entropy(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Mean binary cross-entropy over the valid elements; all three of one shape, targets 0 or 1."""
    safe = torch.where(valid, logits, 0)
    labels = torch.where(valid, targets, 0).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(safe, labels, reduction="none")
    return _masked_mean(losses, valid)


def masked_cross_entropy(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Mean cross-entropy over the valid rows; logits (..., n_classes), int targets and mask (...)."""
    safe = torch.where(valid.unsqueeze(-1), logits, 0)
    labels = torch.where(valid, targets, 0).long()
    losses = functional.cross_entropy(safe.flatten(0, -2), labels.flatten(), reduction="none")
    return _masked_mean(losses, valid.flatten())


def concordance_loss(prediction: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """1 - CCC over the valid elements, population moments; all three of one shape.

    Fewer than two valid elements have no variance and cost 0.
    """
    weight = valid.to(prediction.dtype)
    n_valid = weight.sum()
    divisor = n_valid.clamp(min=1)
    x = torch.where(valid, prediction, 0)
    y = torch.where(valid, targets, 0).to(prediction.dtype)
    mean_x, mean_y = x.sum() / divisor, y.sum() / divisor
    # Centred before squaring: E[x^2] - E[x]^2 cancels in float32 when a batch hardly varies.
    x = (x - mean_x) * weight
    y = (y - mean_y) * weight
    covariance = (x * y).sum() / divisor
    spread = (x.square().sum() + y.square().sum()) / divisor + (mean_x - mean_y).square()
    loss = 1 - 2 * covariance / (spread + CCC_EPSILON)
    return torch.where(n_valid >= 2, loss, 0 * loss)


def _masked_mean(losses: Tensor, valid: Tensor) -> Tensor:
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def _check(task: str, outputs: torch.Size, targets: torch.Size, valid: torch.Size) -> None:
    if outputs != targets or targets != valid:
        raise ShapeError(
            f"Outputs, targets and mask of task {task!r} must agree, got {tuple(outputs)}, {tuple(targets)} "
            f"and {tuple(valid)}. Give one target (for 'au' twelve) and one mask value a frame."
        )
