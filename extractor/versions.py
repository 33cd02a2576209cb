"""Versions of the packages that decide what an encoder computes."""

import importlib.metadata


def versions() -> dict[str, str]:
    """Versions of the packages that decide what an encoder computes."""
    return {package: importlib.metadata.version(package) for package in ("abaw", "torch", "timm", "numpy", "pillow")}
