"""Bad input: one clear line on stderr, exit code 1 or 2, and nothing half-written that is later taken for whole."""

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]
Abaw = Callable[..., object]


def init_arguments(data: Path, **changed: Path) -> list[object]:
    paths = {
        "frames": data / "cropped_aligned",
        "train": data / "training_set_annotations.txt",
        "val": data / "validation_set_annotations.txt",
    }
    return [part for name, path in (paths | changed).items() for part in (f"--{name}", path)]


def test_a_missing_image_folder(data: Path, tmp_path: Path, refused: Refused) -> None:
    text = refused(1, "init", tmp_path / "work", *init_arguments(data, frames=tmp_path / "nope"))
    assert re.search(r"the image folder .*nope", text)
    assert not (tmp_path / "work").exists()


def test_an_image_folder_that_went_away(workspace: Path, refused: Refused) -> None:
    (workspace.parent / "data" / "cropped_aligned").rename(workspace.parent / "away")
    shutil.rmtree(workspace / "features" / "mae")
    text = refused(1, "extract", "--encoder", "mae")
    assert re.search(r"image folder .*cropped_aligned does not exist\. Correct `frames` in abaw\.toml", text)
    refused(1, "pretrain", "--name", "m2", "--epochs", 1, "--size", 32, "--patch", 8, "--depth", 1)
    assert not (workspace / "encoders" / "m2").exists()


def test_an_annotation_file_of_another_format(data: Path, tmp_path: Path, abaw: Abaw, refused: Refused) -> None:
    root = tmp_path / "work"
    assert abaw("init", root, *init_arguments(data, train=data / "README.txt")).code == 0
    text = refused(1, "frames", "-w", root, n_lines=3)
    assert re.search(r"README\.txt:1: the first line is 'image,valence,arousal,expression,aus'", text)
    assert not (root / "features").exists()


def test_malformed_lines_are_all_told_at_once(workspace: Path, refused: Refused) -> None:
    path = workspace.parent / "data" / "training_set_annotations.txt"
    lines = path.read_text().splitlines()
    lines[4], lines[8] = "garbage", lines[8].partition(",")[0] + ",2,3"
    path.write_text("\n".join(lines) + "\n")
    text = refused(1, "frames", n_lines=4)
    assert "training_set_annotations.txt:5: " in text
    assert "training_set_annotations.txt:9: " in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aux", r"no encoder 'aux'\. Did you mean 'au'\? Known: a, au, expr, mae, v\."),
        (",", "--encoder names no encoder"),
    ],
)
def test_an_encoder_that_does_not_exist(workspace: Path, refused: Refused, name: str, message: str) -> None:
    assert re.search(message, refused(2, "extract", "--encoder", name))


def test_an_architecture_that_does_not_exist(workspace: Path, refused: Refused) -> None:
    text = refused(2, "pretrain", "--name", "m2", "--arch", "vit_tinny_patch16_224")
    assert "Did you mean 'vit_tiny_patch16_224'?" in text
    assert len(text) < 500  # and not all of timm's
    assert "no multiple of a patch's 8" in refused(2, "pretrain", "--name", "m2", "--size", 33, "--patch", 8)


def test_embeddings_that_are_not_extracted_yet(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    assert abaw("store", "rm", "au").code == 0
    for command in (("fit-heads", "--fuse", "au,v"), ("evaluate", "joint"), ("predict", "joint")):
        assert "Run `abaw extract --encoder au`" in refused(1, *command)
    assert not (workspace / "predictions.txt").exists()
    assert [path.name for path in (workspace / "runs").iterdir()] == ["joint"]


def test_a_store_that_was_made_from_other_frames(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    path = workspace.parent / "data" / "training_set_annotations.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5] + lines[6:]))
    for command in (("evaluate", "joint"), ("extract", "--encoder", "au"), ("ablate", "all")):
        text = refused(1, *command)
        assert re.search(r"made from other annotations .*training_set_annotations\.txt.*Run `abaw frames`", text)
    text = refused(1, "frames")
    assert re.search(r"1 are missing.*remove the embeddings with `abaw store rm`", text)
    # What the message says works.
    for name in abaw("store", "ls", "--json").json()["encoders"]:
        assert abaw("store", "rm", name).code == 0
    assert abaw("frames").code == 0
    assert abaw("store", "ls").code == 0


def test_corrected_labels_keep_the_embeddings(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    path = workspace.parent / "data" / "training_set_annotations.txt"
    lines = path.read_text().splitlines(keepends=True)
    image, _, rest = lines[1].split(",", 2)
    path.write_text("".join([lines[0], f"{image},0.125,{rest}", *lines[2:]]))
    assert "Run `abaw frames`" in refused(1, "evaluate", "joint")
    assert abaw("frames").code == 0
    assert abaw("evaluate", "joint").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seq", 0], r"seq \(S, rows in a window\) must be at least 1, got 0"),
        (["--seq", 5, "--window", 6], "must be at most seq .* got W=6, S=5"),
        (["--weights", "au=x"], r"Expected task weights such as 'au=1,expr=0\.5', got 'au=x'"),
        (["--weights", "aux=1"], "no task 'aux'. Did you mean 'au'"),
        (["--joint", "au,exp"], "no task 'exp'. Did you mean 'expr'"),
        (["--task", "vv"], "no score to select by 'vv'"),
        (["--task", "au", "--joint", "v"], "selected by 'au', but the joined tasks are v"),
        (["--temporal", "grru"], "no temporal module 'grru'. Did you mean 'gru'"),
        (["--fusion", "product"], "no fusion 'product'"),
        (["--lr", "nan"], "learning_rate must be a number above 0"),
        (["--device", "cudda"], "device must be auto, cpu"),
        (["--fuse", "mae"], "fuse must not hold the base encoder 'mae' again"),
        (["--name", "../elsewhere"], r"'\.\./elsewhere' cannot name a run"),
    ],
)
def test_values_that_a_head_cannot_have(workspace: Path, refused: Refused, options: list[object], message: str) -> None:
    text = refused(2, "fit-heads", *options)
    assert re.search(message, text)
    assert text.count("must be at least") <= 1  # W is S unless given: told once
    assert [path.name for path in (workspace / "runs").iterdir()] == ["joint"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["ablate", "fusio"], "no table 'fusio'. Did you mean 'fusion'"),
        (["ablate", "fusion", "--seeds", "a,b"], "Expected seeds such as 1,2,3, got 'a,b'"),
        (["ablate", "fusion", "--seeds", "1,1"], "seeds repeat"),
        (["evaluate", "join"], r"no run 'join'\. Did you mean 'joint'\? Known: joint"),
        (["evaluate", "joint", "--split", "vall"], "no split 'vall'. Did you mean 'val'"),
        (["extract", "--encoder", "au", "--on-error", "go"], "no way to meet unreadable frames 'go'"),
        (["extract", "--encoder", "au", "--batch", 3], "power of two"),
        (["finetune", "--task", "aus"], "no task 'aus'. Did you mean 'au'"),
        (["finetune", "--task", "au", "--joint", "v"], "either --task au, or --joint"),
        (["finetune", "--task", "au", "--from", "mea"], "no encoder 'mea'. Did you mean 'mae'"),
        (["pretrain", "--mask", 2], "mask_ratio: Input should be less than 1, got 2.0"),
        (["pretrain", "--name", "a/b"], "'a/b' cannot name an encoder"),
        (["store", "import", "../data/truth.npz", "--encoder", "a/b"], "encoder's name starts with a letter or digit"),
        (["synth", "x", "--videos", 2], "videos 2 .at least 6"),
    ],
)
def test_values_that_other_commands_cannot_have(
    workspace: Path, refused: Refused, command: list[object], message: str
) -> None:
    assert re.search(message, refused(2, *command))
    assert not (workspace / "ablations").exists()
    assert not (workspace / "x").exists()


def test_another_run_of_the_name_is_refused_before_the_fit(
    workspace: Path, abaw: Abaw, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = ("fit-heads", "--fuse", "au,v", "--seq", 20, "--epochs", 2, "--name", "joint")
    assert abaw(*same).code == 0  # the same run again is no mistake

    def fit(*_: object, **__: object) -> None:
        pytest.fail("fitted for nothing")

    monkeypatch.setattr("heads.fitting.fit.fit", fit)
    text = refused(1, "fit-heads", "--fuse", "au", "--name", "joint")
    assert "run of another configuration is in the way" in text


def test_what_is_there_is_not_replaced(workspace: Path, refused: Refused) -> None:
    data = workspace.parent / "data"
    before = (workspace / "abaw.toml").read_bytes()
    assert "is a workspace already" in refused(1, "init", workspace, *init_arguments(data))
    assert (workspace / "abaw.toml").read_bytes() == before
    (workspace / "predictions.txt").write_text("mine")
    assert "is there already" in refused(1, "predict", "joint")
    assert (workspace / "predictions.txt").read_text() == "mine"
    assert "made with other options" in refused(1, "pretrain", "--epochs", 2)
    assert "something in" in refused(1, "synth", data)


def test_no_workspace(tmp_path: Path, refused: Refused) -> None:
    text = refused(1, "frames", "-w", tmp_path)
    assert re.search(r"No abaw\.toml in .* or above\. Make a workspace with `abaw init`", text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("frames = = 3", r"not valid TOML.*line 1"),
        ('frames = "a"\ntrain = "b"\nvall = "c"\n', "val: Field required; vall: Extra inputs"),
    ],
)
def test_a_bad_workspace_file(tmp_path: Path, refused: Refused, content: str, message: str) -> None:
    (tmp_path / "abaw.toml").write_text(content)
    assert re.search(message, refused(2, "frames", "-w", tmp_path))


def test_no_frame_table_yet(data: Path, tmp_path: Path, abaw: Abaw, refused: Refused) -> None:
    root = tmp_path / "work"
    assert abaw("init", root, *init_arguments(data)).code == 0
    assert "Run `abaw frames`" in refused(1, "extract", "--encoder", "mae", "-w", root)
    assert "no 'test' list" in refused(2, "predict", "joint", "-w", root)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_errors_of_the_system_are_told_in_a_line(
    data: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def replace(_: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code), str(target))

    monkeypatch.setattr(os, "replace", replace)
    text = refused(1, "init", tmp_path / "work", *init_arguments(data))
    assert ("No space is left" if code == errno.ENOSPC else os.strerror(code)) in text
    assert "abaw.toml" in text
    # Nothing is there that would be taken for a workspace.
    assert list((tmp_path / "work").iterdir()) == []


def test_no_space_left_in_the_middle_of_saving_a_run(
    workspace: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    def save(*_: object) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")

    monkeypatch.setattr("heads.runs.run.save_file", save)
    assert "No space is left on the device" in refused(1, "fit-heads", "--epochs", 1, "--name", "full")
    assert [path.name for path in (workspace / "runs").iterdir()] == ["joint"]


def test_a_place_that_cannot_be_written(workspace: Path, refused: Refused) -> None:
    (workspace / "taken").write_text("a file, no folder")
    text = refused(1, "ablate", "joint", "--epochs", 1, "--out", workspace / "taken")
    assert re.search(r"(File exists|Not a directory): .*taken", text)
    assert "nodir is not" in refused(1, "predict", "joint", "--out", "nodir/p.txt")
