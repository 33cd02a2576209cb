"""`extract`, from JPEG files to a committed store, against the bare models on a random batch already in place.

Decoding, resizing, transfer, hashing and writing all count on one side and not on the other. Same device, precision
and batch. The frames are s-Aff-Wild2's crops of 112 pixels, the models take 224: so every frame is resized, too. The
smaller the model, the harder the bar, since decoding costs what it costs, and on a CPU it takes the cores that the
model runs on. Where the bar is missed, the time of every stage is printed.
"""

import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from material import IMAGE_PX, random_frames, write_images
from report import Measure, Options, Pair, parse_options, report, side_by_side, wall_s

from extractor.encoders.encoder import Encoder
from extractor.encoders.spec import EncoderSpec
from extractor.extraction.config import ExtractConfig, ExtractReport
from extractor.extraction.extract import extract
from extractor.precision import DTYPES, Precision, choose_precision
from featurestore.images.imagesource import ImageFolder
from featurestore.store import FeatureStore
from heads.devices import resolve_device

ENCODERS = ("a", "b", "c", "d")
GPU_FRAMES = 168_000  # s-Aff-Wild2's train and val
TINY = EncoderSpec(architecture="vit_tiny_patch16_224", input_px=224)
TINY_112 = EncoderSpec(architecture="vit_tiny_patch16_224", input_px=112)
BASE = EncoderSpec(architecture="vit_base_patch16_224", input_px=224)
SMALLEST = EncoderSpec(
    architecture="vit_tiny_patch16_224",
    input_px=112,
    arguments={"img_size": 112, "embed_dim": 32, "depth": 1, "num_heads": 1},
)


@dataclass(frozen=True, slots=True)
class Setting:
    """On what a comparison is made."""

    folder: Path
    n_images: int  # of each of which there may be several frames; read and decoded each time
    device: torch.device
    precision: Precision
    batch: int
    options: Options

    def new_store(self, n_frames: int) -> FeatureStore:
        """An empty store of frames that all have an image."""
        frames = random_frames({"video": ("train", n_frames)}, n_images=min(n_frames, self.n_images))
        return FeatureStore.create(Path(tempfile.mkdtemp(dir=self.folder)) / "features", frames)


def main() -> None:
    """Measure and report."""
    options = parse_options(__doc__ or "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_images = options.pick(full=512, quick=512, smoke=16)
        write_images(folder / "images", n_images)
        # Memory first: a new process's peak begins, on Linux, with the size of the one that started it.
        few, many = options.pick(full=(1000, 100_000), quick=(1000, 10_000), smoke=(32, 64))
        memory = measure_memory(folder, few, many, n_images=n_images)
        device = resolve_device("auto")
        on_gpu = device.type == "cuda"
        batch = 256 if on_gpu else 32
        setting = Setting(
            folder=folder,
            n_images=n_images,
            device=device,
            precision=choose_precision("auto", device),
            batch=options.pick(full=batch, quick=batch, smoke=8),
            options=options,
        )
        speed = measure_gpu(setting) if on_gpu else measure_cpu(setting)
    report([*speed, memory], options)


def measure_cpu(setting: Setting) -> list[Measure]:
    """ViT-Ti, where what is not the model weighs most, and ViT-B."""
    cases: list[tuple[EncoderSpec, int, int]] = setting.options.pick(  # spec, encoders, frames
        full=[(TINY, 1, 512), (TINY, 4, 128), (BASE, 1, 96)],
        quick=[(TINY, 1, 128), (TINY_112, 4, 128)],
        smoke=[(SMALLEST, 1, 16), (SMALLEST, 4, 16), (SMALLEST, 1, 24)],
    )
    spec, n_frames = setting.options.pick(full=(TINY_112, 1024), quick=(TINY_112, 256), smoke=(SMALLEST, 16))
    measures = [measure for case in cases for measure in against_bare(setting, *case)]
    return [*measures, duplicates(setting, spec, n_frames)]


def measure_gpu(setting: Setting) -> list[Measure]:
    """ViT-B over a data set's worth of frames; one encoder, then four."""
    n_frames = setting.options.pick(full=GPU_FRAMES, quick=GPU_FRAMES // 10, smoke=64)
    return [
        *against_bare(setting, BASE, 1, n_frames, rounds=1),
        *against_bare(setting, BASE, 4, n_frames // 4, rounds=1),
        *against_bare(setting, TINY, 1, n_frames, rounds=1),
        duplicates(setting, BASE, n_frames // 8),
    ]


def against_bare(
    setting: Setting, spec: EncoderSpec, n_encoders: int, n_frames: int, *, rounds: int = 3
) -> list[Measure]:
    """Whole extractions of some encoders against their forward passes on a batch in place."""
    store = setting.new_store(n_frames)
    device, dtype = setting.device, DTYPES[setting.precision]
    encoders = {name: Encoder(spec).to(device=device, dtype=dtype).eval() for name in ENCODERS[:n_encoders]}
    side = spec.input_px
    images = torch.randn(setting.batch, 3, side, side, device=device, dtype=dtype)
    config = ExtractConfig(device=str(device), precision=setting.precision, batch=setting.batch)
    reports: list[ExtractReport] = []

    def extract_s() -> float:
        reports.append(extract(store, encoders, ImageFolder(setting.folder / "images"), config))
        remove(store, encoders)
        return reports[-1].seconds

    def forward_s() -> float:
        def run() -> None:
            with torch.inference_mode():
                for encoder in encoders.values():
                    for _ in range(n_frames // setting.batch):
                        encoder(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return wall_s(run)

    pair = side_by_side(extract_s, forward_s, rounds=rounds, budget_s=setting.options.budget_s)
    frames_per_second = f"{n_frames / pair.ours_s:,.0f} / {n_frames / pair.other_s:,.0f} frames/s"
    what = f"{n_frames:,} JPEGs, {spec.architecture.partition('_patch')[0]} on {side} px, {setting.precision}"
    measure = _one(what, pair, frames_per_second) if n_encoders == 1 else _several(what, n_encoders, pair)
    if not measure.ok:
        tell_stages(measure, reports[-1])
    measures = [measure]
    if device.type == "cuda" and spec is BASE and n_encoders == 1:
        name = torch.cuda.get_device_name(device)
        measures.append(
            Measure(measure=f"frames/s of extract, {what}, {name}", value=n_frames / pair.ours_s, bar=10_000.0)
        )
    return measures


def _one(what: str, pair: Pair, frames_per_second: str) -> Measure:
    return Measure(
        measure=f"speed of extract, {what} : bare model", value=pair.ratio, bar=0.95, detail=frames_per_second
    )


def _several(what: str, n: int, pair: Pair) -> Measure:
    return Measure(
        measure=f"time of {n} encoders in one pass, {what} : sum of their forwards",
        value=1 / pair.ratio,
        bar=1.05,
        at_most=True,
        detail=pair.detail,
    )


def tell_stages(measure: Measure, last: ExtractReport) -> None:
    """Where the time of a run went that missed its bar."""
    print(f"{measure.measure}: {measure.value:.3f}, the stages of the last run of {last.seconds:.2f} s:")
    for stage, seconds in last.stages.items():
        print(f"  {stage:<10} {seconds:8.3f} s  {1000 * seconds / last.n_frames:8.4f} ms a frame")


def duplicates(setting: Setting, spec: EncoderSpec, n_frames: int) -> Measure:
    """Looking for frozen frames where there are none: what it costs. (What it gains is their share.)"""
    store = setting.new_store(n_frames)
    encoders = {"a": Encoder(spec).eval()}

    def extract_s(*, reuse: bool) -> float:
        config = ExtractConfig(
            device=str(setting.device), precision=setting.precision, batch=setting.batch, reuse_duplicates=reuse
        )
        seconds = extract(store, encoders, ImageFolder(setting.folder / "images"), config).seconds
        remove(store, encoders)
        return seconds

    pair = side_by_side(
        lambda: extract_s(reuse=True),
        lambda: extract_s(reuse=False),
        rounds=3,
        budget_s=setting.options.budget_s,
    )
    return Measure(
        measure="speed of extract that looks for duplicates, where there are none : one that does not",
        value=pair.ratio,
        bar=0.98,
        detail=pair.detail,
    )


def remove(store: FeatureStore, encoders: Mapping[str, Encoder]) -> None:
    """Make the store empty again, after a look at whether it was full."""
    for name in encoders:
        if not store.embedding(name).is_complete():
            raise RuntimeError(f"The extraction of {name} is not complete: nothing to compare.")
        store.remove(name)


def measure_memory(folder: Path, few: int, many: int, *, n_images: int) -> Measure:
    """Peak memory of an extraction of many frames against one of few, each in a process of its own, at once."""
    with ExitStack() as stack:
        running = []
        for n_frames in (few, many):
            table = random_frames({"video": ("train", n_frames)}, n_images=n_images)
            FeatureStore.create(folder / f"memory{n_frames}", table)
            pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))
            running.append(pool.submit(extraction_peak_mb, folder / f"memory{n_frames}", folder / "images"))
        peaks = [each.result() for each in running]
    decoded_mb = (many - few) * IMAGE_PX**2 * 3 / 1e6
    return Measure(
        measure=f"peak memory of {many:,} frames : {few:,} frames",
        value=peaks[1] / peaks[0],
        bar=1.05,
        at_most=True,
        detail=f"{peaks[1]:.0f} MB / {peaks[0]:.0f} MB ({decoded_mb:,.0f} MB more pixels decoded)",
    )


def extraction_peak_mb(store: Path, image_root: Path) -> float:
    """Extract with the smallest of encoders, and say how much memory this process held at its peak."""
    config = ExtractConfig(device="cpu", batch=32, precision="float32")
    extract(FeatureStore.open(store), {"smallest": Encoder(SMALLEST).eval()}, ImageFolder(image_root), config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # macOS counts bytes, Linux KiB


if __name__ == "__main__":
    main()
