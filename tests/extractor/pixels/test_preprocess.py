from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from extractor.encoders.encoder import Encoder
from extractor.encoders.spec import EncoderSpec
from extractor.pixels.preprocess import assemble, model_input, normalise, resize, upload
from extractor.pixels.reader import FrameReader
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageFolder

CPU = torch.device("cpu")


SHAPES = [(112, 112), (80, 80), (300, 300), (90, 140), (224, 100), (224, 224)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A ViT of two narrow blocks on 224 pixels."""
    torch.manual_seed(0)
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    return Encoder(EncoderSpec(architecture="vit_tiny_patch16_224", arguments=arguments, input_px=224)).eval()


def picture(shape: tuple[int, int], kind: str) -> Image.Image:
    """Smooth shapes under noise, as a photograph; or black and white with hard edges, where bicubic overshoots."""
    height, width = shape
    rng = np.random.default_rng(3)
    if kind == "edges":
        rows, columns = np.indices(shape) // 7
        return Image.fromarray(((rows + columns) % 2 * 255).astype(np.uint8)).convert("RGB")
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((smooth + rng.normal(0, 3, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["photograph", "edges"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])  # of bytes on a CPU; as on a GPU
def test_input_equals_timms_evaluation_transform(
    encoder: Encoder, shape: tuple[int, int], interpolation: str, kind: str, dtype: torch.dtype
) -> None:
    spec = encoder.spec.model_copy(update={"interpolation": interpolation})
    arguments = resolve_model_data_config(encoder.backbone)  # as its users make the transform
    arguments |= {"interpolation": interpolation, "crop_mode": "squash", "crop_pct": 1.0}
    arguments |= {"mean": spec.mean, "std": spec.std}
    image = picture(shape, kind)
    expected = create_transform(**arguments, is_training=False)(image)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].to(dtype)
    ours = normalise(resize(pixels, 224, interpolation), spec)[0]
    # Pillow rounds to whole grey levels after each of two passes; one level is 1 / (255 * std).
    assert (ours - expected).abs().max() < 2.01 / (255 * min(spec.std))
    with torch.inference_mode():
        a, b = encoder.backbone(torch.stack([ours, expected]))
    assert torch.cosine_similarity(a, b, dim=0) > 1 - (1e-5 if dtype == torch.uint8 else 1e-3)


def test_the_models_input_is_the_normalised_batch(tmp_path: Path, table_of: Callable[[list[str]], FrameTable]) -> None:
    for name, side in (("a", 32), ("b", 64), ("c", 32)):
        picture((side, side), "photograph").save(tmp_path / f"{name}.png")
    spec = EncoderSpec(architecture="none", input_px=48)
    reader = FrameReader(ImageFolder(tmp_path), table_of(["a.png", "c.png", "b.png"]))
    for rows, n in (([0, 1], 2), ([0, 1], 4), ([2, 0, 1], 3)):
        (frames,) = reader.batches([np.array(rows)])
        groups = upload(frames, CPU)
        before = [pixels.clone() for _, pixels in groups]
        found = model_input(groups, spec, n=n, device=CPU)
        torch.testing.assert_close(found, normalise(assemble(groups, spec, n=n, device=CPU), spec))
        assert found.is_contiguous()
        assert all(torch.equal(pixels, other) for (_, pixels), other in zip(groups, before, strict=True))


def test_pixels_of_the_models_own_size_are_left_as_they_are() -> None:
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    groups = [(torch.arange(2), pixels)]
    spec = EncoderSpec(architecture="none", input_px=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    found = model_input(groups, spec, n=2, device=CPU)
    torch.testing.assert_close(found, pixels.float() / 255)
    floats = pixels.float().contiguous()
    kept = floats.clone()
    assert not normalise(resize(floats, 32, "bicubic"), spec).equal(floats)
    assert floats.equal(kept)


def test_mixed_sizes_and_missing_frames_keep_their_places(
    tmp_path: Path, tiny_spec: EncoderSpec, table_of: Callable[[list[str]], FrameTable]
) -> None:
    for name, side in (("a", 32), ("b", 64), ("c", 32)):
        Image.new("RGB", (side, side), (200, 100, 50)).save(tmp_path / f"{name}.png")
    reader = FrameReader(ImageFolder(tmp_path), table_of(["a.png", "b.png", "absent.png", "c.png"]))
    (frames,) = reader.batches([np.arange(4)])
    images = assemble(upload(frames, CPU), tiny_spec, n=6, device=CPU)
    assert images.shape == (6, 3, 32, 32)
    for position in (0, 1, 3):
        torch.testing.assert_close(images[position, :, 5, 5], torch.tensor([200.0, 100.0, 50.0]))
    assert (images[[2, 4, 5]] == 0).all()
