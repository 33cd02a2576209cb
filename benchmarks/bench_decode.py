"""From JPEG bytes to a model's input, step by step: each way that is used against the others that there are.

112-px JPEGs as in s-Aff-Wild2, to a ViT's 224 px. One thread unless it is said; what a pass costs is set against the
forward of the smallest ViT that one would run.
"""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from material import IMAGE_PX, random_frames, write_images
from numpy.typing import NDArray
from PIL import Image
from report import Measure, Options, Pair, parse_options, report, side_by_side, wall_s
from torch import Tensor
from torch.nn import functional

from extractor.encoders.spec import IMAGENET_MEAN, IMAGENET_STD, EncoderSpec
from extractor.pixels.decode import decode_image
from extractor.pixels.preprocess import model_input
from extractor.pixels.reader import FrameReader
from featurestore.images.imagesource import ImageFolder

BATCH, SIDE = 32, 224
ROUNDS, N_LINES = 15, 12
TINY = "vit_tiny_patch16_224"
MEAN = torch.tensor(IMAGENET_MEAN).mul(255).view(1, 3, 1, 1)
STD = torch.tensor(IMAGENET_STD).mul(255).view(1, 3, 1, 1)


def main() -> None:
    """Measure and report."""
    options = parse_options(__doc__ or "")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        root = Path(folder) / "images"
        write_images(root, options.pick(full=256, quick=256, smoke=BATCH))
        files = [path.read_bytes() for path in sorted(root.iterdir())]
        decoded = [decode_image(raw) for raw in files[: options.pick(full=BATCH, quick=BATCH, smoke=2)]]
        pixels = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)
        report(
            [
                *measure_decoders(files, options),
                *measure_readers(root, files, options),
                *measure_resizers(pixels, options),
            ],
            options,
        )


def by_pillow(raw: bytes) -> NDArray[np.uint8]:
    """As it was done before."""
    with Image.open(BytesIO(raw)) as image:
        return np.array(image.convert("RGB"))


def by_torchvision(raw: bytes) -> Tensor:
    """As torchvision does it for as long as it does; writable memory is asked for, though none is written to."""
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated since torchvision 0.29
        found: Tensor = decode_jpeg(torch.frombuffer(raw, dtype=torch.uint8), mode=ImageReadMode.RGB)
    return found


def stack_by_pillow(raws: Sequence[bytes]) -> NDArray[np.uint8]:
    """A batch, for a thread or a process of a pool."""
    return np.stack([by_pillow(raw) for raw in raws])


def stack_by_ours(raws: Sequence[bytes]) -> NDArray[np.uint8]:
    """A batch, for a thread or a process of a pool."""
    return np.stack([decode_image(raw) for raw in raws])


def measure_decoders(files: Sequence[bytes], options: Options) -> list[Measure]:
    """Bytes in memory to pixels."""

    def all_by(decode: Callable[[bytes], object]) -> Callable[[], float]:
        def run() -> None:
            for raw in files:
                decode(raw)

        return partial(wall_s, run)

    others: list[tuple[str, Callable[[bytes], object], float]] = [
        ("Pillow", by_pillow, 2.0),
        ("torchvision, deprecated", by_torchvision, 1.0),
    ]
    return [
        line(f"decode a JPEG : {name}", all_by(decode_image), all_by(other), bar, options, per=len(files))
        for name, other, bar in others
    ]


def measure_readers(root: Path, files: Sequence[bytes], options: Options) -> list[Measure]:
    """Files on the disk to batches, by `FrameReader` and by pools without it."""
    n_frames = options.pick(full=8192, quick=1024, smoke=2 * BATCH)
    frames = random_frames({"video": ("train", n_frames)}, n_images=len(files))
    paths = [root / path for path in frames.data["path"]]

    def read_s(n_workers: int, *, find_duplicates: bool = False) -> float:
        reader = FrameReader(ImageFolder(root), frames, n_workers=n_workers, find_duplicates=find_duplicates)

        def read() -> None:
            for batch in reader.batches(np.arange(first, first + BATCH) for first in range(0, n_frames, BATCH)):
                if batch.failures:
                    raise RuntimeError(f"Frames cannot be decoded, there is nothing to compare: {batch.failures}.")

        seconds = wall_s(read)
        reader.close()
        return seconds

    def former_s() -> float:
        starts = range(0, n_frames, BATCH)
        return wall_s(lambda: [stack_by_pillow([p.read_bytes() for p in paths[at : at + BATCH]]) for at in starts])

    def pool_s(pool: Executor) -> float:
        parts = [[files[(at + i) % len(files)] for i in range(BATCH)] for at in range(0, n_frames, BATCH)]
        return wall_s(lambda: [len(batch) for batch in pool.map(stack_by_ours, parts)])

    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(2))
        processes = stack.enter_context(ProcessPoolExecutor(2, mp_context=get_context("spawn")))
        return [
            line("read and decode : Pillow and a stack", lambda: read_s(1), former_s, 1.5, options, per=n_frames),
            line("read and decode, 2 threads : 1", lambda: read_s(2), lambda: read_s(1), 1.2, options, per=n_frames),
            line(
                "decode in 2 threads : in 2 processes",
                partial(pool_s, threads),
                partial(pool_s, processes),
                1.0,
                options,
                per=n_frames,
            ),
            line(
                f"read and decode, {BATCH} different files a batch, find_duplicates : without",
                lambda: read_s(1, find_duplicates=True),
                lambda: read_s(1),
                0.95,
                options,
                per=n_frames,
            ),
        ]


def measure_resizers(pixels: Tensor, options: Options) -> list[Measure]:
    """A decoded batch to the model's input."""
    import timm  # takes seconds, and here the processes of `measure_readers` do not need it

    spec = EncoderSpec(architecture=TINY, input_px=SIDE)
    groups = [(torch.arange(len(pixels)), pixels)]
    weights = functional.interpolate(
        torch.eye(IMAGE_PX)[None, None], size=(SIDE, IMAGE_PX), mode="bicubic", antialias=True
    )[0, 0]
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]

    def as_float() -> Tensor:
        return pixels.to(torch.float32, memory_format=torch.contiguous_format)

    def interpolated() -> Tensor:
        images = functional.interpolate(as_float(), size=(SIDE, SIDE), mode="bicubic", antialias=True)
        return (images.clamp_(0, 255) - MEAN) / STD

    def multiplied() -> Tensor:
        images = torch.matmul(weights, torch.matmul(as_float(), weights.T).clamp_(0, 255))
        return (images.clamp_(0, 255) - MEAN) / STD

    def by_pillow_alone() -> NDArray[np.uint8]:
        return np.stack([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in pictures])

    def ours() -> Tensor:
        return model_input(groups, spec, n=len(pixels), device=pixels.device)

    model = timm.create_model(TINY, num_classes=0).eval()
    images = ours()
    what = f"resize {IMAGE_PX} to {SIDE} px and normalise"
    others: list[tuple[str, Callable[[], object]]] = [
        ("interpolate in float32", interpolated),
        ("two products in float32", multiplied),
        ("Pillow's resize alone", by_pillow_alone),
    ]
    return [
        *(line(f"{what} : {name}", timed(ours), timed(other), 1.5, options, per=len(pixels)) for name, other in others),
        share(
            "time of resizing and normalising, in percent of ViT-Ti's forward",
            timed(ours),
            timed(lambda: model(images)),
            options,
            per=len(pixels),
        ),
    ]


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Its seconds, when called."""
    return partial(wall_s, work)


def compare(ours: Callable[[], float], other: Callable[[], float], options: Options) -> Pair:
    """Two timings, within an even share of what the whole may take."""
    return side_by_side(ours, other, rounds=ROUNDS, budget_s=options.budget_s * 2 / N_LINES)


def line(
    what: str,
    ours: Callable[[], float],
    other: Callable[[], float],
    bar: float,
    options: Options,
    *,
    per: int,
) -> Measure:
    """One line of the table: how many times as fast, and the milliseconds a frame."""
    pair = compare(ours, other, options)
    return Measure(measure=what, value=pair.ratio, bar=bar, detail=per_frame(pair, per))


def share(what: str, ours: Callable[[], float], other: Callable[[], float], options: Options, *, per: int) -> Measure:
    """One line of the table: how many percent of the other's time."""
    pair = compare(ours, other, options)
    return Measure(measure=what, value=100 / pair.ratio, bar=3.0, at_most=True, detail=per_frame(pair, per))


def per_frame(pair: Pair, n_frames: int) -> str:
    """Both sides' time for one frame."""
    return f"{pair.ours_s / n_frames * 1000:.3f} / {pair.other_s / n_frames * 1000:.3f} ms a frame"


if __name__ == "__main__":
    main()
