"""What an encoder is: architecture, preprocessing, pooling, and where its weights came from; `encoder.json`."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

Pooling = Literal["fc_norm", "mean", "cls", "cls+mean", "tokens", "default"]


class EncoderSpec(BaseModel):
    """What `encoder.json` holds: the architecture, the preprocessing, and where the weights came from.

    Attributes
    ----------
    architecture
        A timm model name, one of abaw's own (`iresnet50`, `mobilefacenet`, ...), or ``onnx``.
    arguments
        Further arguments of `timm.create_model`, such as ``img_size``, ``depth``.
    input_px
        Side of the square input, in pixels.
    mean, std
        Per RGB channel, for pixels in [0, 1].
    pooling
        How tokens become one embedding (see `readout.py`).
    n_scores
        Outputs of the classifier that is kept: the embedding is the features and behind them these scores.
    licence
        Of the weights, as their authors name it; None if nobody said.
    origin
        How the weights came to be: kind, parent, task, options, score of each epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    architecture: str
    arguments: dict[str, int | float | str | bool] = Field(default_factory=dict)
    input_px: int = Field(gt=0)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    pooling: Pooling = "fc_norm"
    n_scores: int = Field(default=0, ge=0)
    licence: str | None = None
    origin: dict[str, JsonValue] = Field(default_factory=dict)

    def described(self) -> str:
        """The architecture with its arguments: weights of one shape may compute different things."""
        arguments = ", ".join(f"{name}={value}" for name, value in sorted(self.arguments.items()))
        return f"{self.architecture}({arguments})" if arguments else self.architecture

    def preprocessing(self) -> dict[str, int | str | list[float]]:
        """The part of the provenance that says how a frame becomes the model's input."""
        return {
            "input_px": self.input_px,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }
