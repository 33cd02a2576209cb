"""Interrupts, races and killed processes around one rename."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from extractor.encoders.placing import place_folder, sweep
from extractor.encoders.spec import EncoderSpec
from featurestore.errors import FileExistsAlreadyError

Write = Callable[[Path], None]


def writer(digest: str, *, input_px: int = 8) -> Write:
    """Writes an encoder folder without weights."""

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        spec = EncoderSpec(
            architecture="test_vit", input_px=input_px, origin={"digest": digest, "file": f"{digest}.pth"}
        )
        (folder / "encoder.json").write_text(spec.model_dump_json())

    return write


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "encoders" / "mae"


def digest(folder: Path) -> object:
    return EncoderSpec.model_validate_json((folder / "encoder.json").read_bytes()).origin["digest"]


def test_it_is_there_whole_and_alone(target: Path) -> None:
    assert place_folder(writer("a"), target)
    assert place_folder(writer("b"), target, force=True)
    assert digest(target) == "b"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_between_the_renames_keeps_the_old_one(
    target: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    place_folder(writer("a"), target)
    rename = Path.rename

    def interrupted(path: Path, to: Path) -> Path:
        if path.name == "made":
            raise error
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(error):
        place_folder(writer("b"), target, force=True)
    assert digest(target) == "a"
    assert list(target.parent.iterdir()) == [target]


def test_a_lost_race(target: Path) -> None:
    def lose_to(write: Write) -> Write:
        def late(folder: Path) -> None:
            writer("a")(folder)
            write(target)

        return late

    assert not place_folder(lose_to(writer("a")), target)
    assert digest(target) == "a"
    for other in (writer("b"), writer("a", input_px=16)):
        (target / "encoder.json").unlink()
        target.rmdir()
        with pytest.raises(FileExistsAlreadyError, match=r"'mae' \(\S+\) was added by another process meanwhile, from"):
            place_folder(lose_to(other), target)
    assert list(target.parent.iterdir()) == [target]


def test_what_a_killed_process_left_is_swept(target: Path) -> None:
    def left(name: str, part: str, *, age_s: int) -> Path:
        hidden = target.parent / name
        writer("a")(hidden / part)
        for path in (*hidden.rglob("*"), hidden):
            os.utime(path, times=(path.stat().st_mtime - age_s,) * 2)
        return hidden

    dead = left(".mae.adding-abcd_123", "made", age_s=4000)
    at_work = left(".mae.adding-abcd_124", "made", age_s=3000)
    of_another = left(".mae.adding-abcd_125.adding-abcd_126", "made", age_s=4000)
    sweep(target)
    assert (dead.exists(), at_work.exists(), of_another.exists()) == (False, True, True)
    assert not target.exists()
    taken_away = left(".mae.adding-abcd_127", "replaced", age_s=4000)
    sweep(target)
    assert (digest(target), taken_away.exists()) == ("a", False)
    left(".mae.adding-abcd_128", "made", age_s=4000)
    place_folder(writer("b"), target, force=True)
    assert {path.name for path in target.parent.iterdir()} == {of_another.name, at_work.name, "mae"}
