import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from featurestore.errors import ConfigError
from heads.modules.attention import AttentionLayer, TransformerTemporal, sinusoids
from heads.modules.config import HeadConfig
from heads.modules.temporal import make_temporal


def transformer(*, positions: bool, in_width: int = 8) -> TransformerTemporal:
    torch.manual_seed(0)
    return TransformerTemporal(in_width, 8, layers=2, heads=2, feedforward=12, dropout=0.0, positions=positions).eval()


def test_a_layer_is_torchs_post_norm_layer() -> None:
    mine = AttentionLayer(8, heads=2, feedforward=20, dropout=0.0).eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 20, 0.0, batch_first=True).eval()
    attention = theirs.self_attn
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([mine.query.weight, mine.key_value.weight]))
        attention.in_proj_bias.copy_(torch.cat([mine.query.bias, mine.key_value.bias]))
        for ours, other in (
            (mine.out, attention.out_proj),
            (mine.feedforward[0], theirs.linear1),
            (mine.feedforward[3], theirs.linear2),
            (mine.attention_norm, theirs.norm1),
            (mine.feedforward_norm, theirs.norm2),
        ):
            ours.weight.normal_()
            ours.bias.normal_()
            other.load_state_dict(ours.state_dict())
    rows = torch.randn(3, 5, 8)
    known = torch.arange(5) < torch.tensor([5, 2, 4])[:, None]
    expected = theirs(rows, src_key_padding_mask=~known)
    torch.testing.assert_close(mine(rows, rows, known)[known], expected[known], rtol=1e-5, atol=1e-5)


def test_queries_may_be_others_than_keys() -> None:
    layer = AttentionLayer(8, heads=4, feedforward=None, dropout=0.0).eval()
    queries, keys = torch.randn(3, 2, 8), torch.randn(3, 6, 8)
    found = layer(queries, keys)
    assert found.shape == (3, 2, 8)
    # Keys are a set, and queries do not see each other.
    torch.testing.assert_close(layer(queries, keys[:, torch.randperm(6)]), found, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(queries[:, :1], keys), found[:, :1], rtol=1e-5, atol=1e-5)
    assert layer.feedforward[0].out_features == 16


def test_heads_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"3 heads needs a width that is a multiple of 3, got 8 columns\. Choose"):
        AttentionLayer(8, heads=3, feedforward=None, dropout=0.0)
    with pytest.raises(ConfigError, match="4 heads needs a width that is a multiple of 4, got 10 columns"):
        make_temporal(HeadConfig(temporal="transformer", temporal_width=10), 8)


def test_without_positions_the_order_of_rows_does_not_matter() -> None:
    rows, order = torch.randn(2, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    blind, told = transformer(positions=False), transformer(positions=True)
    torch.testing.assert_close(blind(rows[:, order]), blind(rows)[:, order], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(told(rows[:, order]), told(rows)[:, order], atol=1e-2)
    assert not torch.allclose(told(rows), blind(rows), atol=1e-2)
    assert blind.state_dict().keys() == told.state_dict().keys()


def test_sinusoids() -> None:
    waves = sinusoids(50, 7, device=torch.device("cpu")).double().numpy()
    assert waves.shape == (50, 7)
    for place in (0, 1, 49):
        expected = [
            (math.cos if column % 2 else math.sin)(place / 10_000 ** (2 * (column // 2) / 7)) for column in range(7)
        ]
        assert np.allclose(waves[place], expected, atol=1e-5)


def test_a_linear_only_where_widths_differ() -> None:
    assert isinstance(transformer(positions=False).start, nn.Identity)
    assert isinstance(transformer(positions=False, in_width=5).start, nn.Linear)


def test_the_published_sizes_can_be_made() -> None:
    with torch.device("meta"):
        aim3 = make_temporal(
            HeadConfig(
                temporal="transformer",
                layers=4,
                temporal_width=1024,
                feedforward=2048,
                attention_heads=16,
                temporal_dropout=0.3,
                positions=True,
            ),
            768 + 512 + 342,
        )
        fused_width = HeadConfig(temporal="transformer", temporal_width=None)
        hfut = make_temporal(replace(fused_width, layers=4, attention_heads=4, temporal_dropout=0.2), 512)
        netease = make_temporal(fused_width, 768)
    layer = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 2048 + 2048 + 1024 + 4 * 1024
    assert sum(parameter.numel() for parameter in aim3.parameters()) == (1622 + 1) * 1024 + 4 * layer
    assert (hfut.out_width, len(hfut.layers), hfut.layers[0].heads) == (512, 4, 4)
    assert (netease.out_width, len(netease.layers), netease.layers[0].heads) == (768, 2, 4)
