"""Several readouts of one backbone in one pass, tokens, precision: what stands in the store afterwards."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from extractor.encoders.encoder import Encoder
from extractor.encoders.readout import Readout
from extractor.encoders.spec import EncoderSpec
from extractor.extraction.config import ExtractConfig
from extractor.extraction.execution import Execution
from extractor.extraction.extract import extract
from extractor.extraction.fitting import sample_rows
from featurestore.errors import ConfigError, EncoderMismatchError, MissingFileError, StoreError
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageFolder
from featurestore.store import FeatureStore
from featurestore.writer import Share

CONFIG = ExtractConfig(batch=16, device="cpu", precision="float32")


@pytest.fixture
def store(tmp_path: Path, frames: FrameTable) -> FeatureStore:
    return FeatureStore.create(tmp_path / "features", frames)


class CountedPasses:
    """How many images went through the first block of a ViT."""

    def __init__(self, encoder: Encoder) -> None:
        self.n_images = 0
        blocks = encoder.backbone.blocks
        assert isinstance(blocks, nn.Sequential)
        blocks[0].register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.n_images += len(inputs[0])

    def __deepcopy__(self, memo: dict[int, object]) -> "CountedPasses":
        return self  # the copy on the device counts here, too


def test_layers_of_one_encoder_cost_one_forward_pass(
    store: FeatureStore, tiny_encoder: Encoder, images: ImageFolder, frames: FrameTable, tmp_path: Path
) -> None:
    counted = CountedPasses(tiny_encoder)
    readouts = {f"e-layer{at}": Readout(pooling="fc_norm", layer=at) for at in (1, 2)} | {"e": tiny_encoder.readout}
    made = {name: tiny_encoder.with_readout(readout) for name, readout in readouts.items()}
    extract(store, made, images, CONFIG)
    assert counted.n_images == 160  # ten batches of 16, the last of them padded
    for name, encoder in made.items():
        alone = FeatureStore.create(tmp_path / name, frames)
        extract(alone, {name: encoder}, images, CONFIG)
        assert np.array_equal(alone.embedding(name).load(), store.embedding(name).load())
    assert np.array_equal(store.embedding("e-layer2").load(), store.embedding("e").load())
    assert not np.array_equal(store.embedding("e-layer1").load(), store.embedding("e").load())
    with pytest.raises(EncoderMismatchError, match=r"'e'.*pooling"):
        extract(store, {"e": made["e-layer1"]}, images, CONFIG)


def test_what_is_there_of_a_backbone_is_not_computed_again(
    store: FeatureStore, tiny_encoder: Encoder, images: ImageFolder
) -> None:
    extract(store, {"e": tiny_encoder}, images, CONFIG)
    before = store.embedding("e").load().copy()
    flipped = tiny_encoder.with_readout(Readout(pooling="fc_norm", flip=True))
    report = extract(store, {"e": tiny_encoder, "e-flip": flipped}, images, CONFIG)
    assert (report.computed, report.reused) == ({"e": 0, "e-flip": 150}, {"e": 150, "e-flip": 0})
    assert np.array_equal(store.embedding("e").load(), before)


def test_tokens_and_their_components_are_stored_with_the_projection(
    store: FeatureStore, tiny_encoder: Encoder, images: ImageFolder, frames: FrameTable, tmp_path: Path
) -> None:
    tokens = Readout(pooling="tokens", token_grid=(2, 2))
    few = Readout(pooling="tokens", token_grid=(2, 2), n_components=6)
    made = {"t": tiny_encoder.with_readout(tokens), "t6": tiny_encoder.with_readout(few)}
    report = extract(store, made, images, replace(CONFIG, stored="float32"))
    whole, reduced = store.embedding("t"), store.embedding("t6")
    assert (whole.row_shape, reduced.row_shape) == ((4, 32), (4, 6))
    projection = reduced.projection
    assert projection is not None
    expected = (whole.load() - projection.mean) @ projection.components
    np.testing.assert_allclose(reduced.load(), expected, atol=1e-4)
    assert report.n_frames == 150

    # Fitted on train frames alone: other pixels elsewhere change nothing.
    train = frames.data["split"].to_numpy() == "train"
    fitted_on = whole.load()[sample_rows(frames)].reshape(-1, 32).astype(np.float64)
    assert train[sample_rows(frames)].all()
    np.testing.assert_allclose(projection.mean, fitted_on.mean(axis=0), atol=1e-5)

    # Interrupted after the group was made, it goes on with the projection that is kept.
    half = FeatureStore.create(tmp_path / "half", frames)
    (tmp_path / "few").mkdir()
    with pytest.raises(MissingFileError, match=r"None of 64 sampled frames"):
        extract(half, {"t6": made["t6"]}, ImageFolder(tmp_path / "few"), CONFIG)
    again = extract(store, made, images, replace(CONFIG, stored="float32"))
    assert again.computed == {"t": 0, "t6": 0}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_stays_close_on_every_frame(
    precision: str, store: FeatureStore, images: ImageFolder, tiny_spec: EncoderSpec
) -> None:
    torch.manual_seed(5)
    encoder = Encoder(tiny_spec).eval()
    extract(store, {"full": encoder}, images, ExtractConfig(batch=32, device="cpu", precision="float32"))
    extract(store, {"low": encoder}, images, ExtractConfig(batch=32, device="cpu", precision=precision))
    full, low = (store.embedding(name).load().astype(np.float64) for name in ("full", "low"))
    cosine = (full * low).sum(axis=1) / np.linalg.norm(full, axis=1) / np.linalg.norm(low, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(full, low)
    assert store.embedding("low").provenance.precision == precision


def test_what_cannot_be_read_is_refused_before_anything_is_made(
    store: FeatureStore, tiny_encoder: Encoder, images: ImageFolder
) -> None:
    network = Encoder(EncoderSpec(architecture="resnet10t", input_px=32, pooling="default")).eval()
    impossible = {
        r"no layer 9, only 1 to 2": tiny_encoder.with_readout(Readout(pooling="fc_norm", layer=9)),
        r"has 4x4 patch tokens, which cannot be averaged to 5x5": tiny_encoder.with_readout(
            Readout(pooling="tokens", token_grid=(5, 5))
        ),
        r"ResNet has no stage 9, only 1 to 5": network.with_readout(Readout(pooling="default", layer=9)),
        r"has 1x1 patch tokens": network.with_readout(Readout(pooling="tokens", token_grid=(2, 2))),
    }
    for reason, encoder in impossible.items():
        with pytest.raises(ConfigError, match=reason):
            extract(store, {"good": tiny_encoder, "bad": encoder}, images, CONFIG)
    assert "good" not in store
    assert "bad" not in store


def test_projections_of_one_backbone_are_fitted_in_one_pass(
    store: FeatureStore, tiny_encoder: Encoder, images: ImageFolder, frames: FrameTable, tmp_path: Path
) -> None:
    counted = CountedPasses(tiny_encoder)
    readouts = {f"t{at}": Readout(pooling="tokens", layer=at, n_components=3) for at in (1, 2)}
    extract(store, {n: tiny_encoder.with_readout(r) for n, r in readouts.items()}, images, CONFIG)
    assert counted.n_images == len(sample_rows(frames)) + 160  # the sample, then all frames: once each
    for name, readout in readouts.items():
        alone = FeatureStore.create(tmp_path / name, frames)
        extract(alone, {name: tiny_encoder.with_readout(readout)}, images, CONFIG)
        assert np.array_equal(alone.embedding(name).load(), store.embedding(name).load())


def test_rows_that_cannot_be_computed_again_are_not_taken_back(
    store: FeatureStore, tiny_encoder: Encoder, images: ImageFolder, image_root: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(image_root, tmp_path / "broken")
    (broken / "v0" / "00004.jpg").write_bytes(b"torn")
    made = {"t": tiny_encoder.with_readout(Readout(pooling="tokens", n_components=3))}
    extract(store, made, ImageFolder(broken), CONFIG)
    projection = tmp_path / "features" / "t" / "projection" / "mean"
    (chunk,) = (path for path in projection.iterdir() if path.name != "zarr.json")
    chunk.write_bytes(bytes(chunk.stat().st_size))
    with pytest.raises(StoreError, match=r"projection"):
        extract(store, made, images, replace(CONFIG, retry_unreadable=True))
    assert FeatureStore.open(tmp_path / "features").embedding("t").rows_done() == 150


def test_the_worker_that_begins_first_decides_for_all(
    store: FeatureStore, tiny_encoder: Encoder, images: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = FeatureStore.open(store.location)

    def slow(*_: object, **__: object) -> Execution:
        """A calibration during which another worker makes the group, and computes a part of it."""
        monkeypatch.undo()  # of the other one, too
        extract(others, {"e": tiny_encoder}, images, replace(CONFIG, batch=32, share=Share(1, 2)))
        return Execution(precision="float32", batch=8)

    monkeypatch.setattr("extractor.extraction.planning.calibrate", slow)
    extract(store, {"e": tiny_encoder}, images, ExtractConfig(device="cpu"))
    assert store.embedding("e").batch_rows == 32
    assert store.embedding("e").is_complete()
