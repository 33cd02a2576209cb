"""Pre-training and fine-tuning: what they learn, and that a kill changes nothing."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from PIL import Image

from extractor.encoders.encoder import Encoder
from extractor.encoders.folder import load_encoder, save_encoder
from extractor.encoders.spec import EncoderSpec
from extractor.pixels.augment import NONE
from extractor.training.clips import labelled_clips
from extractor.training.finetune import FinetuneConfig, finetune, with_drop_path
from extractor.training.loop import Schedule, shuffled_batches, steps_per_epoch
from extractor.training.pretrain import PretrainConfig, pretrain
from extractor.training.workbench import Workbench
from featurestore.errors import ConfigError, FileExistsAlreadyError, MissingFileError
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageFolder
from heads.features.targets import Targets


def quick_pretraining(spec: EncoderSpec, **changes: object) -> PretrainConfig:
    options = {"epochs": 3, "batch": 16, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    return PretrainConfig.model_validate({"encoder": spec, **options, **changes})


def quick_finetuning(**changes: object) -> FinetuneConfig:
    options = {"tasks": ("v", "a"), "epochs": 3, "batch": 16, "clip": 2, "base_learning_rate": 2e-2}
    return FinetuneConfig.model_validate({**options, "augmentation": NONE, "drop_path": 0.0, **changes})


def test_schedule_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(epochs=10, steps_per_epoch=7, warmup_epochs=2, learning_rate=0.5)
    rates = [schedule.at(step) for step in range(schedule.n_steps)]
    assert max(rates) == pytest.approx(0.5)
    assert rates[:14] == sorted(rates[:14])
    assert rates[14:] == sorted(rates[14:], reverse=True)
    assert rates[-1] < 0.005
    short = Schedule(epochs=2, steps_per_epoch=4, warmup_epochs=0.1, learning_rate=0.5)
    assert max(short.at(step) for step in range(8)) == pytest.approx(0.5)


def test_batches_cover_an_epoch_once_and_continue_anywhere() -> None:
    schedule = Schedule(epochs=3, steps_per_epoch=steps_per_epoch(22, 5), warmup_epochs=0, learning_rate=1)
    whole = list(shuffled_batches(22, batch=5, schedule=schedule, seed=1, first_step=0))
    assert len(whole) == 3 * 4
    assert len({int(item) for batch in whole[:4] for item in batch}) == 20
    assert [b.tolist() for b in whole[:4]] != [b.tolist() for b in whole[4:8]]
    rest = list(shuffled_batches(22, batch=5, schedule=schedule, seed=1, first_step=6))
    assert [b.tolist() for b in rest] == [b.tolist() for b in whole[6:]]


def test_clips_hold_labelled_rows_of_one_video(frames: FrameTable) -> None:
    unlabelled = frames.data.with_columns(
        valence=frames.data["valence"].scatter([2, 3, 40], None)  # type: ignore[arg-type]
    )
    table = FrameTable(unlabelled)
    targets = Targets.from_frames(table)
    clips = labelled_clips(table, targets, ("v",), split="train", length=4)
    seen = clips.rows[clips.mask]
    assert sorted(seen.tolist()) == [row for row in range(90) if row not in (2, 3, 40)]
    videos = table.video_ids()[clips.rows]
    assert (videos == videos[:, :1]).all()
    assert clips.rows[0].tolist() == [0, 1, 4, 5]


def test_pretraining_makes_an_encoder_once(
    tiny_spec: EncoderSpec, frames: FrameTable, images: ImageFolder, tmp_path: Path
) -> None:
    bench = Workbench(tmp_path, "mae")
    made = pretrain(frames, images, bench, quick_pretraining(tiny_spec, epochs=8, base_learning_rate=2e-2))
    losses = [entry["loss"] for entry in made.spec.origin["history"]]  # type: ignore[index, union-attr, call-overload]
    assert losses[-1] < 0.95 * losses[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mae"]
    before = (tmp_path / "mae" / "model.safetensors").stat().st_mtime_ns
    again = pretrain(frames, images, bench, quick_pretraining(tiny_spec, epochs=8, base_learning_rate=2e-2))
    assert again.was_there
    assert (tmp_path / "mae" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(FileExistsAlreadyError, match="made with other options, frames or labels"):
        pretrain(frames, images, bench, quick_pretraining(tiny_spec, epochs=9))
    assert not pretrain(frames, images, bench, quick_pretraining(tiny_spec, epochs=1), force=True).was_there


def test_finetuning_learns_the_task_and_keeps_the_best_epoch(
    tiny_encoder: Encoder, frames: FrameTable, images: ImageFolder, tmp_path: Path
) -> None:
    config = quick_finetuning(epochs=5)
    seen: list[tuple[float, bool]] = []
    made = finetune(
        frames,
        images,
        tiny_encoder,
        Workbench(tmp_path, "va"),
        config,
        parent_name="random",
        on_epoch=lambda _, score, is_best: seen.append((score, is_best)),
    )
    scores = [score for score, _ in seen]
    assert max(scores) > 0.9  # (CCC_V + CCC_A) / 2; knowing nothing scores 0
    assert made.spec.origin["best_epoch"] == scores.index(max(scores)) + 1
    assert [is_best for _, is_best in seen] == [s == max(scores[: i + 1]) for i, s in enumerate(scores)]
    assert made.spec.origin["parent"] == "random"
    assert load_encoder(tmp_path / "va").dim == 32


def test_other_labels_or_splits_are_another_run(
    tiny_spec: EncoderSpec, tiny_encoder: Encoder, frames: FrameTable, images: ImageFolder, tmp_path: Path
) -> None:
    pretrain(frames, images, Workbench(tmp_path, "mae"), quick_pretraining(tiny_spec, epochs=1))
    finetune(frames, images, tiny_encoder, Workbench(tmp_path, "v"), quick_finetuning(epochs=1), parent_name="r")
    swapped = {"train": "val", "val": "train", "test": "test"}
    turned = FrameTable(frames.data.with_columns(split=frames.data["split"].replace_strict(swapped)))
    relabelled = FrameTable(frames.data.with_columns(valence=-frames.data["valence"]))
    with pytest.raises(FileExistsAlreadyError, match="other options, frames or labels"):
        pretrain(turned, images, Workbench(tmp_path, "mae"), quick_pretraining(tiny_spec, epochs=1))
    with pytest.raises(FileExistsAlreadyError, match="other options, frames or labels"):
        finetune(
            relabelled, images, tiny_encoder, Workbench(tmp_path, "v"), quick_finetuning(epochs=1), parent_name="r"
        )


def test_force_keeps_the_old_encoder_until_the_new_one_is_whole(
    tiny_spec: EncoderSpec, frames: FrameTable, images: ImageFolder, tmp_path: Path
) -> None:
    bench = Workbench(tmp_path, "mae")
    pretrain(frames, images, bench, quick_pretraining(tiny_spec, epochs=1))
    before = (bench.folder / "model.safetensors").read_bytes()
    with pytest.raises(MissingFileError, match="does not exist"):
        pretrain(frames, ImageFolder(tmp_path / "nowhere"), bench, quick_pretraining(tiny_spec, epochs=2), force=True)
    assert (bench.folder / "model.safetensors").read_bytes() == before
    pretrain(frames, images, bench, quick_pretraining(tiny_spec, epochs=2), force=True)
    assert (bench.folder / "model.safetensors").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mae"]


def test_an_encoder_without_its_weights_is_made_again(
    tiny_spec: EncoderSpec, frames: FrameTable, images: ImageFolder, tmp_path: Path
) -> None:
    bench = Workbench(tmp_path, "mae")
    pretrain(frames, images, bench, quick_pretraining(tiny_spec, epochs=1))
    (bench.folder / "model.safetensors").unlink()
    assert not pretrain(frames, images, bench, quick_pretraining(tiny_spec, epochs=1)).was_there
    assert load_encoder(bench.folder).dim == 32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_unreadable_frames_and_other_sizes_are_met_in_training(
    tiny_spec: EncoderSpec, frames: FrameTable, image_root: Path, tmp_path: Path, precision: str
) -> None:
    folder = shutil.copytree(image_root, tmp_path / "images")
    paths = frames.data["path"]
    for row in (*range(16), 92):  # as many as a batch holds, and one of val
        (folder / paths[row]).write_bytes(b"no image")
    Image.open(folder / paths[20]).resize((48, 64)).save(folder / paths[20])
    images = ImageFolder(folder)
    made = pretrain(frames, images, Workbench(tmp_path, "mae"), quick_pretraining(tiny_spec, precision=precision))
    assert set(made.unreadable) == set(range(16))
    tuned = finetune(
        frames,
        images,
        load_encoder(made.folder),
        Workbench(tmp_path, "v"),
        quick_finetuning(precision=precision),
        parent_name="mae",
    )
    assert set(tuned.unreadable) == {*range(16), 92}
    assert tuned.spec.origin["options"]["precision"] == precision  # type: ignore[index, call-overload]


def test_finetuning_without_labels_is_refused(
    tiny_encoder: Encoder, frames: FrameTable, images: ImageFolder, tmp_path: Path
) -> None:
    empty = FrameTable(frames.data.with_columns(expression=frames.data["expression"] * None))
    with pytest.raises(ConfigError, match="on expr needs labelled train and val rows, but there are 0 and 0"):
        finetune(
            empty,
            images,
            tiny_encoder,
            Workbench(tmp_path, "x"),
            quick_finetuning(tasks=("expr",)),
            parent_name="r",
        )


def test_a_loss_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no loss of action units 'fokal'\. Did you mean 'focal'"):
        quick_finetuning(loss={"au": "fokal"})


def test_names_that_are_no_folder_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'\.\./x' cannot name an encoder"):
        Workbench(tmp_path, "../x")


TRAIN_SLOWLY = """
import sys, time
from pathlib import Path
import extractor.training.loop
from extractor.encoders.folder import load_encoder
from extractor.training.finetune import FinetuneConfig, finetune, with_drop_path
from extractor.training.workbench import Workbench
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageFolder

extractor.training.loop._CHECKPOINT_EVERY_S = 0.1  # in the middle of epochs, too
table, images, parent, encoders = map(Path, sys.argv[1:5])
config = FinetuneConfig(
    tasks=("v", "au"), epochs=4, batch=16, clip=2, base_learning_rate=1e-2, loss={"weighting": "uncertainty"}
)
finetune(
    FrameTable.read(table), ImageFolder(images), load_encoder(parent), Workbench(encoders, "v"), config,
    parent_name="p", device="cpu", on_step=lambda step, *_: (print(step, flush=True), time.sleep(0.03)),
)
"""


def test_a_killed_finetuning_ends_at_the_same_weights(
    tiny_encoder: Encoder, frames: FrameTable, image_root: Path, tmp_path: Path
) -> None:
    save_encoder(tmp_path / "parent", tiny_encoder, tiny_encoder.spec)
    frames.write(tmp_path / "frames.parquet")
    script = tmp_path / "train_slowly.py"
    script.write_text(TRAIN_SLOWLY)

    def run(encoders: str, *, kill_at_step: int | None = None) -> list[int]:
        """The steps that it did, the last of them perhaps cut short."""
        arguments = [tmp_path / "frames.parquet", image_root, tmp_path / "parent", tmp_path / encoders]
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, str(script), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
        assert process.stdout is not None
        steps = []
        for line in process.stdout:
            steps.append(int(line))
            if steps[-1] == kill_at_step:
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == (0 if kill_at_step is None else -signal.SIGKILL)
        return steps

    assert run("whole") == list(range(1, 21))
    assert run("killed", kill_at_step=8)[0] == 1
    assert not (tmp_path / "killed" / "v").exists()
    second = run("killed", kill_at_step=17)
    assert 1 < second[0] <= 9  # from a checkpoint, and no step is left out
    assert 1 < run("killed")[0] <= 18
    whole, resumed = load_encoder(tmp_path / "whole" / "v"), load_encoder(tmp_path / "killed" / "v")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert whole.spec.origin["history"] == resumed.spec.origin["history"]


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("weighting", ["uncertainty", "dwa"])
def test_what_a_weighting_learned_survives_an_interruption(
    tiny_encoder: Encoder,
    frames: FrameTable,
    images: ImageFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weighting: str,
) -> None:
    config = quick_finetuning(tasks=("v", "au"), epochs=4, loss={"weighting": weighting, "v": "mse"})

    def run(name: str, stop_at: int | None) -> Encoder:
        def on_step(step: int, n_steps: int, loss: float) -> None:
            if step == stop_at:
                raise _StoppedError

        bench = Workbench(tmp_path / name, "v")
        finetune(frames, images, tiny_encoder, bench, config, parent_name="p", device="cpu", on_step=on_step)
        return load_encoder(bench.folder)

    whole = run("whole", None)
    monkeypatch.setattr("extractor.training.loop._CHECKPOINT_EVERY_S", 0.0)
    with pytest.raises(_StoppedError):
        run("stopped", 13)  # in the third epoch of five steps: dwa has two of them behind it
    checkpoint = torch.load(tmp_path / "stopped" / ".v.training" / "checkpoint.pt", weights_only=True)
    kept = checkpoint["module"]["_extra_state"]
    assert kept["n_steps"] == 2
    assert len(kept["weighting"].get("losses", ())) == (2 if weighting == "dwa" else 0)
    if weighting == "uncertainty":
        assert checkpoint["optimizer"]["param_groups"][-1]["weight_decay"] == 0
        assert all(abs(float(checkpoint["module"][f"learned.{number}"])) > 1e-4 for number in range(2))
    resumed = run("stopped", None).state_dict()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed[name]), name
    equally = quick_finetuning(tasks=("v", "au"), epochs=4, loss={"v": "mse"})
    with pytest.raises(FileExistsAlreadyError, match="made with other options"):
        finetune(frames, images, tiny_encoder, Workbench(tmp_path / "whole", "v"), equally, parent_name="p")


def test_losses_are_balanced_by_train_labels_alone(
    tiny_encoder: Encoder, frames: FrameTable, images: ImageFolder, tmp_path: Path
) -> None:
    balanced = {"class_balance": True, "logit_adjustment": 1.0}
    one = quick_finetuning(tasks=("expr",), epochs=1, loss=balanced)
    plain = quick_finetuning(tasks=("expr",), epochs=1)

    def weights(name: str, table: FrameTable, config: FinetuneConfig) -> dict[str, torch.Tensor]:
        finetune(table, images, tiny_encoder, Workbench(tmp_path, name), config, parent_name="p", device="cpu")
        return load_encoder(tmp_path / name).state_dict()

    swapped = pl.when(split="val").then(7 - pl.col("expression")).otherwise(pl.col("expression"))
    turned = FrameTable(frames.data.with_columns(expression=swapped.cast(frames.data["expression"].dtype)))
    first, second, third = weights("a", frames, one), weights("b", turned, one), weights("c", frames, plain)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, third[name]) for name, tensor in first.items())


def test_what_cannot_be_fine_tuned_is_refused(tiny_spec: EncoderSpec) -> None:
    tokens = Encoder(tiny_spec.model_copy(update={"pooling": "tokens"}))
    with pytest.raises(ConfigError, match=r"one vector a frame, which vit_tiny.* with pooling 'tokens' has not"):
        with_drop_path(tokens, 0.1)
    network = Encoder(EncoderSpec(architecture="densenet121", input_px=32, pooling="default"))
    with pytest.raises(
        ConfigError, match=r"'densenet121' cannot drop paths at random in training\. Run it with --drop-path 0"
    ):
        with_drop_path(network, 0.1)
