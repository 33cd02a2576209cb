"""Lines of a leaderboard: what is averaged, what names tell apart, what stands where there is nothing."""

import io
from pathlib import Path

from rich.console import Console

from heads.leaderboard.file import write_board
from heads.leaderboard.lines import BoardLine, board_lines
from heads.leaderboard.markdown import write_markdown
from heads.leaderboard.rows import SCHEMA, BoardRow, as_board
from heads.leaderboard.table import remarks, render_board


def row(variant: str, **rest: str | float | None) -> BoardRow:
    """One of a system `s` that scores .5 in everything."""
    scored = {name: 0.5 for name, kind in SCHEMA.items() if kind.is_float()}
    plain: BoardRow = dict.fromkeys(SCHEMA) | scored
    plain |= {"system": "s", "stage": "raw", "seed": 1, "models": 1, "parameters": 1, "selected_on": "last"}
    return plain | {"encoders": "mae", "data": "d", "variant": variant, "key": variant} | rest


def shown(lines: list[BoardLine]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_board(lines))
    return console.export_text()


def test_labels_tell_systems_of_one_name_apart() -> None:
    rows = [row("a1"), row("b1", options="epochs5"), row("c1", stand_ins="mae=v"), row("d1", stand_ins="mae=v")]
    assert sorted(line.label for line in board_lines(as_board(rows))) == [
        "s",
        "s (epochs5)",
        "s (mae=v, c1)",
        "s (mae=v, d1)",
    ]
    assert [line.label for line in board_lines(as_board(rows[1:2]))] == ["s"]


def test_seeds_of_one_variant_are_one_line() -> None:
    rows = [row("a", p=0.2), row("a", p=0.4, seed=2), row("b", p=1.0, options="val")]
    lines = board_lines(as_board(rows))
    assert [(line.label, line.n_seeds, round(line.scores["p"] or 0, 6)) for line in lines] == [
        ("s (val)", 1, 1.0),
        ("s", 2, 0.3),
    ]


def test_a_score_without_an_interval_has_a_dash(tmp_path: Path) -> None:
    table = as_board([row("a", p_low=None, p_high=None, f1_au=None, f1_au_low=None, f1_au_high=None)])
    (line,) = board_lines(table)
    assert (line.intervals["p"], line.intervals["f1_au"], line.intervals["ccc_valence"]) == ("-", "", ".50 .50")
    assert "no interval" in "\n".join(remarks([line], missing={}, failed={}))
    assert [cells for cells in shown([line]).splitlines() if cells.split()[:2] == ["-", ".50"]]
    write_markdown(tmp_path / "board.md", table, missing={}, failed={})
    assert "| 0.500 (-) | 0.500 (.50 .50) |" in (tmp_path / "board.md").read_text()
    write_board(tmp_path / "board.csv", table)
    assert (tmp_path / "board.csv").read_text().splitlines()[1].startswith("s,raw,1,0.5,,,0.5,0.5,0.5,")


def test_fine_tuned_encoders_are_marked() -> None:
    lines = board_lines(as_board([row("a", tuned="au+v")]))
    assert lines[0].marks == "t"
    assert list(remarks(lines, missing={}, failed={}))[-1] == "s: fine-tuned: au, v"
