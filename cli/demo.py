"""The demo: every step of the real thing, on a small rendered dataset and with a small ViT.

Nothing here is special: each step calls what the commands call, says which command would do the same, and keeps
what is finished. The encoders follow the ABAW7 winner's order: masked pre-training, then action units, and from the
action-unit encoder the other three tasks.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
from rich.table import Table

from extractor.augment import AUGMENTATIONS
from extractor.encoder import EncoderSpec, load_encoder
from extractor.extract import ExtractConfig, extract
from extractor.finetune import FinetuneConfig, finetune
from extractor.pretrain import PretrainConfig, pretrain
from extractor.synth.dataset import SynthConfig, write_dataset
from extractor.synth.sheet import write_sheet
from extractor.workbench import Workbench
from featurestore.annotations import build_frames, read_challenge
from featurestore.audit import audit
from featurestore.exchange import import_npz
from featurestore.store import FeatureStore
from featurestore.submission import write_submission
from heads.ablation import render_table, run_ablation
from heads.config import FitConfig, HeadConfig
from heads.features import FeatureSet
from heads.fit import fit, score_split
from heads.predictions import Predictions
from heads.run import Run
from heads.scores import Scores
from heads.tables import plan
from heads.tabulate import prediction_table
from heads.tasks import TASKS

from .console import progress_bar, stdout
from .encoder_commands import step_bar
from .workspace import CONFIG_FILE, Workspace, WorkspaceConfig, create_workspace, open_workspace

VIT: Final = EncoderSpec(
    architecture="vit_tiny_patch16_224",
    arguments={"img_size": 112, "embed_dim": 128, "depth": 4, "num_heads": 4},
    input_px=112,
)
"""Sixteenths of ViT-B in width and a third in depth: what two CPU cores can train in minutes."""

HEAD_EPOCHS: Final = 15
WINDOW: Final = 20


@dataclass(frozen=True, slots=True)
class Standing:
    """One line of the closing table."""

    label: str
    scores: Scores
    models: int
    command: str


class Narrator:
    """Says what is done, numbers the steps, and times them.

    Parameters
    ----------
    n_steps
        How many there will be.
    """

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps
        self._step = 0
        self._started_at = self._begun_at = time.monotonic()

    def step(self, what: str, command: str) -> None:
        """Begin a step, and name the command that does the same."""
        self._step += 1
        self._started_at = time.monotonic()
        stdout.print(f"\n[bold]{self._step}/{self._n_steps} {what}[/]\n    $ {command}")

    def tell(self, result: str) -> None:
        """Say what came of it."""
        stdout.print(f"    {result}  ({time.monotonic() - self._started_at:.1f} s)")

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._begun_at


def run_demo(root: Path, *, videos: int, seed: int) -> None:
    """Run every step, keeping what is finished, and print the closing table.

    Parameters
    ----------
    root
        Folder of everything; made if it is not there.
    videos, seed
        Of the rendered dataset; the seed is also the encoders' and the heads'.
    """
    narrator = Narrator(9)
    data = _render(root, videos, seed, narrator)
    workspace = _frames(root, data, narrator)
    store = workspace.open_store()
    _pretrain(workspace, store, seed, narrator)
    _finetune(workspace, store, seed, narrator)
    _extract(workspace, store, data, narrator)
    features = FeatureSet.load(store, ("mae", *TASKS, "truth"))
    standings = _fit(workspace, features, seed, narrator)
    _ablate(root, features, seed, narrator)
    submission = _submit(root, workspace, features, narrator)
    _close(root, workspace, standings, submission, narrator)


def _render(root: Path, videos: int, seed: int, narrator: Narrator) -> Path:
    data = root / "data"
    narrator.step(
        "Render faces in s-Aff-Wild2's layout", f"abaw synth {data} --videos {videos} --seed {seed} --sheet faces.png"
    )
    config = SynthConfig(videos=videos, seed=seed, workers=2)
    if is_written(data, config):
        narrator.tell("there already")
    else:
        with progress_bar("draw", "videos") as update:
            summary = write_dataset(data, config, on_video=lambda done, total: update(done, total, ""))
        write_sheet(data, root / "faces.png")
        narrator.tell(f"{summary.images:,} images of {videos} videos; look at {root / 'faces.png'}")
    return data


def _frames(root: Path, data: Path, narrator: Narrator) -> Workspace:
    narrator.step("Make a workspace and audit its frames", f"abaw init {root} --frames ... && abaw frames")
    if not (root / CONFIG_FILE).exists():
        files = dataset_paths(data)
        config = WorkspaceConfig(
            frames=files["images"], train=files["train"], val=files["val"], test=files["test"]
        )
        create_workspace(root, config)
    workspace = open_workspace(root)
    files = read_challenge(workspace.config.train, workspace.config.val, workspace.config.test)
    found = audit(files, workspace.config.frames)
    FeatureStore.create(
        workspace.config.store, build_frames(files.train, files.val, files.test), sources=files.sources
    )
    duplicates = sum(split.duplicates for split in found.splits.values())
    missing = sum(split.missing_images for split in found.splits.values())
    counts = ", ".join(f"{name} {split.distinct:,}" for name, split in found.splits.items())
    narrator.tell(f"distinct rows: {counts}; {duplicates} duplicates dropped, {missing} without an image")
    return workspace


def _pretrain(workspace: Workspace, store: FeatureStore, seed: int, narrator: Narrator) -> None:
    narrator.step("Pre-train a masked autoencoder on the train frames", "abaw pretrain --name mae")
    with step_bar("pretrain mae") as on_step:
        made = pretrain(
            store.frames,
            workspace.config.frames,
            Workbench(workspace.config.encoders, "mae"),
            PRETRAINING.model_copy(update={"seed": seed}),
            on_step=on_step,
        )
    losses = [entry["loss"] for entry in made.history]
    narrator.tell(f"reconstruction loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} epochs")


def _finetune(workspace: Workspace, store: FeatureStore, seed: int, narrator: Narrator) -> None:
    for task, parent in PARENTS.items():
        narrator.step(
            f"Fine-tune an encoder for {TASKS[task].title}", f"abaw finetune --task {task} --from {parent} --name {task}"
        )
        with step_bar(f"finetune {task}") as on_step:
            made = finetune(
                store.frames,
                workspace.config.frames,
                load_encoder(workspace.find_encoder(parent)),
                Workbench(workspace.config.encoders, task),
                FINETUNING[task].model_copy(update={"seed": seed}),
                parent_name=parent,
                on_step=on_step,
            )
        narrator.tell(f"{TASKS[task].part} on val {max(entry['val'] for entry in made.history):.3f}")
