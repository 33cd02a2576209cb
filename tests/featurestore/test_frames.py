import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import FrameMismatchError, MissingFileError, ShapeError, StoreError, UnknownNameError
from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.labels import AU_COLUMNS, SPLITS

Key = tuple[str, int, str]


def table_data(keys: list[Key]) -> pl.DataFrame:
    """Rows (video, frame, split), without labels."""
    columns = {
        "video": [video for video, _, _ in keys],
        "frame": [frame for _, frame, _ in keys],
        "path": [f"{video}/{frame:05d}.jpg" for video, frame, _ in keys],
        "split": [split for _, _, split in keys],
    }
    rest = {name: [None] * len(keys) for name in FRAME_SCHEMA if name not in columns}
    return pl.DataFrame(columns | rest, schema=FRAME_SCHEMA)


KEYS: list[Key] = [
    ("140", 1, "train"),
    ("140", 2, "train"),
    ("140", 9, "val"),
    ("140-30-632x360", 1, "val"),
    ("140-30-632x360", 4, "val"),
    ("2", 3, "test"),
]
VIDEOS = st.text("aé-_ 1.", min_size=1, max_size=3)
KEY_SETS = st.dictionaries(st.tuples(VIDEOS, st.integers(0, 30)), st.sampled_from(SPLITS), max_size=30)


def sorted_keys(keys: dict[tuple[str, int], str]) -> list[Key]:
    return sorted(
        ((video, frame, split) for (video, frame), split in keys.items()), key=lambda k: (k[0].encode(), k[1])
    )


def test_rows_segments_and_videos_of_a_small_table() -> None:
    table = FrameTable(table_data(KEYS))
    assert len(table) == 6
    assert table.rows("train").tolist() == [0, 1]
    assert table.rows("val").tolist() == [2, 3, 4]
    assert table.rows("val").dtype == np.int64
    assert table.segments().tolist() == [[0, 2], [2, 3], [3, 5], [5, 6]]
    assert table.segments("val").tolist() == [[2, 3], [3, 5]]
    assert table.video_ids().tolist() == [0, 0, 0, 1, 1, 2]


@given(KEY_SETS)
def test_segments_are_the_maximal_runs_of_one_video_and_split(keys: dict[tuple[str, int], str]) -> None:
    ordered = sorted_keys(keys)
    table = FrameTable(table_data(ordered))
    segments = table.segments()
    assert segments.shape == (len(segments), 2)
    covered = [row for start, stop in segments.tolist() for row in range(start, stop)]
    assert covered == list(range(len(ordered)))
    groups = [{(ordered[row][0], ordered[row][2]) for row in range(start, stop)} for start, stop in segments.tolist()]
    assert all(len(group) == 1 for group in groups)
    assert all(first != second for first, second in itertools.pairwise(groups))
    for split in SPLITS:
        of_split = [row for start, stop in table.segments(split).tolist() for row in range(start, stop)]
        assert of_split == table.rows(split).tolist() == [r for r, key in enumerate(ordered) if key[2] == split]
    videos = [key[0] for key in ordered]
    assert table.video_ids().tolist() == [list(dict.fromkeys(videos)).index(video) for video in videos]


@given(KEY_SETS)
@settings(max_examples=30)
def test_a_table_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, keys: dict[tuple[str, int], str]
) -> None:
    table = FrameTable(table_data(sorted_keys(keys)))
    path = tmp_path_factory.mktemp("frames") / "frames[1]*.parquet"
    table.write(path)
    again = FrameTable.read(path)
    assert again.data.equals(table.data)
    assert again.fingerprint == table.fingerprint


def test_the_fingerprint_is_of_frames_and_paths_not_of_labels() -> None:
    data = table_data(KEYS)
    table = FrameTable(data)
    labelled = data.with_columns(valence=pl.lit(0.5, pl.Float32), split=pl.lit("test"), fold=pl.lit(1, pl.Int8))
    assert FrameTable(labelled).fingerprint == table.fingerprint
    others = [
        data.with_columns(path=pl.col("path").str.replace("jpg", "png")),
        data.with_columns(video=pl.col("video").str.replace("2", "3")),
        data.with_columns(frame=pl.col("frame") + 1),
        data.head(5),
    ]
    assert len({FrameTable(other).fingerprint for other in others} | {table.fingerprint}) == 5


def test_the_fingerprint_keeps_neighbouring_texts_apart() -> None:
    first, second = (table_data([(name, 1, "val") for name in names]) for names in (("a", "bc"), ("ab", "c")))
    assert FrameTable(first).fingerprint != FrameTable(second.with_columns(first["path"])).fingerprint


def test_a_table_grows_by_whole_videos_and_keeps_its_rows() -> None:
    old = FrameTable(table_data([("b", 1, "train"), ("b", 5, "train"), ("d", 1, "val")]))
    more = [("a", 2, "train"), ("b", 1, "train"), ("b", 5, "train"), ("c", 1, "val"), ("d", 1, "val")]
    relabelled = table_data(more).with_columns(valence=pl.lit(0.25, pl.Float32))
    grown = old.continued_by(FrameTable(relabelled))
    assert grown.data.select("video", "frame").rows() == [("b", 1), ("b", 5), ("d", 1), ("a", 2), ("c", 1)]
    assert grown.data["valence"].to_list() == [0.25] * 5  # labels are the newer table's
    assert grown.fingerprint_of(3) == old.fingerprint
    assert grown.fingerprint != old.fingerprint
    assert grown.segments().tolist() == [[0, 2], [2, 3], [3, 4], [4, 5]]
    assert grown.continued_by(FrameTable(relabelled)).data.equals(grown.data)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([("b", 1, "train")], r"keeps its 2 rows.*1 are missing.*, 0 are further.*b/5"),
        ([("b", 1, "train"), ("b", 3, "train"), ("b", 5, "train")], r"0 are missing.*, 1 are further.*b/3"),
    ],
)
def test_a_table_does_not_lose_rows_or_take_them_into_a_video(keys: list[Key], message: str) -> None:
    old = FrameTable(table_data([("b", 1, "train"), ("b", 5, "train")]))
    with pytest.raises(FrameMismatchError, match=message):
        old.continued_by(FrameTable(table_data(keys)))


def test_videos_may_stand_in_any_order() -> None:
    assert FrameTable(table_data([("b", 1, "val"), ("a", 1, "val")])).video_ids().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([("a", 2, "val"), ("a", 1, "val")], r"\('a', 1\) came after \('a', 2\) \(row 1\)"),
        ([("a", 1, "val"), ("a", 1, "val")], r"each once; \('a', 1\) came after \('a', 1\)"),
        ([("a", 1, "val"), ("b", 1, "val"), ("a", 2, "val")], r"\('a', 2\) came after \('b', 1\) \(row 2\)"),
        ([("a", 1, "dev")], r"'split' of a frame is train, val or test, 'dev' came \(video 'a', frame 1\)"),
        ([("a", -1, "val")], "'frame' of a frame is a number from 0, -1 came"),
    ],
)
def test_other_rows_are_refused(keys: list[Key], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        FrameTable(table_data(keys))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("valence", -5.0, r"'valence' of a frame is in \[-1, 1\], -5.0 came"),
        ("arousal", float("nan"), r"'arousal' .* nan came \(video '140', frame 2\)"),
        ("expression", -1, r"'expression' of a frame is in 0..7, -1 came"),
        ("expression", 8, "8 came"),
        ("au26", -1, "'au26' of a frame is 0 or 1, -1 came"),
        ("path", None, "'path' of a frame table has no nulls, 1 came"),
        ("split", None, "'split' of a frame table has no nulls"),
    ],
)
def test_sentinels_and_values_out_of_range_are_refused(name: str, value: float | None, message: str) -> None:
    data = table_data(KEYS)
    column = pl.Series(name, [*data[name][:1], value, *data[name][2:]], dtype=FRAME_SCHEMA[name])
    with pytest.raises(ShapeError, match=message):
        FrameTable(data.with_columns(column))


def test_other_columns_are_refused() -> None:
    data = table_data(KEYS)
    with pytest.raises(ShapeError, match="Column 4 of a frame table is 'fold', not 'valence'"):
        FrameTable(data.drop("fold"))
    with pytest.raises(ShapeError, match="Column 19 of a frame table is 'au26', not 'nothing'"):
        FrameTable(data.drop("au26"))
    with pytest.raises(ShapeError, match="Column 'frame' of a frame table is Int32, not Int64"):
        FrameTable(data.cast({"frame": pl.Int64}))
    with pytest.raises(ShapeError, match="20 columns; weather came besides"):
        FrameTable(data.with_columns(weather=pl.lit(1)))


def test_an_unknown_split_is_named() -> None:
    table = FrameTable(table_data(KEYS))
    with pytest.raises(UnknownNameError, match=r"no split 'vall'\. Did you mean 'val'"):
        table.rows("vall")
    with pytest.raises(UnknownNameError, match="no split 'vall'"):
        table.segments("vall")


def test_a_damaged_file_is_never_read_as_another_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = table_data([(f"v{number // 50}", number % 50, "train") for number in range(500)])
    units = {name: pl.Series(rng.integers(0, 2, 500), dtype=pl.Int8) for name in AU_COLUMNS}
    valence = pl.Series(rng.uniform(-1, 1, 500), dtype=pl.Float32)
    data = data.with_columns(valence=valence, **units)
    path = tmp_path / "frames.parquet"
    FrameTable(data).write(path)
    raw = path.read_bytes()
    n_refused = 0
    for position in rng.integers(0, len(raw), 60).tolist():
        damaged = bytearray(raw)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            assert FrameTable.read(path).data.equals(data)
        except StoreError:
            n_refused += 1
    assert n_refused > 30
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(StoreError, match=r"cannot be read as one: .*frames.parquet\). Run `abaw frames` again"):
        FrameTable.read(path)


def test_a_file_that_is_missing_or_holds_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"frames\.parquet is not there. Run `abaw frames`"):
        FrameTable.read(tmp_path / "frames.parquet")
    other = tmp_path / "other.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(other)
    with pytest.raises(StoreError, match="Column 0 of a frame table is 'video', not 'a'"):
        FrameTable.read(other)
    FrameTable(table_data(KEYS)).data.write_parquet(other)
    assert FrameTable.read(other).data.equals(table_data(KEYS))
