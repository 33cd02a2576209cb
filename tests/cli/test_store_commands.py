"""`abaw store ls`, `show`, `verify`, `pca` on the frames of a rendered dataset."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from featurestore.tokenprojection import TokenProjection

Abaw = Callable[..., object]
Refused = Callable[..., str]
ENTRY_KEYS = {"encoder", "rows_done", "n_frames", "failed", "row_shape", "dim", "dtype", "bytes", "architecture"}
ENTRY_KEYS |= {"parent", "made_at", "n_chunks", "chunk_rows", "complete", "fingerprint"}


@pytest.fixture(scope="module")
def looked_at(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the encoders `mae`, made up, and `truth`, the rendered state; nobody changes it."""
    from typer.testing import CliRunner

    from cli.main import app

    root = tmp_path_factory.mktemp("looked_at") / "work"
    files = {"frames": "cropped_aligned", "train": "training_set_annotations.txt"}
    files |= {"val": "validation_set_annotations.txt", "test": "MTL_Challenge_test_set_release.txt"}
    here = ["-w", str(root)]
    for arguments in (
        ["init", str(root), *(part for key, name in files.items() for part in (f"--{key}", str(data / name)))],
        ["frames", *here],
        ["store", "import", str(data / "truth.npz"), "--encoder", "truth", *here],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.stderr
    store = FeatureStore.open(root / "features")
    made_by = Provenance(
        architecture="vit_base_patch16_224(depth=4)",
        weights="0" * 32,
        preprocessing={"input_px": 224, "mean": [0.5, 0.5, 0.5]},
        pooling="fc_norm",
        precision="float32",
        versions={"timm": "1.0.31"},
    )
    (root / "encoders" / "mae").mkdir(parents=True)
    (root / "encoders" / "mae" / "encoder.json").write_text("{}")
    rows = np.random.default_rng(0).normal(size=(store.n_frames, 32))
    with store.writer("mae", made_by, row_shape=(32,)) as writer:
        writer.append(0, rows, {7: "no such file"})
    return root


@pytest.fixture
def work(looked_at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that workspace, to change at will; the test runs inside it."""
    root = tmp_path / "work"
    shutil.copytree(looked_at, root)
    monkeypatch.chdir(root)
    return root


def damage(work: Path, name: str, chunk: int = 0) -> None:
    """Flip one bit of a chunk."""
    layout = FeatureStore.open(work / "features").embedding(name).layout
    path = work / "features" / name / "embedding" / layout.key(chunk)
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


def cut(work: Path, name: str, n_rows: int) -> None:
    """Leave only the first rows of an encoder, as a kill would."""
    store = FeatureStore.open(work / "features")
    old = store.embedding(name)
    rows, reasons = old.load().copy(), old.failures()
    store.remove(name)
    with store.writer(name, old.provenance, row_shape=old.row_shape, batch_rows=1, chunk_rows=16) as writer:
        for task in writer.pending():
            stop = min(task.stop, n_rows)
            if task.start < stop:
                here = {row: reason for row, reason in reasons.items() if task.start <= row < stop}
                writer.append(task.start, rows[task.start : stop], here)


def test_ls_names_every_encoder(work: Path, abaw: Abaw) -> None:
    listed = abaw("store", "ls", "--json").json()
    assert listed["store"] == str(work / "features")
    assert set(listed["encoders"]) == {"mae", "truth"}
    mae = listed["encoders"]["mae"]
    assert set(mae) >= ENTRY_KEYS
    assert (mae["rows_done"], mae["dim"], mae["failed"], mae["complete"]) == (listed["n_frames"], 32, 1, True)
    table = abaw("store", "ls").out
    assert "vit_base_patch16_224 " in table
    assert f"{listed['n_frames']:,} frames" in table
    assert "…" not in table
    cut(work, "mae", 100)
    share = 100 * 100 // listed["n_frames"]
    assert f"100 of {listed['n_frames']} ({share} %)" in abaw("store", "ls").out
    assert abaw("store", "ls", "--json").json()["encoders"]["mae"]["complete"] is False


def test_ls_of_an_empty_store_says_what_comes_next(work: Path, abaw: Abaw) -> None:
    for name in ("mae", "truth"):
        assert abaw("store", "rm", name).code == 0
    told = abaw("store", "ls").out
    assert "no encoder yet" in told
    assert "Next: abaw extract --encoder NAME" in told
    assert abaw("store", "ls", "--json").json()["encoders"] == {}


def test_one_damaged_encoder_hides_no_other(work: Path, abaw: Abaw) -> None:
    (work / "features" / "mae" / "zarr.json").write_text("{")
    outcome = abaw("store", "ls")
    assert outcome.code == 0
    assert "imported" in outcome.out
    assert "mae cannot be read: This file of a feature store should hold JSON" in outcome.out
    listed = abaw("store", "ls", "--json").json()["encoders"]
    assert "zarr.json" in listed["mae"]["error"]
    assert listed["truth"]["complete"] is True

    checked = abaw("store", "verify", "--json")
    assert checked.code == 1
    assert checked.json()["bad_chunks"] == {"truth": []}
    assert list(checked.json()["errors"]) == ["mae"]
    # What the message says works.
    assert "`abaw store rm mae`" in checked.err
    assert abaw("store", "rm", "mae").code == 0
    assert abaw("store", "verify").code == 0


def test_show_tells_all_of_an_encoder(work: Path, abaw: Abaw) -> None:
    shown = abaw("store", "show", "mae", "--json").json()
    assert set(shown) >= ENTRY_KEYS | {"provenance", "failures", "frames", "summary"}
    embedding = FeatureStore.open(work / "features").embedding("mae")
    rows = embedding.load().astype(np.float64)[embedding.valid()]
    norms = np.linalg.norm(rows, axis=1)
    assert shown["summary"]["norms"]["mean"] == pytest.approx(norms.mean(), rel=1e-5)
    assert shown["summary"]["n_vectors"] == len(rows)
    assert shown["summary"]["nan_share"] == 1 / embedding.n_frames
    assert shown["frames"] == FeatureStore.open(work / "features").frames.fingerprint
    assert list(shown["failures"].values()) == ["no such file"]
    told = abaw("store", "show", "mae").out
    for text in (*map(str, shown["provenance"]["versions"].values()), shown["fingerprint"], "L2 norm", "no such file"):
        assert text in told
    quick = abaw("store", "show", "mae", "--no-summary")
    assert "L2 norm" not in quick.out
    assert abaw("store", "show", "mae", "--no-summary", "--json").json()["summary"] is None


def test_verify_names_what_is_bad_and_repairs_it(work: Path, abaw: Abaw) -> None:
    n_rows = abaw("store", "ls", "--json").json()["n_frames"]
    assert abaw("store", "verify").code == 0
    damage(work, "mae")
    assert abaw("store", "verify", "--encoder", "truth").code == 0
    found = abaw("store", "verify", "--encoder", "mae,truth")
    assert found.code == 1
    assert "truth: every committed chunk is sound" in found.out
    assert f"mae: 1 of 1 chunk with {n_rows} rows are not what was committed" in found.err
    assert f"(chunk 0: rows 0 to {n_rows - 1})" in found.err
    assert "Run `abaw store verify --encoder mae --repair`, then `abaw extract --encoder mae`." in found.err
    assert found.err.count("\n") == 1

    repaired = abaw("store", "verify", "--encoder", "mae", "--repair", "--json")
    assert repaired.code == 0
    assert repaired.json() == {
        "bad_chunks": {"mae": [0]},
        "bad_rows": {"mae": n_rows},
        "repaired": ["mae"],
        "errors": {},
        "projection_errors": {},
        "next": ["abaw extract --encoder mae"],
    }
    assert abaw("store", "verify").code == 0
    assert abaw("store", "ls", "--json").json()["encoders"]["mae"]["rows_done"] == 0


def test_verify_of_a_store_without_encoders_says_so(work: Path, abaw: Abaw) -> None:
    for name in ("mae", "truth"):
        assert abaw("store", "rm", name).code == 0
    assert "features holds no encoder yet: there is nothing to verify" in abaw("store", "verify").out


def test_a_zipped_store_is_verified_and_says_why_it_cannot_be_repaired(work: Path, abaw: Abaw) -> None:
    damage(work, "truth")
    shutil.make_archive(str(work / "features"), "zip", work / "features")
    config = work / "abaw.toml"
    config.write_text(config.read_text().replace('store = "features"', 'store = "features.zip"'))
    outcome = abaw("store", "verify", "--repair")
    assert outcome.code == 1
    assert "mae: every committed chunk is sound" in outcome.out
    assert "(chunk 0: rows 0 to" in outcome.err
    assert "It cannot be repaired here: This feature store can be read, not written" in outcome.err
    assert "store rm" not in outcome.err


def test_what_the_workspace_cannot_extract_is_imported_again(work: Path, abaw: Abaw) -> None:
    shutil.rmtree(work / "encoders" / "mae")  # as after the import of another store's embeddings
    damage(work, "mae")
    assert abaw("store", "verify", "--repair", "--json").json()["next"] == ["abaw store import FILE --encoder mae"]


def test_an_import_is_made_whole_by_importing_it_again(work: Path, data: Path, abaw: Abaw) -> None:
    before = FeatureStore.open(work / "features").embedding("truth").load().copy()
    damage(work, "truth")
    repaired = abaw("store", "verify", "--repair")
    assert repaired.code == 0
    assert "truth: 1 of 1 chunk with" in repaired.out
    assert "Next: abaw store import FILE --encoder truth" in repaired.out
    assert abaw("store", "import", data / "truth.npz", "--encoder", "truth").code == 0
    np.testing.assert_array_equal(FeatureStore.open(work / "features").embedding("truth").load(), before)


@pytest.mark.parametrize("color", ["expression", "valence", "video", "au12"])
def test_pca_draws_and_scores(work: Path, abaw: Abaw, color: str) -> None:
    outcome = abaw("store", "pca", "truth", "--color", color, "--out", "pca.png", "--json")
    assert outcome.code == 0
    told = outcome.json()
    with Image.open(work / "pca.png") as image:
        assert image.format == "PNG"
    assert 10 >= len(told["explained_variance"]) >= 2
    assert told["explained_variance"] == sorted(told["explained_variance"], reverse=True)
    assert sum(told["explained_variance"]) <= 1 + 1e-6
    assert told["knowledge"]["score"] is not None
    if color == "au12":  # the labels were made of the rendered state; of six videos, there is little to learn from
        assert told["knowledge"]["score"] > told["knowledge"]["chance"] + 0.1


def test_pca_takes_any_seed(work: Path, abaw: Abaw) -> None:
    for seed in (0, 5_000_000_000, 2**63 - 1):
        assert abaw("store", "pca", "truth", "--seed", seed, "--force").code == 0
    assert abaw("store", "pca", "truth", "--seed", 2**63, "--force").code == 2


def test_pca_of_an_incomplete_encoder_says_so(work: Path, abaw: Abaw) -> None:
    cut(work, "truth", 100)
    outcome = abaw("store", "pca", "truth", "--color", "split", "--rows", 50, "--out", "pca.svg")
    assert outcome.code == 0
    assert "truth is not complete: the picture is of the 100 of" in outcome.err
    assert "truth: 50 of 100 rows with split" in outcome.out
    assert "variance of components 1 to 10: " in outcome.out
    assert outcome.out.endswith("pca.svg\n")


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (1, ("pca", "truht"), r"no encoder 'truht'. Did you mean 'truth'?"),
        (1, ("show", "mea"), r"no encoder 'mea'. Did you mean 'mae'?"),
        (2, ("verify", "--encoder", "mae,truht"), "no encoder 'truht'. Did you mean 'truth'?"),
        (2, ("verify", "--encoder", ","), "--encoder names no encoder"),
        (2, ("pca", "truth", "--color", "expresion"), "no colour 'expresion'. Did you mean 'expression'?"),
        (2, ("pca", "truth", "--out", "pca.txt"), "A picture ends in .png, .jpg, .jpeg, .pdf, .svg"),
        (1, ("pca", "truth", "--out", "nowhere/pca.png"), "nowhere is not"),
        (1, ("pca", "truth", "--out", "abaw.png"), "abaw.png is there already"),
    ],
)
def test_what_is_refused(work: Path, refused: Refused, code: int, arguments: tuple[str, ...], message: str) -> None:
    (work / "abaw.png").write_bytes(b"mine")
    assert message in refused(code, "store", *arguments)
    assert not (work / "pca.png").exists()
    assert (work / "abaw.png").read_bytes() == b"mine"


def test_no_row_with_the_label_is_refused(work: Path, refused: Refused) -> None:
    cut(work, "truth", 0)
    text = refused(1, "store", "pca", "truth", "--color", "expression")
    assert "of the 0 rows of encoder 'truth' that are there, none has it" in text


def test_force_replaces_a_picture(work: Path, abaw: Abaw) -> None:
    (work / "pca.png").write_bytes(b"old")
    assert abaw("store", "pca", "truth", "--force").code == 0
    assert (work / "pca.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def tokens(work: Path) -> FeatureStore:
    """The store of the workspace, with tokens that went through a projection."""
    store = FeatureStore.open(work / "features")
    made_by = Provenance(
        architecture="vit_base_patch14_dinov2",
        weights="1" * 32,
        preprocessing={"input_px": 238},
        pooling="tokens",
        precision="bfloat16",
        execution={"device": "NVIDIA H200", "compiled": True, "channels_last": False, "batch": 64},
    )
    projection = TokenProjection(mean=np.arange(4.0), components=np.eye(4, 2), explained=np.array([0.625, 0.25]))
    with store.writer("dino", made_by, row_shape=(9, 2), projection=projection) as writer:
        writer.append(0, np.random.default_rng(0).normal(size=(store.n_frames, 9, 2)))
    return store


def test_show_tells_of_tokens_and_how_they_were_computed(tokens: FeatureStore, abaw: Abaw) -> None:
    told = abaw("store", "show", "dino").out
    assert "9 tokens of 2 (projected from 4), float16" in told
    assert "device NVIDIA H200, compiled yes, channels_last no, batch 64" in told
    assert "2 of 4 dimensions" in told
    assert "87.5 % of the tokens' (62.5 % the first)" in told
    shown = abaw("store", "show", "dino", "--json", "--no-summary").json()
    assert (shown["projected_from"], shown["row_shape"], shown["explained"]) == (4, [9, 2], [0.625, 0.25])
    assert shown["provenance"]["execution"]["device"] == "NVIDIA H200"
    assert "projected_from" in abaw("store", "ls", "--json").json()["encoders"]["mae"]
    assert "9 x 2" in abaw("store", "ls").out


def test_a_damaged_projection_is_told_and_not_repaired(
    tokens: FeatureStore, work: Path, abaw: Abaw, refused: Refused
) -> None:
    mean = work / "features" / "dino" / "projection" / "mean" / "c.0"
    mean.write_bytes(bytes(16))
    message = "projection of encoder 'dino' has other bytes than were kept"
    outcome = abaw("store", "verify", "--encoder", "dino", "--repair", "--json")
    assert outcome.code == 1
    assert message in outcome.json()["projection_errors"]["dino"]
    assert message in refused(1, "store", "verify", "--encoder", "dino")
    assert message in refused(1, "store", "show", "dino")
    assert message in refused(1, "store", "export", "--encoder", "dino", "dino.zarr.zip")


def test_an_export_says_where_the_projection_is_lost(tokens: FeatureStore, abaw: Abaw) -> None:
    lost = abaw("store", "export", "--encoder", "dino", "dino.npz")
    assert "a projection that this file does not hold" in lost.err
    assert "dino.zarr.zip holds both" in lost.err
    assert "projection" not in abaw("store", "export", "--encoder", "dino", "dino.zarr.zip").err


def test_heads_refuse_tokens_and_say_what_to_do(tokens: FeatureStore, refused: Refused) -> None:
    for arguments in (["--encoder", "dino"], ["--encoder", "mae", "--fuse", "dino"]):
        message = refused(2, "fit-heads", *arguments, "--epochs", 1)
        assert "encoder 'dino' holds 9 tokens of 2 a frame" in message
        assert "Name another encoder, extract this one under another name with a pooling such as" in message
    assert "9 tokens of 2" in refused(2, "ablate", "joint", "--encoder", "dino", "--epochs", 1, n_lines=1)
