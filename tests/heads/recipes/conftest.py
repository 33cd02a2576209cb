"""Encoders of the small store that stand in for those of a recipe."""

from collections.abc import Mapping

import pytest

STAND_INS: Mapping[str, Mapping[str, str]] = {
    "aim3": {"iresnet100": "au", "densenet121": "v"},
    "hfut-mac1": {"iresnet100": "au", "densenet121": "v"},
    "scu": {"dinov2_giant_238-tokens-pca128": "tokens"},
    "hsemotion": {"efficientnet_b0": "au", "ddamfn": "v"},
    "aiwell-uoc": {"mobilefacenet": "mae"},
    "baseline": {"vgg16": "mae"},
    "sun-gao": {"dinov2_large": "mae", "dinov3_convnext_large": "au"},
}
"""Recipe -> role -> encoder of the small store."""


@pytest.fixture(scope="session")
def stand_ins() -> Mapping[str, Mapping[str, str]]:
    return STAND_INS
