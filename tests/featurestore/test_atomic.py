import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, MissingFileError, StorageFullError


def test_the_new_content_is_there_afterwards_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_text("old")
    with replace_file(path) as partial:
        assert partial.parent == tmp_path
        assert partial.suffix == ".npz"
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("a fault"), KeyboardInterrupt("a fault")])
def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with replace_file(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(type(error), match="a fault"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replace_file(path) as first, replace_file(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError(f"SafetensorError: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"),
    ],
)
def test_a_full_disk_is_named_as_such(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(StorageFullError, match=r"No space is left for file: .* Free some space"), replace_file(path):
        raise error
    assert path.read_text() == "old"


def test_an_error_without_a_reason_on_a_full_disk_is_put_down_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch.save says "unexpected pos 64 vs 0".
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(StorageFullError, match="No space is left"), replace_file(tmp_path / "file"):
        raise RuntimeError("unexpected pos 64 vs 0")
    with pytest.raises(ConfigError, match="another matter"), replace_file(tmp_path / "file"):
        raise ConfigError("another matter")


def test_the_file_is_flushed_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace

    def record_fsync(handle: int) -> None:
        events.append("flush folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "flush file")
        fsync(handle)

    def record_replace(source: Path, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    with replace_file(path) as partial:
        partial.write_text("new")
    assert events == ["flush file", "rename", "flush folder"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"absent is not \(file: x\)"), replace_file(tmp_path / "absent" / "x"):
        pass
