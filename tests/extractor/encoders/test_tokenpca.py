"""The projection of tokens against scikit-learn's PCA, and its bits against themselves."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from extractor.encoders import tokenpca
from extractor.encoders.tokenpca import TokenProjector, fit_token_pca, project
from featurestore.errors import ConfigError, PrecisionError, ShapeError

DIM = 12


@pytest.fixture
def tokens() -> Tensor:
    """30 frames of 7 tokens whose mean is far from zero and whose variance falls from dimension to dimension."""
    rng = torch.Generator().manual_seed(3)
    turned, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=rng))
    scales = torch.logspace(1, -1, DIM)
    return (torch.randn(30, 7, DIM, generator=rng) * scales) @ turned + 1000


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 tokens, so that a few frames make many."""
    monkeypatch.setattr(tokenpca, "_BLOCK_TOKENS", 16)


@pytest.mark.usefixtures("small_blocks")
def test_is_scikit_learns_pca_up_to_sign(tokens: Tensor) -> None:
    fitted = fit_token_pca(tokens.split(4), 5)
    theirs = PCA(5, svd_solver="full").fit(tokens.reshape(-1, DIM).double().numpy())
    np.testing.assert_allclose(fitted.mean, theirs.mean_, rtol=1e-6)
    np.testing.assert_allclose(fitted.explained, theirs.explained_variance_ratio_, rtol=1e-5)
    signs = np.sign((fitted.components * theirs.components_.T).sum(axis=0))
    np.testing.assert_allclose(fitted.components * signs, theirs.components_.T, atol=1e-6)
    wanted = theirs.transform(tokens.reshape(-1, DIM).numpy()).reshape(30, 7, 5) * signs
    np.testing.assert_allclose(project(tokens, fitted).numpy(), wanted, atol=1e-3)  # of values of 10, near 1000


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("batch", [1, 3, 30])
def test_the_same_tokens_give_the_same_bits_however_they_are_cut(tokens: Tensor, batch: int) -> None:
    whole = fit_token_pca([tokens], 5)
    memory = torch.empty(batch, 7, DIM)

    def reused() -> list[Tensor]:
        for part in tokens.split(batch):
            memory[: len(part)] = part
            yield memory[: len(part)]

    assert fit_token_pca(reused(), 5).digest == whole.digest
    # No more than a block is ever held.
    assert [len(block) for block in tokenpca._blocks(reused(), 5)] == [16] * 13 + [2]


def test_the_largest_loading_is_positive(tokens: Tensor) -> None:
    for sign in (1, -1):
        components = fit_token_pca([sign * tokens], DIM).components
        largest = components[np.abs(components).argmax(axis=0), np.arange(DIM)]
        assert (largest > 0).all()


def test_all_components_keep_all_there_is(tokens: Tensor) -> None:
    fitted = fit_token_pca([tokens], DIM)
    assert (np.diff(fitted.explained) <= 0).all()
    assert fitted.explained.sum() == pytest.approx(1, abs=1e-6)
    back = project(tokens, fitted) @ torch.tensor(fitted.components).T + torch.tensor(fitted.mean)
    torch.testing.assert_close(back, tokens, rtol=1e-6, atol=1e-3)


def test_projects_half_precision_in_float32(tokens: Tensor) -> None:
    fitted = fit_token_pca([tokens], 3)
    half = tokens.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = TokenProjector(fitted, "cpu")(half)
    assert projected.dtype == torch.float32
    assert projected.shape == (30, 7, 3)
    assert torch.equal(projected, project(half.float(), fitted))


def test_refusals(tokens: Tensor) -> None:
    for n_components in (0, 13):
        with pytest.raises(
            ConfigError, match=rf"Tokens of 12 dimensions are projected to 1 to 12, not to {n_components}"
        ):
            fit_token_pca([tokens], n_components)
    with pytest.raises(ShapeError, match=r"at least 8 tokens, .* not on 7"):
        fit_token_pca([tokens[:1]], 8)
    with pytest.raises(ShapeError, match=r"at least 2 tokens, .* not on 0"):
        fit_token_pca([], 1)
    with pytest.raises(ShapeError, match=r"210 are one and the same"):
        fit_token_pca([torch.full_like(tokens, 0.1)], 2)
    for wrong in (tokens[0], tokens[..., :4], tokens.int()):
        with pytest.raises(ShapeError, match=r"batches of tokens \(n, n_tokens, dim\) of one dim"):
            fit_token_pca([tokens, wrong], 2)
    with pytest.raises(ShapeError, match=r"batches of tokens"):
        fit_token_pca([tokens[0]], 2)
    tokens[3, 2, 1] = torch.nan
    with pytest.raises(
        PrecisionError, match=r"finite tokens; a batch of shape \(30, 7, 12\) in torch\.float32 holds NaN"
    ):
        fit_token_pca([tokens], 2)
    fitted = fit_token_pca([tokens[:3]], 2)
    for wrong in (tokens[0], tokens[..., :4]):
        with pytest.raises(ShapeError, match=r"takes tokens of shape \(n, n_tokens, 12\), not"):
            project(wrong, fitted)
