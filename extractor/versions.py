"""Versions of the packages that decide what an encoder computes."""

import importlib.metadata
from typing import Final

_DECISIVE: Final = ("abaw", "torch", "timm", "numpy", "pillow", "simplejpeg")


def versions() -> dict[str, str]:
    """Versions of the packages that decide what an encoder computes."""
    return {package: importlib.metadata.version(package) for package in _DECISIVE}
