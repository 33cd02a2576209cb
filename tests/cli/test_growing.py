"""A store that grows, encoders in versions, work that is shared, a store in a bucket: as they are typed."""

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cli.workspace import open_workspace
from featurestore.store import FeatureStore

Abaw = Callable[..., object]
Refused = Callable[..., str]


def hold_back_a_video(path: Path) -> tuple[str, str]:
    """Take the first video out of an annotation file; its name, and the file as it was."""
    whole = path.read_text()
    header, *lines = whole.splitlines(keepends=True)
    video = lines[0].partition("/")[0]
    path.write_text("".join([header, *(line for line in lines if line.partition("/")[0] != video)]))
    return video, whole


def rows_by_frame(store: FeatureStore, name: str) -> dict[tuple[str, int], bytes]:
    keys = store.frames.data.select("video", "frame").rows()
    return {key: row.tobytes() for key, row in zip(keys, store.embedding(name).load(), strict=True)}


def test_new_videos_are_appended_and_only_they_are_computed(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    at_once = rows_by_frame(open_workspace(workspace).open_store(), "au")
    path = workspace.parent / "data" / "training_set_annotations.txt"
    video, whole = hold_back_a_video(path)
    for name in abaw("store", "ls", "--json").json()["encoders"]:
        abaw("store", "rm", name)
    abaw("frames")
    abaw("extract", "--encoder", "au,v")
    small = open_workspace(workspace).open_store()
    assert video not in set(small.frames.data["video"])
    before = small.embedding("au").load()

    path.write_text(whole)
    assert "Run `abaw frames --add` to append them" in refused(1, "frames")
    told = abaw("frames", "--add").err
    assert "abaw extract --encoder au,v" in told
    grown = open_workspace(workspace).open_store()
    n_new = grown.n_frames - small.n_frames
    assert grown.frames.data["video"].tail(n_new).unique().to_list() == [video]
    assert "abaw extract --encoder au" in refused(1, "fit-heads", "--encoder", "au", "--epochs", "1")
    report = abaw("extract", "--encoder", "au,v", "--json").json()
    n_again = small.n_frames % small.embedding("au").batch_rows  # the last batch, which was not full
    assert report["computed"] == {"au": n_new + n_again, "v": n_new + n_again}
    assert grown.embedding("au").load()[: small.n_frames].tobytes() == before.tobytes()
    assert rows_by_frame(grown, "au") == at_once
    assert abaw("store", "verify").code == 0
    assert abaw("frames").code == 0  # without --add, in the order that the store has
    assert open_workspace(workspace).open_store().fingerprint == grown.fingerprint
    assert abaw("fit-heads", "--encoder", "au", "--joint", "au", "--task", "au", "--epochs", "1").code == 0


def test_only_what_can_be_extracted_is_advised_to_be(workspace: Path, abaw: Abaw) -> None:
    path = workspace.parent / "data" / "training_set_annotations.txt"
    _, whole = hold_back_a_video(path)
    for name in abaw("store", "ls", "--json").json()["encoders"]:
        abaw("store", "rm", name)
    abaw("frames")
    abaw("extract", "--encoder", "au,v")
    assert abaw("store", "import", workspace.parent / "data" / "truth.npz", "--encoder", "truth").code == 0
    shutil.rmtree(workspace / "encoders" / "v")
    path.write_text(whole)
    told = abaw("frames", "--add").err
    assert "Next: abaw extract --encoder au, which" in told
    assert "truth came from a file: abaw store import FILE --encoder truth@2 takes" in told
    assert "v is no encoder of this workspace" in told
    # What is said works.
    assert abaw("store", "import", workspace.parent / "data" / "truth.npz", "--encoder", "truth@2").code == 0
    assert abaw("extract", "--encoder", "au").code == 0


def test_a_store_does_not_grow_by_images_out_of_reach(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    path = workspace.parent / "data" / "training_set_annotations.txt"
    _, whole = hold_back_a_video(path)
    for name in abaw("store", "ls", "--json").json()["encoders"]:
        abaw("store", "rm", name)
    abaw("frames")
    abaw("extract", "--encoder", "au")
    before = {file.name: file.read_bytes() for file in (workspace / "features").iterdir() if file.is_file()}
    path.write_text(whole)
    images = workspace.parent / "data" / "cropped_aligned"
    images.rename(workspace.parent / "away")
    assert "cropped_aligned is not there" in refused(1, "frames", "--add")
    assert {file.name: file.read_bytes() for file in (workspace / "features").iterdir() if file.is_file()} == before
    (workspace.parent / "away").rename(images)
    assert abaw("frames", "--add").code == 0


def test_a_video_does_not_take_further_frames(workspace: Path, refused: Refused) -> None:
    path = workspace.parent / "data" / "training_set_annotations.txt"
    header, first, *rest = path.read_text().splitlines(keepends=True)
    video = first.partition("/")[0]
    path.write_text("".join([header, first, f"{video}/99999.jpg," + first.partition(",")[2], *rest]))
    text = refused(1, "frames", "--add")
    assert f"1 are further frames of its videos (for example {video}/99999)" in text


def test_new_weights_are_kept_beside_the_old_ones(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    store = open_workspace(workspace).open_store()
    old = store.embedding("au").load()
    shutil.rmtree(workspace / "encoders" / "au")
    shutil.copytree(workspace / "encoders" / "v", workspace / "encoders" / "au")
    text = refused(1, "extract", "--encoder", "au")
    weights = [store.embedding(name).provenance.weights for name in ("au", "v")]
    assert f"(weights {weights[0]} there, {weights[1]} now)" in text
    assert "Extract it as au@2, which keeps both" in text
    abaw("extract", "--encoder", "au@2")
    assert abaw("extract", "--encoder", "au@2", "--json").json()["computed"] == {"au@2": 0}
    assert store.embedding("au").load().tobytes() == old.tobytes()
    assert store.embedding("au@2").load().tobytes() == store.embedding("v").load().tobytes()
    assert "no encoder 'xu'" in refused(2, "extract", "--encoder", "xu@2")


def test_shares_together_are_all(workspace: Path, abaw: Abaw, refused: Refused) -> None:
    whole = open_workspace(workspace).open_store().embedding("mae").load()
    abaw("store", "rm", "mae")
    reports = [abaw("extract", "--encoder", "mae", "--share", f"{n}/3", "--json").json() for n in (3, 2, 1)]
    computed = [report["computed"]["mae"] for report in reports]
    assert min(computed) > 0  # chunks small enough that each share has some
    left = [len(whole) - sum(computed[:n]) for n in (1, 2, 3)]
    assert left[-1] == 0
    assert [report["left"]["mae"] for report in reports] == left
    assert np.array_equal(open_workspace(workspace).open_store().embedding("mae").load(), whole, equal_nan=True)
    assert "one of 1/N to N/N, not 4/3" in refused(2, "extract", "--encoder", "mae", "--share", "4/3")
    assert "such as 2/8, not 'half'" in refused(2, "extract", "--encoder", "mae", "--share", "half")
    assert "without --share" in refused(2, "extract", "--encoder", "mae", "--share", "1/2", "--retry-unreadable")


def test_a_store_in_a_bucket(
    s3_server: str, workspace: Path, abaw: Abaw, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = rows_by_frame(open_workspace(workspace).open_store(), "au")
    url = f"s3://lab/{uuid.uuid4().hex}"
    config = workspace / "abaw.toml"
    kept = config.read_text().replace('store = "features"', f'store = "{url}"\ncache = "cache"')
    config.write_text(kept)
    assert url in refused(1, "store", "ls")
    abaw("frames")
    abaw("extract", "--encoder", "au,v")
    listed = abaw("store", "ls", "--json").json()
    assert (listed["store"], sorted(listed["encoders"])) == (url, ["au", "v"])
    assert rows_by_frame(open_workspace(workspace).open_store(), "au") == local
    assert abaw("store", "verify").code == 0
    fitted = abaw("fit-heads", "--encoder", "au", "--fuse", "v", "--epochs", "1", "--json").json()
    assert fitted
    assert [path for path in (workspace / "cache").rglob("*") if path.is_file()]
    abaw("store", "rm", "v")
    assert sorted(abaw("store", "ls", "--json").json()["encoders"]) == ["au"]
