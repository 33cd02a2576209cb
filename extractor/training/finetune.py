"""`abaw finetune`: an encoder trained end to end on the labelled rows of one task, or of several.

This is where per-task encoders come from (ABAW7, the Netease Fuxi system, stage 3). The head on top is the plain
frame head of `heads`, with the same losses and scores; it is thrown away, the encoder is kept, from the epoch with the
best validation score. Defaults follow MAE's fine-tuning recipe (He et al., 2022): AdamW, base learning rate 5e-4
for 256 images, layer decay .65, drop path .1, weight decay .05.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from extractor.encoders.encoder import Encoder, weights_digest
from extractor.encoders.spec import EncoderSpec
from extractor.pixels.augment import Augmentation, augment_clips
from extractor.pixels.preprocess import assemble, normalise, upload
from extractor.pixels.reader import DecodedFrames, FrameReader, choose_workers
from extractor.precision import choose_training_precision
from extractor.versions import versions
from featurestore.errors import ConfigError
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageSource
from heads.devices import resolve_device
from heads.features.targets import Targets, labels_digest
from heads.losses.config import LossConfig
from heads.losses.multitask import MultiTaskLoss
from heads.losses.statistics import LabelStatistics
from heads.losses.weighting import State
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.tasks import TASKS, in_task_order

from .clips import labelled_clips, labelled_mask
from .loop import Checkpoint, Progress, Schedule, seed_step, shuffled_batches, steps_per_epoch, train
from .validate import validation_score
from .workbench import TrainedEncoder, Workbench, run_key

_INITIALISATION: Final = 2**31 - 1  # a "step" that no run reaches


class FinetuneConfig(BaseModel):
    """Options of a fine-tuning run.

    Attributes
    ----------
    tasks
        One task, or several for end-to-end joint training.
    weights
        Task to the weight of its loss; 1 where not named.
    loss
        Of each task, and how they are weighed; what weighs by labels weighs by those of the train rows.
    epochs, warmup_epochs
        Length of the run.
    batch, clip
        Frames a step, and neighbouring rows that share one draw of the augmentation.
    base_learning_rate
        For 256 frames a step; scaled linearly with `batch`.
    layer_decay
        Factor on the learning rate from one block to the one below it.
    drop_path
        Stochastic depth of the last block; falls linearly towards the first.
    augmentation
        Strengths.
    seed
        Of the head's initial weights and all randomness.
    precision
        auto, float32 or bfloat16.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[str, ...]
    weights: dict[str, float] = Field(default_factory=dict)
    loss: LossConfig = LossConfig()
    epochs: int = Field(default=20, ge=1)
    warmup_epochs: float = Field(default=1.0, ge=0)
    batch: int = Field(default=128, ge=2)
    clip: int = Field(default=4, ge=1)
    base_learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    layer_decay: float = Field(default=0.65, gt=0, le=1)
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    augmentation: Augmentation = Augmentation()
    seed: int = Field(default=1, ge=0)
    precision: str = "auto"


class FineTuned(nn.Module):
    """An encoder with a frame head on top.

    Parameters
    ----------
    encoder
        Trained along.
    tasks
        What the head puts out.
    """

    def __init__(self, encoder: Encoder, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        # One linear layer a task on the embedding as it is: what the encoder learns must show in it.
        head = HeadConfig(encoder="live", joint=tasks, temporal="none", seq=1, normalise=False, hidden=())
        self.head = HeadModel(head, {"live": (encoder.dim,)})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Task to outputs (n, 1, n_outputs), of normalised images (n, 3, side, side)."""
        embeddings = self.encoder(images)  # (n, dim)
        outputs: dict[str, Tensor] = self.head([embeddings[:, None].float()])
        return outputs


def finetune(
    frames: FrameTable,
    images: ImageSource,
    parent: Encoder,
    workbench: Workbench,
    config: FinetuneConfig,
    *,
    parent_name: str,
    device: str = "auto",
    n_workers: int | None = None,
    force: bool = False,
    on_step: Callable[[int, int, float], None] | None = None,
    on_epoch: Callable[[int, float, bool], None] | None = None,
) -> TrainedEncoder:
    """Fine-tune an encoder, or continue a killed run.

    Parameters
    ----------
    frames
        Train rows with a label of a task are trained on; the best epoch is chosen on the val rows.
    images
        The folder or the pack that the frames' images are in.
    parent, parent_name
        Where to start from, and what it is called.
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
    on_epoch
        Called with the epoch's number, its validation score, and whether it is the best so far.

    Returns
    -------
    The finished encoder; at once if it was finished before.

    Raises
    ------
    ConfigError
        If train or val hold no label of the tasks.
    """
    tasks = in_task_order(config.tasks)
    if not any(config.weights.get(task, 1.0) > 0 for task in tasks):
        raise ConfigError(
            "An encoder is tuned for tasks of which one at least has a weight above 0, got tasks "
            f"{', '.join(tasks) or '(none)'} with weights {config.weights}. Name some of {', '.join(TASKS)}."
        )
    target = resolve_device(device)
    precision = choose_training_precision(config.precision, target)
    config = config.model_copy(update={"precision": precision})
    start = (weights_digest(parent), parent.spec.model_dump_json(exclude={"origin"}))
    key = run_key(config, frames.fingerprint, labels_digest(frames), *start)
    done = workbench.finished(key, force=force)
    if done is not None:
        return TrainedEncoder(folder=workbench.folder, spec=done, was_there=True)
    targets = Targets.from_frames(frames)
    clips = labelled_clips(frames, targets, tasks, split="train", length=config.clip)
    val_rows = labelled_rows(frames, targets, tasks, split="val")
    if not len(clips) or not len(val_rows):
        raise ConfigError(
            f"Fine-tuning on {','.join(tasks)} needs labelled train and val rows, but there are "
            f"{int(clips.mask.sum())} and {len(val_rows)}. `abaw frames` shows what is labelled."
        )

    seed_step(config.seed, _INITIALISATION)
    model = FineTuned(with_drop_path(parent, config.drop_path), tasks).to(target)
    statistics = LabelStatistics.of(targets, np.unique(clips.rows[clips.mask]))
    loss_of = _Loss(model, targets, tasks, config, target, statistics=statistics)
    optimizer = torch.optim.AdamW(_parameter_groups(loss_of, config), lr=1.0, betas=(0.9, 0.999))
    clips_per_batch = max(1, config.batch // config.clip)
    schedule = Schedule(
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch(len(clips), clips_per_batch),
        warmup_epochs=config.warmup_epochs,
        learning_rate=config.base_learning_rate * config.batch / 256,
    )
    workers = choose_workers(n_workers, target)
    reader = FrameReader(images, frames, n_workers=workers)

    def losses(first_step: int) -> Iterator[Callable[[], Tensor]]:
        batches = list(
            shuffled_batches(
                len(clips), batch=clips_per_batch, schedule=schedule, seed=config.seed, first_step=first_step
            )
        )
        decoded = reader.batches(clips.rows[batch].reshape(-1) for batch in batches)
        for batch, images in zip(batches, decoded, strict=True):
            yield lambda batch=batch, images=images: loss_of(images, clips.mask[batch].reshape(-1))  # type: ignore[misc]

    def end_of_epoch(epoch: int, progress: Progress) -> None:
        loss_of.end_epoch()
        model.eval()
        score = validation_score(model, parent.spec, reader, val_rows, targets, device=target, precision=precision)
        progress.history[-1]["val"] = score
        is_best = progress.best_score is None or score > progress.best_score
        if is_best:
            progress.best_score = score
            weights = model.encoder.state_dict()
            progress.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        if on_epoch is not None:
            on_epoch(epoch, score, is_best)

    try:
        progress = train(
            loss_of,
            optimizer,
            losses,
            schedule=schedule,
            seed=config.seed,
            checkpoint=Checkpoint(workbench.checkpoint_file, key, force=force),
            device=target,
            precision=precision,
            end_of_epoch=end_of_epoch,
            on_step=None if on_step is None else lambda step, loss: on_step(step, schedule.n_steps, loss),
        )
    finally:
        reader.close()
    model.encoder.load_state_dict(progress.best_weights or {})
    spec = _finished_spec(parent.spec, config, tasks, key, parent_name, progress, target)
    workbench.finish(model.encoder, spec)
    return TrainedEncoder(folder=workbench.folder, spec=spec, was_there=False, unreadable=reader.failures)


def labelled_rows(frames: FrameTable, targets: Targets, tasks: tuple[str, ...], *, split: str) -> NDArray[np.int64]:
    """Rows of a split that carry a label of at least one task."""
    rows = frames.rows(split)
    return rows[labelled_mask(targets, tasks)[rows]]


def with_drop_path(parent: Encoder, rate: float) -> Encoder:
    """A copy of an encoder whose blocks drop out at random in training; its spec is the parent's."""
    arguments = dict(parent.spec.arguments)
    if rate > 0 and "drop_path_rate" not in arguments:
        arguments["drop_path_rate"] = rate
    if next(parent.backbone.parameters(), None) is None or len(parent.row_shape) != 1:
        raise ConfigError(
            f"Fine-tuning needs weights that can change and one vector a frame, which {parent.spec.described()} with "
            f"pooling {parent.spec.pooling!r} has not. Start from another encoder."
        )
    try:
        encoder = Encoder(parent.spec.model_copy(update={"arguments": arguments}))
    except ConfigError as error:
        if arguments == parent.spec.arguments:
            raise
        raise ConfigError(
            f"{parent.spec.architecture!r} cannot drop paths at random in training. Run it with --drop-path 0."
        ) from error
    encoder.load_state_dict(parent.state_dict())
    return encoder


class _LossState(TypedDict):
    weighting: State
    sums: list[float]
    n_steps: int


class _Loss(nn.Module):
    """The loss of one decoded batch; a module, so that a checkpoint holds what is learned along with the model."""

    def __init__(
        self,
        model: FineTuned,
        targets: Targets,
        tasks: tuple[str, ...],
        config: FinetuneConfig,
        device: torch.device,
        *,
        statistics: LabelStatistics,
    ) -> None:
        super().__init__()
        self.model = model
        self._spec = model.encoder.spec
        self._tasks = tasks
        self._config = config
        self._device = device
        self._criterion = MultiTaskLoss(weights=config.weights, config=config.loss, statistics=statistics)
        self._criterion.prepare(tasks, device)
        self.learned = nn.ParameterList(self._criterion.parameters())
        # Of the running epoch: each task's summed loss, which nothing waits for, and the number of steps.
        self._sums = torch.zeros(len(tasks), device=device)
        self._n_steps = 0
        self._targets = {task: torch.from_numpy(targets.of(task)[0]) for task in tasks}
        self._valid = {task: torch.from_numpy(targets.of(task)[1]) for task in tasks}

    def end_epoch(self) -> None:
        """Let the weighting take note of the epoch's mean losses."""
        means = (self._sums / max(1, self._n_steps)).tolist()
        self._criterion.end_epoch(dict(zip(self._tasks, means, strict=True)))
        self._sums, self._n_steps = torch.zeros_like(self._sums), 0

    def get_extra_state(self) -> _LossState:
        """What is no tensor, in a checkpoint."""
        return {"weighting": self._criterion.state(), "sums": self._sums.tolist(), "n_steps": self._n_steps}

    def set_extra_state(self, state: _LossState) -> None:
        """Go on from a checkpoint."""
        self._criterion.load_state(state["weighting"])
        self._sums = torch.tensor(state["sums"], device=self._device)
        self._n_steps = state["n_steps"]

    def forward(self, frames: DecodedFrames, in_clip: NDArray[np.bool_]) -> Tensor:
        """The total, of a batch as the reader gives it and which of its rows are no padding."""
        n = len(frames.rows)
        usable = torch.from_numpy(in_clip.copy())
        usable[list(frames.failures)] = False
        groups = upload(frames, self._device)
        images = assemble(groups, self._spec, n=n, device=self._device)  # (n, 3, side, side)
        images = augment_clips(images, self._config.augmentation, clip_length=self._config.clip)
        outputs = self.model(normalise(images, self._spec))
        rows = torch.from_numpy(frames.rows)
        targets, valid = {}, {}
        for task in self._tasks:
            mask = self._valid[task][rows] & (usable[:, None] if task == "au" else usable)
            targets[task] = self._targets[task][rows][:, None].to(self._device)  # (n, 1) or (n, 1, 12)
            valid[task] = mask[:, None].to(self._device)
        total, parts = self._criterion(outputs, targets, valid)
        self._sums = self._sums + torch.stack([parts[task] for task in self._tasks])
        self._n_steps += 1
        return total


def _parameter_groups(loss_of: _Loss, config: FinetuneConfig) -> list[dict[str, object]]:
    model = loss_of.model
    backbone: Any = model.encoder.backbone
    spared = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else set()
    groups: list[dict[str, object]] = param_groups_layer_decay(
        backbone,
        weight_decay=config.weight_decay,
        no_weight_decay_list=spared,
        layer_decay=config.layer_decay,
    )
    for is_matrix in (True, False):
        chosen = [parameter for parameter in model.head.parameters() if (parameter.ndim > 1) == is_matrix]
        groups.append({"params": chosen, "weight_decay": config.weight_decay if is_matrix else 0.0, "lr_scale": 1.0})
    if len(loss_of.learned):
        groups.append({"params": list(loss_of.learned), "weight_decay": 0.0, "lr_scale": 1.0})
    return groups


def _finished_spec(
    parent: EncoderSpec,
    config: FinetuneConfig,
    tasks: tuple[str, ...],
    key: str,
    parent_name: str,
    progress: Progress,
    device: torch.device,
) -> EncoderSpec:
    scores = [entry["val"] for entry in progress.history]
    origin = {
        "kind": "fine-tuned",
        "key": key,
        "parent": parent_name,
        "tasks": list(tasks),
        "best_epoch": scores.index(max(scores)) + 1,
        "selected_on": "val",
        "options": config.model_dump(mode="json"),
        "device": device.type,
        "versions": versions(),
        "history": [dict(entry) for entry in progress.history],
    }
    return EncoderSpec.model_validate(parent.model_dump() | {"origin": origin})
