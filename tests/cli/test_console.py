"""What is printed is what was said: nothing in a path or a reason is taken for markup."""

from collections.abc import Callable

import pytest

from cli.console import say, tell_unreadable, warn

ODD = "clip[id]/a[/x] :cat: [bold]b"


@pytest.mark.parametrize("tell", [say, warn])
def test_a_line_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], tell: Callable[[str], None]) -> None:
    tell(f"see {ODD}")
    assert f"see {ODD}\n" in capsys.readouterr().err


def test_frames_that_cannot_be_read_keep_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    tell_unreadable({0: "reason [/dim]"}, [f"{ODD}/00001.jpg"], consequence="they are left out")
    told = capsys.readouterr().err
    assert "note: 1 frame could not be read; they are left out:" in told
    assert f"  {ODD}/00001.jpg: reason [/dim]" in told
