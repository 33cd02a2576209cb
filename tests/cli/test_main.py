"""The error boundary: what a person can mend is one line, what nobody foresaw keeps its trace."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def _raise(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def open_workspace(_: Path) -> None:
        raise error

    monkeypatch.setattr("cli.workspace.open_workspace", open_workspace)


def test_a_full_disk_that_a_library_wrapped(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    _raise(monkeypatch, RuntimeError(f"[enforce fail] {os.strerror(errno.ENOSPC)}"))
    assert "No space is left on the device. Free some" in refused(1, "frames")


def test_an_error_of_the_system_names_its_file(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    _raise(monkeypatch, PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/features"))
    assert "Permission denied: /data/features. Check the path" in refused(1, "frames")


@pytest.mark.parametrize("error", [ZeroDivisionError("a mistake of ours"), OSError("without a number")])
def test_a_mistake_of_ours_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch, abaw: Callable[..., object], error: Exception
) -> None:
    _raise(monkeypatch, error)
    with pytest.raises(type(error), match=str(error)):
        abaw("frames")


def test_a_missing_argument_is_a_usage_error(abaw: Callable[..., Any]) -> None:
    outcome = abaw("evaluate")
    assert outcome.code == 2, outcome.err
    assert "Missing argument 'RUN'" in outcome.err
