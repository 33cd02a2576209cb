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
