"""The main job by its commands: frames, extract, fit, evaluate, predict, ablate."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

AUDIT_KEYS = {"rows", "duplicates", "distinct", "videos", "valence", "arousal", "expression", "au", "missing_images"}
SCORE_KEYS = ("P", "ccc_valence", "ccc_arousal", "f1_expression", "f1_au")
ABLATION = ("--epochs", 1, "--batch-frames", 4096)
ENCODERS = ("mae", "au", "expr", "v", "a")


def test_a_session_from_audit_to_submission(workspace: Path, abaw: Callable[..., object]) -> None:
    audited = abaw("frames", "--json").json()
    for split in ("train", "val", "test"):
        assert set(audited[split]) >= AUDIT_KEYS
    rows = (workspace.parent / "data" / "training_set_annotations.txt").read_text().splitlines()[1:]
    assert audited["train"]["rows"] == len(rows)
    assert audited["train"]["distinct"] == len({row.partition(",")[0] for row in rows})
    assert audited["train"]["rows"] - audited["train"]["duplicates"] == audited["train"]["distinct"]
    assert audited["test"]["missing_images"] == 1
    assert audited["test"]["valence"] == 0 < audited["train"]["valence"] < len(rows)

    extracted = abaw("extract", "--encoder", "au", "--json").json()
    assert extracted["computed"] == {"au": 0}

    fitted = abaw("fit-heads", "--fuse", "au,v", "--seq", 20, "--epochs", 1, "--json").json()
    folder = workspace / "runs" / fitted["run"]
    assert fitted["folder"] == str(folder)
    written = {"config.json", "head.safetensors", "metrics.json", "predictions.parquet", "curve.csv", "curve.png"}
    assert {path.name for path in folder.iterdir()} == written

    scores = abaw("evaluate", fitted["run"], "--json").json()
    for key in SCORE_KEYS:
        assert set(scores[key]) == {"score", "low", "high", "trivial"}
        assert isinstance(scores[key]["score"], float)
        assert isinstance(scores[key]["trivial"], float)
        assert scores[key]["low"] is scores[key]["high"] is None  # val holds one video, which tells of no other
    ccc = (scores["ccc_valence"]["score"] + scores["ccc_arousal"]["score"]) / 2
    assert scores["P"]["score"] == pytest.approx(ccc + scores["f1_expression"]["score"] + scores["f1_au"]["score"])
    assert scores["epoch_selected_here"]
    assert not scores["in_sample"]
    assert {key: fitted[key] for key in SCORE_KEYS} == {key: scores[key] for key in SCORE_KEYS}

    submitted = abaw("predict", fitted["run"], "--split", "test", "--out", "predictions.txt", "--json").json()
    listed = (workspace.parent / "data" / "MTL_Challenge_test_set_release.txt").read_text().splitlines()
    answered = (workspace / "predictions.txt").read_text().splitlines()
    assert answered[0] == "image,valence,arousal,expression,aus"
    images = [line.partition(",")[0] for line in listed if line and not line.startswith("image")]
    assert [line.partition(",")[0] for line in answered[1:]] == images
    assert submitted == {"file": "predictions.txt", "rows": len(images), "filled": 1}
    for line in answered[1:]:
        _, valence, arousal, expression, *units = line.split(",")
        assert -1 <= float(valence) <= 1
        assert -1 <= float(arousal) <= 1
        assert int(expression) in range(8)
        assert len(units) == 12
        assert set(units) <= {"0", "1"}


def test_people_read_tables_that_fit_80_columns(workspace: Path, ablated: Path, abaw: Callable[..., object]) -> None:
    ablate = ("ablate", "all", *ABLATION, "--out", ablated)
    for arguments in (("frames",), ("store", "ls"), ("evaluate", "joint"), ablate):
        outcome = abaw(*arguments)
        assert outcome.code == 0
        # A column that did not fit would be cut with an ellipsis, or vanish.
        assert "…" not in outcome.out
    lines = outcome.out.splitlines()
    assert "au    -      au+expr+v+a  single " in "\n".join(lines)
    tables = [line for line in lines if ".csv)" not in line]
    assert not [line for line in tables if len(line) > 80]


def test_extracting_again_computes_nothing(workspace: Path, abaw: Callable[..., object]) -> None:
    before = {path: path.read_bytes() for path in (workspace / "features").rglob("*") if path.is_file()}
    names = ",".join(ENCODERS)
    planned = abaw("extract", "--encoder", names, "--dry-run", "--json").json()
    assert planned["to_compute"] == dict.fromkeys(ENCODERS, 0)
    # Without its images, nothing could be computed.
    (workspace.parent / "data" / "cropped_aligned").rename(workspace.parent / "away")
    again = abaw("extract", "--encoder", names, "--json").json()
    assert again["computed"] == dict.fromkeys(ENCODERS, 0)
    assert again["reused"] == dict.fromkeys(ENCODERS, planned["n_frames"])
    assert {path: path.read_bytes() for path in (workspace / "features").rglob("*") if path.is_file()} == before


def test_unreadable_images_are_listed_masked_and_counted(workspace: Path, abaw: Callable[..., object]) -> None:
    images = sorted((workspace.parent / "data" / "cropped_aligned").rglob("*.jpg"))
    images[3].write_bytes(images[3].read_bytes()[:300])
    images[7].write_bytes(b"not an image")
    assert abaw("store", "rm", "mae").code == 0
    outcome = abaw("extract", "--encoder", "mae", "--json")
    assert outcome.code == 0
    assert outcome.json()["unreadable"] == 3  # with the listed frame that never had an image
    assert "3 frames could not be read; their rows hold NaN and are masked" in outcome.err
    for image in (images[3], images[7]):
        assert f"{image.parent.name}/{image.name}: cannot decode" in outcome.err
    assert abaw("store", "show", "mae", "--json").json()["failed"] == 3
    assert abaw("evaluate", "joint").code == 0

    assert abaw("store", "rm", "mae").code == 0
    stopped = abaw("extract", "--encoder", "mae", "--on-error", "stop")
    assert stopped.code == 1
    assert "cannot be read" in stopped.err


def test_ablations_are_csv_files_whose_rows_are_kept(
    workspace: Path, ablated: Path, abaw: Callable[..., object]
) -> None:
    shutil.copytree(ablated, workspace / "ablations")
    files = {name: workspace / "ablations" / f"{name}.csv" for name in ("fusion", "temporal", "joint")}
    before = {name: path.read_bytes() for name, path in files.items()}
    for name, n_rows in (("fusion", 28), ("temporal", 28), ("joint", 32)):
        with files[name].open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == n_rows
        asked = {"task", "fused", "joined", "S", "W", "score", "low", "high", "seconds", "seed"}
        assert set(rows[0]) >= asked
        assert all(-1 <= float(row["score"]) <= 1 for row in rows)
    # Seconds are of the computation: rows that were computed again would differ in them.
    again = abaw("ablate", "all", *ABLATION, "--json")
    assert again.code == 0
    assert set(again.json()["files"]) == set(files)
    assert {name: path.read_bytes() for name, path in files.items()} == before

    assert abaw("ablate", "fusion", *ABLATION, "--seeds", "1,2").code == 0
    with (workspace / "ablations" / "fusion_summary.csv").open() as file:
        summary = list(csv.DictReader(file))
    assert {row["n_seeds"] for row in summary} == {"2"}


def test_store_commands(workspace: Path, abaw: Callable[..., object]) -> None:
    truth = workspace.parent / "data" / "truth.npz"
    imported = abaw("store", "import", truth, "--encoder", "truth", "--json").json()
    listed = abaw("store", "ls", "--json").json()
    assert imported["matched"] == listed["n_frames"]
    assert set(listed["encoders"]) == {*ENCODERS, "truth"}
    assert listed["encoders"]["au"]["rows_done"] == listed["n_frames"]
    checked = abaw("store", "verify", "--json").json()
    assert checked["bad_chunks"] == {key: [] for key in sorted([*ENCODERS, "truth"])}

    chunk = next(path for path in (workspace / "features" / "au" / "embedding").rglob("*0") if path.is_file())
    before = chunk.read_bytes()
    chunk.write_bytes(before[:20] + bytes([before[20] ^ 1]) + before[21:])
    verified = abaw("store", "verify", "--json")
    assert verified.code == 1
    assert verified.json()["bad_chunks"]["au"] == [0]
    repaired = abaw("store", "verify", "--repair", "--json")
    assert repaired.code == 0
    assert repaired.json()["next"] == ["abaw extract --encoder au"]
    assert abaw("extract", "--encoder", "au", "--json").json()["computed"] == {"au": listed["n_frames"]}
    assert chunk.read_bytes() == before
    assert abaw("store", "verify").code == 0

    assert abaw("store", "rm", "truth", "--json").json()["removed"] == "truth"
    assert "truth" not in abaw("store", "ls", "--json").json()["encoders"]


def test_training_again_says_that_it_is_there(workspace: Path, abaw: Callable[..., object]) -> None:
    again = abaw("finetune", "--task", "v", "--from", "au", "--epochs", 1, "--batch", 32, "--json").json()
    assert again["was_there"]
    assert again["origin"]["parent"] == "au"


def test_the_workspace_is_found_from_a_folder_inside_it(
    workspace: Path, abaw: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = workspace / "notes" / "today"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert abaw("evaluate", "joint", "--json").json()["run"] == "joint"
    monkeypatch.chdir("/")
    assert abaw("evaluate", "joint", "--json", "-w", inside).json()["run"] == "joint"


def test_json_is_all_that_a_process_prints(workspace: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from cli.main import app; app()", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=workspace)

    shown = run("store", "show", "au", "--json")
    assert shown.returncode == 0
    assert json.loads(shown.stdout)["encoder"] == "au"
    assert shown.stderr == ""

    refused = run("fit-heads", "--seq", "0")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert "seq (S, rows in a window) must be at least 1" in refused.stderr
    assert "Traceback" in run("--debug", "fit-heads", "--seq", "0").stderr
