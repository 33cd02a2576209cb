"""`abaw store import` and `abaw store export` as a user types them, on a rendered dataset."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

Abaw = Callable[..., object]
Refused = Callable[..., str]


@pytest.fixture
def imported(data: Path, tmp_path: Path, abaw: Abaw) -> Path:
    """A workspace with the encoder `truth` and no other."""
    root = tmp_path / "work"
    lists = ("--train", data / "training_set_annotations.txt", "--val", data / "validation_set_annotations.txt")
    for command in (
        ("init", root, "--frames", data / "cropped_aligned", *lists),
        ("frames", "-w", root),
        ("store", "import", data / "truth.npz", "--encoder", "truth", "-w", root),
    ):
        outcome = abaw(*command)
        assert outcome.code == 0, outcome.err
    return root


@pytest.mark.parametrize(
    ("file", "options", "told"),
    [
        ("t.h5", [], "hdf5, layout flat"),
        ("t.h5", ["--layout", "image"], "hdf5, layout image"),
        ("t.npz", [], "npz"),
        ("t.parquet", [], "parquet"),
    ],
)
def test_out_and_in_again(imported: Path, tmp_path: Path, abaw: Abaw, file: str, options: list[str], told: str) -> None:
    written = abaw("store", "export", "--encoder", "truth", tmp_path / file, *options, "-w", imported)
    assert written.code == 0, written.err
    assert re.search(rf"truth: [\d,]+ vectors of 15 float32 in .*{file} \({told}, [\d.]+ MB\)", written.out)
    name = f"again_{file.replace('.', '_')}_{len(options)}"
    read = abaw("store", "import", tmp_path / file, "--encoder", name, "-w", imported)
    assert read.code == 0, read.err
    assert re.search(rf"{name}: [\d,]+ rows matched \({told}, float32\), 0 frames have no vector", read.out)
    shown = abaw("store", "show", name, "--json", "-w", imported).json()
    assert shown["rows_done"] == shown["n_frames"]


def test_json(imported: Path, tmp_path: Path, abaw: Abaw) -> None:
    export = abaw("store", "export", "--encoder", "truth", tmp_path / "t.h5", "--json", "-w", imported).json()
    assert export == {
        "encoder": "truth",
        "path": str(tmp_path / "t.h5"),
        "format": "hdf5",
        "layout": "flat",
        "rows": export["rows"],
        "row_shape": [15],
        "dtype": "float32",
        "bytes": (tmp_path / "t.h5").stat().st_size,
        "failed": {},
        "lacks_projection": False,
    }
    half = ["--encoder", "half", "--dtype", "float16"]
    report = abaw("store", "import", tmp_path / "t.h5", *half, "--json", "-w", imported).json()
    assert report == {
        "encoder": "half",
        "format": "hdf5",
        "layout": "flat",
        "dtype": "float16",
        "taken_from": "truth",
        "restored": True,
        "matched": export["rows"],
        "written": export["rows"],
        "there": 0,
        "missing": 0,
        "extra": 0,
        "missing_examples": [],
        "extra_examples": [],
    }


def test_missing_extra_and_failed_frames_are_told(imported: Path, tmp_path: Path, abaw: Abaw) -> None:
    with np.load(_truth(imported, abaw, tmp_path)) as file:
        vectors = dict(file)
    gone = next(iter(vectors))
    vectors["nobody/00001.jpg"] = vectors.pop(gone)
    (tmp_path / "part.pkl").write_bytes(pickle.dumps(vectors))
    outcome = abaw("store", "import", tmp_path / "part.pkl", "--encoder", "part", "-w", imported)
    assert outcome.code == 0
    assert "1 frame has no vector" in outcome.out
    assert "frames without a vector are masked, such as" in outcome.err
    assert "1 vector belongs to no frame, such as nobody/00001.jpg" in outcome.err
    outcome = abaw("store", "export", "--encoder", "part", tmp_path / "part.h5", "-w", imported)
    assert outcome.code == 0
    assert f"1 frame has no embedding and is left out:\n  {gone}: no vector in part.pkl" in outcome.err
    with h5py.File(tmp_path / "part.h5") as file:
        assert gone not in set(file["keys"].asstr()[:])


def _truth(imported: Path, abaw: Abaw, folder: Path) -> Path:
    path = folder / "truth.npz"
    assert abaw("store", "export", "--encoder", "truth", path, "-w", imported).code == 0
    return path


def test_refusals(imported: Path, tmp_path: Path, abaw: Abaw, refused: Refused) -> None:
    here = ("-w", imported)
    path = _truth(imported, abaw, tmp_path)
    assert "is there already. Give --force" in refused(1, "store", "export", "--encoder", "truth", path, *here)
    assert abaw("store", "export", "--encoder", "truth", path, "--force", *here).code == 0
    assert "Did you mean 'truth'" in refused(1, "store", "export", "--encoder", "trut", tmp_path / "a.h5", *here)
    assert "has none of these" in refused(2, "store", "export", "--encoder", "truth", tmp_path / "a.csv", *here)
    assert "does not say theirs" in refused(2, "store", "import", path, *here)
    assert "--dtype is float16 or float32" in refused(2, "store", "import", path, "--dtype", "int8", *here)
    assert "recognised as npz" in refused(2, "store", "import", path, "--layout", "flat", *here)
    assert "v.h5 is not there" in refused(1, "store", "import", "v.h5", "--encoder", "v", *here)
    text = refused(2, "store", "import", path, "--encoder", "a/b", *here)
    assert "encoder's name starts with a letter or digit" in text
    assert "a/b" not in abaw("store", "ls", "--json", *here).json()["encoders"]


def test_a_trapped_pickle(imported: Path, tmp_path: Path, refused: Refused) -> None:
    trap = tmp_path / "sprung"
    raw = b"\x80\x02cos\nsystem\nX" + len(str(trap) + "touch ").to_bytes(4, "little") + f"touch {trap}".encode()
    (tmp_path / "v.pkl").write_bytes(raw + b"\x85R.")
    text = refused(1, "store", "import", tmp_path / "v.pkl", "--encoder", "v", "-w", imported)
    assert "this one names os.system, and nothing of it was run" in text
    assert not trap.exists()
    pickle.loads(raw + b"\x85R.")  # the trap is one
    assert trap.exists()


def test_names_are_no_markup(imported: Path, tmp_path: Path, abaw: Abaw) -> None:
    with np.load(_truth(imported, abaw, tmp_path)) as file:
        vectors = dict(file)
    vectors["x/[/blue]"] = next(iter(vectors.values()))
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(vectors))
    read = abaw("store", "import", tmp_path / "v.pkl", "--encoder", "marked", "-w", imported)
    assert read.code == 0, read.err
    assert "such as x/[/blue]" in read.err
    written = abaw("store", "export", "--encoder", "marked", tmp_path / "a[b].h5", "-w", imported)
    assert "a[b].h5" in written.out
