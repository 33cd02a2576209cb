"""`extract`, from JPEG files to a committed store, against the bare models on a random batch already in place.

Decoding, resizing, transfer, hashing and writing all count on one side and not on the other. Same device, precision
and batch. On a GPU the encoder is a ViT-B on 224 pixels, on a CPU a ViT-S on 112: the smaller the model, the
harder the bar, since decoding costs what it costs, and on a CPU it takes the cores that the model runs on.
"""

import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from material import IMAGE_PX, random_frames, write_images
from report import Measure, Options, parse_options, report, side_by_side, wall_s

from extractor.encoders.encoder import Encoder
from extractor.encoders.spec import EncoderSpec
from extractor.extraction.extract import ExtractConfig, extract
from extractor.precision import DTYPES, choose_precision
from featurestore.images.imagesource import ImageFolder
from featurestore.store import FeatureStore
from heads.devices import resolve_device

N_IMAGES_MEMORY = 64
CPU = EncoderSpec(architecture="vit_small_patch16_224", input_px=112, arguments={"img_size": 112})
GPU = EncoderSpec(architecture="vit_base_patch16_224", input_px=224)
SMALLEST = EncoderSpec(
    architecture="vit_tiny_patch16_224",
    input_px=112,
    arguments={"img_size": 112, "embed_dim": 32, "depth": 1, "num_heads": 1},
)


def main() -> None:
    """Measure and report."""
    options = parse_options(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        # Memory first: a new process's peak begins, on Linux, with the size of the one that started it.
        memory = measure_memory(Path(folder), 500 if options.quick else 2000)
        speed = measure_speed(Path(folder), options)
    report([*speed, memory], options)


def measure_speed(folder: Path, options: Options) -> list[Measure]:
    """One encoder, then two in one pass."""
    device = resolve_device("auto")
    on_gpu = device.type == "cuda"
    batch, n_batches, rounds = (128 if on_gpu else 32), (3 if options.quick else 16), (3 if options.quick else 5)
    if on_gpu:
        n_batches *= 16
    n_frames = batch * n_batches
    write_images(folder / "images", n_frames)
    store = FeatureStore.create(folder / "speed", random_frames({"video": ("train", n_frames)}))
    precision = choose_precision("auto", device)
    spec = GPU if on_gpu else CPU
    encoders = {name: Encoder(spec).to(device=device, dtype=DTYPES[precision]).eval() for name in ("mae", "au")}
    images = torch.randn(batch, 3, spec.input_px, spec.input_px, device=device, dtype=DTYPES[precision])
    config = ExtractConfig(device=str(device), precision=precision, batch=batch)

    def extract_s(names: Sequence[str]) -> float:
        chosen = {name: encoders[name] for name in names}
        seconds = wall_s(lambda: extract(store, chosen, ImageFolder(folder / "images"), config))
        for name in names:
            if not store.embedding(name).is_complete():
                raise RuntimeError(f"The extraction of {name} is not complete: nothing to compare.")
            store.remove(name)
        return seconds

    def forward_s(names: Sequence[str]) -> float:
        def run() -> None:
            with torch.inference_mode():
                for name in names:
                    for _ in range(n_batches):
                        encoders[name](images)
            if on_gpu:
                torch.cuda.synchronize(device)

        return wall_s(run)

    one = side_by_side(lambda: extract_s(["mae"]), lambda: forward_s(["mae"]), rounds=rounds, budget_s=options.budget_s)
    both = ("mae", "au")
    two = side_by_side(lambda: extract_s(both), lambda: forward_s(both), rounds=rounds, budget_s=options.budget_s)
    model = f"{spec.architecture.partition('_patch')[0]} on {spec.input_px} px, {precision}"
    return [
        Measure(
            measure=f"speed of extract, {n_frames} JPEGs, {model} : bare model",
            value=one.ratio,
            bar=0.95,
            detail=one.detail,
        ),
        Measure(
            measure="time of two encoders in one pass : sum of their forwards",
            value=1 / two.ratio,
            bar=1.05,
            at_most=True,
            detail=two.detail,
        ),
    ]


def measure_memory(folder: Path, n_frames: int) -> Measure:
    """Peak memory of an extraction of 4 N frames against one of N, each in a process of its own."""
    write_images(folder / "few", N_IMAGES_MEMORY)  # over and over, decoded each time
    peaks = []
    for n in (n_frames, 4 * n_frames):
        video = {"video": ("train", n)}
        FeatureStore.create(folder / f"memory{n}", random_frames(video, n_images=N_IMAGES_MEMORY))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            peaks.append(pool.submit(extraction_peak_mb, folder / f"memory{n}", folder / "few").result())
    few, many = peaks
    decoded_mb = 3 * n_frames * IMAGE_PX**2 * 3 / 1e6
    return Measure(
        measure=f"peak memory of {4 * n_frames} frames : {n_frames} frames",
        value=many / few,
        bar=1.05,
        at_most=True,
        detail=f"{many:.0f} MB / {few:.0f} MB ({decoded_mb:.0f} MB more pixels decoded)",
    )


def extraction_peak_mb(store: Path, image_root: Path) -> float:
    """Extract with the smallest of encoders, and say how much memory this process held at its peak."""
    config = ExtractConfig(device="cpu", batch=32)
    extract(FeatureStore.open(store), {"smallest": Encoder(SMALLEST).eval()}, ImageFolder(image_root), config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # macOS counts bytes, Linux KiB


if __name__ == "__main__":
    main()
