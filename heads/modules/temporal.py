"""Time: which module reads a window of fused embeddings, by the config's name (see sequence.py for what they share)."""

from .attention import TransformerTemporal
from .config import HeadConfig
from .convolution import ConvolutionTemporal
from .recurrent import BothWays, GruTemporal, LstmTemporal
from .sequence import NoTemporal, Stacked, Temporal


def make_temporal(config: HeadConfig, in_width: int) -> Temporal:
    """The temporal module that a config names, or several that read one after the other (``tcn+bigru``).

    Parameters
    ----------
    config
        Its temporal, layers, temporal_width, temporal_dropout and what a Transformer needs.
    in_width
        D, columns of a row. Every module's state has as many, in each direction, unless the config says otherwise.

    Returns
    -------
    Temporal
        Of (B, S, D) -> (B, S, out_width): the state's width, twice that where the last module reads both ways.

    Raises
    ------
    ConfigError
        If a Transformer's heads do not divide its width.
    """
    width = config.temporal_width or in_width
    made: list[Temporal] = []
    for name in config.temporal.split("+"):
        made.append(_make(name, config, made[-1].out_width if made else in_width, width=width))
    return made[0] if len(made) == 1 else Stacked(made)


def _make(name: str, config: HeadConfig, in_width: int, *, width: int) -> Temporal:
    layers, dropout = config.layers, config.temporal_dropout
    match name:
        case "none":
            return NoTemporal(in_width)
        case "lstm":
            return LstmTemporal(in_width, width, layers=layers, dropout=dropout)
        case "gru":
            return GruTemporal(in_width, width, layers=layers, dropout=dropout)
        case "bilstm" | "bigru":
            return BothWays(name.removeprefix("bi"), in_width, width=width, layers=layers, dropout=dropout)
        case "tcn":
            return ConvolutionTemporal(in_width, width, layers=layers, dropout=dropout)
        case _:
            return TransformerTemporal(
                in_width,
                width,
                layers=layers,
                heads=config.attention_heads,
                feedforward=config.feedforward,
                dropout=dropout,
                positions=config.positions,
            )
