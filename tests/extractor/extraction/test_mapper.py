"""Duplicates inside a batch, and memory that runs out."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from extractor.encoders.encoder import Encoder
from extractor.encoders.folder import save_encoder
from extractor.encoders.spec import EncoderSpec
from extractor.extraction.config import ExtractConfig
from extractor.extraction.execution import Execution
from extractor.extraction.extract import extract
from extractor.extraction.mapper import is_out_of_memory
from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.images.imagesource import ImageFolder
from featurestore.store import FeatureStore

CONFIG = ExtractConfig(batch=16, device="cpu", precision="float32")


@pytest.fixture
def frozen(image_root: Path, tmp_path: Path) -> tuple[Path, FrameTable]:
    """A video that freezes: frames 11 to 40 are one image in files of their own; one of them cannot be read."""
    folder = tmp_path / "frozen" / "v"
    folder.mkdir(parents=True)
    for number in range(60):
        source = image_root / "v0" / f"{min(number, 10) if number < 40 else number - 30:05d}.jpg"
        shutil.copy(source if source.exists() else image_root / "v0" / "00001.jpg", folder / f"{number:05d}.jpg")
    (folder / "00020.jpg").write_bytes(b"torn")
    rows = [{"video": "v", "frame": n, "path": f"v/{n:05d}.jpg", "split": "train"} for n in range(60)]
    return folder.parent, FrameTable(pl.DataFrame(rows, schema=FRAME_SCHEMA))


def test_duplicates_are_computed_once_and_stand_in_every_row(
    frozen: tuple[Path, FrameTable], tiny_encoder: Encoder, tiny_spec: EncoderSpec, tmp_path: Path
) -> None:
    root, table = frozen
    torch.manual_seed(4)
    made = {"e": tiny_encoder, "small": Encoder(tiny_spec.model_copy(update={"pooling": "cls"}))}
    stores = {name: FeatureStore.create(tmp_path / name, table) for name in ("plain", "reused", "alone")}
    extract(stores["plain"], made, ImageFolder(root), CONFIG)
    reusing = replace(CONFIG, reuse_duplicates=True)
    report = extract(stores["reused"], {"e": tiny_encoder}, ImageFolder(root), replace(reusing, batch=32))
    assert list(report.failures) == [20]
    # With an encoder of other batches beside it, the block is larger, and the bits are the same.
    extract(stores["alone"], {"small": made["small"]}, ImageFolder(root), reusing)
    extract(stores["reused"], {"e": tiny_encoder, "small": made["small"]}, ImageFolder(root), reusing)
    assert np.array_equal(
        stores["alone"].embedding("small").load(), stores["reused"].embedding("small").load(), equal_nan=True
    )
    for name in made:
        plain, reused = (stores[each].embedding(name).load() for each in ("plain", "reused"))
        np.testing.assert_allclose(reused, plain, rtol=2e-3, atol=2e-3)
        assert np.isnan(reused[20]).all()
        assert np.array_equal(reused[12], reused[13])


def test_errors_that_mean_too_little_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError, match=r"memory") as told:
        torch.empty(1 << 60)
    assert is_out_of_memory(told.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


EXTRACT_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from extractor.encoders.folder import load_encoder
from extractor.extraction.config import ExtractConfig
from extractor.extraction.execution import Execution
from extractor.extraction.extract import extract
from featurestore.images.imagesource import ImageFolder
from featurestore.store import FeatureStore

torch.set_num_threads(1)
store, encoder, images = map(Path, sys.argv[1:4])
loaded = load_encoder(encoder)

def limit(*_):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20), resource.RLIM_INFINITY))

def free(*_):
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

block = loaded.backbone.blocks[0]  # only here, since not everything else survives without memory
block.register_forward_pre_hook(limit)
block.register_forward_hook(free, always_call=True)
config = ExtractConfig(batch=256, device="cpu", precision="float32", n_workers=1)
report = extract(FeatureStore.open(store), {"e": loaded}, ImageFolder(images), config)
print(*report.notes, flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
def test_the_batch_shrinks_when_memory_runs_out(
    image_root: Path, images: ImageFolder, frames: FrameTable, tiny_spec: EncoderSpec, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    # A wide hidden layer: activations of the whole batch take twice 256 x 17 x 32,768 x 4 bytes = 570 MB.
    wide = tiny_spec.model_copy(update={"arguments": {**tiny_spec.arguments, "mlp_ratio": 1024.0, "depth": 1}})
    encoder = Encoder(wide).eval()
    save_encoder(tmp_path / "encoder", encoder, wide)
    script = tmp_path / "extract.py"
    script.write_text(EXTRACT_IN_LITTLE_MEMORY)
    little = FeatureStore.create(tmp_path / "little", frames)
    command = [sys.executable, str(script), str(tmp_path / "little"), str(tmp_path / "encoder"), str(image_root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "memory did for 64 of a batch's 256 frames" in done.stdout
    much = FeatureStore.create(tmp_path / "much", frames)
    assert not extract(much, {"e": encoder}, images, replace(CONFIG, batch=256)).notes
    np.testing.assert_allclose(little.embedding("e").load(), much.embedding("e").load(), rtol=2e-3, atol=2e-3)


def test_what_was_compiled_elsewhere_runs_uncompiled_where_no_compiler_is(
    tiny_encoder: Encoder, images: ImageFolder, frames: FrameTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Execution(precision="float32", batch=16, compiled=True)
    store = FeatureStore.create(tmp_path / "features", frames)
    with monkeypatch.context() as patch:
        patch.setattr("extractor.extraction.planning.calibrate", lambda *_, **__: begun)
        patch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "no-compiler")))
        report = extract(store, {"e": tiny_encoder}, images, ExtractConfig(device="cpu"))
    assert len(report.notes) == 1
    assert "ran uncompiled, since torch.compile failed here: " in report.notes[0]
    assert store.embedding("e").provenance.execution["compiled"] is True
    plain = FeatureStore.create(tmp_path / "plain", frames)
    extract(plain, {"e": tiny_encoder}, images, CONFIG)
    assert np.array_equal(store.embedding("e").load(), plain.embedding("e").load())
