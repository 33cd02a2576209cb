"""Number formats that a model may run in."""

from contextlib import AbstractContextManager
from typing import Final, Literal

import torch

from featurestore.errors import ConfigError, unknown_name

Precision = Literal["float32", "bfloat16", "float16"]

DTYPES: Final[dict[Precision, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision that `name` means; ``auto`` is bfloat16 on a GPU and float32 on a CPU.

    Raises
    ------
    UnknownNameError
        If there is no such precision.
    """
    if name == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    for precision in DTYPES:
        if name == precision:
            return precision
    raise unknown_name("precision", name, ("auto", *DTYPES))


def choose_training_precision(name: str, device: torch.device) -> Precision:
    """As `choose_precision`, but without float16, whose gradients underflow unless the loss is scaled.

    Raises
    ------
    UnknownNameError
        If there is no such precision.
    ConfigError
        If it is float16.
    """
    precision = choose_precision(name, device)
    if precision == "float16":
        raise ConfigError("Training in float16 loses small gradients. Use --precision bfloat16 or float32.")
    return precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Automatic mixed precision for training; does nothing for float32."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "float32")
