"""Small steps are computed by one thread, and the number of threads is as it was afterwards."""

from collections.abc import Iterator

import pytest
import torch

from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.fitting.folds import video_folds
from heads.fitting.outoffold import fit_folds
from heads.fitting.threads import SMALL_STEP, threads_for
from heads.modules.config import HeadConfig

CPU = torch.device("cpu")
HEAD = HeadConfig(temporal="none", seq=1, joint=("v",), hidden=())
TRAINING = FitConfig(epochs=2, batch_frames=64)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_small_steps_run_on_one_thread() -> None:
    with threads_for(64, 1000, CPU):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_threads_come_back_after_an_exception() -> None:
    with pytest.raises(KeyboardInterrupt, match="killed"), threads_for(64, 1000, CPU):
        raise KeyboardInterrupt("killed")
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_large_steps_and_gpus_keep_the_threads() -> None:
    n_parameters = 100_000
    n_rows = int(SMALL_STEP) // (6 * n_parameters)  # six operations a parameter and row
    for rows, device, expected in (
        (n_rows - 1, CPU, 1),
        (n_rows, CPU, 2),
        (10 * n_rows, CPU, 2),
        (1, torch.device("cuda"), 2),
    ):
        with threads_for(rows, n_parameters, device):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_fit_of_small_steps_runs_on_one_thread(features: FeatureSet) -> None:
    seen: list[int] = []
    fit(features, HEAD, TRAINING, on_epoch=lambda _: seen.append(torch.get_num_threads()))
    folds = video_folds(features.frames, 2, seed=0)
    fit_folds(features, HEAD, TRAINING, folds, on_epoch=lambda _: seen.append(torch.get_num_threads()))
    assert seen == [1] * (2 + 2 * 2)
    assert torch.get_num_threads() == 2

    def stop(_: object) -> None:
        raise KeyboardInterrupt("killed")

    with pytest.raises(KeyboardInterrupt, match="killed"):
        fit(features, HEAD, TRAINING, on_epoch=stop)
    assert torch.get_num_threads() == 2
