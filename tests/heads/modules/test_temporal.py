"""What every temporal module promises, by the name that the config has for it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from featurestore.errors import ConfigError
from heads.modules.config import STATEFUL, TEMPORAL_NAMES, TEMPORAL_WIDTH, HeadConfig
from heads.modules.sequence import Stacked, Temporal
from heads.modules.temporal import make_temporal

STACKS = ("tcn+bigru", "lstm+gru", "bilstm+transformer")
NAMES = (*TEMPORAL_NAMES, *STACKS)
CARRYING = (*STATEFUL, "lstm+gru")
DIM, WIDTH, LENGTH = 6, 8, 9


def make(name: str, **options: object) -> Temporal:
    torch.manual_seed(3)
    width = None if name == "none" else WIDTH
    return make_temporal(HeadConfig(temporal=name, temporal_width=width, **options), DIM).eval()


MODULES = {name: make(name, positions=True) for name in NAMES}


def masked(lengths: list[int]) -> Tensor:
    return torch.arange(LENGTH) < torch.tensor(lengths)[:, None]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class TestEveryModule:
    @pytest.mark.parametrize("name", NAMES)
    def test_columns(self, name: str) -> None:
        both_ways = name.rpartition("+")[2].startswith("bi")
        expected = DIM if name == "none" else 2 * WIDTH if both_ways else WIDTH
        assert MODULES[name].out_width == expected
        assert MODULES[name](torch.randn(2, LENGTH, DIM)).shape == (2, LENGTH, expected)
        assert MODULES[name](torch.randn(2, 1, DIM)).shape == (2, 1, expected)

    @pytest.mark.parametrize("name", NAMES)
    @settings(max_examples=15, deadline=None)
    @given(lengths=st.lists(st.integers(0, LENGTH), min_size=1, max_size=4), seed=st.integers(0, 99))
    def test_padding_changes_nothing_in_valid_rows(self, name: str, lengths: list[int], seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        windows = torch.randn(len(lengths), LENGTH, DIM, generator=random)
        mask = masked(lengths)
        spoilt = torch.where(mask.unsqueeze(-1), windows, 1e3 * torch.randn(windows.shape, generator=random))
        with torch.no_grad():
            states = MODULES[name](spoilt, mask)
            assert states.isfinite().all()
            for window, found, length in zip(windows, states, lengths, strict=True):
                if length:
                    alone = MODULES[name](window[None, :length])[0]
                    torch.testing.assert_close(found[:length], alone, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("name", NAMES)
    def test_gradients_stay_out_of_padding(self, name: str) -> None:
        windows = torch.randn(3, LENGTH, DIM, requires_grad=True)
        mask = masked([LENGTH, 4, 0])
        states = MODULES[name](windows, mask)
        (gradient,) = torch.autograd.grad(states[mask].square().sum(), windows)
        assert gradient.isfinite().all()
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask].abs().sum(dim=-1) > 0).all()

    @pytest.mark.parametrize("name", NAMES)
    def test_a_mask_without_padding_is_no_mask(self, name: str) -> None:
        windows = torch.randn(2, LENGTH, DIM)
        full = torch.ones(2, LENGTH, dtype=torch.bool)
        torch.testing.assert_close(MODULES[name](windows, full), MODULES[name](windows), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
    def test_every_parameter_learns(self, name: str) -> None:
        module = make(name, positions=True)
        (module(torch.randn(2, LENGTH, DIM)) * torch.randn(2, LENGTH, module.out_width)).sum().backward()
        for parameter_name, parameter in module.named_parameters():
            assert parameter.grad is not None, parameter_name
            # A key's bias adds the same to all scores of a query, and the softmax forgets it.
            if not parameter_name.endswith("key_value.bias"):
                assert (parameter.grad != 0).any(), parameter_name

    @pytest.mark.parametrize("name", NAMES)
    def test_under_autocast(self, name: str) -> None:
        windows, mask = torch.randn(2, LENGTH, DIM), masked([LENGTH, 3])
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            states = MODULES[name](windows, mask)
        torch.testing.assert_close(states.float()[mask], MODULES[name](windows, mask)[mask], rtol=0.1, atol=0.1)


class TestCarriedState:
    @pytest.mark.parametrize("name", CARRYING)
    @settings(max_examples=15, deadline=None)
    @given(cut=st.integers(1, 2 * LENGTH - 1), last=st.integers(1, LENGTH))
    def test_two_segments_equal_one(self, name: str, cut: int, last: int) -> None:
        module, video = MODULES[name], torch.randn(2, 2 * LENGTH, DIM)
        with torch.no_grad():
            whole = module(video)
            first, state = module.step(video[:, :cut], None)
            second, _ = module.step(video[:, cut:], state)
            torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=1e-6, atol=1e-6)
            # The video's end, padded to a whole window.
            rest = torch.cat([video[:, cut : cut + last], torch.full((2, LENGTH, DIM), 1e3)], dim=1)
            mask = (torch.arange(rest.shape[1]) < min(last, 2 * LENGTH - cut)).expand(2, -1)
            padded, after = module.step(rest, state, mask)
        found = padded[mask].reshape(2, -1, WIDTH)
        torch.testing.assert_close(found, whole[:, cut : cut + last], rtol=1e-6, atol=1e-6)
        assert all(each.isfinite().all() for each in after)

    @pytest.mark.parametrize("name", CARRYING)
    def test_the_state_is_detached_and_of_every_lane(self, name: str) -> None:
        module = make(name)
        states, state = module.step(torch.randn(5, LENGTH, DIM, requires_grad=True), None)
        assert states.requires_grad
        assert not any(each.requires_grad for each in state)
        assert [tuple(each.shape) for each in state] == [(2, 5, WIDTH)] * module.n_states
        # Lanes are put in another order, and one begins anew.
        lanes = torch.tensor([4, 2])
        windows = torch.randn(2, LENGTH, DIM)
        kept = tuple(each[:, lanes] * torch.tensor([[1.0], [0.0]]) for each in state)
        found, _ = module.step(windows, kept)
        torch.testing.assert_close(found[1:], module(windows[1:]), rtol=1e-6, atol=1e-6)
        assert not torch.allclose(found[:1], module(windows[:1]), atol=1e-3)

    @pytest.mark.parametrize("name", CARRYING)
    def test_a_state_outlives_a_change_of_precision(self, name: str) -> None:
        windows = torch.randn(2, LENGTH, DIM)
        with torch.no_grad():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                _, state = MODULES[name].step(windows, None)
                half, _ = MODULES[name].step(windows, state)
            full, _ = MODULES[name].step(windows, state)
        torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1)

    @pytest.mark.parametrize("name", sorted(set(NAMES) - set(CARRYING)))
    def test_none_where_a_window_is_read_as_a_whole(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"only look back, but \w+ reads whole windows\. Choose temporal 'lstm'"):
            MODULES[name].step(torch.randn(1, 3, DIM), None)


def test_a_stack_reads_one_after_the_other() -> None:
    stack = make("tcn+bigru")
    assert isinstance(stack, Stacked)
    windows, mask = torch.randn(2, LENGTH, DIM), masked([LENGTH, 5])
    first, second = stack.layers
    torch.testing.assert_close(stack(windows, mask), second(first(windows, mask), mask))
    assert count(first) == count(make("tcn"))
    assert second.forwards[0].input_size == WIDTH


def test_layers_and_width() -> None:
    config = HeadConfig(temporal="gru", layers=3, temporal_width=5)
    assert count(make_temporal(config, 7)) == count(nn.GRU(7, 5, 3))
    assert make_temporal(HeadConfig(temporal="gru"), 7).out_width == TEMPORAL_WIDTH
    assert make_temporal(HeadConfig(temporal="bigru"), 7).out_width == 2 * TEMPORAL_WIDTH
    for fused_width in (None, 0):
        assert make_temporal(HeadConfig(temporal="gru", temporal_width=fused_width), 7).out_width == 7
        assert make_temporal(HeadConfig(temporal="bigru", temporal_width=fused_width), 7).out_width == 14
    assert len(make("tcn").blocks) == 4
    assert [len(make(name).forwards) for name in ("bilstm", "bigru")] == [2, 2]


@pytest.mark.parametrize("name", [name for name in TEMPORAL_NAMES if name != "none"])
def test_dropout_is_of_training_only(name: str) -> None:
    windows = torch.randn(2, LENGTH, DIM)
    module = make(name, temporal_dropout=0.5)
    torch.testing.assert_close(module(windows), module(windows), rtol=0, atol=0)
    assert not torch.allclose(module.train()(windows), module(windows))
