"""Where embeddings go: whole onto the device if they fit, otherwise streamed within a budget.

Without a budget half of what is free counts as the room there is: the rest is for the model, its optimiser and
everyone else. What is free on the host is what the kernel says is available, or what the process's control group
leaves if that is less (a container's limit is not the machine's).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from featurestore.bytesize import format_bytes

SHARE: Final = 0.5
"""Of the free memory, what embeddings may take unless a budget is given."""

_UNKNOWN_FREE_BYTES: Final = 8 << 30  # where the system does not say
_NO_LIMIT: Final = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Whether embeddings are loaded or streamed, and why.

    Attributes
    ----------
    needed_bytes
        What they take as a whole.
    room_bytes
        What they may take on the device.
    stream_bytes
        Budget of a stream, on the host; where it was not given a round number, so that what others do with the
        memory in between does not change the order of a stream, and with it the bits of a fit.
    """

    needed_bytes: int
    room_bytes: int
    stream_bytes: int

    @property
    def streams(self) -> bool:
        """Whether they do not fit."""
        return self.needed_bytes > self.room_bytes

    @property
    def kind(self) -> str:
        """``"loaded"`` or ``"streamed"``."""
        return "streamed" if self.streams else "loaded"

    def describe(self) -> str:
        """A sentence for people."""
        if not self.streams:
            return f"The embeddings take {format_bytes(self.needed_bytes)} and are loaded as a whole."
        told = (
            f"The embeddings take {format_bytes(self.needed_bytes)}, more than the {format_bytes(self.room_bytes)} "
            f"they may: they are streamed within {format_bytes(self.stream_bytes)}"
        )
        # A budget that was given needs no such hint.
        again = f" (--memory {format_bytes(self.stream_bytes)} does the same again)"
        return f"{told}{'' if self.stream_bytes == self.room_bytes else again}."


def place(needed_bytes: int, device: torch.device, memory_bytes: int | None = None) -> Placement:
    """Decide whether embeddings are loaded.

    Parameters
    ----------
    needed_bytes
        What they take as a whole.
    device
        Where they would be loaded to.
    memory_bytes
        The budget; by default `SHARE` of what is free: on the device to load, on the host to stream.
    """
    on_device = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    if memory_bytes is not None:
        room = memory_bytes if on_device is None else min(memory_bytes, on_device)
        return Placement(needed_bytes=needed_bytes, room_bytes=room, stream_bytes=memory_bytes)
    host = int(SHARE * host_free_bytes())
    room = host if on_device is None else int(SHARE * on_device)
    # Below what is needed, so that the same budget, given, streams as well.
    stream = rounded_down(min(host, max(1, needed_bytes - 1)))
    return Placement(needed_bytes=needed_bytes, room_bytes=room, stream_bytes=stream)


def rounded_down(n_bytes: int) -> int:
    """The nearest of 1, 2, 4, ..., 512 bytes, kB, MB, GB and so on below."""
    unit = 1
    while n_bytes // unit >= 1000:
        unit *= 1000
    return unit << max(0, (n_bytes // unit).bit_length() - 1)


def host_free_bytes(root: Path = Path("/")) -> int:
    """Memory that this process could still take on the host.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.
    """
    return min([_available_bytes(root), *_groups_left(root)])


def _available_bytes(root: Path) -> int:
    """What the kernel could give without swapping; elsewhere than on Linux, all there is."""
    meminfo = root / "proc" / "meminfo"
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _UNKNOWN_FREE_BYTES


def _groups_left(root: Path) -> Iterator[int]:
    """What each control group that this process is in leaves of its limit; both versions of them."""
    membership = root / "proc" / "self" / "cgroup"
    if not membership.is_file():
        return
    mounts = root / "sys" / "fs" / "cgroup"
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder = mounts / "memory" if controllers else mounts
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        # A container sees its own group as the root, but may be told its path on the machine.
        inside = folder / path.lstrip("/")
        for group in (inside, *inside.parents):
            if group.is_relative_to(folder):
                yield _left(group, *(names if controllers else ("memory.max", "memory.current", "inactive_file")))


def _left(group: Path, limit_file: str, used_file: str, reclaimable: str) -> int:
    try:
        limit, used = (group / limit_file).read_text().strip(), int((group / used_file).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group here, or one without a limit
        return _NO_LIMIT
    if not limit.isdecimal():  # "max"
        return _NO_LIMIT
    # Cached files count as used, and go when memory is asked for.
    return max(0, int(limit) - used + int(stat.get(reclaimable, 0)))
