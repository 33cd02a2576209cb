"""What a head is told of its windows besides embeddings: padding, gaps in time, and the state of a video so far."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from heads.arrays import IntArray
from heads.features.batches import Batch, WindowReader
from heads.features.featureset import FeatureSet
from heads.features.windows import WindowIndex
from heads.modules.config import STATEFUL, HeadConfig
from heads.modules.model import HeadModel

from .lanes import lane_steps


class WindowContext:
    """Padding and gaps of some windows, on the device.

    Parameters
    ----------
    features, head
        Whose windows.
    windows
        The windows that batches pick from.
    """

    def __init__(self, features: FeatureSet, head: HeadConfig, windows: WindowIndex) -> None:
        self._device = features.device
        # Padding stands at the end: what only looks back, or looks at one row, never sees it.
        looks_ahead = not set(head.temporal.split("+")) <= {"none", *STATEFUL}
        needs_mask = looks_ahead and not windows.mask.all()
        self._mask = torch.from_numpy(windows.mask).to(self._device) if needs_mask else None
        self._gaps = torch.from_numpy(features.gaps).to(self._device).float() if head.gap_input else None
        segments = features.segment_ids[windows.rows[:, 0]]
        self._segments = np.unique(segments, return_inverse=True)[1].astype(np.int64)

    def mask(self, batch: Batch) -> Tensor | None:
        """Which rows of a batch are no padding, shape (B, S); None if nothing that sees them is padded."""
        return None if self._mask is None else self._mask[batch.picked, : batch.rows.shape[1]]

    def gaps(self, batch: Batch) -> Tensor | None:
        """Frames since the row before, shape (B, S); None where the head does not read them."""
        return None if self._gaps is None else self._gaps[batch.rows]

    @property
    def n_segments(self) -> int:
        """How many segments the windows are of."""
        return int(self._segments.max(initial=-1)) + 1

    def n_lane_steps(self, n_lanes: int) -> int:
        """How many steps the windows take in lanes, whatever the order."""
        return len(lane_steps(self._segments, n_lanes=n_lanes, order=np.arange(self.n_segments)))

    def in_lanes(
        self,
        model: HeadModel,
        reader: WindowReader,
        n_lanes: int,
        order: IntArray | None = None,
        *,
        half: bool = False,
    ) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        """Batches of a stateful head and what it puts out, the state carried on, detached.

        Parameters
        ----------
        model, reader
            The head, and its windows: the ones given here, all of them.
        n_lanes
            How many segments are read side by side.
        order : shape (n_segments,)
            In which the segments are taken up; as they come by default.
        half
            Whether the head runs under autocast to bfloat16.
        """
        taken = np.arange(self.n_segments) if order is None else order
        steps = lane_steps(self._segments, n_lanes=n_lanes, order=taken)
        state = None
        for step, batch in zip(steps, reader.chosen(each.picked for each in steps), strict=True):
            lanes = torch.from_numpy(step.lanes).to(self._device)
            fresh = torch.from_numpy(step.fresh).to(self._device)
            state = None if state is None else model.kept(state, lanes, fresh)
            # Not around the yield: what the caller does in between is no part of the head.
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=half):
                outputs, state = model.step(batch.inputs, state, mask=self.mask(batch), gaps=self.gaps(batch))
            yield batch, outputs
