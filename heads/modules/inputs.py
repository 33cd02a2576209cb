"""What a head reads of each embedding: its columns, brought to mean 0 and variance 1 if the config asks for it.

Encoders differ in scale: the means and deviations of an MAE's columns are not those of a VGG's, and the ABAW4 winner
(AIM3-RUC) offers the z-norm by train statistics. They are fitted on the rows that the head learns from and on no
others, and are part of its weights.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from featurestore.errors import ConfigError
from heads.arrays import IntArray
from heads.features.featureset import FeatureSet

from .config import HeadConfig
from .shapes import Shapes, read_widths

STD_FLOOR: Final = 1e-6
"""A column that varies by less does not vary, but for rounding: it is brought to mean 0 and keeps its scale."""

_BLOCK_BYTES: Final = 1 << 18
"""Of float64, read at once; some three times as much is in memory, beside what is streamed."""


class Statistics(NamedTuple):
    """Of the columns of an encoder, over rows and, where there are, tokens.

    Attributes
    ----------
    mean, std : shape (D,), float64, on the host
        The deviation is the population's.
    """

    mean: Tensor
    std: Tensor


class Inputs(nn.Module):
    """The columns of each embedding that a head reads.

    Parameters
    ----------
    config
        Its encoders, `columns` and `normalise`.
    shapes
        Encoder -> (D,), or (T, D) if it holds tokens.

    Attributes
    ----------
    names
        The encoders, the base first.
    widths
        How many columns are read of each.
    normalise
        Whether they are normalised; by mean 0 and deviation 1 until `fit_inputs` has seen the rows.

    Raises
    ------
    ConfigError, ShapeError
        If the embeddings are not what the config can read (see `read_widths`).
    """

    def __init__(self, config: HeadConfig, shapes: Shapes) -> None:
        super().__init__()
        widths = read_widths(config, shapes)
        self.names = config.encoders
        self.widths = tuple(widths[name] for name in self.names)
        self.normalise = config.normalise
        self._columns = tuple(slice(*config.columns.get(name, (0, None))) for name in self.names)
        if self.normalise:
            # By number: a buffer's name may hold no dot, an encoder's may.
            for number, width in enumerate(self.widths):
                self.register_buffer(f"mean_{number}", torch.zeros(width))
                self.register_buffer(f"std_{number}", torch.ones(width))

    def forward(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Select and normalise.

        Parameters
        ----------
        embeddings : each shape (B, S, D) or (B, S, T, D)
            One an encoder, the base first.

        Returns
        -------
        As many, of D_i = `widths` columns, float32.
        """
        read = []
        for number, (embedding, columns) in enumerate(zip(embeddings, self._columns, strict=True)):
            chosen = embedding[..., columns]
            if self.normalise:
                chosen = (chosen - self.get_buffer(f"mean_{number}")) / self.get_buffer(f"std_{number}")
                # A row that was not embedded is 0 throughout; it stays the mean, not far from all that was seen.
                chosen = chosen.masked_fill((embedding == 0).all(dim=-1, keepdim=True), 0.0)
            read.append(chosen)
        return read

    def take(self, statistics: Mapping[str, Statistics]) -> None:
        """Normalise by these from now on.

        Parameters
        ----------
        statistics
            Encoder -> statistics of all its columns.
        """
        for number, (name, columns) in enumerate(zip(self.names, self._columns, strict=True)):
            mean, std = (each[columns] for each in statistics[name])
            self.get_buffer(f"mean_{number}").copy_(mean)
            self.get_buffer(f"std_{number}").copy_(torch.where(std > STD_FLOOR, std, torch.ones_like(std)))


def fit_inputs(model: nn.Module, features: FeatureSet, rows: IntArray) -> None:
    """Fit every `Inputs` within a module that normalises, by one pass over the rows; none is made where none does.

    Parameters
    ----------
    model
        On any device.
    features
        With every encoder of the model, loaded or streamed.
    rows : shape (n,), int64, ascending
        The rows that are learned from. For each encoder those count that it has embedded.

    Raises
    ------
    ConfigError
        If an encoder has embedded none of them.
    """
    wanting = [module for module in model.modules() if isinstance(module, Inputs) and module.normalise]
    names = tuple(dict.fromkeys(name for module in wanting for name in module.names))
    if names:
        statistics = column_statistics(features, names, rows)
        for module in wanting:
            module.take(statistics)


def column_statistics(features: FeatureSet, names: Sequence[str], rows: IntArray) -> dict[str, Statistics]:
    """Mean and deviation of every column, in float64, by one pass over the rows.

    Parameters
    ----------
    features, rows
        As in `fit_inputs`.
    names
        Encoders.

    Returns
    -------
    Encoder -> statistics over the rows that it has embedded.

    Raises
    ------
    ConfigError
        If an encoder has embedded none of them.
    """
    for name in names:
        if not features.usable_rows[name][rows].any():
            raise ConfigError(
                f"Inputs are normalised by the rows that are learned from, but encoder {name!r} has embedded none of "
                f"these {len(rows)} (store: {features.source}). Check `abaw store show {name}`."
            )
    merged = {name: _Moments(0, torch.zeros(()), torch.zeros(())) for name in names}
    row_bytes = 8 * sum(prod(shape) for shape in features.shapes(names).values())
    reader = features.windows(names, rows[:, None], batch_windows=max(1, _BLOCK_BYTES // row_bytes))
    for batch in reader.in_order():
        batch_rows = batch.rows.flatten().cpu().numpy()
        for name, vectors in zip(names, batch.inputs, strict=True):
            usable = np.flatnonzero(features.usable_rows[name][batch_rows])
            if len(usable):
                merged[name] = merged[name].merged(_Moments.of(vectors[torch.from_numpy(usable).to(vectors.device)]))
    return {name: Statistics(each.mean.cpu(), (each.spread / each.n).sqrt().cpu()) for name, each in merged.items()}


class _Moments(NamedTuple):
    """Count, mean and sum of squared deviations, which merge without cancellation.

    Chan, Golub and LeVeque (1983), The American Statistician 37(3):242-247.
    """

    n: int
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> "_Moments":
        values = vectors.flatten(0, -2)  # (n, D), tokens as rows
        # Apple's GPUs know no float64.
        values = (values.cpu() if values.device.type == "mps" else values).double()
        mean = values.mean(dim=0)
        return cls(len(values), mean, (values - mean).square().sum(dim=0))

    def merged(self, other: "_Moments") -> "_Moments":
        if not self.n:
            return other
        n = self.n + other.n
        apart = other.mean - self.mean
        spread = self.spread + other.spread + apart.square() * (self.n * other.n / n)
        return _Moments(n, self.mean + apart * (other.n / n), spread)
