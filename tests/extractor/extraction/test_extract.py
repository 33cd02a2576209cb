"""Extraction against the encoder's own forward pass, on real files, with real kills."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extractor.encoders.encoder import Encoder
from extractor.encoders.folder import save_encoder
from extractor.encoders.spec import EncoderSpec
from extractor.extraction.config import ExtractConfig
from extractor.extraction.extract import extract
from extractor.pixels.preprocess import normalise, resize
from extractor.pixels.reader import decode_image
from featurestore.errors import ConfigError, EncoderMismatchError, FrameMismatchError, ImageError, StoreError
from featurestore.frames import FrameTable
from featurestore.images.framepack import FramePack
from featurestore.images.imagesource import ImageFolder
from featurestore.images.packwriter import write_pack
from featurestore.store import FeatureStore

CONFIG = ExtractConfig(batch=16, device="cpu", precision="float32")


@pytest.fixture
def store(tmp_path: Path, frames: FrameTable) -> FeatureStore:
    return FeatureStore.create(tmp_path / "features", frames)


def test_rows_are_the_encoders_own_outputs(
    store: FeatureStore, tiny_encoder: Encoder, images: ImageFolder, frames: FrameTable
) -> None:
    report = extract(store, {"e": tiny_encoder}, images, CONFIG)
    assert (report.computed, report.reused, report.n_frames) == ({"e": 150}, {"e": 0}, 150)
    stored = store.embedding("e").load()
    for row in (0, 15, 16, 77, 149):
        pixels = torch.from_numpy(decode_image(images.read(frames.data["path"][row]))).permute(2, 0, 1)[None]
        with torch.inference_mode():
            expected = tiny_encoder(normalise(resize(pixels, 32, "bicubic"), tiny_encoder.spec))[0]
        np.testing.assert_allclose(stored[row], expected.numpy(), rtol=2e-3, atol=2e-3)


def test_several_encoders_in_one_pass_equal_one_pass_each(
    store: FeatureStore, tiny_spec: EncoderSpec, images: ImageFolder, frames: FrameTable, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    small_input = {**tiny_spec.arguments, "img_size": 16}
    made = {
        "a": Encoder(tiny_spec),
        "b": Encoder(tiny_spec.model_copy(update={"pooling": "cls"})),
        "c": Encoder(tiny_spec.model_copy(update={"input_px": 16, "arguments": small_input})),
    }
    report = extract(store, made, images, CONFIG)
    assert report.n_frames == 150  # each frame once, for all three
    alone = FeatureStore.create(tmp_path / "alone", frames)
    for name, encoder in made.items():
        extract(alone, {name: encoder}, images, CONFIG)
        assert np.array_equal(alone.embedding(name).load(), store.embedding(name).load())


def test_a_second_call_computes_nothing_and_a_new_encoder_only_itself(
    store: FeatureStore, tiny_encoder: Encoder, tiny_spec: EncoderSpec, images: ImageFolder
) -> None:
    extract(store, {"e": tiny_encoder}, images, CONFIG)
    again = extract(store, {"e": tiny_encoder}, images, CONFIG)
    assert (again.computed, again.reused, again.n_frames) == ({"e": 0}, {"e": 150}, 0)
    torch.manual_seed(9)
    more = extract(store, {"e": tiny_encoder, "f": Encoder(tiny_spec)}, images, CONFIG)
    assert (more.computed, more.reused) == ({"e": 0, "f": 150}, {"e": 150, "f": 0})


def test_unreadable_frames_are_masked_listed_and_counted(
    store: FeatureStore, tiny_encoder: Encoder, image_root: Path, frames: FrameTable, tmp_path: Path
) -> None:
    broken = shutil.copytree(image_root, tmp_path / "broken")
    bad = {3: "cannot decode", 40: "no such file", 149: "not an image"}
    (broken / frames.data["path"][40]).unlink()
    (broken / frames.data["path"][149]).write_bytes(b"text")
    whole = (broken / frames.data["path"][3]).read_bytes()
    (broken / frames.data["path"][3]).write_bytes(whole[: len(whole) // 2])
    report = extract(store, {"e": tiny_encoder}, ImageFolder(broken), CONFIG)
    assert set(report.failures) == set(bad)
    embedding = store.embedding("e")
    assert embedding.is_complete()
    assert {row: reason for row, reason in embedding.failures().items() if bad[row] in reason}.keys() == bad.keys()
    assert np.flatnonzero(np.isnan(embedding.load()).all(axis=1)).tolist() == sorted(bad)
    whole_store = FeatureStore.create(tmp_path / "whole", frames)
    extract(whole_store, {"e": tiny_encoder}, ImageFolder(image_root), CONFIG)
    good = np.setdiff1d(np.arange(150), list(bad))
    assert np.array_equal(embedding.load()[good], whole_store.embedding("e").load()[good])
    stopped = FeatureStore.create(tmp_path / "stopped", frames)
    stop = replace(CONFIG, stop_on_error=True)
    with pytest.raises(ImageError, match=r"00004\.jpg .*cannot be read: cannot decode.*Mend or remove it"):
        extract(stopped, {"e": tiny_encoder}, ImageFolder(broken), stop)


def test_other_weights_under_the_same_name_are_refused(
    store: FeatureStore, tiny_encoder: Encoder, tiny_spec: EncoderSpec, images: ImageFolder
) -> None:
    extract(store, {"e": tiny_encoder}, images, CONFIG)
    before = store.embedding("e").load()
    torch.manual_seed(4)
    with pytest.raises(EncoderMismatchError, match="differ in weights"):
        extract(store, {"e": Encoder(tiny_spec)}, images, CONFIG)
    assert np.array_equal(store.embedding("e").load(), before)


def test_a_broken_encoder_is_named(store: FeatureStore, tiny_encoder: Encoder, images: ImageFolder) -> None:
    with torch.no_grad():
        tiny_encoder.backbone.fc_norm.bias[0] = float("nan")
    with pytest.raises(StoreError, match="'e'"):
        extract(store, {"e": tiny_encoder}, images, CONFIG)


def test_a_batch_that_chunks_cannot_hold_is_refused(
    store: FeatureStore, tiny_encoder: Encoder, images: ImageFolder
) -> None:
    with pytest.raises(ConfigError, match=r"power of two.*but is 48"):
        extract(store, {"e": tiny_encoder}, images, ExtractConfig(batch=48))


def test_mended_frames_are_computed_on_request(
    store: FeatureStore, tiny_encoder: Encoder, image_root: Path, frames: FrameTable, tmp_path: Path
) -> None:
    broken = shutil.copytree(image_root, tmp_path / "broken")
    for row in (3, 40):
        (broken / frames.data["path"][row]).unlink()
    extract(store, {"e": tiny_encoder}, ImageFolder(broken), CONFIG)
    shutil.copy(image_root / frames.data["path"][3], broken / frames.data["path"][3])
    again = extract(store, {"e": tiny_encoder}, ImageFolder(broken), CONFIG)
    assert (again.computed["e"], set(again.failures)) == (0, {3, 40})  # told every time
    mended = extract(store, {"e": tiny_encoder}, ImageFolder(broken), replace(CONFIG, retry_unreadable=True))
    assert mended.computed["e"] > 0
    assert set(mended.failures) == {40}
    assert np.flatnonzero(np.isnan(store.embedding("e").load()).all(axis=1)).tolist() == [40]
    assert extract(store, {"e": tiny_encoder}, ImageFolder(broken), CONFIG).n_frames == 0


def test_what_cannot_be_computed_again_is_not_taken_back(
    store: FeatureStore,
    tiny_encoder: Encoder,
    tiny_spec: EncoderSpec,
    image_root: Path,
    frames: FrameTable,
    tmp_path: Path,
) -> None:
    broken = shutil.copytree(image_root, tmp_path / "broken")
    (broken / frames.data["path"][3]).unlink()
    extract(store, {"e": tiny_encoder}, ImageFolder(broken), CONFIG)
    shutil.copy(image_root / frames.data["path"][3], broken / frames.data["path"][3])
    torch.manual_seed(4)
    with pytest.raises(EncoderMismatchError, match="differ in weights"):
        extract(store, {"e": Encoder(tiny_spec)}, ImageFolder(broken), replace(CONFIG, retry_unreadable=True))
    assert store.embedding("e").is_complete()
    with pytest.raises(ConfigError, match="without --on-error stop"):
        replace(CONFIG, retry_unreadable=True, stop_on_error=True)


def test_half_precision_leaves_the_callers_encoder_alone(
    store: FeatureStore, tiny_encoder: Encoder, images: ImageFolder, frames: FrameTable, tmp_path: Path
) -> None:
    half = replace(CONFIG, precision="bfloat16")
    extract(store, {"e": tiny_encoder}, images, half)
    assert next(tiny_encoder.parameters()).dtype == torch.float32
    assert extract(store, {"e": tiny_encoder}, images, half).n_frames == 0
    auto = replace(CONFIG, precision="auto")
    assert extract(store, {"e": tiny_encoder}, images, auto).n_frames == 0  # goes on as it was begun
    whole = FeatureStore.create(tmp_path / "whole", frames)
    extract(whole, {"e": tiny_encoder}, images, CONFIG)
    a, b = (torch.from_numpy(each.embedding("e").load()).float() for each in (store, whole))
    assert not torch.equal(a, b)
    assert torch.cosine_similarity(a, b).min() > 0.999


def test_an_argument_that_changes_no_shape_changes_the_provenance(
    store: FeatureStore, tiny_encoder: Encoder, tiny_spec: EncoderSpec, images: ImageFolder
) -> None:
    extract(store, {"e": tiny_encoder}, images, CONFIG)
    other = Encoder(tiny_spec.model_copy(update={"arguments": {**tiny_spec.arguments, "num_heads": 4}}))
    other.load_state_dict(tiny_encoder.state_dict())
    with pytest.raises(EncoderMismatchError, match="differ in architecture"):
        extract(store, {"e": other}, images, CONFIG)


def test_a_pack_gives_the_same_bits_and_the_same_failures(
    store: FeatureStore, tiny_encoder: Encoder, image_root: Path, frames: FrameTable, tmp_path: Path
) -> None:
    broken = shutil.copytree(image_root, tmp_path / "broken")
    paths = frames.data["path"]
    (broken / paths[40]).unlink()
    (broken / paths[41]).write_bytes(b"")
    (broken / paths[42]).write_bytes(b"text")
    (broken / paths[43]).write_bytes((broken / paths[43]).read_bytes()[:-40])
    write_pack(tmp_path / "frames.h5", frames, ImageFolder(broken))
    extract(store, {"e": tiny_encoder}, ImageFolder(broken), CONFIG)
    shutil.rmtree(broken)
    packed = FeatureStore.create(tmp_path / "packed", frames)
    extract(packed, {"e": tiny_encoder}, FramePack(tmp_path / "frames.h5"), replace(CONFIG, n_workers=4))
    a, b = (each.embedding("e") for each in (packed, store))
    assert a.load().tobytes() == b.load().tobytes()
    assert a.failures() == b.failures()
    assert set(a.failures()) == {40, 41, 42, 43}


def test_frames_that_a_new_pack_has_are_computed_on_request(
    store: FeatureStore, tiny_encoder: Encoder, image_root: Path, frames: FrameTable, tmp_path: Path
) -> None:
    broken = shutil.copytree(image_root, tmp_path / "broken")
    for row in (3, 40):
        (broken / frames.data["path"][row]).unlink()
    pack, retry = tmp_path / "frames.h5", replace(CONFIG, retry_unreadable=True)
    write_pack(pack, frames, ImageFolder(broken))
    extract(store, {"e": tiny_encoder}, FramePack(pack), CONFIG)
    assert extract(store, {"e": tiny_encoder}, FramePack(pack), retry).n_frames == 0  # none has come
    shutil.copy(image_root / frames.data["path"][3], broken / frames.data["path"][3])
    write_pack(pack, frames, ImageFolder(broken))
    assert set(extract(store, {"e": tiny_encoder}, FramePack(pack), retry).failures) == {40}


def test_a_pack_of_other_frames_changes_nothing(
    store: FeatureStore, tiny_encoder: Encoder, image_root: Path, frames: FrameTable, tmp_path: Path
) -> None:
    broken = shutil.copytree(image_root, tmp_path / "broken")
    (broken / frames.data["path"][3]).unlink()
    extract(store, {"e": tiny_encoder}, ImageFolder(broken), CONFIG)
    before = store.embedding("e").rows_done()
    write_pack(tmp_path / "fewer.h5", FrameTable(frames.data[:100]), ImageFolder(image_root))
    fewer = FramePack(tmp_path / "fewer.h5")
    for config, name in ((replace(CONFIG, retry_unreadable=True), "e"), (CONFIG, "f")):
        with pytest.raises(FrameMismatchError, match=r"of 100 frames .* these are 150 .*Run `abaw frames --pack"):
            extract(store, {name: tiny_encoder}, fewer, config)
    assert store.embedding("e").rows_done() == before


EXTRACT_SLOWLY = """
import sys, time
from pathlib import Path
import featurestore.layout
from extractor.encoders.folder import load_encoder
from extractor.extraction.config import ExtractConfig
from extractor.extraction.extract import extract
from featurestore.images.imagesource import ImageFolder
from featurestore.store import FeatureStore

featurestore.layout.default_chunk_rows = lambda *_: 32  # small chunks, so that a kill falls between several
store, encoder, images = map(Path, sys.argv[1:4])
extract(
    FeatureStore.open(store), {"e": load_encoder(encoder)}, ImageFolder(images),
    ExtractConfig(batch=16, device="cpu", precision="float32"),
    on_progress=lambda done, total, failed: (print(done, total, flush=True), time.sleep(0.05)),
)
"""


def test_a_killed_extraction_resumes_to_the_same_bits(
    tiny_encoder: Encoder, image_root: Path, frames: FrameTable, tmp_path: Path
) -> None:
    save_encoder(tmp_path / "encoder", tiny_encoder, tiny_encoder.spec)
    script = tmp_path / "extract_slowly.py"
    script.write_text(EXTRACT_SLOWLY)

    def run(store: Path, *, kill_at_frame: int | None = None) -> int:
        """How many frames it set out to compute."""
        command = [sys.executable, str(script), str(store), str(tmp_path / "encoder"), str(image_root)]
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
        assert process.stdout is not None
        total = 0
        for line in process.stdout:
            done, total = map(int, line.split())
            if kill_at_frame is not None and done >= kill_at_frame:
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == (0 if kill_at_frame is None else -signal.SIGKILL)
        return total

    for name in ("whole", "killed"):
        FeatureStore.create(tmp_path / name, frames)
    assert run(tmp_path / "whole") == 150
    assert run(tmp_path / "killed", kill_at_frame=64) == 150
    left = run(tmp_path / "killed", kill_at_frame=48)
    assert left <= 150 - 32  # at most the chunk under way is computed again
    assert 0 < run(tmp_path / "killed") <= left - 32
    chunks = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole" / "e").rglob("c.*"))
    assert len(chunks) == 2 * 5
    for chunk in chunks:
        assert (tmp_path / "whole" / chunk).read_bytes() == (tmp_path / "killed" / chunk).read_bytes()
