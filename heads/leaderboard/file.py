"""A leaderboard's CSV: rewritten whole after each system, read back when the leaderboard goes on.

Several processes may be at one folder. Each reads the file again before it writes it, both under a lock of the system,
which a killed process does not keep; so none writes over what another one has added.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from featurestore.atomic import replace_file
from featurestore.errors import FileExistsAlreadyError

from .rows import SCHEMA, BoardRow, as_board


def read_board(path: Path) -> pl.DataFrame:
    """The rows of a leaderboard's CSV; none if there is no file. Columns that an older one lacks are null.

    Raises
    ------
    FileExistsAlreadyError
        If the file is damaged, or is no leaderboard's.
    """
    if not path.exists():
        return as_board([])
    try:
        content = path.read_bytes()
        header = content.partition(b"\n")[0].decode().strip().split(",")
        if _is_board(header):
            table = pl.read_csv(io.BytesIO(content), schema={name: SCHEMA[name] for name in header})
            if not table["data"].null_count() + table["key"].null_count():
                return table.select(
                    pl.col(name) if name in header else pl.lit(None, dtype=kind).alias(name)
                    for name, kind in SCHEMA.items()
                )
            problem = "a row has no data or no key"
        else:
            problem = f"its columns are {', '.join(header[:5])} ..."
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        problem = str(error).partition("\n")[0]
    raise FileExistsAlreadyError(
        f"A leaderboard was expected with columns {', '.join(list(SCHEMA)[:4])} ..., but the file in its place cannot "
        f"be read as one: {problem} (file: {path}). Move it away, or choose another --out."
    )


def read_rows(path: Path) -> dict[str, list[BoardRow]]:
    """Key -> rows of a leaderboard's CSV; raises as `read_board` does."""
    found: dict[str, list[BoardRow]] = {}
    for row in read_board(path).iter_rows(named=True):
        found.setdefault(str(row["key"]), []).append(row)
    return found


def write_board(path: Path, table: pl.DataFrame) -> None:
    """Write the rows as CSV, the whole file or nothing."""
    with replace_file(path) as partial:
        table.write_csv(partial)


def _is_board(header: Sequence[str]) -> bool:
    return {"system", "stage", "data", "key"} <= set(header) <= set(SCHEMA) and len(set(header)) == len(header)
