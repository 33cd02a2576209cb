import fcntl
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from featurestore.errors import ConfigError, FileExistsAlreadyError
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.ablation.keys import PROTOCOL
from heads.ablation.ledger import SCHEMA, read_ledger, write_ledger
from heads.ablation.running import RowReport, run_ablation
from heads.ablation.videosums import read_sums
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import FittedHead, fit
from heads.fitting.workers import Parallel
from heads.modules.config import HeadConfig

TRAINING = FitConfig(epochs=1, batch_frames=1024, learning_rate=1e-2)
Reports = list[RowReport]


@pytest.fixture(scope="module")
def small(store: FeatureStore) -> FeatureSet:
    """Two task encoders: four rows of table 2."""
    return FeatureSet.load(store, ("au", "v", "mae"), device="cpu")


def test_rows_and_columns(tmp_path: Path, small: FeatureSet) -> None:
    rows = run_ablation(small, "fusion", out=tmp_path / "ablations", training=TRAINING).rows
    assert rows.schema == SCHEMA
    assert rows.select("task", "base", "fused", "joined", "S", "W", "seed").rows() == [
        ("au", "au", "", "au", 1, 1, 1),
        ("au", "au", "v", "au", 1, 1, 1),
        ("v", "v", "", "v", 1, 1, 1),
        ("v", "v", "au", "v", 1, 1, 1),
    ]
    assert rows["published"].to_list() == [0.5001, 0.4988, 0.5606, 0.5721]
    assert rows["published_mark"].to_list() == ["table", "inferred", "table", "inferred"]
    assert (rows["low"] <= rows["high"]).all()
    assert rows["parameters"][0] == 17 * 12
    on_disk = read_ledger(tmp_path / "ablations" / "fusion.csv")
    assert on_disk.equals(rows)
    names = [path.name for path in (tmp_path / "ablations").iterdir()]
    assert sorted(names) == [".lock", "fusion.csv", "fusion_summary.csv", "fusion_videos.parquet"]


def test_finished_rows_are_kept(tmp_path: Path, small: FeatureSet) -> None:
    done: Reports = []

    def stop(report: RowReport) -> None:
        done.append(report)
        if len(done) == 3:
            raise KeyboardInterrupt("killed")

    with pytest.raises(KeyboardInterrupt, match="killed"):
        run_ablation(small, "fusion", out=tmp_path, training=TRAINING, on_row=stop)
    assert read_ledger(tmp_path / "fusion.csv").height == 3
    reports: Reports = []
    rows = run_ablation(small, "fusion", out=tmp_path, training=TRAINING, on_row=reports.append).rows
    assert [report.is_kept for report in reports] == [True, True, True, False]
    assert [(report.index, report.n_rows) for report in reports] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert rows["seconds"].to_list()[:3] == [report.row["seconds"] for report in done]
    written = (tmp_path / "fusion.csv").read_bytes()
    assert run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows.equals(rows)
    assert (tmp_path / "fusion.csv").read_bytes() == written


def test_more_seeds_add_rows_to_the_summary(tmp_path: Path, small: FeatureSet) -> None:
    first = run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows
    reports: Reports = []
    made = run_ablation(small, "fusion", out=tmp_path, training=TRAINING, seeds=(1, 2), on_row=reports.append)
    assert [report.is_kept for report in reports] == [True] * 4 + [False] * 4
    assert made.rows.filter(pl.col("seed") == 1).equals(first)
    assert read_ledger(tmp_path / "fusion.csv").height == 8
    summary = pl.read_csv(tmp_path / "fusion_summary.csv")
    assert summary.columns == made.summary.columns
    assert summary["n_seeds"].to_list() == [2] * 4
    pair = made.rows.filter((pl.col("task") == "v") & (pl.col("fused") == "au"))["score"]
    assert summary["mean"][3] == pytest.approx(pair.mean())
    assert summary["std"][3] == pytest.approx(pair.std())
    assert summary.group_by("task").agg(pl.col("is_best").sum())["is_best"].to_list() == [1, 1]
    assert summary["is_reference"].to_list() == [True, False] * 2
    assert made.summary["stands"].is_null().to_list() == [True, False] * 2
    # One seed alone again: the other's rows were not asked for, but they are true, and stay.
    assert run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows.equals(first)
    assert read_ledger(tmp_path / "fusion.csv").height == 8
    assert len(read_sums(tmp_path / "fusion_videos.parquet")) == 8


def test_another_base_keeps_the_rows_of_the_first(tmp_path: Path, small: FeatureSet) -> None:
    own = run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows
    other = run_ablation(small, "fusion", out=tmp_path, training=TRAINING, base="mae").rows
    assert read_ledger(tmp_path / "fusion.csv").height == own.height + other.height
    assert set(own["key"]).isdisjoint(other["key"])


def test_stale_rows_are_computed_again(tmp_path: Path, small: FeatureSet) -> None:
    before = run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows
    changed = replace(small, fingerprints={**small.fingerprints, "v": "extracted again"})
    reports: Reports = []
    after = run_ablation(changed, "fusion", out=tmp_path, training=TRAINING, on_row=reports.append).rows
    assert [report.is_kept for report in reports] == [True, False, False, False]
    assert read_ledger(tmp_path / "fusion.csv")["key"].to_list() == after["key"].to_list()
    assert before["key"][0] == after["key"][0]
    data = small.frames.data
    relabelled = FrameTable(data.with_columns(au1=pl.when(pl.int_range(pl.len()) > 3).then("au1")))
    reports.clear()
    run_ablation(replace(changed, frames=relabelled), "fusion", out=tmp_path, training=TRAINING, on_row=reports.append)
    assert not any(report.is_kept for report in reports)
    faster = replace(TRAINING, learning_rate=0.02)
    assert set(run_ablation(small, "fusion", out=tmp_path, training=faster).rows["key"]).isdisjoint(before["key"])


@pytest.mark.parametrize(
    "other", [{"epochs": 2}, {"learning_rate": 2e-2}, {"batch_frames": 256}, {"weight_decay": 0.1}, {"patience": 1}]
)
def test_rows_of_another_training_stay(tmp_path: Path, small: FeatureSet, other: dict[str, int]) -> None:
    path = tmp_path / "fusion.csv"
    notes: list[str] = []
    first = run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows
    changed = replace(TRAINING, **other)
    second = run_ablation(small, "fusion", out=tmp_path, training=changed, on_note=notes.append).rows
    assert read_ledger(path).equals(pl.concat([second, first]))
    assert second.height == first.height
    for name in ("epochs", "learning_rate", "batch_frames"):
        assert first[name].unique().to_list() == [getattr(TRAINING, name)]
        assert second[name].unique().to_list() == [getattr(changed, name)]
    assert second["data"].equals(first["data"])
    reports: Reports = []
    again = run_ablation(small, "fusion", out=tmp_path, training=TRAINING, on_row=reports.append, on_note=notes.append)
    assert again.rows.equals(first)
    assert all(report.is_kept for report in reports)
    assert read_ledger(path).height == 2 * first.height
    assert notes == []


def test_only_the_rows_asked_for_are_summarised(tmp_path: Path, small: FeatureSet) -> None:
    before = run_ablation(small, "fusion", out=tmp_path, training=replace(TRAINING, epochs=2), seeds=(1, 2)).rows
    made = run_ablation(small, "fusion", out=tmp_path, training=TRAINING, seeds=(1, 2))
    assert made.rows["epochs"].unique().to_list() == [1]
    assert read_ledger(tmp_path / "fusion.csv").height == before.height + made.rows.height
    summary = pl.read_csv(tmp_path / "fusion_summary.csv")
    assert summary["n_seeds"].to_list() == [2] * 4
    means = made.rows.group_by("task", "fused", maintain_order=True).agg(pl.col("score").mean())["score"]
    assert summary["mean"].to_list() == pytest.approx(means.to_list())


def test_rows_of_other_labels_are_moved_aside_and_told(tmp_path: Path, small: FeatureSet) -> None:
    notes: list[str] = []
    first = run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows
    second = run_ablation(small, "fusion", out=tmp_path, training=replace(TRAINING, epochs=2)).rows
    data = small.frames.data
    relabelled = FrameTable(data.with_columns(au1=pl.when(pl.int_range(pl.len()) > 3).then("au1")))
    reports: Reports = []
    changed = replace(small, frames=relabelled)
    rows = run_ablation(
        changed, "fusion", out=tmp_path, training=TRAINING, on_row=reports.append, on_note=notes.append
    ).rows
    assert not any(report.is_kept for report in reports)
    assert read_ledger(tmp_path / "fusion.csv").equals(rows)
    assert set(rows["data"]).isdisjoint(first["data"])
    assert set(read_sums(tmp_path / "fusion_videos.parquet")) == set(rows["key"])
    assert len(notes) == 1
    told = r"^fusion: .* other embeddings or labels .* aside: 8 of 8 \(file: .*fusion\.csv, to: .*fusion_stale\.csv\)"
    assert re.search(told, notes[0])
    aside = read_ledger(tmp_path / "fusion_stale.csv")
    assert aside.equals(pl.concat([second, first]))
    # The store as it was, and once more the other: what is aside already is not doubled.
    again = run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows
    assert again["key"].equals(first["key"])
    assert set(read_ledger(tmp_path / "fusion_stale.csv")["key"]) == {*aside["key"], *rows["key"]}
    assert read_ledger(tmp_path / "fusion_stale.csv").height == 12


def test_a_foreign_file_in_the_place_of_the_stale_rows_is_refused_at_once(
    tmp_path: Path, small: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    (tmp_path / "fusion_stale.csv").write_text("my,notes\n1,2\n")
    assert run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows.height == 4
    changed = replace(small, fingerprints=dict.fromkeys(small.fingerprints, "extracted again"))
    fitted: list[object] = []
    monkeypatch.setattr("heads.fitting.parallel.fit", lambda *given, **_: fitted.append(given))
    with pytest.raises(FileExistsAlreadyError, match=r"cannot be read as one: .*fusion_stale\.csv.* another --out"):
        run_ablation(changed, "fusion", out=tmp_path, training=TRAINING)
    assert not fitted
    assert read_ledger(tmp_path / "fusion.csv").height == 4


def test_stale_rows_are_moved_though_nothing_is_computed(tmp_path: Path, small: FeatureSet) -> None:
    notes: list[str] = []
    own = run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows
    run_ablation(small, "fusion", out=tmp_path, training=TRAINING, base="mae")
    without = {name: fingerprint for name, fingerprint in small.fingerprints.items() if name != "mae"}
    removed = replace(small, fingerprints=without)
    rows = run_ablation(removed, "fusion", out=tmp_path, training=TRAINING, on_note=notes.append).rows
    assert rows.equals(own)
    assert set(read_sums(tmp_path / "fusion_videos.parquet")) == set(own["key"])
    assert read_ledger(tmp_path / "fusion.csv").equals(own)
    assert read_ledger(tmp_path / "fusion_stale.csv")["base"].unique().to_list() == ["mae"]
    assert len(notes) == 1
    run_ablation(removed, "fusion", out=tmp_path, training=TRAINING, on_note=notes.append)
    assert len(notes) == 1


def test_rows_that_others_finish_meanwhile_stay(tmp_path: Path, small: FeatureSet) -> None:
    done: Reports = []
    notes: list[str] = []

    def other_process(report: RowReport) -> None:
        done.append(report)
        if len(done) == 2:
            run_ablation(small, "fusion", out=tmp_path, training=TRAINING, base="mae")

    own = run_ablation(
        small, "fusion", out=tmp_path, training=TRAINING, on_row=other_process, on_note=notes.append
    ).rows
    both = read_ledger(tmp_path / "fusion.csv")
    assert both["base"].value_counts(sort=True).sort("base").rows() == [("au", 2), ("mae", 12), ("v", 2)]
    assert set(read_sums(tmp_path / "fusion_videos.parquet")) == set(both["key"])
    assert own["base"].unique().sort().to_list() == ["au", "v"]
    assert notes == []


def test_stale_rows_of_another_process_are_told_too(tmp_path: Path, small: FeatureSet) -> None:
    notes: list[str] = []
    changed = replace(small, fingerprints=dict.fromkeys(small.fingerprints, "extracted again"))
    done: Reports = []

    def other_process(report: RowReport) -> None:
        done.append(report)
        if len(done) == 2:
            run_ablation(changed, "fusion", out=tmp_path, training=TRAINING)

    rows = run_ablation(
        small, "fusion", out=tmp_path, training=TRAINING, on_row=other_process, on_note=notes.append
    ).rows
    assert read_ledger(tmp_path / "fusion.csv").equals(rows)
    aside = read_ledger(tmp_path / "fusion_stale.csv")
    assert set(aside["data"]) - set(rows["data"])
    assert [note.partition(":")[0] for note in notes] == ["fusion"]


def test_files_are_read_and_written_under_the_lock(
    tmp_path: Path, small: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    is_locked: list[bool] = []

    def checked(path: Path, table: pl.DataFrame) -> None:
        if path.name == "fusion.csv":
            with (tmp_path / ".lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_locked.append(False)
                except BlockingIOError:
                    is_locked.append(True)
        write_ledger(path, table)

    monkeypatch.setattr("heads.ablation.running.write_ledger", checked)
    run_ablation(small, "fusion", out=tmp_path, training=TRAINING, seeds=(2,))
    assert is_locked == [True] * 4


def test_rows_that_widths_do_not_allow_are_left_out(store: FeatureStore, tmp_path: Path) -> None:
    features = FeatureSet.load(store, ("au", "v", "wide"), device="cpu")
    rows = run_ablation(features, "fusion", out=tmp_path, training=TRAINING, base="wide").rows
    assert rows.select("task", "fused").rows() == [(task, "") for task in ("au", "expr", "v", "a")]


def test_one_video_of_val_has_no_interval(
    make_frames: Callable[..., FrameTable],
    label_vectors: Callable[..., NDArray[np.float32]],
    new_features: Callable[..., FeatureSet],
    tmp_path: Path,
) -> None:
    frames = make_frames({"a": ("train", 60), "b": ("val", 40)})
    features = new_features(frames, {"v": label_vectors(frames)})
    made = run_ablation(features, "temporal", out=tmp_path, training=TRAINING, seeds=(1, 2))
    assert made.rows["low"].null_count() == made.rows["high"].null_count() == made.rows.height
    assert read_ledger(tmp_path / "temporal.csv").equals(made.rows)
    assert made.summary["low"].null_count() == made.summary["stands"].null_count() == made.summary.height


def test_an_interrupted_run_has_dropped_nothing(
    tmp_path: Path, small: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("killed")

    monkeypatch.setattr("heads.fitting.parallel.fit", stop)
    changed = replace(small, fingerprints=dict.fromkeys(small.fingerprints, "extracted again"))
    with pytest.raises(KeyboardInterrupt, match="killed"):
        run_ablation(changed, "fusion", out=tmp_path, training=TRAINING)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_table_of_an_earlier_version_is_left_alone(tmp_path: Path, small: FeatureSet) -> None:
    path = tmp_path / "fusion.csv"
    rows = run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows
    rows.drop("patience", "protocol").write_csv(path)
    earlier = path.read_bytes()
    with pytest.raises(
        FileExistsAlreadyError, match=r"lacks the columns patience, protocol, as one of an earlier .*another --out"
    ):
        run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    assert path.read_bytes() == earlier
    rows.with_columns(protocol=pl.lit(1)).write_csv(path)
    with pytest.raises(
        FileExistsAlreadyError, match=rf"of another protocol than this version's {PROTOCOL}.*another --out"
    ):
        run_ablation(small, "fusion", out=tmp_path, training=TRAINING)


def test_a_table_without_its_sums_keeps_its_scores(tmp_path: Path, small: FeatureSet) -> None:
    before = run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    (tmp_path / "fusion_videos.parquet").unlink()
    again = run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    assert again.rows.equals(before.rows)
    assert again.summary["difference"].equals(before.summary["difference"])
    assert again.summary["stands"].null_count() == again.summary.height
    (tmp_path / "fusion_videos.parquet").write_bytes(b"something else")
    with pytest.raises(FileExistsAlreadyError, match=r"Statistics of an ablation's rows .*fusion_videos\.parquet"):
        run_ablation(small, "fusion", out=tmp_path, training=TRAINING)


def test_the_device_does_not_make_rows_stale(tmp_path: Path, small: FeatureSet) -> None:
    first = run_ablation(small, "fusion", out=tmp_path, training=TRAINING).rows
    again = run_ablation(small, "fusion", out=tmp_path, training=replace(TRAINING, device="cpu"))
    assert again.rows.equals(first)


def test_all_tables(tmp_path: Path, small: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[HeadConfig] = []

    def counted(features: FeatureSet, head: HeadConfig, training: FitConfig, **options: Any) -> FittedHead:
        fitted.append(head)
        return fit(features, head, training, **options)

    monkeypatch.setattr("heads.fitting.parallel.fit", counted)
    made = run_ablation(small, "all", out=tmp_path, training=replace(TRAINING, batch_frames=4096))
    assert sorted(path.name for path in tmp_path.glob("*[!y].csv")) == ["fusion.csv", "joint.csv", "temporal.csv"]
    lengths = made.rows.group_by("table", maintain_order=True).len().rows()
    assert lengths == [("fusion", 4), ("temporal", 14), ("joint", 32)]
    # Tables 2 and 3 begin with the same row, au's and v's: fitted once.
    assert len(fitted) == 4 + 14 + 32 - 2
    assert made.rows.filter(table="fusion", fused="")["seconds"].to_list() == (
        made.rows.filter(table="temporal", S=1)["seconds"].to_list()
    )
    joint_units = made.rows.filter((pl.col("table") == "joint") & (pl.col("task") == "au"))
    assert joint_units["fusion"].unique().to_list() == ["sum"]
    first = made.summary.filter("is_reference").select("table", "task", "fused", "S", "joined")
    assert first.rows() == [
        ("fusion", "au", "", 1, "au"),
        ("fusion", "v", "", 1, "v"),
        ("temporal", "au", "", 1, "au"),
        ("temporal", "v", "", 1, "v"),
        ("joint", "au", "", 1, "au"),
        ("joint", "expr", "au+v", 5, "expr"),
        ("joint", "v", "au+v", 20, "v"),
        ("joint", "a", "au+v", 30, "a"),
    ]


def test_several_at_once_to_the_bit_and_interrupted(tmp_path: Path, small: FeatureSet) -> None:
    one = run_ablation(small, "fusion", out=tmp_path / "one", training=TRAINING)
    reports: Reports = []

    def stop(report: RowReport) -> None:
        reports.append(report)
        if len(reports) == 3:
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        run_ablation(small, "fusion", out=tmp_path / "two", training=TRAINING, parallel=Parallel(2), on_row=stop)
    assert [report.index for report in reports] == [1, 2, 3]
    two = run_ablation(
        small, "fusion", out=tmp_path / "two", training=TRAINING, parallel=Parallel(1), on_row=reports.append
    )
    assert [report.is_kept for report in reports[3:]] == [True, True, True, False]
    assert two.rows.drop("seconds").equals(one.rows.drop("seconds"))
    assert two.summary.equals(one.summary)
    sums = [read_sums(tmp_path / name / "fusion_videos.parquet") for name in ("one", "two")]
    assert all((sums[0][key].sums == sums[1][key].sums).all() for key in sums[0])


@pytest.mark.parametrize("content", [b"my,notes\n1,2\n", b"\xff\xfe\x00", b"", b"table,task\n"])
def test_a_foreign_file_is_left_alone(tmp_path: Path, small: FeatureSet, content: bytes) -> None:
    (tmp_path / "fusion.csv").write_bytes(content)
    with pytest.raises(FileExistsAlreadyError, match=r"cannot be read as one: .*fusion\.csv.* another --out"):
        run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    assert (tmp_path / "fusion.csv").read_bytes() == content


@pytest.mark.parametrize(
    ("old", "new"), [(",0.5001,", ",half,"), ("fusion,v,v,,none,v", "fusion,v,v,,none,vv"), ("\n", "\n,,")]
)
def test_a_damaged_file_is_left_alone(tmp_path: Path, small: FeatureSet, old: str, new: str) -> None:
    run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    path = tmp_path / "fusion.csv"
    damaged = path.read_text().replace('""', "").replace(old, new)
    path.write_text(damaged)
    with pytest.raises(FileExistsAlreadyError, match="cannot be read as one"):
        run_ablation(small, "fusion", out=tmp_path, training=TRAINING, seeds=(5,))
    assert path.read_text() == damaged


def test_seeds_must_differ(tmp_path: Path, small: FeatureSet) -> None:
    with pytest.raises(ConfigError, match="seeds repeat: 1, 1"):
        run_ablation(small, "fusion", out=tmp_path, training=TRAINING, seeds=(1, 1))
