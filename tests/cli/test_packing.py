"""`abaw frames --pack`: one file in the place of a folder, and what happens when it is not the right one."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from cli.configfile import set_entry
from featurestore.errors import ConfigError
from featurestore.store import FeatureStore

Abaw = Callable[..., object]
Refused = Callable[..., str]

TRAIN = "training_set_annotations.txt"


def move_images_away(workspace: Path) -> Path:
    return (workspace.parent / "data" / "cropped_aligned").rename(workspace.parent / "away")


def test_pack_then_extract_equals_extract_from_the_folder(workspace: Path, abaw: Abaw) -> None:
    from_folder = abaw("frames", "--json").json()
    before = FeatureStore.open(workspace / "features").embedding("au").load().tobytes()
    outcome = abaw("frames", "--pack", "frames.h5", "--json")
    packed = outcome.json().pop("pack")
    assert 'pack = "frames.h5" stands in' in outcome.err.replace("\n", "")
    assert {key: outcome.json()[key] for key in from_folder} == from_folder
    assert (packed["file"], packed["written"]) == (str(workspace / "frames.h5"), True)
    assert packed["absent"] == sum(from_folder[split]["missing_images"] for split in ("train", "val", "test")) == 1
    assert packed["bytes"] < (workspace / "frames.h5").stat().st_size < packed["bytes"] + 200_000

    away = move_images_away(workspace)
    assert abaw("store", "rm", "au").code == 0
    extracted = abaw("extract", "--encoder", "au", "--json").json()
    assert extracted["unreadable"] == 1
    assert set(extracted["failures"].values()) == {"no such file"}
    assert FeatureStore.open(workspace / "features").embedding("au").load().tobytes() == before
    assert abaw("frames", "--json").json() == from_folder  # of the pack alone
    trained = abaw("finetune", "--task", "v", "--from", "au", "--name", "v2", "--epochs", 1, "--batch", 32)
    assert trained.code == 0

    # Without its line, the folder is read again.
    config = workspace / "abaw.toml"
    config.write_text(config.read_text().replace('pack = "frames.h5"\n', ""))
    assert abaw("store", "rm", "au").code == 0
    assert "image folder" in abaw("extract", "--encoder", "au").err
    away.rename(workspace.parent / "data" / "cropped_aligned")
    assert abaw("extract", "--encoder", "au").code == 0


def test_a_pack_that_is_there_is_kept_and_force_packs_again(workspace: Path, abaw: Abaw) -> None:
    first = abaw("frames", "--pack", "frames.h5")
    assert re.search(r"frames\.h5: [\d,]+ images, [\d.]+ MB; 1 listed without an image; packed in", first.out)
    written = (workspace / "frames.h5").stat()
    config = (workspace / "abaw.toml").read_bytes()
    again = abaw("frames", "--pack", "frames.h5", "--check")
    assert "there already, --force packs again; every byte is as it was packed" in again.out
    assert (workspace / "frames.h5").stat().st_ino == written.st_ino
    assert abaw("frames", "--pack", "frames.h5", "--force", "--json").json()["pack"]["written"]
    assert (workspace / "frames.h5").stat().st_ino != written.st_ino
    assert (workspace / "abaw.toml").read_bytes() == config
    # Without its folder, what is there is still there.
    move_images_away(workspace)
    assert not abaw("frames", "--pack", "frames.h5", "--json").json()["pack"]["written"]


def test_a_folder_that_lacks_images_does_not_replace_a_pack(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    whole = abaw("frames", "--pack", "frames.h5", "--json").json()["pack"]["images"]
    before = (workspace / "frames.h5").read_bytes()
    images = workspace.parent / "data" / "cropped_aligned"
    video = next(each for each in sorted(images.iterdir()) if len(list(each.iterdir())) > 5)
    video.rename(workspace.parent / "not mounted")
    text = refused(1, "frames", "--pack", "frames.h5", "--force")
    counts = re.search(r"holds (\d+) images, and the new one would hold (\d+): (\d+) of its images", text)
    assert counts is not None
    assert int(counts[1]) == whole == int(counts[2]) + int(counts[3])
    assert f"such as {video.name}/" in text
    assert (workspace / "frames.h5").read_bytes() == before
    smaller = abaw("frames", "--pack", "frames.h5", "--force", "--allow-missing", "--json").json()["pack"]
    assert smaller["images"] == int(counts[2])
    (workspace.parent / "not mounted").rename(video)
    assert abaw("frames", "--pack", "frames.h5", "--force", "--json").json()["pack"]["images"] == whole


def test_an_image_that_comes_after_packing(workspace: Path, abaw: Abaw) -> None:
    store = FeatureStore.open(workspace / "features")
    [row] = store.embedding("au").failures()
    path = workspace.parent / "data" / "cropped_aligned" / store.frames.data["path"][row]
    assert abaw("frames", "--pack", "frames.h5").code == 0
    path.parent.mkdir(exist_ok=True)
    shutil.copy(next(path.parent.parent.rglob("*.jpg")), path)
    told = abaw("extract", "--encoder", "au", "--retry-unreadable").err
    assert "note: 1 of these frames has no image in the pack" in told
    # What is said works.
    assert f"`abaw frames --pack {workspace / 'frames.h5'} --force`" in told
    assert abaw("frames", "--pack", workspace / "frames.h5", "--force").code == 0
    again = abaw("extract", "--encoder", "au", "--retry-unreadable")
    assert "no image in the pack" not in again.err
    assert not FeatureStore.open(workspace / "features").embedding("au").failures()


def test_a_pack_is_named_from_the_workspace(
    workspace: Path, abaw: Abaw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert abaw("frames", "--pack", "frames.h5", "-w", workspace).code == 0
    assert (workspace / "frames.h5").is_file()
    assert not list((tmp_path / "elsewhere").iterdir())
    assert '\npack = "frames.h5"\n' in (workspace / "abaw.toml").read_text()


def test_a_machine_that_has_only_the_pack(workspace: Path, data: Path, abaw: Abaw, tmp_path: Path) -> None:
    audited = abaw("frames", "--pack", "frames.h5", "--json").json()
    audited.pop("pack")
    packed = (workspace / "frames.h5").rename(tmp_path / "elsewhere.h5")
    root = tmp_path / "other"
    lists = ("--train", data / TRAIN, "--val", data / "validation_set_annotations.txt")
    lists += ("--test", data / "MTL_Challenge_test_set_release.txt")
    assert abaw("init", root, "--frames", packed, *lists).code == 0
    assert abaw("frames", "-w", root, "--json").json() == audited
    shutil.copytree(workspace / "encoders", root / "encoders")
    assert abaw("extract", "--encoder", "au", "-w", root).code == 0
    stores = [FeatureStore.open(folder / "features").embedding("au") for folder in (workspace, root)]
    assert stores[0].load().tobytes() == stores[1].load().tobytes()


def test_frames_that_changed_ask_for_a_new_pack(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    for name in abaw("store", "ls", "--json").json()["encoders"]:
        assert abaw("store", "rm", name).code == 0
    before = abaw("frames", "--json").json()
    annotations = workspace.parent / "data" / TRAIN
    lines = annotations.read_text().splitlines(keepends=True)
    annotations.write_text("".join(lines[:5] + lines[6:]))
    assert abaw("frames", "--pack", "frames.h5").code == 0
    annotations.write_text("".join(lines))
    audited = abaw("frames", "--json")
    assert audited.json() == before  # counted in the folder, which is there, and has an image that the pack has not
    assert re.search(r"the pack is of other frames: run\s`abaw frames --pack .*frames\.h5`", audited.err)
    text = refused(1, "extract", "--encoder", "au")
    assert re.search(r"The pack holds .* frames \w+, these are .*Run `abaw frames --pack .*frames\.h5` again", text)
    # What the message says works.
    assert abaw("frames", "--pack", "frames.h5", "--json").json()["pack"]["written"]
    assert abaw("extract", "--encoder", "au").code == 0


def test_a_damaged_pack(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    assert abaw("frames", "--pack", "frames.h5").code == 0
    pack = workspace / "frames.h5"
    content = bytearray(pack.read_bytes())
    content[5000] ^= 1
    pack.write_bytes(content)
    assert "its images are not those that were packed" in refused(1, "frames", "--check")
    pack.write_bytes(content[:-2000])
    assert abaw("store", "rm", "au").code == 0
    assert "it is cut short" in refused(1, "extract", "--encoder", "au")
    assert "it is cut short" in refused(1, "frames")
    text = refused(1, "frames", "--pack", "frames.h5")
    assert re.search(r"Something else than a pack .* is in the way .*--force to replace it\. \(.*cut short", text)
    assert abaw("frames", "--pack", "frames.h5", "--force").code == 0
    assert abaw("extract", "--encoder", "au").code == 0
    pack.unlink()
    assert abaw("extract", "--encoder", "au").code == 0  # has nothing to read
    assert abaw("store", "rm", "au").code == 0
    assert "frames.h5 is not there. Run `abaw frames --pack" in refused(1, "extract", "--encoder", "au")


def test_packs_that_cannot_be_made(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    config = (workspace / "abaw.toml").read_bytes()
    assert "A pack is a file that ends in .h5" in refused(2, "frames", "--pack", "frames.zip")
    assert "--force is about the pack" in refused(2, "frames", "--force")
    assert "--check reads a pack, and abaw.toml names none" in refused(2, "frames", "--check")
    assert "nowhere is not" in refused(1, "frames", "--pack", "nowhere/frames.h5")
    with h5py.File(workspace / "mine.h5", "w") as file:
        file["mine"] = [1, 2, 3]
    mine = (workspace / "mine.h5").read_bytes()
    assert "is in the way" in refused(1, "frames", "--pack", "mine.h5")
    assert (workspace / "mine.h5").read_bytes() == mine
    move_images_away(workspace)
    assert "cropped_aligned is not there" in refused(1, "frames", "--pack", "frames.h5")
    assert (workspace / "abaw.toml").read_bytes() == config
    assert not (workspace / "frames.h5").exists()


def test_a_pack_of_a_pack_is_refused(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    assert abaw("frames", "--pack", "frames.h5").code == 0
    config = workspace / "abaw.toml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith(("frames", "pack"))]
    config.write_text("\n".join(['frames = "frames.h5"', *lines]))
    assert "is a pack itself" in refused(2, "frames", "--pack", "again.h5")
    assert abaw("frames", "--pack", "frames.h5").code == 0  # is there already
    assert "\npack" not in config.read_text()


OWN = """# My workspace
frames = "crops"  # on the network disk
train = 'train.txt'
val = "val.txt"

# models
[encoder_folders]
pack = "/models/pack"  # an encoder of that name
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_users_lines_stay(tmp_path: Path, end: str) -> None:
    path = tmp_path / "abaw.toml"
    path.write_bytes(OWN.replace("\n", end).encode())
    assert set_entry(path, "pack", "frames.h5", after="frames")
    lines = OWN.splitlines()
    assert path.read_bytes().decode().split(end)[:-1] == [*lines[:2], 'pack = "frames.h5"', *lines[2:]]
    assert not set_entry(path, "pack", "frames.h5", after="frames")
    path.write_bytes(path.read_bytes().replace(b'"frames.h5"', b'"frames.h5"  # keep this'))
    assert set_entry(path, "pack", 'a"b\\ü.h5', after="frames")
    assert path.read_bytes().decode().split(end)[2] == 'pack = "a\\"b\\\\ü.h5"  # keep this'


def test_a_shared_file_stays_shared(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    target = tmp_path / "shared" / "lab.toml"
    target.write_text(OWN)
    target.chmod(0o664)
    link = tmp_path / "abaw.toml"
    link.symlink_to(target)
    assert set_entry(link, "pack", "frames.h5", after="frames")
    assert link.is_symlink()
    assert 'pack = "frames.h5"\n' in target.read_text()
    assert target.stat().st_mode & 0o777 == 0o664


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('train = "t"', 'pack = "p"\ntrain = "t"'),
        ('frames = "f"', 'frames = "f"\npack = "p"\n'),
        ("", 'pack = "p"\n'),
        ('[encoder_folders]\nframes = "f"\n', 'pack = "p"\n[encoder_folders]\nframes = "f"\n'),
        ('pack = "#1 # x"\n', 'pack = "p"\n'),
    ],
)
def test_an_entry_has_its_place_in_any_file(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "abaw.toml"
    path.write_text(text)
    assert set_entry(path, "pack", "p", after="frames")
    assert path.read_text() == expected


@pytest.mark.parametrize("text", ['frames = """\npack = "x"\n"""\n', '"pack" = "x"\n'])
def test_a_file_that_a_line_could_harm_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "abaw.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"`pack = \"p\"` could not be put into .*Add that line by hand"):
        set_entry(path, "pack", "p", after="frames")
    assert path.read_text() == text
