"""`abaw frames --pack`: the image files of a folder into one frame pack.

Small files are slow to read because each is a round trip or two, so many threads wait for them at once; they are
written in the order of the table by one. All sizes are asked for first, since the run of bytes is laid out before the
first is written. Memory stays flat: a few MB a thread, whatever the number of frames.
"""

import contextlib
import glob
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from featurestore.atomic import replace_file
from featurestore.errors import FileExistsAlreadyError, ImageError, MissingFileError, StorageFullError, StoreError
from featurestore.frames import FrameTable

from .framepack import FORMAT, FORMAT_KEY, FramePack, index_digest
from .imagesource import EMPTY_FILE, NO_SUCH_FILE, NOT_A_FILE, ImageFolder

_BLOCK_BYTES: Final = 1 << 20
_BLOCK_FILES: Final = 64
_BLOCKS_AHEAD: Final = 24  # of up to 1 MiB, or a file each
_LEFT_BEHIND_S: Final = 3600.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackReport:
    """What was packed.

    Attributes
    ----------
    n_images
        Files.
    n_bytes
        Of them all.
    absent
        Row -> why it has no image.
    seconds
        Wall time.
    """

    n_images: int
    n_bytes: int
    absent: Mapping[int, str]
    seconds: float


def write_pack(
    path: Path,
    frames: FrameTable,
    folder: ImageFolder,
    *,
    n_workers: int = 16,
    allow_missing: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> PackReport:
    """Pack the images of all frames; the file is there as a whole or not at all, and replaces one of its name.

    Parameters
    ----------
    path
        The pack; its folder exists.
    frames
        Whose images, and in which order.
    folder
        Where they are. A frame without a file, or with an empty one, is noted with the reason.
    n_workers
        Threads that read.
    allow_missing
        Replace a pack even if it holds images that the folder has not.
    on_progress
        Called with frames done, frames in all, and what is under way: sizes, then images.

    Raises
    ------
    MissingFileError
        If either folder is not there, or holds none of a sample of the frames.
    ImageError
        If a file is there and cannot be read, or changes while it is packed.
    FileExistsAlreadyError
        If a pack of that name holds images that the folder has not, as one that is not mounted whole.
    StorageFullError
        If there is no space for the pack.
    """
    started = time.perf_counter()
    folder.check(frames)
    paths: list[str] = frames.data["path"].to_list()
    tell = on_progress or (lambda _done, _total, _what: None)
    with ThreadPoolExecutor(n_workers, thread_name_prefix="pack") as pool, replace_file(path) as partial:
        _remove_left_behind(path)
        sizes, absent = _measure(pool, folder, paths, tell)
        if not allow_missing:
            _refuse_loss(path, folder, paths, absent)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        start = _lay_out(partial, offsets, paths, absent)
        _check_space(partial)
        with partial.open("r+b") as file:
            file.seek(start)
            digest = _copy(pool, folder, paths, sizes, file, tell)
        listed = set(paths)
        attributes: dict[str, str | int] = {
            "frames": frames.fingerprint,
            "digest": digest,
            "index_digest": index_digest(offsets, paths, absent),
            "left_out": sum(image not in listed for image in folder.images().paths),
        }
        _sign(partial, attributes)
    return PackReport(
        n_images=len(paths) - len(absent),
        n_bytes=int(offsets[-1]),
        absent=absent,
        seconds=time.perf_counter() - started,
    )


def _measure(
    pool: ThreadPoolExecutor, folder: ImageFolder, paths: Sequence[str], tell: Callable[[int, int, str], None]
) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    """Every file's size, 0 where there is none, and the reason of those."""
    sizes = np.zeros(len(paths), dtype=np.int64)
    absent: dict[int, str] = {}

    def measure(rows: range) -> list[int | str]:
        return [_size_or_reason(folder, paths[row]) for row in rows]

    blocks = [range(row, min(row + _BLOCK_FILES, len(paths))) for row in range(0, len(paths), _BLOCK_FILES)]
    for rows, found in _in_order(pool, blocks, measure):
        for row, size in zip(rows, found, strict=True):
            if isinstance(size, int):
                sizes[row] = size
            else:
                absent[row] = size
        tell(rows.stop, len(paths), "sizes")
    return sizes, absent


def _refuse_loss(path: Path, folder: ImageFolder, paths: Sequence[str], absent: Mapping[int, str]) -> None:
    """Refuse to replace a pack by one that lacks images which it holds; what is no whole pack holds none."""
    try:
        old = FramePack(path).index
    except (MissingFileError, StoreError):
        return
    held = {image for row, image in enumerate(old.paths) if row not in old.absent}
    lost = [paths[row] for row in sorted(absent) if paths[row] in held]
    if lost:
        raise FileExistsAlreadyError(
            f"The pack that is there holds {len(held):,} images, and the new one would hold "
            f"{len(paths) - len(absent):,}: {len(lost):,} of its images, such as {lost[0]}, are not in {folder.root} "
            f"(pack: {path}). Mount the folder whole, or add --allow-missing to do without them; the pack is as it was."
        )


def _size_or_reason(folder: ImageFolder, path: str) -> int | str:
    try:
        return folder.size_bytes(path)
    except ImageError as error:
        # Anything else may pass, or be mended; a pack would keep it for good.
        if str(error) not in (NO_SUCH_FILE, NOT_A_FILE, EMPTY_FILE):
            raise _unreadable(folder, path, str(error)) from error
        return str(error)


def _copy(
    pool: ThreadPoolExecutor,
    folder: ImageFolder,
    paths: Sequence[str],
    sizes: npt.NDArray[np.int64],
    file: BinaryIO,
    tell: Callable[[int, int, str], None],
) -> str:
    """Write all files, one after the other; returns the digest of their bytes."""

    def read(rows: range) -> bytes:
        return b"".join(_read_whole(folder, paths[row], int(sizes[row])) for row in rows if sizes[row])

    digest = xxhash.xxh3_128()
    for rows, block in _in_order(pool, _blocks(sizes), read):
        file.write(block)
        digest.update(block)
        tell(rows.stop, len(paths), "images")
    return digest.hexdigest()


def _read_whole(folder: ImageFolder, path: str, size: int) -> bytes:
    try:
        raw = folder.read(path)
    except ImageError as error:
        raise _unreadable(folder, path, str(error)) from error
    if len(raw) != size:
        raise _unreadable(folder, path, f"it had {size:,} bytes a moment ago, and has {len(raw):,} now")
    return raw


def _unreadable(folder: ImageFolder, path: str, reason: str) -> ImageError:
    return ImageError(
        f"A pack holds every image that is there, but {path} cannot be packed: {reason} (folder: {folder.root}). "
        "Mend or remove that file, and run the same command again; no pack was written."
    )


def _blocks(sizes: npt.NDArray[np.int64]) -> Iterator[range]:
    """Runs of rows that one thread reads: up to 64 files, or the one with which they exceed 1 MiB."""
    first, n_bytes = 0, 0
    for row, size in enumerate(sizes.tolist()):
        n_bytes += size
        if n_bytes >= _BLOCK_BYTES or row + 1 - first == _BLOCK_FILES:
            yield range(first, row + 1)
            first, n_bytes = row + 1, 0
    if first < len(sizes):
        yield range(first, len(sizes))


def _in_order(
    pool: ThreadPoolExecutor, items: Iterable[range], work: Callable[[range], Result]
) -> Iterator[tuple[range, Result]]:
    """Items and their results, in order; a few are in the making, where `pool.map` would fill the memory."""
    waiting: deque[tuple[range, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > _BLOCKS_AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def _lay_out(partial: Path, offsets: npt.NDArray[np.int64], paths: Sequence[str], absent: Mapping[int, str]) -> int:
    """Write the index, and leave room for the images; returns where in the file they begin."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # or they would have no place yet
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    text = h5py.string_dtype()
    rows = sorted(absent)
    with h5py.File(partial, "w", locking=False) as pack:
        images = pack.create_dataset("bytes", shape=(int(offsets[-1]),), dtype=np.uint8, dcpl=creation)
        pack.create_dataset("offsets", data=offsets.astype("<i8"))
        pack.create_dataset("paths", data=np.array(paths, dtype=object), dtype=text)
        pack.create_dataset("absent", data=np.array(rows, dtype="<i8"))
        pack.create_dataset("reasons", data=np.array([absent[row] for row in rows], dtype=object), dtype=text)
        return images.id.get_offset() or 0  # None where there is not one byte


def _sign(partial: Path, attributes: Mapping[str, str | int]) -> None:
    """Add the attributes, the format last: without it the file is no pack."""
    with h5py.File(partial, "r+", locking=False) as pack:
        for name, value in attributes.items():
            pack.attrs[name] = value
        pack.attrs[FORMAT_KEY] = FORMAT


def _check_space(partial: Path) -> None:
    """Refuse before the hour of reading, not after it."""
    needed, free = partial.stat().st_size, shutil.disk_usage(partial.parent).free
    if free < needed:
        raise StorageFullError(
            f"The pack takes {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free (folder: {partial.parent}). "
            "Free some space, or write it elsewhere; what was there before is as it was."
        )


def _remove_left_behind(path: Path) -> None:
    """Remove what killed runs left of this pack. A run that lives writes all the time; its file is not touched."""
    for partial in path.parent.glob(f".*.partial.{glob.escape(path.name)}"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _LEFT_BEHIND_S:
                partial.unlink()
