"""A rendered dataset, a workspace with tiny encoders that really were trained, and a way to run commands on them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

TINY_VIT = ["--arch", "vit_tiny_patch16_224", "--size", "32", "--patch", "8", "--dim", "32", "--depth", "2"]
TINY_VIT += ["--attention-heads", "2", "--decoder-dim", "32", "--decoder-depth", "1", "--batch", "32"]
ENCODERS = ("mae", "au", "expr", "v", "a")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left: its exit code, and what stands on either stream."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, object]:
        """Stdout, which is one JSON object and nothing else."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


Abaw = Callable[..., Outcome]


def run_abaw(*arguments: object) -> Outcome:
    """Run a command in this process; an exception that escapes is a failure of the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def succeed(*arguments: object) -> Outcome:
    """Run a command that is expected to succeed."""
    outcome = run_abaw(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture(autouse=True)
def only_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extractions without --precision run in float32, whatever the processor computes in besides."""
    monkeypatch.setattr("extractor.extraction.calibration.native_low_precision", lambda _: None)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered dataset of six videos; nobody changes it."""
    folder = tmp_path_factory.mktemp("rendered") / "data"
    succeed("synth", folder, "--videos", 6, "--frames-per-video", 24, "--workers", 1)
    return folder


def init_arguments(data: Path) -> list[object]:
    """Options of `abaw init` for a rendered dataset."""
    return [
        *("--frames", data / "cropped_aligned"),
        *("--train", data / "training_set_annotations.txt"),
        *("--val", data / "validation_set_annotations.txt"),
        *("--test", data / "MTL_Challenge_test_set_release.txt"),
    ]


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with five encoders, their embeddings and the run `joint`; nobody changes it."""
    root = tmp_path_factory.mktemp("finished") / "work"
    succeed("init", root, *init_arguments(data))
    succeed("frames", "-w", root)
    succeed("pretrain", *TINY_VIT, "--epochs", 1, "-w", root)
    for task in ENCODERS[1:]:
        parent = "mae" if task == "au" else "au"
        succeed("finetune", "--task", task, "--from", parent, "--epochs", 1, "--batch", 32, "-w", root)
    succeed("extract", "--encoder", ",".join(ENCODERS), "--precision", "float32", "-w", root)
    succeed("fit-heads", "--fuse", "au,v", "--seq", 20, "--epochs", 2, "--name", "joint", "-w", root)
    return root


@pytest.fixture(scope="session")
def ablated(finished: Path) -> Path:
    """The folder of `ablate all` on the finished workspace; nobody changes it."""
    out = finished.parent / "ablations"
    succeed("ablate", "all", "--epochs", 1, "--batch-frames", 4096, "--out", out, "-w", finished)
    return out


@pytest.fixture
def workspace(finished: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished workspace and its dataset, to change at will; the test runs inside it."""
    own_data, root = tmp_path / "data", tmp_path / "work"
    shutil.copytree(data, own_data)
    shutil.copytree(finished, root)
    config = root / "abaw.toml"
    config.write_text(config.read_text().replace(str(data), str(own_data)))
    monkeypatch.chdir(root)
    return root


@pytest.fixture(name="abaw")
def abaw_fixture() -> Abaw:
    """`abaw("frames", "--json")` -> Outcome."""
    return run_abaw


@pytest.fixture
def refused() -> Callable[..., str]:
    """Run a command that must be refused: the exit code is as told, stdout is empty, and the message is returned."""

    def check(code: int, *arguments: object, n_lines: int = 1) -> str:
        outcome = run_abaw(*arguments)
        assert outcome.code == code, outcome.err
        assert outcome.out == ""
        lines = outcome.err.splitlines()
        # Notes about what a table leaves out may come first.
        told = [number for number, line in enumerate(lines) if line.startswith("abaw: ")]
        assert len(told) == 1, outcome.err
        assert len(lines) - told[0] == n_lines, outcome.err
        assert "Traceback" not in outcome.err
        return outcome.err

    return check
