"""A real face encoder over real faces: the clips and models beside the checkout; skipped where they are absent."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image

from extractor.encoders.folder import load_encoder
from extractor.encoders.preparing import add_encoder
from extractor.encoders.spec import EncoderSpec
from extractor.extraction.config import ExtractConfig
from extractor.extraction.devices import extract_on
from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.images.imagesource import ImageFolder
from featurestore.store import FeatureStore

REAL = Path(__file__).parents[4] / "shared" / "real"
DETECTOR, ENCODER = REAL / "face_detector_rfb320.onnx", REAL / "mobilefacenet_112.onnx"
CLIP, PHOTO = REAL / "single_face.mp4", REAL / "multi_face.jpg"

pytestmark = pytest.mark.skipif(not ENCODER.is_file(), reason="no real clips and models beside the checkout")


def faces_in(image: Image.Image) -> Iterator[Image.Image]:
    """The faces of a picture, 112 pixels square, from the left."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(DETECTOR, options, providers=["CPUExecutionProvider"])
    pixels = (np.asarray(image.convert("RGB").resize((320, 240)), dtype=np.float32) - 127) / 128
    scores, boxes = session.run(None, {"input": pixels.transpose(2, 0, 1)[None]})
    kept: list[NDArray[np.float32]] = []
    for at in np.argsort(-scores[0, :, 1]):
        if scores[0, at, 1] < 0.9:
            break
        if all(_overlap(boxes[0, at], other) < 0.3 for other in kept):
            kept.append(boxes[0, at])
    for left, top, right, bottom in sorted(kept, key=lambda box: float(box[0])):
        box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
        yield image.crop(tuple(round(float(edge)) for edge in box)).resize((112, 112))  # type: ignore[arg-type]


def _overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.clip(high - low, 0, None)))
    return shared / (float(np.prod(one[2:] - one[:2])) + float(np.prod(other[2:] - other[:2])) - shared)


def test_a_real_onnx_encoder_knows_a_person_again(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    rows = []

    def keep(face: Image.Image, video: str, number: int) -> None:
        path = f"{video}/{number:05d}.jpg"
        (tmp_path / "faces" / video).mkdir(parents=True, exist_ok=True)
        face.save(tmp_path / "faces" / path, quality=95)
        rows.append({"video": video, "frame": number, "path": path, "split": "train"})

    with av.open(str(CLIP)) as clip:
        for number, frame in enumerate(clip.decode(video=0), start=1):
            if number % 6 == 1:
                for face in faces_in(frame.to_image()):
                    keep(face, "clip", number)
    n_clip = len(rows)
    for number, face in enumerate(faces_in(Image.open(PHOTO)), start=1):
        keep(face, "photo", number)
    n_photo = len(rows) - n_clip
    assert n_clip >= 8
    assert n_photo >= 3

    imagenet = EncoderSpec(architecture="onnx", input_px=112, pooling="default")
    added = add_encoder("mobilefacenet", ENCODER, tmp_path / "encoders", spec=imagenet)
    store = FeatureStore.create(tmp_path / "features", FrameTable(pl.DataFrame(rows, schema=FRAME_SCHEMA)))
    encoder = load_encoder(added.folder)
    report = extract_on(
        ["cpu"], store, {"mobilefacenet": encoder}, ImageFolder(tmp_path / "faces"), ExtractConfig(batch=8)
    )
    assert report.computed == {"mobilefacenet": len(rows)}
    stored = store.embedding("mobilefacenet").load().astype(np.float64)
    assert stored.shape == (len(rows), 128)
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    alike = unit @ unit.T
    same = alike[:n_clip, :n_clip][np.triu_indices(n_clip, 1)]
    people = alike[n_clip:, n_clip:][np.triu_indices(n_photo, 1)]
    assert same.min() > 0.5  # one person, from frame to frame
    assert alike[:n_clip, n_clip:].max() < 0.45  # and nobody else
    assert np.median(people) < 0.45
