"""An encoder: a backbone, how its input is prepared, and what is read from it."""

import copy
import json
from collections.abc import Sequence
from functools import cached_property

import torch
import xxhash
from torch import Tensor, nn

from .architectures import build_backbone, embedding_dim
from .reading import read, row_shape
from .readout import Readout
from .spec import EncoderSpec


class Encoder(nn.Module):
    """A backbone without classifier (or with one whose scores are kept), its spec, and a readout.

    Parameters
    ----------
    spec
        What to build, and how frames are prepared.
    backbone
        The model, if there is one already; else it is built, with random weights until they are loaded.
    readout
        What is read from it; None for the spec's own pooling at the model's end.

    Raises
    ------
    UnknownNameError
        If there is no such architecture.
    ConfigError
        If it refuses the arguments.
    """

    def __init__(self, spec: EncoderSpec, backbone: nn.Module | None = None, readout: Readout | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.backbone: nn.Module = build_backbone(spec) if backbone is None else backbone
        self.readout = Readout(pooling=spec.pooling) if readout is None else readout

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.row_shape[-1]

    @cached_property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one frame's embedding: (dim,) or (n_tokens, dim), before principal components are taken."""
        told = row_shape(self.backbone, self.readout)
        if told is not None:
            return told
        n_features = embedding_dim(self.backbone)
        if n_features is not None and self.readout.layer is None and self.readout.pooling == "default":
            return (n_features + self.spec.n_scores,)
        with torch.inference_mode():  # what else it puts out is best asked of itself
            parameter = next(self.backbone.parameters(), torch.empty(0))
            side = self.spec.input_px
            black = torch.zeros(1, 3, side, side, dtype=parameter.dtype, device=parameter.device)
            return tuple(self.forward(black).shape[1:])

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of normalised images.

        Parameters
        ----------
        images : shape (n, 3, input_px, input_px), normalised by the spec's mean and std

        Returns
        -------
        shape (n, *row_shape)
        """
        return self.read(images, [self.readout])[0]

    def read(self, images: Tensor, readouts: Sequence[Readout]) -> list[Tensor]:
        """Several readouts from one pass, see `reading.read`."""
        return read(self.backbone, images, readouts)

    def with_readout(self, readout: Readout) -> "Encoder":
        """The same backbone, not a copy of it, with another readout; an extraction runs the two as one."""
        twin = Encoder(self.spec, self.backbone, readout)
        return twin.train(self.training)


def weights_digest(encoder: Encoder) -> str:
    """Digest of all weights: names, shapes, types and values, whatever file they came from.

    Returns
    -------
    xxh3-128, 32 hex digits; of an ONNX model the digest of its file.
    """
    own: object = getattr(encoder.backbone, "digest", None)
    if isinstance(own, str):
        return own
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(encoder.backbone.state_dict().items()):
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def on_device(encoder: Encoder, device: torch.device, dtype: torch.dtype) -> Encoder:
    """The encoder there, in that precision and in eval mode: itself if it is so already, else a copy."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    moves = any(each.device != device or (each.is_floating_point() and each.dtype != dtype) for each in tensors)
    if not moves and not encoder.training:
        return encoder
    return copy.deepcopy(encoder).to(device=device, dtype=dtype).eval()
