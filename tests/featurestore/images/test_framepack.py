"""Frame packs: the files' own bytes, the same answers as the folder, and every way in which a pack can be wrong."""

import errno
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.challenge.annotations import read_challenge
from featurestore.challenge.audit import audit
from featurestore.errors import (
    FrameMismatchError,
    ImageError,
    MissingFileError,
    StorageFullError,
    StoreError,
)
from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.images import framepack
from featurestore.images.framepack import FramePack, open_images
from featurestore.images.imagesource import ImageFolder, is_pack_path
from featurestore.images.packwriter import write_pack


def table_of(paths: list[str]) -> FrameTable:
    rows = [{"video": "v", "frame": number, "path": path, "split": "train"} for number, path in enumerate(paths)]
    return FrameTable(pl.DataFrame(rows, schema=FRAME_SCHEMA))


def write_files(root: Path, contents: dict[str, bytes]) -> ImageFolder:
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    root.mkdir(exist_ok=True)
    return ImageFolder(root)


@pytest.fixture
def contents() -> dict[str, bytes]:
    """400 files of 0 ... 4 kB, of which two are empty."""
    rng = np.random.default_rng(5)
    sizes = [0 if number % 200 == 50 else int(rng.integers(1, 4000)) for number in range(400)]
    return {f"v{number // 100}/{number:05d}.jpg": rng.bytes(size) for number, size in enumerate(sizes)}


@pytest.fixture
def folder(tmp_path: Path, contents: dict[str, bytes]) -> ImageFolder:
    return write_files(tmp_path / "images", contents)


@pytest.fixture
def pack(tmp_path: Path, contents: dict[str, bytes], folder: ImageFolder) -> FramePack:
    write_pack(tmp_path / "frames.h5", table_of(list(contents)), folder)
    return FramePack(tmp_path / "frames.h5")


def answer(source: ImageFolder | FramePack, path: str) -> bytes | str:
    try:
        return source.read(path)
    except ImageError as error:
        return str(error)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(st.none(), st.binary(max_size=300), st.just(b"\0" * 1_100_000)),  # one fills a block by itself
        min_size=1,
        max_size=80,
    ),
    st.integers(1, 5),
)
def test_a_pack_answers_as_its_folder_does(
    tmp_path_factory: pytest.TempPathFactory, files: list[bytes | None], n_workers: int
) -> None:
    root = tmp_path_factory.mktemp("any")
    named = {f"vidéo 1/{number:05d}.jpg": content for number, content in enumerate(files)}
    folder = write_files(root / "images", {path: content for path, content in named.items() if content is not None})
    write_files(root / "images", {"vidéo 1/99999.jpg": b"is there, so that the folder is no wrong one"})
    frames = table_of([*named, "vidéo 1/99999.jpg"])
    report = write_pack(root / "frames.h5", frames, folder, n_workers=n_workers)
    pack = FramePack(root / "frames.h5")
    pack.check(frames)
    pack.verify()
    for path in frames.data["path"]:
        assert answer(pack, path) == answer(folder, path)
        assert pack.holds(path) == folder.holds(path)
    assert (report.n_images, report.n_bytes) == (pack.n_images, pack.index.n_bytes)
    assert report.absent == pack.index.absent
    assert sorted(pack.images().paths) == sorted(folder.images().paths)
    shutil.rmtree(root)


def test_the_file_is_plain_hdf5_as_documented(pack: FramePack, contents: dict[str, bytes]) -> None:
    with h5py.File(pack.path) as file:
        assert set(file) == {"bytes", "offsets", "paths", "absent", "reasons"}
        assert set(file.attrs) == {"abaw_frame_pack", "frames", "digest", "index_digest", "left_out"}
        data = file["bytes"]
        assert (data.chunks, data.compression, data.dtype, data.ndim) == (None, None, np.uint8, 1)
        assert file["offsets"].dtype == np.int64
        assert h5py.check_string_dtype(file["paths"].dtype).encoding == "utf-8"
        assert h5py.check_string_dtype(file["paths"].dtype).length is None
        assert file["paths"].asstr()[:].tolist() == list(contents)
        assert file["absent"][:].tolist() == [50, 250]
        assert file["reasons"].asstr()[:].tolist() == ["empty file"] * 2
        assert file.attrs["frames"] == table_of(list(contents)).fingerprint
        everything = b"".join(contents.values())
        assert data[:].tobytes() == everything
        assert file.attrs["digest"] == xxhash.xxh3_128_hexdigest(everything)
        offsets = file["offsets"][:]
        assert data[offsets[77] : offsets[78]].tobytes() == contents["v0/00077.jpg"]


def test_two_packs_of_the_same_files_are_the_same_bytes(
    tmp_path: Path, pack: FramePack, contents: dict[str, bytes], folder: ImageFolder
) -> None:
    write_pack(tmp_path / "again.h5", table_of(list(contents)), folder, n_workers=1)
    assert (tmp_path / "again.h5").read_bytes() == pack.path.read_bytes()


def test_a_frame_in_the_place_of_a_folder_and_images_beside_are_counted_as_in_the_folder(tmp_path: Path) -> None:
    units = ",".join(["-1"] * 12)
    header = "image,valence,arousal,expression,aus"
    names = ["v/00001.jpg", "v/00002.jpg", "v/00003.jpg", "v/00004.jpg", "w/00001.jpg"]
    (tmp_path / "train.txt").write_text("\n".join([header, *(f"{name},0,0,0,{units}" for name in names)]))
    (tmp_path / "val.txt").write_text(f"{header}\nx/00001.jpg,0,0,0,{units}\n")
    folder = write_files(tmp_path / "images", {"v/00001.jpg": b"1", "v/00003.jpg": b"", "x/00001.jpg": b"x"})
    write_files(tmp_path / "images", {"v/00009.jpg": b"9", "stranger/00001.PNG": b"p", "v/notes.txt": b"n"})
    (tmp_path / "images" / "v" / "00004.jpg").mkdir()
    write_pack(tmp_path / "frames.h5", table_of([*names, "x/00001.jpg"]), folder)
    files = read_challenge(tmp_path / "train.txt", tmp_path / "val.txt")
    from_folder = audit(files, folder)
    assert (from_folder.splits["train"].missing_images, from_folder.unlisted_images) == (3, 2)
    assert audit(files, FramePack(tmp_path / "frames.h5")) == from_folder


def test_many_threads_and_processes_read_at_once(pack: FramePack, contents: dict[str, bytes]) -> None:
    paths = [path for path, content in contents.items() if content] * 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(pack.read, paths)) == [contents[path] for path in paths]
    copied = pickle.loads(pickle.dumps(pack))  # after it was opened here
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        assert processes.submit(copied.read, paths[3]).result() == contents[paths[3]]
    if hasattr(os, "fork") and threading.active_count() == 1:
        with ProcessPoolExecutor(2, mp_context=get_context("fork")) as processes:
            assert list(processes.map(pack.read, paths[:50])) == [contents[path] for path in paths[:50]]


def test_reads_that_return_less_than_was_asked_for_go_on(
    pack: FramePack, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda handle, n, offset: pread(handle, min(n, 1000), offset))
    assert all(pack.read(path) == content for path, content in contents.items() if content)
    pack.verify()


def test_an_open_pack_stays_itself_when_another_takes_its_place(
    pack: FramePack, contents: dict[str, bytes], folder: ImageFolder
) -> None:
    first = next(iter(contents))
    assert pack.read(first) == contents[first]
    write_files(folder.root, {first: b"another, and longer than before" * 300})
    write_pack(pack.path, table_of(list(contents)), folder)
    for path in contents:
        assert answer(pack, path) == (contents[path] or "empty file")
    assert FramePack(pack.path).read(first) == b"another, and longer than before" * 300


def test_index_and_images_are_of_one_file(
    pack: FramePack, contents: dict[str, bytes], folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, read_index = next(iter(contents)), framepack._read_index

    def read_and_be_overtaken(path: Path, file: object) -> framepack.PackIndex:
        index = read_index(path, file)
        write_files(folder.root, {first: b"packed by somebody else a moment later"})
        write_pack(path, table_of(list(contents)), folder)
        return index

    monkeypatch.setattr(framepack, "_read_index", read_and_be_overtaken)
    assert all(pack.read(path) == content for path, content in contents.items() if content)


def test_no_file_stays_open_when_a_pack_is_gone(pack: FramePack, contents: dict[str, bytes]) -> None:
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        pytest.skip("no /proc here")
    before = len(list(handles.iterdir()))
    for _ in range(5):
        FramePack(pack.path).read(next(iter(contents)))
    assert len(list(handles.iterdir())) == before


def test_paths_name_packs_or_folders(tmp_path: Path) -> None:
    (tmp_path / "folder.h5").mkdir()
    assert isinstance(open_images(tmp_path / "folder.h5"), ImageFolder)
    assert isinstance(open_images(tmp_path / "frames.H5"), FramePack)  # not there, and not missed yet
    assert is_pack_path(Path("frames.hdf5"))
    assert not is_pack_path(Path("cropped_aligned"))


def test_a_pack_that_is_not_there(tmp_path: Path, contents: dict[str, bytes]) -> None:
    gone = FramePack(tmp_path / "gone.h5")
    for use in (lambda: gone.check(table_of(list(contents))), gone.images, lambda: gone.read("v0/00000.jpg")):
        with pytest.raises(MissingFileError, match=r"gone\.h5 is not there\. Run `abaw frames --pack .*gone\.h5`"):
            use()


def test_a_pack_of_other_frames(pack: FramePack, contents: dict[str, bytes]) -> None:
    with pytest.raises(FrameMismatchError, match=r"400 frames \w{32}, these are 399 .*`abaw frames --pack .* again"):
        pack.check(table_of(list(contents)[:-1]))
    assert answer(pack, "v9/00001.jpg") == "not in the pack"
    assert not pack.holds("v9/00001.jpg")


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)


def raise_version(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["abaw_frame_pack"] = 2


def drop_format(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["abaw_frame_pack"]


def drop_paths(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["paths"]


def shift_offset(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["offsets"][3] += 1


def rename_image(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["paths"][3] = "v0/00004.jpg"


def compress(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        data = file["bytes"][:]
        del file["bytes"]
        file.create_dataset("bytes", data=data, compression="gzip")


def shorten(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        data = file["bytes"][:-5]
        del file["bytes"]
        file.create_dataset("bytes", data=data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"written: it is cut short \(pack: .*\)\. Copy it again, or run `abaw frames --pack .* --force`"),
        (lambda path: path.write_bytes(b""), "is an HDF5 file, and this is none"),
        (lambda path: path.write_bytes(b"PK\3\4" * 500), "is an HDF5 file, and this is none"),
        (raise_version, r"reads frame packs of format 1, this one is of format 2 .*Update abaw"),
        (drop_format, r"has the attribute abaw_frame_pack, this HDF5 file has not .*Name a pack in abaw\.toml"),
        (drop_paths, "as it was written: .*paths"),
        (shift_offset, "its index is not what was written"),
        (rename_image, "its index is not what was written"),
        (compress, "its parts do not fit together"),
        (shorten, "its parts do not fit together"),
    ],
)
def test_what_is_no_pack_or_a_damaged_one(pack: FramePack, damage: Callable[[Path], object], message: str) -> None:
    damage(pack.path)
    with pytest.raises(StoreError, match=message):
        FramePack(pack.path).images()


def test_a_flipped_bit_anywhere_in_the_images_is_found(pack: FramePack) -> None:
    seen: list[tuple[int, int]] = []
    pack.verify(on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (pack.index.n_bytes, pack.index.n_bytes)
    for byte in (0, pack.index.n_bytes // 2, pack.index.n_bytes - 1):
        content = bytearray(pack.path.read_bytes())
        content[pack.index.start + byte] ^= 16
        pack.path.write_bytes(content)
        with pytest.raises(StoreError, match=r"images are not those that were packed .*Copy it again"):
            FramePack(pack.path).verify()
        content[pack.index.start + byte] ^= 16
        pack.path.write_bytes(content)
    FramePack(pack.path).verify()


def test_progress_counts_frames_in_two_rounds(tmp_path: Path, contents: dict[str, bytes], folder: ImageFolder) -> None:
    told: list[tuple[int, int, str]] = []
    write_pack(tmp_path / "p.h5", table_of(list(contents)), folder, on_progress=lambda *each: told.append(each))
    for what in ("sizes", "images"):
        done = [each[0] for each in told if each[2] == what]
        assert done == sorted(done)
        assert (done[-1], {each[1] for each in told}) == (400, {400})


def test_a_file_that_changes_meanwhile_is_an_error(
    tmp_path: Path, contents: dict[str, bytes], folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, read = list(contents)[350], ImageFolder.read
    for new, reason in ((b"longer" * 1000, "had 2,?[0-9]+ bytes a moment ago, and has 6,000 now"), (b"", "empty file")):
        write_files(folder.root, {victim: b"x" * 2100})

        def read_changed(self: ImageFolder, path: str, new: bytes = new) -> bytes:
            if path == victim:
                write_files(self.root, {victim: new})
            return read(self, path)

        monkeypatch.setattr(ImageFolder, "read", read_changed)
        with pytest.raises(ImageError, match=rf"v3/00350\.jpg cannot be packed: .*{reason}.*no pack was written"):
            write_pack(tmp_path / "p.h5", table_of(list(contents)), folder)
        monkeypatch.setattr(ImageFolder, "read", read)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_an_image_that_is_there_and_cannot_be_read_is_no_missing_one(
    tmp_path: Path, contents: dict[str, bytes], folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def fail(path: str, *rest: int) -> int:
        if str(path).endswith("00123.jpg"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return open_file(path, *rest)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(ImageError, match=r"v1/00123\.jpg cannot be packed: cannot read: Input/output error .*Mend"):
        write_pack(tmp_path / "p.h5", table_of(list(contents)), folder)
    # Of a folder it is a failure of that frame alone.
    assert answer(folder, "v1/00123.jpg") == "cannot read: Input/output error"


def test_a_link_to_itself_is_no_missing_image(tmp_path: Path, contents: dict[str, bytes], folder: ImageFolder) -> None:
    loop = folder.root / "v1" / "00123.jpg"
    loop.unlink()
    loop.symlink_to(loop)
    reason = f"cannot read: {os.strerror(errno.ELOOP)}"
    with pytest.raises(ImageError, match=rf"v1/00123\.jpg cannot be packed: {reason} .*Mend or remove"):
        write_pack(tmp_path / "p.h5", table_of(list(contents)), folder)
    assert answer(folder, "v1/00123.jpg") == reason


def test_a_wrong_folder_is_said_before_anything_is_written(tmp_path: Path, folder: ImageFolder) -> None:
    for root, message in ((tmp_path / "nowhere", "does not exist"), (folder.root, "None of 2 sampled frames")):
        with pytest.raises(MissingFileError, match=message):
            write_pack(tmp_path / "p.h5", table_of(["a/1.jpg", "a/2.jpg"]), ImageFolder(root))
    with pytest.raises(MissingFileError, match=r"absent is not \(file: p\.h5\)"):
        write_pack(tmp_path / "absent" / "p.h5", table_of(["v0/00000.jpg"]), folder)


def test_too_little_space_is_said_before_the_images_are_read(
    tmp_path: Path, contents: dict[str, bytes], folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 500_000}))
    monkeypatch.setattr(ImageFolder, "read", lambda *_: pytest.fail("read for nothing"))
    with pytest.raises(StorageFullError, match=r"The pack takes 0\.[89] MB, and 0\.5 MB are free .*Free some space"):
        write_pack(tmp_path / "p.h5", table_of(list(contents)), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_disk_that_fills_up_meanwhile_leaves_the_old_pack(
    pack: FramePack, contents: dict[str, bytes], folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, reads = pack.path.read_bytes(), itertools.count()
    read = ImageFolder.read

    def fill(self: ImageFolder, path: str) -> bytes:
        if next(reads) == 250:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return read(self, path)

    monkeypatch.setattr(ImageFolder, "read", fill)
    with pytest.raises(StorageFullError, match=r"No space is left for frames\.h5: .* what was there before"):
        write_pack(pack.path, table_of(list(contents)), folder)
    assert pack.path.read_bytes() == before


PACK_SLOWLY = """
import sys, time
from pathlib import Path
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageFolder
from featurestore.images.packwriter import write_pack

def tell(done, total, what):
    print(what, done, flush=True)
    time.sleep(0.02 if what == "images" else 0)

table, images, pack = map(Path, sys.argv[1:])
write_pack(pack, FrameTable.read(table), ImageFolder(images), on_progress=tell)
"""


def test_a_kill_leaves_no_pack_and_the_next_run_cleans_up(
    tmp_path: Path, contents: dict[str, bytes], folder: ImageFolder
) -> None:
    frames, out = table_of(list(contents)), tmp_path / "out"
    out.mkdir()
    frames.write(tmp_path / "frames.parquet")
    (tmp_path / "slow.py").write_text(PACK_SLOWLY)
    command = [sys.executable, tmp_path / "slow.py", tmp_path / "frames.parquet", folder.root, out / "frames.h5"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, env=env, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "images 320\n":
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    (left,) = out.iterdir()
    assert left.name.endswith(".partial.frames.h5")
    # Half of the bytes are in it, and it is no pack.
    with pytest.raises(StoreError, match="has the attribute abaw_frame_pack, this HDF5 file has not"):
        FramePack(left).images()
    write_pack(out / "frames.h5", frames, folder)
    assert left.exists()  # it might be another run's, under way
    os.utime(left, (time.time() - 7200, time.time() - 7200))
    write_pack(out / "frames.h5", frames, folder)
    assert [path.name for path in out.iterdir()] == ["frames.h5"]
    FramePack(out / "frames.h5").verify()


MEMORY = """
import resource, sys
from pathlib import Path
from featurestore.frames import FrameTable
from featurestore.images.imagesource import ImageFolder
from featurestore.images.packwriter import write_pack

table, images, pack = map(Path, sys.argv[1:])
frames = FrameTable.read(table)
write_pack(pack, FrameTable(frames.data[:20]), ImageFolder(images))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_pack(pack, frames, ImageFolder(images))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
"""


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    paths = [f"v/{number:05d}.jpg" for number in range(1500)]  # 300 MB, all of them one file on disk
    folder = write_files(tmp_path / "images", {paths[0]: os.urandom(200_000)})
    for path in paths[1:]:
        (folder.root / path).hardlink_to(folder.root / paths[0])
    table_of(paths).write(tmp_path / "frames.parquet")
    (tmp_path / "memory.py").write_text(MEMORY)
    command = [sys.executable, tmp_path / "memory.py", tmp_path / "frames.parquet", folder.root, tmp_path / "p.h5"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([str(part) for part in command], capture_output=True, env=env, text=True, check=True)
    assert int(done.stdout) < 120e6
    assert (tmp_path / "p.h5").stat().st_size > 300e6
