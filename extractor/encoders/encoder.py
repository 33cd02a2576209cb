"""An encoder: a timm model without its classifier, and everything that fixes what it computes.

Pooling (ViT names): ``fc_norm`` averages the patch tokens and then applies LayerNorm, as MAE's fine-tuning does
(He et al., 2022, "Masked Autoencoders Are Scalable Vision Learners"; also the ABAW7 winner's encoder); ``mean``
averages normalised patch tokens; ``cls`` takes the class token. ``default`` is whatever the architecture does.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import timm
import torch
import xxhash
from torch import Tensor, nn

from featurestore.errors import ConfigError, unknown_name

from .spec import EncoderSpec

_POOLING_ARGUMENTS: Final[Mapping[str, Mapping[str, str | bool]]] = {
    "fc_norm": {"global_pool": "avg", "fc_norm": True},
    "mean": {"global_pool": "avg", "fc_norm": False},
    "cls": {"global_pool": "token"},
    "default": {},
}


class Encoder(nn.Module):
    """A timm model without classifier, and its spec.

    Parameters
    ----------
    spec
        What to build. The weights are random until they are loaded.

    Raises
    ------
    UnknownNameError
        If timm knows no such architecture.
    ConfigError
        If timm refuses the arguments.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        if not timm.is_model(spec.architecture):
            raise unknown_name("timm architecture", spec.architecture, timm.list_models())
        arguments: dict[str, Any] = {**_POOLING_ARGUMENTS[spec.pooling], **spec.arguments}
        try:
            self.backbone: nn.Module = timm.create_model(spec.architecture, num_classes=0, **arguments)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"timm cannot build {spec.architecture!r} with {arguments}: {error}. "
                "Change the encoder's pooling or arguments."
            ) from error
        # Some families widen the features once more before the classifier, and that is what they put out.
        widest = "head_hidden_size" if hasattr(self.backbone, "head_hidden_size") else "num_features"
        self.dim = int(getattr(self.backbone, widest))

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of normalised images.

        Parameters
        ----------
        images : shape (n, 3, input_px, input_px), normalised by the spec's mean and std

        Returns
        -------
        shape (n, dim)
        """
        embedding: Tensor = self.backbone(images)  # (n, dim)
        return embedding


def weights_digest(encoder: Encoder) -> str:
    """Digest of all weights: names, shapes, types and values, whatever file they came from.

    Returns
    -------
    xxh3-128, 32 hex digits.
    """
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(encoder.backbone.state_dict().items()):
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
