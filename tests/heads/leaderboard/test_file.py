"""The CSV of a leaderboard: one writer at a time, older ones are read."""

import threading
from pathlib import Path

import polars as pl
import pytest

from featurestore.errors import FileExistsAlreadyError
from heads.leaderboard.file import read_board, read_rows, write_board
from heads.leaderboard.rows import SCHEMA, BoardRow, as_board
from heads.sharing import locked


def row(key: str) -> BoardRow:
    return dict.fromkeys(SCHEMA) | {"system": "s", "stage": "raw", "seed": 1, "data": "d", "key": key}


def test_a_folder_is_one_writer_s_at_a_time(tmp_path: Path) -> None:
    entered = threading.Event()

    def wait_for_it() -> None:
        with locked(tmp_path):
            entered.set()

    other = threading.Thread(target=wait_for_it)
    with locked(tmp_path):
        other.start()
        assert not entered.wait(0.2)
    other.join(10)
    assert entered.is_set()


def test_rows_come_back_by_their_key(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.csv"
    assert read_rows(path) == {}
    table = as_board([row("a"), row("b"), row("a")])
    write_board(path, table)
    assert read_board(path).equals(table)
    assert {key: len(rows) for key, rows in read_rows(path).items()} == {"a": 2, "b": 1}


def test_one_of_fewer_columns_is_read(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.csv"
    as_board([row("a")]).drop("tuned", "options", "variant").write_csv(path)
    found = read_board(path)
    assert found.schema == SCHEMA
    assert found.select("system", "key", "tuned").rows() == [("s", "a", None)]


def test_what_is_no_leaderboard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.csv"
    pl.DataFrame({"system": ["s"], "stage": ["raw"], "data": ["d"], "key": ["k"], "mine": [1]}).write_csv(path)
    with pytest.raises(FileExistsAlreadyError, match=r"its columns are system, stage, data, key, mine .*Move it away"):
        read_board(path)
    as_board([row("a") | {"key": None}]).write_csv(path)
    with pytest.raises(FileExistsAlreadyError, match=r"a row has no data or no key"):
        read_board(path)
