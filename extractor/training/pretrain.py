"""`abaw pretrain`: masked-autoencoder pre-training of a ViT on the frames.

Defaults follow the recipe of He et al. (2022): mask .75, normalised pixel loss, AdamW with betas (.9, .95), weight
decay .05, base learning rate 1.5e-4 for 256 images, scaled with the batch, 40 warm-up epochs of 800. Augmentation is
a resized crop and a flip, nothing more, as the paper found best.
"""

from collections.abc import Callable, Iterator
from typing import Final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from extractor.encoders.encoder import Encoder
from extractor.encoders.spec import EncoderSpec
from extractor.pixels.augment import Augmentation, augment_clips
from extractor.pixels.preprocess import normalise, resize, upload
from extractor.pixels.reader import DecodedFrames, FrameReader, choose_workers
from extractor.precision import choose_training_precision
from extractor.versions import versions
from featurestore.errors import ConfigError, ImageError
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageSource
from heads.devices import resolve_device
from heads.features.targets import labels_digest

from .loop import Checkpoint, Progress, Schedule, seed_step, shuffled_batches, steps_per_epoch, train
from .mae import MaskedAutoencoder, initialise
from .workbench import TrainedEncoder, Workbench, run_key

_AUGMENTATION: Final = Augmentation(crop=0.6, rotation_deg=0.0, shift=0.0, scale=0.0, jitter=0.0, hue=0.0)
_INITIALISATION: Final = 2**31 - 1  # a "step" that no run reaches


class PretrainConfig(BaseModel):
    """Options of a pre-training run.

    Attributes
    ----------
    encoder
        Architecture and input of the ViT.
    epochs, warmup_epochs, batch
        Length of the run, and frames a step.
    base_learning_rate
        For 256 frames a step; scaled linearly with `batch`.
    mask_ratio
        Share of hidden patches.
    decoder_dim, decoder_depth, decoder_heads
        The throw-away decoder.
    seed
        Of the initial weights and all randomness.
    precision
        auto, float32 or bfloat16.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderSpec
    epochs: int = Field(default=100, ge=1)
    warmup_epochs: float = Field(default=5.0, ge=0)
    batch: int = Field(default=256, ge=1)
    base_learning_rate: float = Field(default=1.5e-4, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    decoder_dim: int = Field(default=512, ge=4)
    decoder_depth: int = Field(default=8, ge=1)
    decoder_heads: int = Field(default=16, ge=1)
    seed: int = Field(default=1, ge=0)
    precision: str = "auto"


def pretrain(
    frames: FrameTable,
    images: ImageSource,
    workbench: Workbench,
    config: PretrainConfig,
    *,
    device: str = "auto",
    n_workers: int | None = None,
    force: bool = False,
    on_step: Callable[[int, int, float], None] | None = None,
) -> TrainedEncoder:
    """Pre-train an encoder on the frames of the train split, or continue a killed run.

    Parameters
    ----------
    frames
        Only its train rows are used: pre-training sees no frame that a score is computed on.
    images
        The folder or the pack that the frames' images are in.
    workbench
        Where the encoder appears.
    config
        Options.
    device, n_workers
        Where to compute, and threads that decode; None chooses.
    force
        Replace an encoder, or an interrupted run, of other options.
    on_step
        Called with steps done, steps in all, and the loss.

    Returns
    -------
    The finished encoder; at once if it was finished before.
    """
    target = resolve_device(device)
    precision = choose_training_precision(config.precision, target)
    config = config.model_copy(update={"precision": precision})
    key = run_key(config, frames.fingerprint, labels_digest(frames))
    done = workbench.finished(key, force=force)
    if done is not None:
        return TrainedEncoder(folder=workbench.folder, spec=done, was_there=True)
    rows = frames.rows("train")
    if not len(rows):
        raise ConfigError("The frame table has no train rows to pre-train on. Run `abaw frames` with a train file.")

    seed_step(config.seed, _INITIALISATION)
    model = MaskedAutoencoder(
        Encoder(config.encoder),
        mask_ratio=config.mask_ratio,
        decoder_dim=config.decoder_dim,
        decoder_depth=config.decoder_depth,
        decoder_heads=config.decoder_heads,
    )
    initialise(model)
    model.to(target)
    optimizer = torch.optim.AdamW(_decay_groups(model, config.weight_decay), lr=1.0, betas=(0.9, 0.95))
    schedule = Schedule(
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch(len(rows), config.batch),
        warmup_epochs=config.warmup_epochs,
        learning_rate=config.base_learning_rate * config.batch / 256,
    )
    workers = choose_workers(n_workers, target)
    reader = FrameReader(images, frames, n_workers=workers)

    def losses(first_step: int) -> Iterator[Callable[[], Tensor]]:
        batches = shuffled_batches(
            len(rows), batch=config.batch, schedule=schedule, seed=config.seed, first_step=first_step
        )
        for decoded in reader.batches(rows[batch] for batch in batches):
            if len(reader.failures) == len(rows):
                raise ImageError(
                    f"Not one of {len(rows)} train frames under {images.location} can be read. Check the images."
                )
            yield lambda decoded=decoded: _loss(model, decoded, target)  # type: ignore[misc]

    try:
        progress = train(
            model,
            optimizer,
            losses,
            schedule=schedule,
            seed=config.seed,
            checkpoint=Checkpoint(workbench.checkpoint_file, key, force=force),
            device=target,
            precision=precision,
            end_of_epoch=lambda _epoch, _progress: None,
            on_step=None if on_step is None else lambda step, loss: on_step(step, schedule.n_steps, loss),
        )
    finally:
        reader.close()
    spec = _finished_spec(config, key, progress, len(rows), target)
    workbench.finish(model.encoder, spec)
    return TrainedEncoder(folder=workbench.folder, spec=spec, was_there=False, unreadable=reader.failures)


def _loss(model: MaskedAutoencoder, decoded: DecodedFrames, device: torch.device) -> Tensor:
    images = _training_images(decoded, model.encoder.spec, device)
    loss: Tensor = 0.0 * model.mask_token.sum() if images is None else model(images)
    return loss


def _training_images(decoded: DecodedFrames, spec: EncoderSpec, device: torch.device) -> Tensor | None:
    """Augmented, normalised images; frames that could not be read are left out, None if that is all of them."""
    groups = upload(decoded, device)
    if not groups:
        return None
    images = torch.cat([resize(pixels, spec.input_px, spec.interpolation) for _, pixels in groups])
    return normalise(augment_clips(images, _AUGMENTATION, clip_length=1), spec)


def _decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """No weight decay on biases, norms and tokens."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1 and p.shape[0] > 1]
    others = [p for p in model.parameters() if p.requires_grad and not (p.ndim > 1 and p.shape[0] > 1)]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _finished_spec(
    config: PretrainConfig, key: str, progress: Progress, n_frames: int, device: torch.device
) -> EncoderSpec:
    origin = {
        "kind": "masked autoencoder",
        "key": key,
        "n_frames": n_frames,
        "options": config.model_dump(mode="json", exclude={"encoder"}),
        "device": device.type,
        "versions": versions(),
        "history": [dict(entry) for entry in progress.history],
    }
    return EncoderSpec.model_validate(config.encoder.model_dump() | {"origin": origin})
