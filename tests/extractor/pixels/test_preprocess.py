from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from extractor.encoders.encoder import Encoder
from extractor.encoders.spec import EncoderSpec
from extractor.pixels.preprocess import assemble, normalise, resize, upload
from extractor.pixels.reader import FrameReader
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageFolder

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(112, 112), (48, 64), (32, 32), (20, 20)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_input_equals_timms_evaluation_transform(
    tiny_spec: EncoderSpec, shape: tuple[int, int], interpolation: str
) -> None:
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    image = coarse.resize(shape, Image.Resampling.BICUBIC)
    spec = tiny_spec.model_copy(update={"interpolation": interpolation})
    transform = create_transform(
        (3, 32, 32), interpolation=interpolation, crop_mode="squash", crop_pct=1.0, mean=spec.mean, std=spec.std
    )
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
    ours = normalise(resize(pixels, 32, interpolation), spec)[0]
    # Pillow rounds to whole grey levels after each of its two passes; one level is 1 / (255 * std).
    assert (ours - transform(image)).abs().max() < 2 / (255 * min(spec.std))
    torch.manual_seed(0)
    encoder = Encoder(spec).eval()
    with torch.inference_mode():
        a, b = encoder(torch.stack([ours, transform(image)]))
    assert torch.cosine_similarity(a, b, dim=0) > 0.999


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
