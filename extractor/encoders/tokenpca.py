"""Tokens in fewer dimensions: a principal component analysis, fitted on a sample and kept with the store.

289 tokens of 1,536 are 888 kB a frame in float16; of 128 they are 74 kB. The covariance is added up in float64, in
blocks of fixed length, so memory does not grow with the sample, and how the sample was cut into batches does not
change a bit of the result. Blocks are merged by their means, which loses no digits where the mean is far from zero
(Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances").
"""

from collections.abc import Iterable, Iterator
from typing import Final

import torch
from torch import Tensor

from featurestore.errors import ConfigError, PrecisionError, ShapeError
from featurestore.tokenprojection import TokenProjection

_BLOCK_TOKENS: Final = 8192  # whose float64 copy is 100 MB at 1,536 dimensions


def fit_token_pca(samples: Iterable[Tensor], n_components: int) -> TokenProjection:
    """The directions along which tokens vary most.

    Parameters
    ----------
    samples : each shape (n, n_tokens, dim), floating point, on any device
        Batches of tokens. Every token counts the same, wherever in the image it stands.
    n_components
        Dimensions to keep, 1 to dim.

    Returns
    -------
    Components by falling variance; of each the loading that is largest in magnitude is positive. On one machine the
    same tokens in the same order give the same bits.

    Raises
    ------
    ConfigError
        If `n_components` is less than 1 or more than dim.
    ShapeError
        If a batch has another shape, there are fewer tokens than components, or all are one and the same.
    PrecisionError
        If a token holds NaN or infinity.

    References
    ----------
    Pearson (1901); shares of variance as scikit-learn's `PCA.explained_variance_ratio_`.
    """
    n_seen, mean, scatter = 0, torch.zeros(0), torch.zeros(0, 0)
    for block in _blocks(samples, n_components):  # (m, dim), float64
        block_mean = block.mean(dim=0)
        centred = block - block_mean
        if not n_seen:
            n_seen, mean, scatter = len(block), block_mean, centred.T @ centred  # (dim,), (dim, dim)
            continue
        n_both = n_seen + len(block)
        moved = block_mean - mean
        scatter += centred.T @ centred + torch.outer(moved, moved) * (n_seen * len(block) / n_both)
        mean = mean + moved * (len(block) / n_both)
        n_seen = n_both
    if n_seen < max(2, n_components):
        raise ShapeError(
            f"A projection to {n_components} components is fitted on at least {max(2, n_components)} tokens, better on "
            f"many times as many, not on {n_seen}. Give it more frames, or fewer components."
        )
    # On the CPU: its solver gives the same bits for the same matrix.
    variances, directions = torch.linalg.eigh(scatter.cpu())  # ascending; columns
    total = float(variances.clamp(min=0).sum())
    if not total > 0:
        raise ShapeError(
            f"A projection is fitted on tokens that differ; these {n_seen:,} are one and the same. Check the encoder's "
            "weights and the frames."
        )
    components = directions.flip(1)[:, :n_components]  # (dim, n_components)
    largest = components.gather(0, components.abs().argmax(dim=0, keepdim=True))  # (1, n_components)
    components = components * torch.where(largest < 0, -1.0, 1.0)
    explained = variances.clamp(min=0).flip(0)[:n_components] / total
    return TokenProjection(
        mean=mean.cpu().float().numpy(), components=components.float().numpy(), explained=explained.float().numpy()
    )


class TokenProjector:
    """A projection on a device: copied there once, used for every batch.

    Parameters
    ----------
    projection
        What to apply.
    device
        Where.
    """

    def __init__(self, projection: TokenProjection, device: torch.device | str) -> None:
        self.projection = projection
        self._mean = torch.tensor(projection.mean, device=device)  # (dim,)
        self._components = torch.tensor(projection.components, device=device)  # (dim, n_components)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (n, n_tokens, dim), of any floating type, to float32 (n, n_tokens, n_components)."""
        if tokens.ndim != 3 or tokens.shape[-1] != self.projection.dim:
            raise ShapeError(
                f"This projection takes tokens of shape (n, n_tokens, {self.projection.dim}), not "
                f"{tuple(tokens.shape)}. Use the encoder that it was fitted for."
            )
        # Autocast would do the product in half precision.
        with torch.autocast(tokens.device.type, enabled=False):
            return (tokens.float() - self._mean) @ self._components


def project(tokens: Tensor, projection: TokenProjection) -> Tensor:
    """Tokens in fewer dimensions; for many batches `TokenProjector` spares copying the projection each time.

    Parameters
    ----------
    tokens : shape (n, n_tokens, dim), floating point, on any device
    projection
        What to apply.

    Returns
    -------
    shape (n, n_tokens, n_components), float32, on the tokens' device

    Raises
    ------
    ShapeError
        If the tokens are of another width.
    """
    return TokenProjector(projection, tokens.device)(tokens)


def _blocks(samples: Iterable[Tensor], n_components: int) -> Iterator[Tensor]:
    """Tokens in blocks of `_BLOCK_TOKENS`, the last one shorter, in float64, however they come."""
    waiting: list[Tensor] = []  # in the samples' own precision
    n_waiting, dim = 0, 0
    for sample in samples:
        dim = dim or _width(sample, n_components)
        tokens = _checked(sample, dim)
        while n_waiting + len(tokens) >= _BLOCK_TOKENS:
            upto = _BLOCK_TOKENS - n_waiting
            yield _joined([*waiting, tokens[:upto]])
            tokens, waiting, n_waiting = tokens[upto:], [], 0
        if len(tokens):
            waiting.append(tokens.clone())  # the caller may fill its memory with the next batch
            n_waiting += len(tokens)
    if waiting:
        yield _joined(waiting)


def _width(sample: Tensor, n_components: int) -> int:
    dim = sample.shape[-1] if sample.ndim == 3 else 0
    if dim and not 1 <= n_components <= dim:
        raise ConfigError(
            f"Tokens of {dim} dimensions are projected to 1 to {dim}, not to {n_components}. Give --token-pca in that "
            "range, or leave it out."
        )
    return dim


def _checked(sample: Tensor, dim: int) -> Tensor:
    """A batch as (n * n_tokens, dim)."""
    if sample.ndim != 3 or not dim or sample.shape[-1] != dim or not sample.is_floating_point():
        raise ShapeError(
            f"A projection is fitted on batches of tokens (n, n_tokens, dim) of one dim, in floating point, not on "
            f"{tuple(sample.shape)} of {sample.dtype}. Check the encoder's pooling."
        )
    if not bool(torch.isfinite(sample).all()):
        raise PrecisionError(
            f"A projection is fitted on finite tokens; a batch of shape {tuple(sample.shape)} in {sample.dtype} holds "
            "NaN or infinity. Run the encoder in float32, or check its weights."
        )
    return sample.detach().reshape(-1, dim)


def _joined(parts: list[Tensor]) -> Tensor:
    # Apple's GPUs know no float64.
    parts = [part.cpu() if part.device.type == "mps" else part for part in parts]
    return torch.cat(parts).double()
