import threading
import time

import pytest

from extractor.pixels.stages import StageTimes


def test_threads_add_up() -> None:
    times = StageTimes()

    def work() -> None:
        for _ in range(2000):
            times.add("read", 0.5)
            times.add("decode", 0.25)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert times.seconds() == {"read": 8000.0, "decode": 4000.0}


def test_a_block_is_timed_even_if_it_fails() -> None:
    times = StageTimes()

    def fail_late() -> None:
        time.sleep(0.02)
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"^no$"), times.timed("wait"):
        fail_late()
    with times.timed("wait"):
        time.sleep(0.02)
    assert 0.04 <= times.seconds()["wait"] < 5


def test_what_is_told_is_a_copy() -> None:
    times = StageTimes()
    times.add("read", 1.0)
    before = times.seconds()
    times.add("read", 1.0)
    assert before == {"read": 1.0}
