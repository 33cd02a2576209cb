"""The losses of the four tasks, each masked.

Pure functions of plain tensors, so that end-to-end fine-tuning uses the same ones. The ABAW7 winner's (Netease Fuxi)
are binary cross-entropy over action units with an element-wise mask, cross-entropy over expressions, and 1 - CCC over
the valid elements of the batch for valence and arousal each (CCC as a loss: Weninger et al., 2016, "Discriminatively
Trained Recurrent Neural Networks for Continuous Dimensional Emotion Recognition from Audio"). Beside them stand the
focal losses (Lin et al., 2017, "Focal Loss for Dense Object Detection"), the asymmetric one (Ridnik et al., 2021,
"Asymmetric Loss for Multi-Label Classification"), mean squared error and smooth L1 (Girshick, 2015, "Fast R-CNN").

A mean is taken over the valid elements, whatever they weigh: a batch that happens to hold rare labels only weighs
more than one of frequent ones, as over the whole epoch it must. (torch's cross-entropy divides by the weights' sum.)

A batch without a valid element costs 0 and keeps the graph, so `backward` works on it. What stands where the
mask is False, NaN included, changes neither value nor gradient. Nothing here waits for the device.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

CCC_EPSILON: Final = 1e-8
"""Added to the CCC's denominator: a batch with one target value and one predicted value costs 1, not NaN."""


def masked_binary_cross_entropy(
    logits: Tensor, targets: Tensor, valid: Tensor, *, positive_weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Mean binary cross-entropy over the valid elements; focal with a `gamma` above 0.

    Parameters
    ----------
    logits, targets, valid : of one shape (..., n)
        Targets are 0 or 1.
    positive_weights : shape (n,)
        What each column's positives weigh; 1 by default.
    gamma
        Each element weighs (1 - p)^gamma, where p is the probability of its target.
    """
    safe, labels = _safe(logits, targets, valid)
    losses = functional.binary_cross_entropy_with_logits(
        safe, labels, reduction="none", pos_weight=None if positive_weights is None else positive_weights.to(safe.dtype)
    )
    if gamma:
        # (1 - p)^gamma by way of its logarithm: a power of a rounded 0 has no gradient worth having.
        losses = losses * torch.exp(gamma * functional.logsigmoid(safe * (1 - 2 * labels)))
    return _masked_mean(losses, valid)


def masked_asymmetric(
    logits: Tensor,
    targets: Tensor,
    valid: Tensor,
    *,
    gammas: tuple[float, float],
    clip: float,
    positive_weights: Tensor | None = None,
) -> Tensor:
    """Mean asymmetric loss over the valid elements (Ridnik et al., 2021, equation 7).

    Parameters
    ----------
    logits, targets, valid, positive_weights
        As in `masked_binary_cross_entropy`.
    gammas
        Focal exponents of positives and of negatives.
    clip
        A negative's probability is lowered by this, down to 0: easy negatives cost nothing.
    """
    safe, labels = _safe(logits, targets, valid)
    on_positive, on_negative = gammas
    log_p, log_not_p = functional.logsigmoid(safe), functional.logsigmoid(-safe)
    positive = -log_p * torch.exp(on_positive * log_not_p) if on_positive else -log_p
    if positive_weights is not None:
        positive = positive * positive_weights.to(safe.dtype)
    shifted = log_p
    if clip:
        probability = safe.sigmoid()
        shifted = (probability - clip).clamp(min=torch.finfo(safe.dtype).tiny).log()
        log_not_p = (1 - probability + clip).clamp(max=1).log()
    negative = -log_not_p * torch.exp(on_negative * shifted) if on_negative else -log_not_p
    return _masked_mean(torch.where(labels > 0.5, positive, negative), valid)


def masked_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    valid: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
) -> Tensor:
    """Mean cross-entropy over the valid rows; focal with a `gamma` above 0.

    Parameters
    ----------
    logits : shape (..., n_classes)
    targets, valid : shape (...)
        Targets are class numbers.
    class_weights : shape (n_classes,)
        What a row of each class weighs; 1 by default.
    label_smoothing
        Share of the target's probability that goes to all classes alike.
    gamma
        Each row weighs (1 - p)^gamma, where p is the probability of its target.
    """
    safe = torch.where(valid.unsqueeze(-1), _at_least_float32(logits), 0).flatten(0, -2)  # (n, n_classes)
    labels = torch.where(valid, targets, 0).long().flatten()
    losses = functional.cross_entropy(
        safe,
        labels,
        weight=None if class_weights is None else class_weights.to(safe.dtype),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    if gamma:
        classes = torch.arange(safe.shape[-1], device=safe.device)
        others = safe.masked_fill(classes == labels.unsqueeze(-1), float("-inf"))
        losses = losses * torch.exp(gamma * (others.logsumexp(dim=-1) - safe.logsumexp(dim=-1)))
    return _masked_mean(losses, valid.flatten())


def concordance_loss(prediction: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """1 - CCC over the valid elements, population moments; all three of one shape.

    Fewer than two valid elements have no variance and cost 0.
    """
    x, y = _safe(prediction, targets, valid)
    weight = valid.to(x.dtype)
    n_valid = weight.sum()
    divisor = n_valid.clamp(min=1)
    mean_x, mean_y = x.sum() / divisor, y.sum() / divisor
    # Centred before squaring: E[x^2] - E[x]^2 cancels in float32 when a batch hardly varies.
    x = (x - mean_x) * weight
    y = (y - mean_y) * weight
    covariance = (x * y).sum() / divisor
    spread = (x.square().sum() + y.square().sum()) / divisor + (mean_x - mean_y).square()
    loss = 1 - 2 * covariance / (spread + CCC_EPSILON)
    return torch.where(n_valid >= 2, loss, 0 * loss)


def masked_squared_error(prediction: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error over the valid elements; all three of one shape."""
    x, y = _safe(prediction, targets, valid)
    return _masked_mean((x - y).square(), valid)


def masked_smooth_l1(prediction: Tensor, targets: Tensor, valid: Tensor, *, beta: float) -> Tensor:
    """Mean smooth L1 over the valid elements: square up to an error of `beta`, straight beyond."""
    x, y = _safe(prediction, targets, valid)
    return _masked_mean(functional.smooth_l1_loss(x, y, beta=beta, reduction="none"), valid)


def _safe(outputs: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of one dtype, 0 where they do not count."""
    safe = torch.where(valid, _at_least_float32(outputs), 0)
    return safe, torch.where(valid, targets, 0).to(safe.dtype)


def _at_least_float32(outputs: Tensor) -> Tensor:
    """Whatever autocast says: the variances of a half-precision batch are not worth having."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _masked_mean(losses: Tensor, valid: Tensor) -> Tensor:
    return (losses * valid).sum() / valid.sum().clamp(min=1)
