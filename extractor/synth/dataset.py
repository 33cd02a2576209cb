"""A rendered dataset in the exact layout of s-Aff-Wild2's multi-task challenge.

Under its root are the crops, the annotations of train and val, the test list, the test labels that a challenge would
withhold, and the true state of every listed frame. The images come first and the files that list them last, each in
one step, so that a run that was killed is never taken for a whole dataset.
"""

import multiprocessing
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, FileExistsAlreadyError
from featurestore.labels import SPLITS

from .listing import FILES, IMAGE_FOLDER, TRUTH_FILE, Listing, list_frames, write_lists
from .plan import MIN_VIDEOS, plan_videos
from .video import VideoState, simulate_video, write_frames

README_FILE: Final = "README.txt"
_README: Final = """A rendered dataset in the layout of s-Aff-Wild2 (multi-task challenge). No person is in it.

Made by `abaw synth` with videos={videos}, seed={seed}, frames_per_video={frames_per_video}: the same values give
the same bytes.

cropped_aligned/<video>/<00001>.jpg        112x112 crops
training_set_annotations.txt               image,valence,arousal,expression,aus; unlabelled: -5, -1
validation_set_annotations.txt             the same
MTL_Challenge_test_set_release.txt         the test list
test_set_labels.txt                        the labels a challenge would withhold, row for row of the list
truth.npz                                  video/frame.jpg -> AU1 2 4 6 7 10 12 15 23 24 25 26 in [0, 1], then
                                           yaw, pitch, roll in radians
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthConfig:
    """What dataset to make.

    Attributes
    ----------
    videos
        How many, of which about 62/20/18 % are train, val and test; at least 6.
    seed
        The same seed gives the same bytes.
    frames_per_video
        Mean number of listed frames, at least 4; videos hold from a sixth to three times as many. Every expression
        occurs in every split from about 200 up, with the default number of videos.
    workers
        Processes that draw; what they write does not depend on how many there are. They are spawned, so a script
        that asks for more than one does its work under ``if __name__ == "__main__"``.
    """

    videos: int = 32
    seed: int = 7
    frames_per_video: int = 235
    workers: int = 1

    def __post_init__(self) -> None:
        least = {"videos": MIN_VIDEOS, "seed": 0, "frames_per_video": 4, "workers": 1}
        given = {name: int(getattr(self, name)) for name in least}
        wrong = [f"{name} {given[name]} (at least {low})" for name, low in least.items() if given[name] < low]
        if wrong:
            raise ConfigError(
                f"A rendered dataset needs larger values than: {', '.join(wrong)}. "
                f"{MIN_VIDEOS} videos are the fewest that fill three splits. Raise them; the defaults are good ones."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthSummary:
    """What was written.

    Attributes
    ----------
    rows
        Split -> listed rows, duplicates included.
    videos
        Split -> videos.
    images
        Image files; one listed frame of test has none.
    seconds
        Wall clock of the whole run.
    paths
        `images`, `train`, `val`, `test`, `test_labels` and `truth` -> where they are.
    """

    rows: dict[str, int]
    videos: dict[str, int]
    images: int
    seconds: float
    paths: dict[str, Path]

    def as_dict(self) -> dict[str, object]:
        """For JSON: paths as text."""
        return {**asdict(self), "paths": {name: str(path) for name, path in self.paths.items()}}


def write_dataset(
    root: Path, config: SynthConfig, *, on_video: Callable[[int, int], None] | None = None
) -> SynthSummary:
    """Write a dataset.

    Parameters
    ----------
    root
        A folder that is empty or not there yet.
    on_video
        Called with the videos done and their number, after each.

    Raises
    ------
    FileExistsAlreadyError
        If there is something in `root`.
    """
    started = time.perf_counter()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsAlreadyError(
            f"A dataset is written to a new or empty folder; there is something in {root} already. "
            "Name another folder, or remove what is there."
        )
    # Made beside its place, under a hidden name, and put there whole: a killed run leaves no half of a dataset.
    made = root.with_name(f".{root.name}.partial")
    shutil.rmtree(made, ignore_errors=True)
    (made / IMAGE_FOLDER).mkdir(parents=True)
    videos = [simulate_video(plan) for plan in plan_videos(config.seed, config.videos, config.frames_per_video)]
    listing = list_frames(config.seed, videos)
    images = 0
    with closing(_draw(made, videos, listing, workers=config.workers)) as drawn:
        for done, written in enumerate(drawn, start=1):
            images += written
            if on_video is not None:
                on_video(done, len(videos))
    _write_truth(made / TRUTH_FILE, videos)
    (made / README_FILE).write_text(_readme(config))
    write_lists(made, listing)
    if root.exists():
        root.rmdir()
    made.rename(root)
    return SynthSummary(
        rows={split: len(listing.rows[split]) for split in SPLITS},
        videos={split: sum(video.plan.split == split for video in videos) for split in SPLITS},
        images=images,
        seconds=time.perf_counter() - started,
        paths=dataset_paths(root),
    )


def dataset_paths(root: Path) -> dict[str, Path]:
    """Where things are in a dataset: `images`, `truth`, `train`, `val`, `test`, `test_labels`."""
    return {"images": root / IMAGE_FOLDER, "truth": root / TRUTH_FILE, **{k: root / v for k, v in FILES.items()}}


def is_written(root: Path, config: SynthConfig) -> bool:
    """Whether a folder holds the dataset that this configuration makes."""
    readme = root / README_FILE
    return readme.is_file() and readme.read_text() == _readme(config)


def _readme(config: SynthConfig) -> str:
    return _README.format(**asdict(config))


def _draw(root: Path, videos: list[VideoState], listing: Listing, *, workers: int) -> Generator[int]:
    """Draw every video, here or in worker processes; the number of images of each, as they are done."""
    tasks = [(video, root / IMAGE_FOLDER, listing.missing) for video in videos]
    if workers == 1:
        yield from map(_draw_one, tasks)
        return
    # Not forked: the caller may hold threads (torch, polars) that a fork would leave locked.
    context = multiprocessing.get_context("spawn")
    longest_first = sorted(tasks, key=lambda task: -len(task[0].plan.frames))
    with context.Pool(min(workers, len(videos))) as pool:
        yield from pool.imap_unordered(_draw_one, longest_first)


def _draw_one(task: tuple[VideoState, Path, frozenset[str]]) -> int:
    return write_frames(*task)


def _write_truth(path: Path, videos: list[VideoState]) -> None:
    """One vector a listed frame. Members carry numpy's fixed date, so that the same seed gives the same bytes."""
    vectors = {key: row for video in videos for key, row in zip(video.paths(), video.state.truth(), strict=True)}
    with replace_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **vectors)
