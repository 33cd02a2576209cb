import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heads.modules.convolution import ConvolutionTemporal

DIM = 12


def network(layers: int) -> ConvolutionTemporal:
    torch.manual_seed(1)
    return ConvolutionTemporal(DIM, DIM, layers=layers, dropout=0.0).eval()


@pytest.mark.parametrize(("layers", "around"), [(1, 2), (2, 6), (3, 14), (4, 30)])
def test_how_far_a_row_sees_to_each_side(layers: int, around: int) -> None:
    windows = torch.randn(1, 2 * around + 5, DIM, requires_grad=True)
    middle = around + 2
    network(layers)(windows)[0, middle, 0].backward()
    assert windows.grad is not None
    seen = windows.grad[0].abs().sum(dim=-1).nonzero().flatten().tolist()
    assert seen == list(range(middle - around, middle + around + 1))


def test_a_shift_in_time_shifts_the_states() -> None:
    windows = torch.randn(1, 20, DIM)
    shifted = windows.roll(3, dims=1)
    module = network(1)
    torch.testing.assert_close(module(shifted)[:, 5:-2], module(windows)[:, 2:-5], rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(n_windows=st.integers(1, 5))
def test_a_window_does_not_depend_on_its_batch(n_windows: int) -> None:
    windows = torch.randn(n_windows, 6, DIM)
    module = network(2).train()  # in training, too
    torch.testing.assert_close(module(windows)[:1], module(windows[:1]), rtol=1e-5, atol=1e-6)
