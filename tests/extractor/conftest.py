"""A small dataset of painted textures, whose labels can be read off the pixels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from extractor.encoders.encoder import Encoder
from extractor.encoders.spec import EncoderSpec
from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.images.imagesource import ImageFolder
from featurestore.labels import AU_COLUMNS

FRAMES_PER_VIDEO = 30


@pytest.fixture(scope="session")
def image_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 5 videos; valence and arousal are the strengths of two textures on a third, in noise."""
    root = tmp_path_factory.mktemp("frames")
    wave = np.cos(2 * np.pi * (np.arange(32) + 0.5) / 8)  # periodic in the tiny ViT's patches
    down, across = np.broadcast_to(wave[:, None], (32, 32)), np.broadcast_to(wave[None, :], (32, 32))
    for video in range(5):
        (root / f"v{video}").mkdir()
        for frame in range(1, FRAMES_PER_VIDEO + 1):
            valence, arousal = affect_of(video, frame)
            grey = 128 + 40 * (valence * down + arousal * across + down * across)
            noise = np.random.default_rng([video, frame]).normal(0, 10, (32, 32, 3))
            image = Image.fromarray((grey[:, :, None] + noise).clip(0, 255).astype(np.uint8))
            image.save(root / f"v{video}" / f"{frame:05d}.jpg", quality=92)
    return root


@pytest.fixture(scope="session")
def images(image_root: Path) -> ImageFolder:
    """The same folder, as what an extraction reads from."""
    return ImageFolder(image_root)


def table_of(paths: list[str]) -> FrameTable:
    """A table of unlabelled frames of one video, with these images."""
    rows = [{"video": "v", "frame": number, "path": path, "split": "train"} for number, path in enumerate(paths)]
    return FrameTable(pl.DataFrame(rows, schema=FRAME_SCHEMA))


@pytest.fixture(name="table_of", scope="session")
def table_of_fixture() -> Callable[[list[str]], FrameTable]:
    return table_of


def affect_of(video: int, frame: int) -> tuple[float, float]:
    """Valence and arousal of a painted frame."""
    return float(np.sin(0.3 * frame + video)), float(np.cos(0.2 * frame + 2 * video))


@pytest.fixture(scope="session")
def frames() -> FrameTable:
    """The table of the painted frames: three train videos, one val, one test without labels."""
    rows = []
    for video in range(5):
        split = ("train", "train", "train", "val", "test")[video]
        for frame in range(1, FRAMES_PER_VIDEO + 1):
            valence, arousal = affect_of(video, frame)
            labels: dict[str, float | int | None] = {"valence": valence, "arousal": arousal}
            labels["expression"] = int(valence > 0) + 2 * int(arousal > 0)
            labels |= {name: int(valence > 0.1 * i - 0.5) for i, name in enumerate(AU_COLUMNS)}
            if split == "test":
                labels = dict.fromkeys(labels)
            key = {"video": f"v{video}", "frame": frame, "path": f"v{video}/{frame:05d}.jpg", "split": split}
            rows.append({**key, "fold": None, **labels})
    return FrameTable(pl.DataFrame(rows, schema=FRAME_SCHEMA))


@pytest.fixture(scope="session")
def tiny_spec() -> EncoderSpec:
    """A ViT of two blocks for 32-pixel images."""
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return EncoderSpec(architecture="vit_tiny_patch16_224", arguments=arguments, input_px=32)


@pytest.fixture
def tiny_encoder(tiny_spec: EncoderSpec) -> Encoder:
    """An encoder with seeded random weights, in eval mode."""
    torch.manual_seed(0)
    return Encoder(tiny_spec).eval()
