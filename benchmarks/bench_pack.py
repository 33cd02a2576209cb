"""A frame pack against the folder of JPEG files that it was made of: the reads alone, and with their decoding.

Everything is in the page cache, so this is the least that a pack can gain: what opening a file costs the system. On a
network disk every file is a round trip or two besides, which no benchmark on one machine can show.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from material import random_frames, write_images
from report import Measure, Options, parse_options, report, side_by_side, wall_s

from extractor.pixels.reader import FrameReader
from featurestore.frames import FrameTable
from featurestore.images.framepack import FramePack
from featurestore.images.imagesource import ImageFolder, ImageSource
from featurestore.images.packwriter import write_pack

VIDEO_FRAMES = 400
N_DISTINCT, BATCH = 200, 64


def main() -> None:
    """Measure and report."""
    options = parse_options(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        frames = lay_out(root, options.pick(full=20_000, quick=4_000, smoke=400))
        images = ImageFolder(root / "images")
        pack_s = wall_s(lambda: write_pack(root / "frames.h5", frames, images))
        pack = FramePack(root / "frames.h5")
        pack.verify()
        megabytes = pack.index.n_bytes / 1e6
        print(f"{len(frames):,} JPEGs, {megabytes:.0f} MB, packed in {pack_s:.1f} s")
        report(
            [*measure_reads(pack, images, frames, options), measure_decoding(pack, images, frames, options)], options
        )


def lay_out(root: Path, n_frames: int) -> FrameTable:
    """Videos of 400 frames, a file each; the same few hundred pictures again and again."""
    n_videos = n_frames // VIDEO_FRAMES
    drawn = random_frames({f"video{number:03d}": ("train", VIDEO_FRAMES) for number in range(n_videos)}).data
    frames = FrameTable(drawn.with_columns(path=pl.format("{}/{}", "video", "path")))
    write_images(root / "drawn", N_DISTINCT)
    pictures = [path.read_bytes() for path in sorted((root / "drawn").iterdir())]
    for number, path in enumerate(frames.data["path"]):
        file = root / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pictures[number % N_DISTINCT])
    return frames


def measure_reads(pack: FramePack, images: ImageFolder, frames: FrameTable, options: Options) -> list[Measure]:
    """Every file's bytes, in the order of the table as an extraction reads, and shuffled as a training does."""
    ordered = frames.data["path"].to_list()
    shuffled = [ordered[row] for row in np.random.default_rng(0).permutation(len(ordered))]

    def read_s(source: ImageSource, paths: list[str]) -> float:
        def read() -> None:
            for path in paths:
                source.read(path)

        return wall_s(read)

    measures = []
    for how, paths in (("in order", ordered), ("shuffled", shuffled)):
        what = f"read {len(paths):,} JPEGs {how}, pack : folder"
        measures.append(compare(what, partial(read_s, pack, paths), partial(read_s, images, paths), 2.0, options))
    return measures


def measure_decoding(pack: FramePack, images: ImageFolder, frames: FrameTable, options: Options) -> Measure:
    """What the models are fed with: read and decoded by one thread, where Pillow has most of the work."""
    n_frames = options.pick(full=6400, quick=640, smoke=128)
    batches = [np.arange(row, row + BATCH) for row in range(0, n_frames, BATCH)]

    def decode_s(source: ImageSource) -> float:
        reader = FrameReader(source, frames)

        def decode() -> None:
            for batch in reader.batches(batches):
                if batch.failures:
                    raise RuntimeError(f"Frames cannot be decoded, there is nothing to compare: {batch.failures}.")

        seconds = wall_s(decode)
        reader.close()
        return seconds

    what = f"read and decode {n_frames:,} JPEGs, pack : folder"
    return compare(what, partial(decode_s, pack), partial(decode_s, images), 0.95, options)


def compare(what: str, ours: Callable[[], float], other: Callable[[], float], bar: float, options: Options) -> Measure:
    """One line of the table."""
    pair = side_by_side(ours, other, rounds=15, budget_s=options.budget_s / 2)
    return Measure(measure=what, value=pair.ratio, bar=bar, detail=pair.detail)


if __name__ == "__main__":
    main()
