"""The middle step of an extraction: decoded frames through a backbone, to the embeddings that are read from it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.encoders.encoder import Encoder
from extractor.encoders.readout import Readout
from extractor.pixels.preprocess import Uploader, model_input
from extractor.pixels.reader import DecodedFrames
from extractor.pixels.stages import StageTimes
from extractor.precision import DTYPES
from featurestore.errors import DeviceMemoryError

from .clock import DeviceClock
from .execution import Execution
from .outputs import Output


class Mapped(NamedTuple):
    """Embeddings of consecutive rows, for the sink.

    Attributes
    ----------
    output
        What they are of.
    start
        First table row.
    embeddings : shape (n, dim) or (n, n_tokens, dim), on the device
    failures
        Table row -> reason, for rows that could not be read; their embeddings are meaningless.
    """

    output: Output
    start: int
    embeddings: Tensor
    failures: Mapping[int, str]


@dataclass(slots=True)
class Mapper:
    """One backbone on its device, and everything that is read from it in a pass.

    Attributes
    ----------
    encoder
        On its device, in its precision.
    device, execution
        Where and how it runs.
    outputs
        What is read; they share the batch.
    n_forward
        Frames that go through the model at once: the batch, or less since memory ran out.
    uncompiled
        Why the model runs as it is though it was compiled when the extraction began; None if it does not.
    """

    encoder: Encoder
    device: torch.device
    execution: Execution
    outputs: Sequence[Output]
    n_forward: int = field(init=False)
    uncompiled: str | None = field(init=False, default=None)
    clock: DeviceClock = field(init=False)
    _read: Callable[[Tensor, Sequence[Readout]], list[Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.clock = DeviceClock(self.device)
        self.n_forward = self.batch
        read = self.encoder.read
        self._read = torch.compile(read, dynamic=False) if self.execution.compiled else read

    @property
    def batch(self) -> int:
        """Frames of a batch, as recorded in the store."""
        return self.execution.batch

    @property
    def starts(self) -> frozenset[int]:
        """First rows of the batches that at least one output needs."""
        return frozenset().union(*(output.starts for output in self.outputs))

    def __call__(self, images: Tensor, readouts: Sequence[Readout]) -> list[Tensor]:
        """What is read from normalised float32 images (n, 3, side, side), left on the device.

        A compiled model is always asked for everything: other questions would be other programs, of other last bits.

        Raises
        ------
        DeviceMemoryError
            If the memory does not even do for one frame.
        """
        if self.execution.compiled:
            everything = [output.readout for output in self.outputs]
            read = self._forward(images, everything)
            return [read[everything.index(readout)] for readout in readouts]
        return self._forward(images, readouts)

    def _forward(self, images: Tensor, readouts: Sequence[Readout]) -> list[Tensor]:
        images = images.to(DTYPES[self.execution.precision])
        if self.execution.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), self.clock.running():
            while True:
                try:
                    parts = [self._read(part, readouts) for part in torch.split(images, self.n_forward)]
                except (RuntimeError, MemoryError) as error:
                    if self.execution.compiled and _is_of_the_compiler(error):
                        self.uncompiled, self._read = _first_line(error), self.encoder.read
                        continue
                    if not is_out_of_memory(error):
                        raise
                    if self.n_forward == 1:
                        raise DeviceMemoryError(
                            f"There is no memory left on {self.device} for one frame of "
                            f"{self.encoder.spec.described()} at {self.encoder.spec.input_px} px. "
                            "Free some, or choose a smaller encoder."
                        ) from error
                else:
                    return parts[0] if len(parts) == 1 else [torch.cat(part) for part in zip(*parts, strict=True)]
                # Outside the handler, whose traceback would keep the tensors alive.
                self.n_forward //= 2
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()

    def notes(self) -> list[str]:
        """What went otherwise than planned."""
        name, notes = self.encoder.spec.architecture, []
        if self.n_forward < self.batch:
            notes.append(f"{name}: memory did for {self.n_forward} of a batch's {self.batch} frames")
        if self.uncompiled is not None:
            notes.append(f"{name}: ran uncompiled, since torch.compile failed here: {self.uncompiled}")
        return notes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in this process."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def _is_of_the_compiler(error: BaseException) -> bool:
    """Whether an error is torch.compile's, which needs tools that not every machine has, and not the model's."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def pending_blocks(mappers: Sequence[Mapper], block: int, n_frames: int) -> list[NDArray[np.int64]]:
    """Row numbers of each block of frames that at least one encoder still needs.

    Parameters
    ----------
    mappers
        Their batches are powers of two, so each divides the block.
    block
        The largest batch.
    n_frames
        Rows of the table.
    """
    firsts = sorted({start // block * block for mapper in mappers for start in mapper.starts})
    return [np.arange(first, min(first + block, n_frames), dtype=np.int64) for first in firsts]


def map_block(
    mappers: Sequence[Mapper], frames: DecodedFrames, block: int, upload: Uploader, stages: StageTimes
) -> Iterator[Mapped]:
    """Run every encoder that needs this block.

    Parameters
    ----------
    mappers
        All encoders of the pass.
    frames
        A decoded block; the last of the table may be shorter than `block`.
    block
        Frames that a forward pass's input is padded to.
    upload
        To the mappers' device.
    stages
        Where the time goes: ``upload`` (to the device, resized and normalised) and ``forward``; on a GPU the time to
        ask for it.
    """
    first = int(frames.rows[0])
    stop = first + len(frames.rows)
    failures = {first + position: reason for position, reason in frames.failures.items()}
    with stages.timed("upload"):
        groups = upload(frames)
    inputs: dict[str, Tensor] = {}  # encoders with one preprocessing share it
    for mapper in mappers:
        for start in range(first, stop, mapper.batch):
            needed = [output for output in mapper.outputs if start in output.starts]
            if not needed:
                continue
            spec = mapper.encoder.spec
            key = repr(spec.preprocessing())
            if key not in inputs:
                with stages.timed("upload"), mapper.clock.running():
                    inputs[key] = model_input(groups, spec, n=block, device=mapper.device)
            n_rows = min(mapper.batch, stop - start)
            at = start - first
            distinct = _distinct(range(at, at + n_rows), frames.same_as, mapper.batch)
            images = inputs[key][at : at + mapper.batch] if distinct is None else inputs[key][distinct.computed]
            bad = {row: failures[row] for row in range(start, start + n_rows) if row in failures}
            with stages.timed("forward"):
                reads = mapper(images, [output.readout for output in needed])
            for output, read in zip(needed, reads, strict=True):
                embeddings = read[:n_rows] if distinct is None else read[distinct.where]
                if output.projector is not None:
                    embeddings = output.projector(embeddings)
                yield Mapped(output, start, embeddings, bad)


class _Distinct(NamedTuple):
    """A batch with duplicates: the block's positions that are computed, and where among them each frame's row is."""

    computed: list[int]
    where: NDArray[np.int64]


def _distinct(positions: range, same_as: Mapping[int, int], batch: int) -> _Distinct | None:
    """What a batch computes if there are duplicates in it; None if it is computed as it stands.

    Each image is computed once, and their number is rounded up to a power of two, by the first again: few shapes, and
    the same for the same frames.
    """
    if not any(position in same_as for position in positions):
        return None
    order: dict[int, int] = {}  # by first appearance in this batch, wherever in the block the image itself stands
    where = [order.setdefault(same_as.get(position, position), len(order)) for position in positions]
    distinct = list(order)
    size = min(batch, 1 << (len(distinct) - 1).bit_length())
    return _Distinct(distinct + distinct[:1] * (size - len(distinct)), np.array(where, dtype=np.int64))
