from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featurestore.bytesize import format_bytes, parse_bytes
from heads.features.placement import host_free_bytes, place, rounded_down

CPU = torch.device("cpu")


def a_machine(root: Path, *, available_kb: int, cgroup: str, groups: dict[str, dict[str, str]]) -> Path:
    """A /proc and a /sys in which the kernel and the control groups say this."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(f"MemTotal: 99999 kB\nMemAvailable:  {available_kb} kB\n")
    (root / "proc" / "self" / "cgroup").write_text(cgroup)
    for path, files in groups.items():
        folder = root / "sys" / "fs" / "cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    return root


def second_version(limit: str, used: int, cached: int) -> dict[str, str]:
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 5\ninactive_file {cached}\n",
    }


def first_version(limit: int, used: int, cached: int) -> dict[str, str]:
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {cached}\n",
    }


def test_what_the_kernel_has_available(tmp_path: Path) -> None:
    assert host_free_bytes(a_machine(tmp_path, available_kb=7000, cgroup="0::/\n", groups={})) == 7_168_000


@pytest.mark.parametrize(
    ("cgroup", "groups", "free"),
    [
        ("0::/a/b\n", {"a/b": second_version("max", 5, 0), "a": second_version("5000", 3500, 500)}, 2000),
        ("0::/a/b\n", {"a/b": second_version("1000", 400, 0), "a": second_version("5000", 3500, 500)}, 600),
        ("0::/a\n", {"a": second_version("1000", 1400, 0)}, 0),
        ("9:name=systemd:/x\n4:cpu,memory:/a\n0::/\n", {"memory/a": first_version(3000, 2000, 1000)}, 2000),
        # In a container the path is the machine's, and only the root is there.
        ("4:memory:/docker/123\n", {"memory": first_version(3000, 2500, 0)}, 500),
        ("4:memory:/a\n", {"memory/a": first_version(9223372036854771712, 2500, 0)}, 7_168_000),
        ("0::/a\n", {"a": {"memory.max": "12\n"}}, 7_168_000),
    ],
)
def test_a_control_group_leaves_less(tmp_path: Path, cgroup: str, groups: dict[str, dict[str, str]], free: int) -> None:
    assert host_free_bytes(a_machine(tmp_path, available_kb=7000, cgroup=cgroup, groups=groups)) == free


def test_this_machine_has_memory() -> None:
    assert 1 << 20 < host_free_bytes() < 1 << 50


def test_without_a_budget_half_of_what_is_free_is_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heads.features.placement.host_free_bytes", lambda: 9_000_000)
    assert not place(4_500_000, CPU).streams
    streamed = place(4_500_001, CPU)
    assert streamed.streams
    assert streamed.describe() == (
        "The embeddings take 4.6MB, more than the 4.5MB they may: they are streamed within 4MB "
        "(--memory 4MB does the same again)."
    )
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (3_000_000, 80_000_000))
    cuda = torch.device("cuda")
    assert place(1_500_000, cuda).kind == "loaded"
    # The host has room for all of it, but a stream takes less: the hint would load it otherwise.
    assert (place(2_000_000, cuda).kind, place(2_000_000, cuda).stream_bytes) == ("streamed", 1_000_000)
    assert place(2_000_000, cuda, 1_000_000) == replace(place(2_000_000, cuda), room_bytes=1_000_000)


def test_a_budget_is_both(monkeypatch: pytest.MonkeyPatch) -> None:
    given = place(1000, CPU, 1000)
    assert (given.kind, given.describe()) == ("loaded", "The embeddings take 1kB and are loaded as a whole.")
    assert place(1001, CPU, 1000).stream_bytes == 1000
    assert place(1001, CPU, 1000).describe() == (
        "The embeddings take 1.1kB, more than the 1kB they may: they are streamed within 1kB."
    )
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (3_000_000, 80_000_000))
    # A budget beyond the device is the stream's.
    far = place(3_000_001, torch.device("cuda"), 10**9)
    assert (far.kind, far.stream_bytes) == ("streamed", 10**9)


@given(st.integers(1, 1 << 50))
def test_a_default_budget_is_round_and_can_be_given_back(n_bytes: int) -> None:
    down = rounded_down(n_bytes)
    assert down <= n_bytes < 2 * down
    assert parse_bytes(format_bytes(down)) == down
