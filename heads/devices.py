"""Which device a head is fitted on, and what makes its result repeatable there."""

import os

import torch

from featurestore.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The device called `name`; ``"auto"`` is CUDA where there is one, else the CPU.

    Raises
    ------
    ConfigError
        If this machine has no such device.
    """
    # cuDNN's LSTM gives the same bits twice only with a fixed cuBLAS workspace, read when cuBLAS starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"Expected a device such as auto, cpu or cuda:0, got {name!r}.") from error
    n_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    absent = device.type == "mps" and not torch.backends.mps.is_available()
    if absent or (device.index or 0) >= n_devices:
        raise ConfigError(f"Device {name!r} is not on this machine. Use 'cpu', or 'auto' to take what there is.")
    return device
