"""Which embeddings a head can read: their widths against what its parts need."""

from collections.abc import Mapping

from featurestore.errors import ConfigError, ShapeError

from .config import HeadConfig

Shapes = Mapping[str, tuple[int, ...]]
"""Encoder -> (D,), or (T, D) if it holds tokens."""


def read_widths(head: HeadConfig, shapes: Shapes) -> dict[str, int]:
    """Encoder -> how many columns the head reads of it, its own choice of columns considered.

    Raises
    ------
    ConfigError
        If an encoder holds tokens and the head reads vectors, or the reverse, or the columns that it chooses are
        not there.
    ShapeError
        If embeddings differ in width and its fusion needs them equal.
    """
    widths = {}
    for name in head.encoders:
        shape = shapes[name]
        _check_kind(head, name, shape)
        start, stop = head.columns.get(name, (0, None))
        widths[name] = len(range(*slice(start, stop).indices(shape[-1])))
        if not widths[name] or not -shape[-1] <= start < shape[-1] or (stop or 0) > shape[-1]:
            raise ConfigError(
                f"Columns {start}:{'' if stop is None else stop} of encoder {name!r} are not there: it has "
                f"{shape[-1]}. Choose others."
            )
    if head.resolved().fusion == "sum" and len(set(widths.values())) > 1:
        other = next(name for name in head.fuse if widths[name] != widths[head.encoder])
        raise ShapeError(
            f"Embeddings of encoder {other!r} have {widths[other]} columns, but those of the base encoder "
            f"{head.encoder!r} have {widths[head.encoder]}, and a sum needs equal widths. Fuse encoders of one width, "
            "or choose a fusion that takes any, such as affine or concat."
        )
    return widths


def _check_kind(head: HeadConfig, name: str, shape: tuple[int, ...]) -> None:
    if head.reads_tokens and len(shape) == 1:
        raise ConfigError(
            f"A head of framework 'task-queries' reads patch tokens, but encoder {name!r} holds one vector of "
            f"{shape[0]} a frame. Extract it with --pooling tokens, under another name."
        )
    if not head.reads_tokens and len(shape) != 1:
        raise ConfigError(
            f"This head reads one vector a frame, but encoder {name!r} holds {shape[0]} tokens of {shape[-1]} a "
            "frame. Name another encoder, extract this one under another name with a pooling such as fc_norm, mean "
            "or cls, or choose --framework task-queries."
        )
