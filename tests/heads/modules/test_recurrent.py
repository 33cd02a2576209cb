import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from heads.modules.recurrent import BothWays, GruTemporal, LstmTemporal, mirror_order, mirrored

LENGTH = 7


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_winners_lstm_at_768() -> None:
    lstm = LstmTemporal(768, 768, layers=None, dropout=0.0)
    assert count(lstm) == 9_449_472
    assert {name.split(".")[0] for name in lstm.state_dict()} == {"lstm"}


def test_a_leaky_relu_stands_before_an_lstm_only() -> None:
    windows = torch.randn(2, LENGTH, 4)
    leaked = torch.where(windows > 0, windows, 0.1 * windows)
    lstm, gru = LstmTemporal(4, 4, layers=1, dropout=0.0), GruTemporal(4, 4, layers=1, dropout=0.0)
    torch.testing.assert_close(lstm(windows), lstm.lstm(leaked)[0])
    torch.testing.assert_close(gru(windows), gru.gru(windows)[0])


def test_one_way_modules_never_look_ahead() -> None:
    windows = torch.randn(2, LENGTH, 4)
    later = windows.clone()
    later[:, 4:] += 1
    for module in (LstmTemporal(4, 4, layers=2, dropout=0.0), GruTemporal(4, 4, layers=2, dropout=0.0)):
        assert torch.equal(module(windows)[:, :4], module(later)[:, :4])
    both = BothWays("gru", 4, width=4, layers=1, dropout=0.0)
    assert not torch.allclose(both(windows)[:, :4], both(later)[:, :4], atol=1e-4)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, LENGTH), min_size=1, max_size=4))
def test_both_ways_is_torchs_network_on_packed_sequences(kind: str, lengths: list[int]) -> None:
    mine = BothWays(kind, 3, width=4, layers=2, dropout=0.0)
    cell = nn.LSTM if kind == "lstm" else nn.GRU
    theirs = cell(3, 4, 2, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for number, (there, back) in enumerate(zip(mine.forwards, mine.backwards, strict=True)):
            for name, parameter in there.named_parameters():
                getattr(theirs, name.replace("_l0", f"_l{number}")).copy_(parameter)
            for name, parameter in back.named_parameters():
                getattr(theirs, name.replace("_l0", f"_l{number}_reverse")).copy_(parameter)
        windows = torch.randn(len(lengths), LENGTH, 3)
        packed = pack_padded_sequence(mine.activation(windows), lengths, batch_first=True, enforce_sorted=False)
        expected, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True, total_length=LENGTH)
        mask = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
        torch.testing.assert_close(mine(windows, mask)[mask], expected[mask], rtol=1e-5, atol=1e-6)
    assert count(mine) == count(theirs)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(0, LENGTH), min_size=1, max_size=5))
def test_mirrored_rows(lengths: list[int]) -> None:
    mask = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
    windows = torch.arange(len(lengths) * LENGTH, dtype=torch.float32).reshape(len(lengths), LENGTH, 1)
    order = mirror_order(mask)
    turned = mirrored(windows, order)
    for window, found, length in zip(windows, turned, lengths, strict=True):
        assert found.flatten().tolist() == [*window[:length].flatten().tolist()[::-1], *window[length:].flatten()]
    assert torch.equal(mirrored(turned, order), windows)
    assert torch.equal(mirrored(windows, None), windows.flip(1))
