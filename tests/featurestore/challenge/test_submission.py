from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.challenge.annotations import read_annotations, read_list
from featurestore.challenge.submission import write_submission
from featurestore.errors import ConfigError, ShapeError
from featurestore.labels import AU_COLUMNS, LABEL_COLUMNS


def listed(tmp_path: Path, *paths: str) -> pl.DataFrame:
    (tmp_path / "list.txt").write_text("\n".join(["image", *(f"{path}," for path in paths)]))
    return read_list(tmp_path / "list.txt")


def predicted(frames: dict[tuple[str, int], float | None], **columns: object) -> pl.DataFrame:
    """A prediction a frame, told apart by its valence."""
    rows = [{"video": video, "frame": frame, "valence": valence} for (video, frame), valence in frames.items()]
    table = pl.DataFrame(rows, schema={"video": pl.String, "frame": pl.Int32, "valence": pl.Float64})
    rest = {"arousal": 0.25, "expression": 4, **dict.fromkeys(AU_COLUMNS, 0), "au26": 1} | columns
    return table.with_columns(pl.lit(value).alias(name) for name, value in rest.items())


def test_every_listed_row_is_answered_in_order(tmp_path: Path) -> None:
    rows = listed(tmp_path, "b/00002.jpg", "a/00001.jpg", "b/00002.jpg")
    predictions = predicted({("a", 1): 0.5, ("b", 1): 0.0, ("b", 2): -1.25})
    report = write_submission(tmp_path / "MTL.txt", rows, predictions)
    units = "0," * 11 + "1"
    assert (tmp_path / "MTL.txt").read_text().splitlines() == [
        "image,valence,arousal,expression,aus",
        f"b/00002.jpg,-1.000000,0.250000,4,{units}",
        f"a/00001.jpg,0.500000,0.250000,4,{units}",
        f"b/00002.jpg,-1.000000,0.250000,4,{units}",
    ]
    assert (report.path, report.rows, report.filled, report.farthest_frames) == (tmp_path / "MTL.txt", 3, 0, 0)


def test_frames_without_a_prediction_take_the_nearest_of_their_video(tmp_path: Path) -> None:
    numbers = [1, 2, 4, 5, 6, 7, 9, 30]
    rows = listed(tmp_path, *(f"140/{number:05d}.jpg" for number in numbers), "140-30-632x360/00001.jpg")
    known: dict[tuple[str, int], float | None] = {
        ("140", 3): 0.3,
        ("140", 5): None,
        ("140", 7): 0.7,
        ("140", 9): float("nan"),
    }
    others: dict[tuple[str, int], float | None] = {("14", 1): -0.1, ("140-30-632x360", 30): -0.2, ("141", 9): -0.3}
    report = write_submission(tmp_path / "MTL.txt", rows, predicted(known | others))
    answered = read_annotations(tmp_path / "MTL.txt", "test")["valence"].to_list()
    # Frame 5 is as far from 3 as from 7: the earlier one.
    assert answered == pytest.approx([0.3, 0.3, 0.3, 0.3, 0.7, 0.7, 0.7, 0.7, -0.2])
    assert (report.rows, report.filled, report.farthest_frames) == (9, 8, 29)


def test_paths_are_written_as_listed(tmp_path: Path) -> None:
    paths = ['say "hi"/00001.jpg', "a b-c.d/7.JPEG", "é/0000003.png"]
    rows = listed(tmp_path, *paths)
    write_submission(tmp_path / "MTL.txt", rows, predicted({("a b-c.d", 7): 0, ('say "hi"', 1): 0, ("é", 3): 0}))
    assert read_annotations(tmp_path / "MTL.txt", "test")["path"].to_list() == paths


FRAMES = st.tuples(st.sampled_from(["a", "a-1", "b"]), st.integers(0, 40))
ANSWER = st.tuples(
    st.floats(-2, 2), st.floats(-2, 2), st.integers(0, 7), st.lists(st.integers(0, 1), min_size=12, max_size=12)
)


@given(st.lists(FRAMES, min_size=1, max_size=30), st.dictionaries(FRAMES, ANSWER, min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_submission_reads_back_as_the_nearest_predictions(
    tmp_path_factory: pytest.TempPathFactory,
    wanted: list[tuple[str, int]],
    answers: dict[tuple[str, int], tuple[float, float, int, list[int]]],
) -> None:
    folder = tmp_path_factory.mktemp("submission")
    wanted = [key for key in wanted if any(video == key[0] for video, _ in answers)]
    if not wanted:
        return
    schema = {"video": pl.String, "frame": pl.Int32, **dict.fromkeys(LABEL_COLUMNS, pl.Float64)}
    rows = [
        (*key, valence, arousal, expression, *units) for key, (valence, arousal, expression, units) in answers.items()
    ]
    predictions = pl.DataFrame(rows, schema=schema, orient="row")
    report = write_submission(
        folder / "MTL.txt", listed(folder, *(f"{video}/{frame:05d}.jpg" for video, frame in wanted)), predictions
    )
    read = read_annotations(folder / "MTL.txt", "test")
    assert read.select("video", "frame").rows() == wanted
    nearest = [
        min((key for key in answers if key[0] == video), key=lambda key: (abs(key[1] - frame), key[1]))
        for video, frame in wanted
    ]
    for row, key in zip(read.select(LABEL_COLUMNS).iter_rows(), nearest, strict=True):
        valence, arousal, expression, units = answers[key]
        assert row[:2] == pytest.approx([min(max(value, -1), 1) for value in (valence, arousal)], abs=1e-6)
        assert row[2:] == (expression, *units)
    assert report.filled == sum(key != key_wanted for key, key_wanted in zip(nearest, wanted, strict=True))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["expression"], r"tasks v, a, expr, au; there are no predictions for expr \(1 frames\). Join those tasks"),
        (["valence", "au7"], "no predictions for v, au"),
    ],
)
def test_a_task_that_is_not_predicted_is_named(tmp_path: Path, columns: list[str], message: str) -> None:
    rows, predictions = listed(tmp_path, "a/1.jpg"), predicted({("a", 1): 0.5})
    with pytest.raises(ConfigError, match=message):
        write_submission(tmp_path / "MTL.txt", rows, predictions.drop(columns))
    empty = [pl.lit(None, pl.Float64).alias(name) for name in columns]
    with pytest.raises(ConfigError, match=message):
        write_submission(tmp_path / "MTL.txt", rows, predictions.with_columns(empty))
    assert not (tmp_path / "MTL.txt").exists()


def test_videos_without_any_prediction_are_named(tmp_path: Path) -> None:
    rows = listed(tmp_path, "a/1.jpg", *(f"b{number}/1.jpg" for number in range(7)))
    known = {("a", 1): 0.5, ("b0", 1): None}
    with pytest.raises(ConfigError, match="7 have none: b0, b1, b2, b3, b4 and 2 more"):
        write_submission(tmp_path / "MTL.txt", rows, predicted(known))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"expression": 8}, r"'expression' is predicted as an integer in 0..7, 8.0 came \(video 'a', frame 1\)"),
        ({"expression": 1.5}, "'expression' .* 1.5 came"),
        ({"au6": 0.7}, "'au6' is predicted as an integer in 0..1, 0.7 came .* apply the thresholds"),
        ({"au6": -1}, "'au6' .* -1.0 came"),
    ],
)
def test_values_that_are_no_classes_are_refused(tmp_path: Path, columns: dict[str, float], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        write_submission(tmp_path / "x", listed(tmp_path, "a/1.jpg"), predicted({("a", 1): 0.5}, **columns))


def test_frames_predicted_twice_and_missing_keys_are_refused(tmp_path: Path) -> None:
    rows, predictions = listed(tmp_path, "a/1.jpg"), predicted({("a", 1): 0.5})
    with pytest.raises(ShapeError, match="predicted once, 2 rows are of frames that came twice"):
        write_submission(tmp_path / "x", rows, pl.concat([predictions, predictions]))
    with pytest.raises(ShapeError, match="columns video and frame; frame is not there"):
        write_submission(tmp_path / "x", rows, predictions.drop("frame"))
