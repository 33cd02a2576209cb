from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import FileExistsAlreadyError
from heads.ablation.videosums import read_sums, write_sums
from heads.scoring.intervals import VideoSums
from heads.tasks import PARTS


@given(seed=st.integers(0, 99), n_videos=st.integers(1, 60), part=st.sampled_from(PARTS))
def test_there_and_back(tmp_path_factory: pytest.TempPathFactory, seed: int, n_videos: int, part: str) -> None:
    path = tmp_path_factory.mktemp("sums") / "t_videos.parquet"
    shape = (n_videos, 6) if part.startswith("ccc") else (n_videos, 3, 8 if part == "f1_expression" else 12)
    sums = {key: VideoSums(part, np.random.default_rng(seed).normal(size=shape)) for key in ("a", "b", "c")}
    write_sums(path, sums, ["a", "c", "gone"])
    found = read_sums(path)
    assert set(found) == {"a", "c"}
    for key, each in found.items():
        assert each.part == part
        assert np.array_equal(each.sums, sums[key].sums)


def test_no_file_and_another_file(tmp_path: Path) -> None:
    path = tmp_path / "t_videos.parquet"
    assert read_sums(path) == {}
    write_sums(path, {}, [])
    assert read_sums(path) == {}
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(FileExistsAlreadyError, match=r"cannot be read as such: .*t_videos\.parquet.*Move it away"):
        read_sums(path)
