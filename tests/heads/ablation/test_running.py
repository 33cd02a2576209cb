import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from featurestore.errors import ConfigError, FileExistsAlreadyError
from featurestore.frames import FrameTable
from featurestore.store import FeatureStore
from heads.ablation.ledger import SCHEMA, read_ledger
from heads.ablation.running import RowReport, render_table, run_ablation, summarise
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig

TRAINING = FitConfig(epochs=1, learning_rate=1e-2)
Reports = list[RowReport]


@pytest.fixture(scope="module")
def small(store: FeatureStore) -> FeatureSet:
    """Two task encoders: four rows of table 2."""
    return FeatureSet.load(store, ("au", "v", "mae"), device="cpu")


def test_rows_and_columns(tmp_path: Path, small: FeatureSet) -> None:
    rows = run_ablation(small, "fusion", out=tmp_path / "ablations", training=TRAINING)
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
    assert [path.name for path in (tmp_path / "ablations").iterdir()] == ["fusion.csv"]


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
    rows = run_ablation(small, "fusion", out=tmp_path, training=TRAINING, on_row=reports.append)
    assert [report.is_kept for report in reports] == [True, True, True, False]
    assert [(report.index, report.n_rows) for report in reports] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert rows["seconds"].to_list()[:3] == [report.row["seconds"] for report in done]
    written = (tmp_path / "fusion.csv").read_bytes()
    assert run_ablation(small, "fusion", out=tmp_path, training=TRAINING).equals(rows)
    assert (tmp_path / "fusion.csv").read_bytes() == written


def test_more_seeds_add_rows_and_a_summary(tmp_path: Path, small: FeatureSet) -> None:
    first = run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    reports: Reports = []
    rows = run_ablation(small, "fusion", out=tmp_path, training=TRAINING, seeds=(1, 2), on_row=reports.append)
    assert [report.is_kept for report in reports] == [True, False] * 4
    assert rows.filter(pl.col("seed") == 1).equals(first)
    assert read_ledger(tmp_path / "fusion.csv").height == 8
    summary = pl.read_csv(tmp_path / "fusion_summary.csv")
    assert summary.height == 4
    assert summary["n_seeds"].to_list() == [2] * 4
    pair = rows.filter((pl.col("task") == "v") & (pl.col("fused") == "au"))["score"]
    assert summary["mean"][3] == pytest.approx(pair.mean())
    assert summary["std"][3] == pytest.approx(pair.std())
    assert summary.group_by("task").agg(pl.col("is_best").sum())["is_best"].to_list() == [1, 1]
    # One seed alone again: the other's rows were not asked for, but they are true, and stay.
    assert run_ablation(small, "fusion", out=tmp_path, training=TRAINING).equals(first)
    assert read_ledger(tmp_path / "fusion.csv").height == 8


def test_another_base_keeps_the_rows_of_the_first(tmp_path: Path, small: FeatureSet) -> None:
    own = run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    other = run_ablation(small, "fusion", out=tmp_path, training=TRAINING, base="mae")
    assert read_ledger(tmp_path / "fusion.csv").height == own.height + other.height
    assert set(own["key"]).isdisjoint(other["key"])


def test_stale_rows_are_computed_again(tmp_path: Path, small: FeatureSet) -> None:
    before = run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    changed = replace(small, fingerprints={**small.fingerprints, "v": "extracted again"})
    reports: Reports = []
    after = run_ablation(changed, "fusion", out=tmp_path, training=TRAINING, on_row=reports.append)
    assert [report.is_kept for report in reports] == [True, False, False, False]
    assert read_ledger(tmp_path / "fusion.csv")["key"].to_list() == after["key"].to_list()
    assert before["key"][0] == after["key"][0]
    data = small.frames.data
    relabelled = FrameTable(data.with_columns(au1=pl.when(pl.int_range(pl.len()) > 3).then("au1")))
    reports.clear()
    run_ablation(replace(changed, frames=relabelled), "fusion", out=tmp_path, training=TRAINING, on_row=reports.append)
    assert not any(report.is_kept for report in reports)
    faster = replace(TRAINING, learning_rate=0.02)
    assert set(run_ablation(small, "fusion", out=tmp_path, training=faster)["key"]).isdisjoint(before["key"])


@pytest.mark.parametrize(
    "other", [{"epochs": 2}, {"learning_rate": 2e-2}, {"batch_frames": 256}, {"weight_decay": 0.1}]
)
def test_rows_of_another_training_stay(tmp_path: Path, small: FeatureSet, other: dict[str, int]) -> None:
    path = tmp_path / "fusion.csv"
    notes: list[str] = []
    first = run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    changed = replace(TRAINING, **other)
    second = run_ablation(small, "fusion", out=tmp_path, training=changed, on_note=notes.append)
    assert read_ledger(path).equals(pl.concat([second, first]))
    assert second.height == first.height
    for name in ("epochs", "learning_rate", "batch_frames"):
        assert first[name].unique().to_list() == [getattr(TRAINING, name)]
        assert second[name].unique().to_list() == [getattr(changed, name)]
    assert second["data"].equals(first["data"])
    reports: Reports = []
    again = run_ablation(small, "fusion", out=tmp_path, training=TRAINING, on_row=reports.append, on_note=notes.append)
    assert again.equals(first)
    assert all(report.is_kept for report in reports)
    assert read_ledger(path).height == 2 * first.height
    assert notes == []


def test_only_the_rows_asked_for_are_summarised_and_printed(
    tmp_path: Path, small: FeatureSet, render: Callable[[object], str]
) -> None:
    before = run_ablation(small, "fusion", out=tmp_path, training=replace(TRAINING, epochs=2), seeds=(1, 2))
    rows = run_ablation(small, "fusion", out=tmp_path, training=TRAINING, seeds=(1, 2))
    assert rows["epochs"].unique().to_list() == [1]
    assert read_ledger(tmp_path / "fusion.csv").height == before.height + rows.height
    summary = pl.read_csv(tmp_path / "fusion_summary.csv")
    assert summary["n_seeds"].to_list() == [2] * 4
    assert summary["mean"].to_list() == pytest.approx(summarise(rows)["mean"].to_list())
    printed = render(render_table(rows))
    assert [f"{score:.4f}" in printed for score in summarise(rows)["mean"]] == [True] * 4


def test_rows_of_other_labels_are_dropped_and_told(tmp_path: Path, small: FeatureSet) -> None:
    notes: list[str] = []
    first = run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    run_ablation(small, "fusion", out=tmp_path, training=replace(TRAINING, epochs=2))
    data = small.frames.data
    relabelled = FrameTable(data.with_columns(au1=pl.when(pl.int_range(pl.len()) > 3).then("au1")))
    reports: Reports = []
    changed = replace(small, frames=relabelled)
    rows = run_ablation(changed, "fusion", out=tmp_path, training=TRAINING, on_row=reports.append, on_note=notes.append)
    assert not any(report.is_kept for report in reports)
    assert read_ledger(tmp_path / "fusion.csv").equals(rows)
    assert set(rows["data"]).isdisjoint(first["data"])
    assert len(notes) == 1
    assert re.search(r"^fusion: .* other embeddings or labels .* dropped: 8 of 8 \(file: .*fusion\.csv\)", notes[0])


def test_stale_rows_are_dropped_though_nothing_is_computed(tmp_path: Path, small: FeatureSet) -> None:
    notes: list[str] = []
    own = run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    run_ablation(small, "fusion", out=tmp_path, training=TRAINING, base="mae")
    without = {name: fingerprint for name, fingerprint in small.fingerprints.items() if name != "mae"}
    removed = replace(small, fingerprints=without)
    rows = run_ablation(removed, "fusion", out=tmp_path, training=TRAINING, on_note=notes.append)
    assert rows.equals(own)
    assert read_ledger(tmp_path / "fusion.csv").equals(own)
    assert len(notes) == 1
    run_ablation(removed, "fusion", out=tmp_path, training=TRAINING, on_note=notes.append)
    assert len(notes) == 1


def test_an_interrupted_run_has_dropped_nothing(
    tmp_path: Path, small: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    before = (tmp_path / "fusion.csv").read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("killed")

    monkeypatch.setattr("heads.ablation.running.fit", stop)
    changed = replace(small, fingerprints=dict.fromkeys(small.fingerprints, "extracted again"))
    with pytest.raises(KeyboardInterrupt, match="killed"):
        run_ablation(changed, "fusion", out=tmp_path, training=TRAINING)
    assert (tmp_path / "fusion.csv").read_bytes() == before


def test_a_table_of_the_earlier_columns_is_left_alone(tmp_path: Path, small: FeatureSet) -> None:
    path = tmp_path / "fusion.csv"
    rows = run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    rows.drop("epochs", "learning_rate", "batch_frames", "data").write_csv(path)
    earlier = path.read_bytes()
    with pytest.raises(
        FileExistsAlreadyError, match=r"it lacks the columns epochs, learning_rate, batch_frames, data .*another --out"
    ):
        run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    assert path.read_bytes() == earlier


def test_the_device_does_not_make_rows_stale(tmp_path: Path, small: FeatureSet) -> None:
    first = run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    assert run_ablation(small, "fusion", out=tmp_path, training=replace(TRAINING, device="cpu")).equals(first)


def test_all_tables(tmp_path: Path, small: FeatureSet) -> None:
    rows = run_ablation(small, "all", out=tmp_path, training=replace(TRAINING, batch_frames=4096))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fusion.csv", "joint.csv", "temporal.csv"]
    assert rows.group_by("table", maintain_order=True).len().rows() == [("fusion", 4), ("temporal", 14), ("joint", 32)]
    joint_units = rows.filter((pl.col("table") == "joint") & (pl.col("task") == "au"))
    assert joint_units["fusion"].unique().to_list() == ["sum"]
    again = run_ablation(small, "joint", out=tmp_path, training=replace(TRAINING, batch_frames=4096, seed=2))
    assert read_ledger(tmp_path / "joint.csv").height == 2 * again.height


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


def test_the_printed_table(tmp_path: Path, small: FeatureSet, render: Callable[[object], str]) -> None:
    rows = run_ablation(small, "fusion", out=tmp_path, training=TRAINING)
    text = render(render_table(rows, title="Table 2"))
    assert "0.4988 [i]" in text
    assert "95 % interval" in text
    assert f"{rows['score'][0]:.4f}" in text
    more = run_ablation(small, "fusion", out=tmp_path, training=TRAINING, seeds=(1, 2))
    assert "+- seeds" in render(render_table(more))
    assert summarise(more).height == 4


@pytest.fixture
def render() -> Callable[[object], str]:
    def text(table: object) -> str:
        console = Console(width=160, file=io.StringIO())
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    return text
