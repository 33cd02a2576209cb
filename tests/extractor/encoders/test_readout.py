"""Readouts: what can be asked for, how it is named, how it is written."""

import pytest

from extractor.encoders.readout import Readout, parse_grid, parse_pooling
from featurestore.errors import ConfigError, UnknownNameError


def test_a_name_in_the_store_says_what_differs_from_the_encoders_own() -> None:
    assert Readout(pooling="fc_norm").suffix("fc_norm") == ""
    assert Readout(pooling="cls").suffix("fc_norm") == "-cls"
    assert Readout(pooling="fc_norm", layer=6, flip=True).suffix("fc_norm") == "-layer6-flip"
    tokens = Readout(pooling="tokens", token_grid=(4, 2), n_components=128)
    assert tokens.suffix("cls") == "-tokens-4x2-pca128"
    assert tokens.suffix("tokens") == "-4x2-pca128"


def test_the_provenance_tells_readouts_apart_and_leaves_a_plain_one_its_name() -> None:
    assert Readout(pooling="cls").describe() == "cls"  # as the first stores have it
    several = [
        Readout(pooling="tokens"),
        Readout(pooling="tokens", layer=3),
        Readout(pooling="tokens", token_grid=(4, 4)),
        Readout(pooling="tokens", n_components=4),
        Readout(pooling="tokens", flip=True),
    ]
    assert len({readout.describe() for readout in several}) == len(several)


def test_impossible_readouts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"are of tokens, but the pooling is 'mean'\. Add --pooling tokens"):
        Readout(pooling="mean", token_grid=(4, 4))
    with pytest.raises(ConfigError, match=r"are of tokens, but the pooling is 'cls'"):
        Readout(pooling="cls", n_components=8)
    with pytest.raises(ConfigError, match=r"The layer counts from 1, but is 0"):
        Readout(pooling="cls", layer=0)
    with pytest.raises(ConfigError, match=r"The number of components counts from 1, but is -2"):
        Readout(pooling="tokens", n_components=-2)


@pytest.mark.parametrize("text", ["4", "4x", "0x4", "4x4x4", "axb", "-4x4", ""])
def test_a_grid_is_rows_by_columns(text: str) -> None:
    assert parse_grid(" 4X2 ") == (4, 2)
    with pytest.raises(ConfigError, match=r"rows x columns, such as 4x4, not"):
        parse_grid(text)


def test_a_pooling_has_a_name() -> None:
    assert parse_pooling("cls+mean") == "cls+mean"
    with pytest.raises(UnknownNameError, match=r"pooling 'token'.*Did you mean 'tokens'\?"):
        parse_pooling("token")
