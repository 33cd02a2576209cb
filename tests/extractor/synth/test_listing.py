import numpy as np
import pytest
from numpy.typing import NDArray

from extractor.synth.listing import list_frames
from extractor.synth.video import VideoState
from featurestore.labels import SPLITS

REAL_RATES = {
    "train": {"affect": 0.27, "expression": 0.36, "units": 0.27},
    "val": {"affect": 0.0, "expression": 0.42, "units": 0.0},
    "test": {"affect": 0.0, "expression": 0.0, "units": 0.0},
}


def fields(rows: list[str]) -> NDArray[np.str_]:
    return np.array([row.split(",") for row in rows])


def test_labels_are_withheld_at_the_real_rates_in_whole_rows(default_videos: list[VideoState]) -> None:
    listing = list_frames(7, default_videos)
    for split in SPLITS:
        table = fields(listing.rows[split])
        no_affect, no_units = table[:, 1:3] == "-5", table[:, 4:] == "-1"
        assert (no_affect.all(1) == no_affect.any(1)).all()
        assert (no_units.all(1) == no_units.any(1)).all()
        rates = {"affect": no_affect, "expression": table[:, 3:4] == "-1", "units": no_units}
        for task, mask in rates.items():
            assert mask.mean() == pytest.approx(REAL_RATES[split][task], abs=0.05), (split, task)


def test_what_is_withheld_comes_in_long_runs_and_leaves_every_class(default_videos: list[VideoState]) -> None:
    listing = list_frames(7, default_videos)
    for split in SPLITS:
        table = fields(listing.rows[split])
        expressions = np.concatenate([video.affect.expression for video in default_videos if video.plan.split == split])
        for number in range(8):
            left = np.count_nonzero(table[:, 3] == str(number))
            assert left >= 0.4 * np.count_nonzero(expressions == number) > 0, (split, number)
        for column in range(4, 16):
            assert {"0", "1"} <= set(table[:, column])
        hidden = table[:, 3] == "-1"
        assert np.count_nonzero(np.diff(hidden)) < 0.03 * len(hidden) + 2


def test_under_one_row_in_a_hundred_stands_twice(default_videos: list[VideoState]) -> None:
    for rows in list_frames(7, default_videos).rows.values():
        assert 1 - len(set(rows)) / len(rows) == pytest.approx(0.007, abs=0.003)


def test_one_listed_test_frame_has_no_image(default_videos: list[VideoState]) -> None:
    listing = list_frames(7, default_videos)
    (path,) = listing.missing
    assert any(row.startswith(f"{path},") for row in listing.rows["test"])
