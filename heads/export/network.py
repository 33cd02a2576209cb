"""A head's network as nodes: torch traces it once, from windows of embeddings to probabilities and values.

torch has two exporters. This one records a run; the newer one, by way of torch.export, needs onnxscript and took thirty
times as long for the same nodes (an LSTM: 76 s against 2.3 on a busy laptop). A recording holds lengths that were
numbers to Python, so what becomes of it is compared with the head on videos of other lengths (verify.py), each time.
"""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from heads.fitting.predict import score_columns
from heads.modules.model import HeadModel

from .graph import OPSET, Graph
from .windows import FRAMES, ROWS, WHOLE, reading

if TYPE_CHECKING:
    import onnx

_N_TRACED: Final = 3
"""Windows in the recorded batch."""


class _Columns(nn.Module):
    """A head from a batch of windows to what may be averaged, one tensor."""

    def __init__(self, model: HeadModel, *, has_mask: bool) -> None:
        super().__init__()
        self.model, self._has_mask = model, has_mask
        self._has_gaps = model.config.gap_input

    def forward(self, *tensors: Tensor) -> Tensor:
        given = list(tensors)
        gaps = given.pop() if self._has_gaps else None
        mask = given.pop() if self._has_mask else None
        return score_columns(self.model(given, mask=mask, gaps=gaps), self.model.config.joint)


def traced_columns(
    graph: Graph, model: HeadModel, row_shapes: Sequence[Sequence[int]], *, windows: Sequence[str], mask: str, gaps: str
) -> str:
    """Put a head's nodes into a graph.

    Parameters
    ----------
    graph
        Where they go.
    model
        In evaluation mode, on the CPU.
    row_shapes
        (D,) or (T, D) of each encoder, the base first.
    windows : each shape (B, S, D) or (B, S, T, D)
        Names of the encoders' windows.
    mask, gaps : shape (B, S)
        Names of these; the head reads them or not.

    Returns
    -------
    Name of a tensor (B, S, n_columns), as `score_columns` orders them.
    """
    import onnx

    how = reading(model.config)
    prefix = f"abaw/head_{len(graph.nodes)}/"  # of each head in the graph another
    fed = dict(zip(windows, (f"window_{number}" for number in range(len(windows))), strict=True))
    fed |= {mask: "mask"} if how != WHOLE else {}
    fed |= {gaps: "gaps"} if model.config.gap_input else {}
    recorded = onnx.compose.add_prefix(_recorded(model, row_shapes, list(fed.values()), how), prefix).graph
    for outer, inner in fed.items():
        graph.node("Identity", outer, output=prefix + inner)
    graph.nodes.extend(recorded.node)
    graph.initializers.extend(recorded.initializer)
    return str(recorded.output[0].name)


def _recorded(model: HeadModel, row_shapes: Sequence[Sequence[int]], names: list[str], how: str) -> "onnx.ModelProto":
    import onnx

    n_windows, length = (1, _N_TRACED) if how == WHOLE else (_N_TRACED, model.config.seq)
    drawn = torch.Generator().manual_seed(0)
    examples = [torch.randn(n_windows, length, *shape, generator=drawn) for shape in row_shapes]
    if "mask" in names:
        examples.append(torch.ones(n_windows, length, dtype=torch.bool))
    if "gaps" in names:
        examples.append(torch.ones(n_windows, length))
    open_axes = {WHOLE: {1: "S"}, ROWS: {0: "B"}, FRAMES: {0: "B", 1: "S"}}[how]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Of lengths that become constants and of the exporter's age; both are looked after (see above).
        warnings.simplefilter("ignore")
        path = Path(folder) / "head.onnx"
        torch.onnx.export(
            _Columns(model, has_mask="mask" in names).eval(),
            tuple(examples),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=["columns"],
            dynamic_axes=dict.fromkeys([*names, "columns"], open_axes),
        )
        return onnx.load(path)
