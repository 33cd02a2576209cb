import numpy as np
import pytest

from extractor.synth.plan import draw_duplicates, draw_unlabelled, plan_videos


def test_the_default_plan_has_the_real_gaps_and_sizes() -> None:
    plans = plan_videos(7, 32, 235)
    gaps = np.concatenate([np.diff(plan.frames) for plan in plans])
    counts = np.array([len(plan.frames) for plan in plans])
    assert gaps.min() == 1
    assert (gaps == 1).mean() == pytest.approx(0.186, abs=0.04)
    assert np.percentile(gaps, [25, 50, 75]) == pytest.approx([2, 4, 8], abs=1)
    assert 60 < np.percentile(gaps, 99) < 160
    assert counts.sum() == pytest.approx(32 * 235, rel=0.03)
    assert 40 <= counts.min() < 120
    assert 450 < counts.max() <= 705


@pytest.mark.parametrize(("n_videos", "expected"), [(32, (20, 6, 6)), (6, (4, 1, 1)), (50, (31, 10, 9))])
def test_videos_are_dealt_to_the_splits(n_videos: int, expected: tuple[int, int, int]) -> None:
    splits = [plan.split for plan in plan_videos(0, n_videos, 20)]
    assert tuple(splits.count(split) for split in ("train", "val", "test")) == expected


def test_names_and_seeds_are_distinct_and_a_pair_shares_its_scene() -> None:
    plans = plan_videos(1, 40, 20)
    assert len({plan.name for plan in plans}) == len({plan.seed for plan in plans}) == 40
    left, right = (next(plan for plan in plans if plan.name.endswith(side)) for side in ("_left", "_right"))
    assert left.scene_seed == right.scene_seed
    assert left.seed != right.seed
    assert len({plan.scene_seed for plan in plans}) == 39


def test_masks_are_drawn_until_they_are_accepted() -> None:
    wanted = draw_unlabelled(np.random.default_rng(0), [50, 50, 50], 0.3, lambda masks: not masks[0].any())
    assert not wanted[0].any()
    assert sum(mask.sum() for mask in wanted) == pytest.approx(45, abs=25)


def test_duplicates_are_copies_of_rows_and_nothing_is_lost() -> None:
    order = draw_duplicates(np.random.default_rng(0), 1000)
    assert len(order) == 1007
    assert set(order.tolist()) == set(range(1000))
    assert (np.diff(order) != 1).any()
