"""The demo: every step of the real thing, on a small rendered dataset and with a small ViT.

Nothing here is special: each step calls what the commands call, says which command would do the same, and keeps
what is finished. The encoders follow the ABAW7 winner's order: masked pre-training, then action units, and from the
action-unit encoder the other three tasks.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.table import Table

from extractor.encoders.folder import load_encoder
from extractor.encoders.spec import EncoderSpec
from extractor.extraction.config import ExtractConfig
from extractor.extraction.extract import extract
from extractor.pixels.augment import GENTLE
from extractor.synth.dataset import SynthConfig, dataset_paths, is_written, write_dataset
from extractor.synth.sheet import write_sheet
from extractor.training.finetune import FinetuneConfig, finetune
from extractor.training.pretrain import PretrainConfig, pretrain
from extractor.training.workbench import Workbench
from featurestore.challenge.annotations import build_frames, read_challenge
from featurestore.challenge.audit import audit
from featurestore.challenge.submission import write_submission
from featurestore.exchange.importing import import_vectors
from featurestore.store import FeatureStore
from heads.ablation.running import run_ablation
from heads.ablation.tables import plan
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import score_rows
from heads.fitting.parallel import FitJob, fit_many, resolve_parallel
from heads.modules.config import HeadConfig
from heads.runs.defaults import default_judging
from heads.runs.making import make
from heads.runs.run import Run
from heads.scoring.predictions import Predictions
from heads.scoring.scores import Scores
from heads.scoring.tabulate import prediction_table
from heads.tasks import PARTS, TASKS

from .console import progress_bar, stdout
from .render import compact_table
from .training_commands import step_bar
from .workspace import CONFIG_FILE, Workspace, WorkspaceConfig, create_workspace, open_workspace

VIT: Final = EncoderSpec(
    architecture="vit_tiny_patch16_224",
    arguments={"img_size": 56, "patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4},
    input_px=56,
)
"""A sixth of ViT-B's width and a third of its depth: what two CPU cores can train in minutes."""

FRAMES: Final = 200
"""Mean number of listed frames per video; the whole demo then takes 3 to 8 minutes on two cores."""

PRETRAINING: Final = PretrainConfig(
    encoder=VIT,
    epochs=5,
    warmup_epochs=1,
    batch=64,
    base_learning_rate=6e-3,
    decoder_dim=64,
    decoder_depth=1,
    decoder_heads=4,
)

PARENTS: Final = {"au": "mae", "expr": "au", "v": "au", "a": "au"}
"""Task to the encoder that its fine-tuning starts from; in the order of training."""


def finetuning(task: str, seed: int) -> FinetuneConfig:
    """Options of a task's encoder: action units from the raw autoencoder, the others in a few epochs from those."""
    first = PARENTS[task] == "mae"
    return FinetuneConfig(
        tasks=(task,),
        epochs=7 if first else 2,
        warmup_epochs=0.5,
        batch=32,
        clip=1,
        base_learning_rate=6e-3 if first else 4e-3,
        layer_decay=1.0 if first else 0.9,
        drop_path=0.0,
        augmentation=GENTLE,
        seed=seed,
    )


ABLATION: Final = FitConfig(epochs=20, patience=5)
"""As `abaw ablate` has it."""
WINDOW: Final = 20

_SHORT_TITLES: Final = {"ccc_valence": "CCC V", "ccc_arousal": "CCC A", "f1_expression": "EXPR", "f1_au": "AU"}


@dataclass(frozen=True, slots=True)
class Standing:
    """One line of the closing table, and the command that fits its model (of several, the last one)."""

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
    narrator = Narrator(8 + len(PARENTS))
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
    _close(root, standings, submission, narrator)


def _render(root: Path, videos: int, seed: int, narrator: Narrator) -> Path:
    data = root / "data"
    narrator.step(
        "Render faces in s-Aff-Wild2's layout",
        f"abaw synth {data} --videos {videos} --frames-per-video {FRAMES} --seed {seed} --sheet faces.png",
    )
    config = SynthConfig(videos=videos, frames_per_video=FRAMES, seed=seed, workers=2)
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
        paths = dataset_paths(data)
        config = WorkspaceConfig(frames=paths["images"], train=paths["train"], val=paths["val"], test=paths["test"])
        create_workspace(root, config)
    workspace = open_workspace(root)
    files = read_challenge(workspace.config.train, workspace.config.val, workspace.config.test)
    found = audit(files, workspace.images())
    FeatureStore.create(workspace.config.store, build_frames(files.train, files.val, files.test), sources=files.sources)
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
            workspace.images(),
            Workbench(workspace.config.encoders, "mae"),
            PRETRAINING.model_copy(update={"seed": seed}),
            on_step=on_step,
        )
    losses = [entry["loss"] for entry in made.history]
    narrator.tell(f"reconstruction loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} epochs")


def _finetune(workspace: Workspace, store: FeatureStore, seed: int, narrator: Narrator) -> None:
    for task, parent in PARENTS.items():
        narrator.step(
            f"Fine-tune an encoder for {TASKS[task].title}",
            f"abaw finetune --task {task} --from {parent} --name {task}",
        )
        with step_bar(f"finetune {task}") as on_step:
            made = finetune(
                store.frames,
                workspace.images(),
                load_encoder(workspace.prepare_encoder(parent).folder),
                Workbench(workspace.config.encoders, task),
                finetuning(task, seed),
                parent_name=parent,
                on_step=on_step,
            )
        narrator.tell(f"{TASKS[task].part} on val {max(entry['val'] for entry in made.history):.3f}")


def _extract(workspace: Workspace, store: FeatureStore, data: Path, narrator: Narrator) -> None:
    names = ("mae", *PARENTS)
    narrator.step("Extract every frame once, all encoders in one pass", f"abaw extract --encoder {','.join(names)}")
    encoders = {name: load_encoder(workspace.prepare_encoder(name).folder) for name in names}
    with progress_bar("extract", "frames") as update:
        report = extract(
            store,
            encoders,
            workspace.images(),
            ExtractConfig(),
            on_progress=lambda done, total, failed: update(done, total, f"{failed} unreadable" if failed else ""),
        )
    rate = f"{report.frames_per_second:,.0f} frames/s through {len(names)} encoders" if report.n_frames else "all there"
    narrator.tell(f"{rate}; {len(store.embedding('mae').failures())} frame without an image is masked")
    narrator.step("Import the true state of the faces, the ceiling", "abaw store import truth.npz --encoder truth")
    imported = import_vectors(store, dataset_paths(data)["truth"], encoder="truth")
    narrator.tell(f"{imported.matched:,} rows matched by video and frame")


def _fit(workspace: Workspace, features: FeatureSet, seed: int, narrator: Narrator) -> list[Standing]:
    narrator.step("Fit heads on the cached embeddings", f"abaw fit-heads --fuse au,expr,v,a --seq {WINDOW}")
    standings = _one_model_a_task(features, FitConfig(seed=seed))
    joint = HeadConfig(encoder="mae", fuse=tuple(TASKS), seq=WINDOW)
    truth = HeadConfig(encoder="truth", seq=WINDOW)
    for label, head in (("joint", joint), ("truth, the ceiling", truth)):
        training, judging = FitConfig(seed=seed), default_judging(features, head)[0]
        made = make(features, head, training, judging)
        run = Run.from_fit(made, features, training=training, judging=judging, name=label.partition(",")[0])
        run.save(workspace.config.runs / run.name, force=True)
        standings.append(Standing(label, made.scores, 1, fit_command(head, training)))
    narrator.tell(f"{sum(standing.models for standing in standings)} heads fitted")
    return standings


def _one_model_a_task(features: FeatureSet, training: FitConfig) -> list[Standing]:
    """The winner's way: a model for each task on its own encoder; their predictions together are scored as one."""
    ways = {"single frame": (False, 1), "fused": (True, 1), "temporal": (False, WINDOW)}
    heads = {
        (label, task): HeadConfig(
            encoder=task,
            fuse=tuple(name for name in TASKS if fused and name != task),
            joint=(task,),
            temporal="none" if seq == 1 else "lstm",
            seq=seq,
        )
        for label, (fused, seq) in ways.items()
        for task in TASKS
    }
    jobs = [FitJob(name=" ".join(key), head=head, training=training) for key, head in heads.items()]
    results = dict(zip(heads, fit_many(features, jobs, parallel=resolve_parallel("auto", features)), strict=True))
    standings = []
    for label in ways:
        predictions = Predictions.together({task: results[label, task].predictions for task in TASKS})
        last = heads[label, list(TASKS)[-1]]
        standings.append(Standing(label, score_rows(features, predictions), len(TASKS), fit_command(last, training)))
    return standings


def fit_command(head: HeadConfig, training: FitConfig) -> str:
    """The command that fits the same head in the same way."""
    words = ["abaw fit-heads", f"--encoder {head.encoder}"]
    words += [f"--fuse {','.join(head.fuse)}"] if head.fuse else []
    words += [f"--joint {','.join(head.joint)}"] if len(head.joint) < len(TASKS) else []
    words += ["--temporal none --seq 1"] if head.temporal == "none" else [f"--seq {head.seq}"]
    words += [f"--seed {training.seed}"]
    return " ".join(words)


def _ablate(root: Path, features: FeatureSet, seed: int, narrator: Narrator) -> None:
    out = root / "ablations"
    narrator.step("Ablate fusion: the paper's table 2 over this store", f"abaw ablate fusion --out {out}")
    encoders = plan("fusion", features.names).encoders
    with progress_bar("ablate", "rows") as update:
        made = run_ablation(
            features,
            "fusion",
            out=out,
            training=replace(ABLATION, seed=seed),
            on_row=lambda report: update(report.index, report.n_rows, ""),
        )
    narrator.tell(f"{made.rows.height} rows over {', '.join(encoders)}: {out / 'fusion.csv'}")


def _submit(root: Path, workspace: Workspace, features: FeatureSet, narrator: Narrator) -> Path:
    out = root / "predictions.txt"
    narrator.step("Write a submission for the test list", f"abaw predict joint --split test --out {out}")
    run = Run.load(workspace.config.runs / "joint")
    table = prediction_table(features.frames, run.predict(features, split="test"))
    report = write_submission(out, workspace.read_listed("test"), table)
    narrator.tell(f"{report.rows:,} rows in the list's order, {report.filled} filled from a neighbour")
    return out


def _close(root: Path, standings: list[Standing], submission: Path, narrator: Narrator) -> None:
    stdout.print()
    stdout.print(_standings_table(standings))
    stdout.print("Intervals resample the videos. Epochs were selected on val. To fit one again:")
    for standing in standings:
        stdout.print(f"  {standing.label.partition(',')[0]:<13} {standing.command}")
    stdout.print()
    written = {
        "faces": root / "faces.png",
        "store": root / "features",
        "encoders": root / "encoders",
        "runs": root / "runs",
        "ablation": root / "ablations" / "fusion.csv",
        "submission": submission,
    }
    for what, path in written.items():
        stdout.print(f"  {what:<11} {path}")
    stdout.print(f"\nDone in {narrator.seconds / 60:.1f} minutes. Go on with: cd {root} && abaw evaluate joint")


def _standings_table(standings: list[Standing]) -> Table:
    table = compact_table("Validation split, people never seen in training")
    table.add_column("", no_wrap=True)
    for heading in ("P", "95 % interval", *(_SHORT_TITLES[part] for part in PARTS), "heads"):
        table.add_column(heading, justify="right", no_wrap=True)
    first = standings[0].scores
    if first.p is not None:
        trivial = [f"{part.trivial:.3f}" for name in PARTS if (part := first.parts[name]) is not None]
        table.add_row("trivial references", f"{first.p.trivial:.3f}", "", *trivial, "-")
    for standing in standings:
        scores = standing.scores
        if scores.p is None:
            continue
        parts = [f"{part.score:.3f}" for name in PARTS if (part := scores.parts[name]) is not None]
        low, high = scores.p.low, scores.p.high
        interval = "-" if low is None or high is None else f"{low:.2f} .. {high:.2f}"
        table.add_row(standing.label, f"{scores.p.score:.3f}", interval, *parts, str(standing.models))
    return table
