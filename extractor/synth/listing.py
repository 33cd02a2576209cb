"""The text files of a rendered dataset, with the traps of the real ones.

Rows twice, labels that are missing for whole videos and long runs, a header of five names over sixteen fields,
trailing commas in the test list, and a listed test frame without an image.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from featurestore.atomic import replace_file
from featurestore.challenge.headers import ANNOTATION_HEADER
from featurestore.labels import EXPRESSIONS, SPLITS

from .plan import TASKS, UNLABELLED, BoolArray, draw_duplicates, draw_unlabelled
from .video import VideoState

IMAGE_FOLDER: Final = "cropped_aligned"
TRUTH_FILE: Final = "truth.npz"
FILES: Final = {
    "train": "training_set_annotations.txt",
    "val": "validation_set_annotations.txt",
    "test": "MTL_Challenge_test_set_release.txt",
    "test_labels": "test_set_labels.txt",
}
_LIST_HEADER: Final = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The rows of each split as they stand in its file, duplicates included.

    Attributes
    ----------
    rows
        Split -> annotation lines; those of test are the withheld ones.
    missing
        Listed paths without an image.
    """

    rows: dict[str, list[str]]
    missing: frozenset[str]


def list_frames(seed: int, videos: list[VideoState]) -> Listing:
    """Lay out the rows of every split: which labels are withheld, what comes twice, what has no image."""
    rng = np.random.default_rng([seed, 3])
    rows: dict[str, list[str]] = {}
    missing: frozenset[str] = frozenset()
    for split in SPLITS:
        members = [video for video in videos if video.plan.split == split]
        # The videos stand in no particular order, as in the real files.
        members = [members[index] for index in rng.permutation(len(members)).tolist()]
        hidden = {task: _hide(rng, members, split, task) for task in TASKS}
        lines = [
            line
            for index, video in enumerate(members)
            for line in _lines(video, {task: masks[index] for task, masks in hidden.items()})
        ]
        rows[split] = [lines[index] for index in draw_duplicates(rng, len(lines)).tolist()]
        if split == "test":
            missing = frozenset([lines[int(rng.integers(len(lines)))].partition(",")[0]])
    return Listing(rows=rows, missing=missing)


def write_lists(root: Path, listing: Listing) -> None:
    """Write the three lists and the withheld labels, each in one step; the training annotations come last."""
    paths = [row.partition(",")[0] for row in listing.rows["test"]]
    _write(root / FILES["test_labels"], [ANNOTATION_HEADER, *listing.rows["test"]])
    _write(root / FILES["test"], [_LIST_HEADER, *(f"{path}," for path in paths)])
    _write(root / FILES["val"], [ANNOTATION_HEADER, *listing.rows["val"]])
    _write(root / FILES["train"], [ANNOTATION_HEADER, *listing.rows["train"]])


def _hide(rng: np.random.Generator, videos: list[VideoState], split: str, task: str) -> list[BoolArray]:
    """Rows of each video that get no label of a task; a good part of every class is left if that can be."""
    if task == "expression":
        present = [np.eye(len(EXPRESSIONS), dtype=np.bool_)[video.affect.expression] for video in videos]
    else:
        present = [video.affect.units.astype(np.bool_) for video in videos]
    occurring = np.concatenate(present).sum(0)

    def leaves_all(masks: list[BoolArray]) -> bool:
        left = np.concatenate([rows[~mask] for rows, mask in zip(present, masks, strict=True)])
        return bool((left.sum(0) >= 0.4 * occurring).all())

    return draw_unlabelled(rng, [len(rows) for rows in present], UNLABELLED[split][task], leaves_all)


def _lines(video: VideoState, hidden: dict[str, BoolArray]) -> list[str]:
    affect = video.affect
    valence, arousal = affect.valence.tolist(), affect.arousal.tolist()
    expression, units = affect.expression.tolist(), affect.units.tolist()
    no_affect, no_expression, no_units = (hidden[task].tolist() for task in TASKS)
    lines = []
    for row, path in enumerate(video.paths()):
        felt = "-5,-5" if no_affect[row] else f"{valence[row]:.3f},{arousal[row]:.3f}"
        shown = -1 if no_expression[row] else expression[row]
        moved = [-1] * len(units[row]) if no_units[row] else units[row]
        lines.append(",".join((path, felt, str(shown), *map(str, moved))))
    return lines


def _write(path: Path, lines: list[str]) -> None:
    with replace_file(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
