import pytest

from featurestore.errors import ConfigError, UnknownNameError
from heads.ablation.tables import plan, readable

ALL = ("a", "au", "expr", "mae", "v")


def test_table_2() -> None:
    made = plan("fusion", ALL)
    assert len(made.rows) == 4 * 7
    assert not made.notes
    assert set(made.encoders) == {"au", "expr", "v", "a"}
    rows = [row for row in made.rows if row.task == "v"]
    fused = [row.head.fuse for row in rows]
    assert fused == [(), ("au",), ("expr",), ("a",), ("au", "expr"), ("au", "a"), ("expr", "a")]
    for row in rows:
        assert (row.head.encoder, row.head.joint, row.head.temporal, row.head.seq) == ("v", ("v",), "none", 1)
    figures = {row.head.fuse: row.published for row in rows}
    assert figures[("au", "a")] is not None
    assert (figures[("au", "a")].score, figures[("au", "a")].mark) == (0.5780, "text")
    assert figures[("expr",)] is not None
    assert figures[("expr",)].mark == "inferred"
    assert figures[("a",)] is None
    assert sum(row.published is not None for row in made.rows) == 18


def test_table_3() -> None:
    made = plan("temporal", ALL)
    rows = [row for row in made.rows if row.task == "a"]
    assert [(row.head.seq, row.head.step, row.head.temporal) for row in rows] == [
        (1, 1, "none"),
        (5, 5, "lstm"),
        (10, 10, "lstm"),
        (15, 15, "lstm"),
        (20, 20, "lstm"),
        (20, 15, "lstm"),
        (30, 30, "lstm"),
    ]
    scores = [row.published.score for row in rows if row.published]
    assert scores == [0.4012, 0.4148, 0.4248, 0.4231, 0.4304, 0.4276, 0.4357]
    assert sum(row.published is not None for row in made.rows) == 3 + 3 + 6 + 7


def test_table_4() -> None:
    made = plan("joint", ALL)
    assert len(made.rows) == 4 * 8
    assert all(row.task in row.head.joint and row.head.encoder == "mae" for row in made.rows)
    inputs = {row.task: (row.head.fuse, row.head.seq, row.head.step, row.head.temporal) for row in made.rows}
    assert inputs == {
        "au": ((), 1, 1, "none"),
        "expr": (("au", "v"), 5, 5, "lstm"),
        "v": (("au", "v"), 20, 20, "lstm"),
        "a": (("au", "v"), 30, 30, "lstm"),
    }
    assert len({(row.task, row.head.joint) for row in made.rows}) == 32
    # Joined tasks must share something that is fitted, or joining could change nothing.
    assert all("sum" in row.head.resolved().fusion or row.head.temporal == "lstm" for row in made.rows)
    best = {(row.task, row.head.joint): row.published.score for row in made.rows if row.published}
    assert best == {
        ("au", ("au", "v")): 0.6351,
        ("expr", ("au", "expr", "v")): 0.5030,
        ("v", ("au", "v", "a")): 0.6926,
        ("a", ("au", "v", "a")): 0.6139,
    }
    assert len(plan("all", ALL).rows) == 28 + 28 + 32


def test_what_the_store_lacks_is_skipped_and_said() -> None:
    made = plan("fusion", ("au", "v", "mae"))
    assert [(row.task, row.head.fuse) for row in made.rows] == [("au", ()), ("au", ("v",)), ("v", ()), ("v", ("au",))]
    assert "fusion: expr skipped, the store lacks encoder 'expr'." in made.notes
    assert "fusion: rows that fuse 'a' skipped, the store lacks it." in made.notes
    joint = plan("joint", ("mae", "v"))
    assert {row.head.fuse for row in joint.rows} == {(), ("v",)}
    assert "joint: expr without the fused 'au', the store lacks it." in joint.notes
    assert sum(row.published is not None for row in joint.rows) == 1


def test_another_base() -> None:
    made = plan("fusion", ALL, base="mae")
    assert {row.head.encoder for row in made.rows} == {"mae"}
    assert [row.head.fuse for row in made.rows if row.task == "v"][:4] == [(), ("au",), ("expr",), ("a",)]
    assert all(row.published is None for row in made.rows)
    fuses = {row.head.fuse for row in plan("joint", ALL, base="v").rows if row.task == "a"}
    assert fuses == {("au",)}


def test_refusals() -> None:
    with pytest.raises(UnknownNameError, match=r"no table 'fusio'\. Did you mean 'fusion'"):
        plan("fusio", ALL)
    with pytest.raises(UnknownNameError, match=r"no encoder 'mea'\. Did you mean 'mae'"):
        plan("joint", ALL, base="mea")
    with pytest.raises(ConfigError, match=r"Nothing is left of table 'temporal': the store has encoders mae"):
        plan("temporal", ("mae",))


def test_rows_that_cannot_be_fitted_are_skipped_and_said() -> None:
    shapes = dict.fromkeys(ALL, (128,)) | {"truth": (15,)}
    planned = plan("fusion", shapes, base="truth")
    made = readable(planned, shapes)
    assert [(row.task, row.head.fuse) for row in made.rows] == [(task, ()) for task in ("au", "expr", "v", "a")]
    assert len(made.notes) == 4
    assert any(
        note.startswith("fusion: 9 of 28 rows skipped (task expr, v, a). Embeddings of encoder 'au' have 128")
        for note in made.notes
    )
    assert all("columns, but those of the base encoder 'truth' have 15, and a sum needs" in note for note in made.notes)
    assert readable(plan("all", ALL), shapes) == plan("all", ALL)
    joint = readable(plan("joint", ALL), shapes | {"au": (15,)})
    assert {row.task for row in joint.rows} == {"au"}
    tokens = readable(plan("fusion", ALL), shapes | {"expr": (5, 128)})
    assert len(tokens.rows) == 28 - 7 - 3 * 3
    assert any("encoder 'expr' holds 5 tokens" in note for note in tokens.notes)
    with pytest.raises(
        ConfigError, match=r"Nothing is left .* rows need embeddings that go together\. fusion: 28 of 28"
    ):
        readable(plan("fusion", ALL, base="mae"), shapes | {"mae": (5, 128)})
