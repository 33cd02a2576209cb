from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.challenge.annotations import build_frames, read_annotations, read_challenge, read_list
from featurestore.errors import AnnotationError, MissingFileError, UnknownNameError
from featurestore.frames import FRAME_SCHEMA
from featurestore.labels import AU_COLUMNS, LABEL_COLUMNS

HEADER = "image,valence,arousal,expression,aus"
SPELLED = "image,valence,arousal,expression,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
UNITS = "0,1,0,0,0,0,0,0,0,0,1,-1"
ROW = f"341/00066.jpg,0.07,0.041,-1,{UNITS}"


def written(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "train.txt"


def labels(table: pl.DataFrame, row: int = 0) -> dict[str, float | None]:
    return table.select(LABEL_COLUMNS).row(row, named=True)


def test_the_published_header_has_five_names_over_sixteen_fields(file: Path) -> None:
    table = read_annotations(written(file, ROW), "train")
    assert table.schema == FRAME_SCHEMA
    assert table.select("video", "frame", "path", "split", "fold").row(0) == ("341", 66, "341/00066.jpg", "train", None)
    read = labels(table)
    assert read["valence"] == pytest.approx(0.07)
    assert read["arousal"] == pytest.approx(0.041)
    assert read["expression"] is None
    assert [read[name] for name in AU_COLUMNS] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, None]


@pytest.mark.parametrize(
    "header", [SPELLED, SPELLED.lower(), SPELLED.replace(",", ", ").upper() + ",", SPELLED.replace("AU", "AU0")]
)
def test_a_header_that_spells_the_units_out_is_the_same(file: Path, tmp_path: Path, header: str) -> None:
    other = written(tmp_path / "other.txt", ROW)
    assert read_annotations(written(file, ROW, header=header), "val").equals(read_annotations(other, "val"))


def test_columns_go_by_their_names(file: Path) -> None:
    swapped = written(file, f"a/1.jpg,0.9,-0.1,2,{UNITS}", header="image,arousal,valence,expression,aus")
    read = labels(read_annotations(swapped, "train"))
    assert read["valence"] == pytest.approx(-0.1)
    assert read["arousal"] == pytest.approx(0.9)
    units_first = written(file, f"{UNITS},a/1.jpg,2,0.5,-5", header="aus,image,expression,valence,arousal")
    read = labels(read_annotations(units_first, "train"))
    assert (read["expression"], read["valence"], read["arousal"], read["au2"]) == (2, 0.5, None, 1)
    reversed_units = ",".join(["image,valence,arousal,expression", *reversed(SPELLED.split(",")[4:])])
    read = labels(read_annotations(written(file, ROW, header=reversed_units), "train"))
    assert (read["au1"], read["au2"], read["au26"], read["au25"]) == (None, 1, 0, 1)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_mark_crlf_commas_spaces_and_blank_lines_at_the_end_do_not_matter(file: Path, ending: str) -> None:
    plain = read_annotations(written(file, ROW, f"b/2.png,-5,1,7,{UNITS}"), "train")
    lines = [HEADER + " ", f" {ROW.replace(',', ' , ')},", f"b/2.png,-5.00,1.0,7.0,{UNITS},, ", "", " ", ""]
    file.write_bytes(b"\xef\xbb\xbf" + ending.join(lines).encode())
    assert read_annotations(file, "train").equals(plain)


@pytest.mark.parametrize("sentinel", ["-5", "-5.0", "-5.00"])
def test_valence_and_arousal_are_unlabelled_on_their_own(file: Path, sentinel: str) -> None:
    read = read_annotations(written(file, f"a/1.jpg,{sentinel},0.5,3.0,{UNITS}"), "train")
    assert (labels(read)["valence"], labels(read)["arousal"], labels(read)["expression"]) == (None, 0.5, 3)


def test_video_names_are_exact(file: Path) -> None:
    names = ["140", "140-30-632x360", "24_left", "24_right", "a b.c", "vidéo"]
    table = read_annotations(written(file, *(f"{name}/00001.jpg,0,0,0,{UNITS}" for name in names)), "train")
    assert table["video"].to_list() == names


def test_rows_keep_their_order_and_duplicates_until_frames_are_built(file: Path) -> None:
    rows = [f"b/2.jpg,0.5,0,0,{UNITS}", f"a/1.jpg,0,0,0,{UNITS}", f"b/2.jpg,-0.5,0,0,{UNITS}"]
    table = read_annotations(written(file, *rows), "train")
    assert table["path"].to_list() == ["b/2.jpg", "a/1.jpg", "b/2.jpg"]
    frames = build_frames(table, table.clear(), None)
    assert frames.data["path"].to_list() == ["a/1.jpg", "b/2.jpg"]
    assert frames.data["valence"].to_list() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a/1.jpg,0.1,0.1,0,0,0", r"train.txt:3: 16 fields were expected, 6 came: 'a/1.jpg,0.1,0.1,0,0,0'"),
        (f"{ROW},0", "16 fields were expected, 17 came"),
        ("", "16 fields were expected, 1 came: ''"),
        (f"a/1.jpg,abc,0,0,{UNITS}", r"train.txt:3: valence is a number in \[-1, 1\], or -5, 'abc' came"),
        (f"a/1.jpg,,0,0,{UNITS}", "valence .* '' came"),
        (f"a/1.jpg,nan,0,0,{UNITS}", "valence .* 'nan' came"),
        (f"a/1.jpg,inf,0,0,{UNITS}", "valence .* 'inf' came"),
        (f"a/1.jpg,0,1.01,0,{UNITS}", "arousal .* '1.01' came"),
        (f"a/1.jpg,0,-4.99,0,{UNITS}", "arousal .* '-4.99' came"),
        (f"a/1.jpg,0,0,8,{UNITS}", "expression is an integer in 0..7, or -1, '8' came"),
        (f"a/1.jpg,0,0,-2,{UNITS}", "expression .* '-2' came"),
        (f"a/1.jpg,0,0,2.5,{UNITS}", "expression .* '2.5' came"),
        (f"a/1.jpg,0,0,Fear,{UNITS}", "expression .* 'Fear' came"),
        (f"a/1.jpg,0,0,0,{UNITS[:-2]}2", "au26 is 0, 1 or -1, '2' came"),
        (f"a/1.jpg,0,0,0,0.5,{UNITS[2:]}", "au1 .* '0.5' came"),
        (f"/a/1.jpg,0,0,0,{UNITS}", r"train.txt:3: an image is VIDEO/NUMBER.jpg \(or .jpeg, .png\), '/a/1.jpg' came"),
        (f"../1.jpg,0,0,0,{UNITS}", "an image is .* '../1.jpg' came"),
        (f"./1.jpg,0,0,0,{UNITS}", "an image is .* './1.jpg' came"),
        (f"a/b/1.jpg,0,0,0,{UNITS}", "an image is .* 'a/b/1.jpg' came"),
        (f"a/../1.jpg,0,0,0,{UNITS}", "an image is .* 'a/../1.jpg' came"),
        (f"a\\1.jpg,0,0,0,{UNITS}", "an image is .* came"),
        (f"a/x1.jpg,0,0,0,{UNITS}", "an image is .* 'a/x1.jpg' came"),
        (f"a/1.gif,0,0,0,{UNITS}", "an image is .* 'a/1.gif' came"),
        (f"a/99999999999.jpg,0,0,0,{UNITS}", "an image is .* 'a/99999999999.jpg' came"),
        (f"341/66.jpg,0,0,0,{UNITS}", r"'341' has one path, '341/66.jpg' came after '341/00066.jpg' \(line 2\)"),
    ],
)
def test_a_malformed_line_is_named(file: Path, line: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotations(written(file, ROW, line, f"b/1.jpg,0,0,0,{UNITS}"), "train")
    assert "there is 1 problem (1 in " in str(caught.value)


def test_all_malformed_lines_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    train = written(tmp_path / "train.txt", *[f"a/{n}.jpg,2,2,0,{UNITS}" for n in range(30)])
    val = written(tmp_path / "val.txt", ROW, "b/1.jpg", ROW, f"b/1.jpg,0,0,9,{UNITS}")
    test = written(tmp_path / "test.txt", "c/1.jpg,", "c/two.jpg,", header="image")
    with pytest.raises(AnnotationError, match=r"there are 63 problems \(60 in .*train.txt, 2 in .*, 1 in ") as caught:
        read_challenge(train, val, test)
    listed = str(caught.value).splitlines()
    assert sum("train.txt:" in line for line in listed) == 20
    assert f"  {train}:2: valence is a number in [-1, 1], or -5, '2' came" in listed
    assert f"  {train}:2: arousal is a number in [-1, 1], or -5, '2' came" in listed
    assert "  ... and 40 more" in listed
    assert f"  {val}:3: 16 fields were expected, 1 came: 'b/1.jpg'" in listed
    assert f"  {val}:5: expression is an integer in 0..7, or -1, '9' came" in listed
    assert f"  {test}:3: an image is VIDEO/NUMBER.jpg (or .jpeg, .png), 'c/two.jpg' came" in listed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' came: it is empty"),
        ("\n\n", "'' came: it is empty"),
        ("valence,arousal\n0.1,0.2\n", "'valence,arousal' came: this is one video of a per-video challenge"),
        ("Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\n1\n", "one video of a per-video challenge"),
        ("AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26\n0\n", "one video of a per-video challenge"),
        ("Neutral,Happy,Sad,Surprise,Fear,Disgust,Anger,Contempt\n1\n", "these are AffectNet's classes"),
        ("image_location,valence,arousal\na/1.jpg,0,0\n", "a submission for one task"),
        (ROW, "it is a row, and without a header the order of its columns"),
        ("image,valence,arousal,aus\n", "none of the known formats; the five names may stand in any order"),
        ("image,valence,arousal,expression,aus,aus\n", "none of the known formats"),
        ("image,valence,valence,expression,aus\n", "none of the known formats"),
        ("image\na/1.jpg,\n", "'image' came: this is a test list"),
        (f"{HEADER}\na/1.jpg,\na/2.jpg,\na/x.jpg,\n", "labels were expected, this is a test list"),
        (f"{HEADER}\n", "under the header, there are no more lines"),
    ],
)
def test_a_file_of_another_format_is_named(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotations(file, "train")
    assert f"{file}:1: " in str(caught.value)
    assert "there is 1 problem" in str(caught.value)


@pytest.mark.parametrize("raw", [b"PK\x03\x04\x00\x00", "imagé".encode("latin-1"), HEADER.encode("utf-16")])
def test_a_file_that_is_not_text_is_named(file: Path, raw: bytes) -> None:
    file.write_bytes(b"image\n" + raw)
    with pytest.raises(AnnotationError, match=r"in UTF-8 was expected, line 2 is not \(file: .*train.txt"):
        read_list(file)


def test_missing_files_folders_and_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"train\.txt is not there"):
        read_annotations(tmp_path / "train.txt", "train")
    with pytest.raises(AnnotationError, match=r"is a folder\. Give the file itself"):
        read_annotations(tmp_path, "train")
    with pytest.raises(UnknownNameError, match=r"no split 'valid'\. Did you mean 'val'"):
        read_annotations(tmp_path / "train.txt", "valid")


@pytest.mark.parametrize("header", ["image", "image,", "Image \r", "image_location", HEADER, "b/00007.jpg,"])
def test_a_list_is_read_in_its_order_with_duplicates(file: Path, header: str) -> None:
    rows = ["b/00007.jpg,", "a b/1.JPG", "b/00007.jpg , "]
    lines = rows if "/" not in header else rows[1:]
    table = read_list(written(file, *lines, header=header))
    assert table.schema == {"video": pl.String, "frame": pl.Int32, "path": pl.String}
    assert table.rows() == [("b", 7, "b/00007.jpg"), ("a b", 1, "a b/1.JPG"), ("b", 7, "b/00007.jpg")]


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        (HEADER, [ROW, ROW], "a test list was expected, this is an annotation file or a submission, with labels"),
        ("valence,arousal", ["0,0"], "begins with the line 'image', 'valence,arousal' came: this is one video"),
        ("image", [], "one image a line was expected"),
        ("image", ["a/1.jpg", "a/1,5.jpg"], "test.txt:3: an image is .* 'a/1,5.jpg' came"),
        ("image", ["a,b/1.jpg", "a/2.jpg"], "test.txt:2: an image is .* 'a,b/1.jpg' came"),
        ("image", ["a/1.jpg", "a/01.jpg"], "test.txt:3: frame 1 of video 'a' has one path, 'a/01.jpg' came after"),
        ("image", ["a/1.jpg", "", "a/2.jpg"], "test.txt:3: an image is .* '' came"),
    ],
)
def test_what_is_no_list_is_named(tmp_path: Path, header: str, lines: list[str], message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        read_list(written(tmp_path / "test.txt", *lines, header=header))


def test_a_challenge_becomes_one_table(tmp_path: Path) -> None:
    train = written(tmp_path / "train.txt", f"b/2.jpg,0,0,3,{UNITS}", f"b/1.jpg,0,0,3,{UNITS}")
    val = written(tmp_path / "val.txt", f"b/3.jpg,0,0,3,{UNITS}", f"a/3.jpg,0,0,3,{UNITS}")
    test = written(tmp_path / "test.txt", "b/4.jpg,", "b/4.jpg,", header="image")
    files = read_challenge(train, val, test)
    assert files.test is not None
    assert files.test.height == 2
    frames = build_frames(files.train, files.val, files.test)
    assert frames.data["path"].to_list() == ["a/3.jpg", "b/1.jpg", "b/2.jpg", "b/3.jpg", "b/4.jpg"]
    assert frames.data["split"].to_list() == ["val", "train", "train", "val", "test"]
    assert frames.data["expression"].to_list() == [3, 3, 3, 3, None]
    assert frames.segments().tolist() == [[0, 1], [1, 3], [3, 4], [4, 5]]
    assert list(files.sources) == ["train", "val", "test"]
    again = read_challenge(train, val, test)
    assert again.sources == files.sources
    written(train, f"b/2.jpg,0,0,4,{UNITS}")
    changed = read_challenge(train, val, None).sources
    assert changed["train"] != files.sources["train"]
    assert changed["val"] == files.sources["val"]


def test_a_frame_of_two_splits_is_refused(file: Path) -> None:
    rows = [f"a/{number}.jpg,0,0,3,{UNITS}" for number in range(7)]
    train = read_annotations(written(file, *rows), "train")
    val = read_annotations(written(file, *rows[1:]), "val")
    message = r"one split, 6 are in several: a/1.jpg \(train, val\); .*a/5.jpg \(train, val\) and 1 more"
    with pytest.raises(AnnotationError, match=message):
        build_frames(train, val, None)


NUMBERS = st.integers(-1000, 1000).map(lambda number: number / 1000)
LABELLED = st.tuples(
    st.one_of(st.none(), NUMBERS),
    st.one_of(st.none(), NUMBERS),
    st.one_of(st.none(), st.integers(0, 7)),
    st.lists(st.one_of(st.none(), st.integers(0, 1)), min_size=12, max_size=12),
)
VIDEOS = st.text("aB0é-_. ", min_size=1, max_size=8).filter(
    lambda name: name == name.strip() and name not in (".", "..")
)


@given(st.lists(st.tuples(VIDEOS, st.integers(0, 2**31 - 1), LABELLED), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_what_is_written_in_the_format_reads_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, tuple[object, object, object, list[object]]]]
) -> None:
    lines = []
    for video, frame, (valence, arousal, expression, units) in rows:
        affect = [-5 if value is None else value for value in (valence, arousal)]
        classes = [-1 if value is None else value for value in (expression, *units)]
        lines.append(",".join(map(str, [f"{video}/{frame:05d}.jpg", *affect, *classes])))
    table = read_annotations(written(tmp_path_factory.mktemp("rows") / "train.txt", *lines), "train")
    expected = [(video, frame, v, a, e, *units) for video, frame, (v, a, e, units) in rows]
    schema = {"video": pl.String, "frame": pl.Int32} | {name: FRAME_SCHEMA[name] for name in LABEL_COLUMNS}
    assert table.select(schema.keys()).equals(pl.DataFrame(expected, schema=schema, orient="row"))
