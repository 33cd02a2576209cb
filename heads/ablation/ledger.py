"""The CSV of an ablation: one row a run, rewritten whole after each, read back when the ablation goes on.

Several processes may write to one folder: each takes the folder's lock, reads what stands there, adds its own and
writes. A file of that name which is not such a table is left alone and refused: it may be someone's work.
"""

import io
from pathlib import Path
from typing import Final

import polars as pl

from featurestore.atomic import replace_file
from featurestore.errors import ConfigError, FileExistsAlreadyError
from heads.modules.config import HeadConfig

from .keys import PROTOCOL
from .tables import plain

SCHEMA: Final = pl.Schema(
    {
        "table": pl.String,
        "task": pl.String,
        "base": pl.String,
        "fused": pl.String,
        "fusion": pl.String,
        "joined": pl.String,
        "temporal": pl.String,
        "S": pl.Int64,
        "W": pl.Int64,
        "seed": pl.Int64,
        "epochs": pl.Int64,
        "learning_rate": pl.Float64,
        "batch_frames": pl.Int64,
        "patience": pl.Int64,
        "score": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "trivial": pl.Float64,
        "published": pl.Float64,
        "published_mark": pl.String,
        "epoch": pl.Int64,
        "parameters": pl.Int64,
        "seconds": pl.Float64,
        "protocol": pl.Int64,
        "data": pl.String,
        "key": pl.String,
    }
)
"""Columns: `fused` and `joined` are joined by ``+``; `epochs` is how many there were to be, `patience` how many of
them might pass without a better one; `score` is the task's own, on val, of the `epoch` that was best for it there,
with its 95 % interval by resampling videos, null where there is none (see `PartScore`); `protocol` is the way of
fitting and scoring (see `PROTOCOL`); `data` names the embeddings, frames and labels that the row was computed from,
`key` everything that decides its numbers."""

LedgerRow = dict[str, str | int | float | None]


def read_ledger(path: Path) -> pl.DataFrame:
    """The rows of an ablation's CSV; none if there is no file.

    Raises
    ------
    FileExistsAlreadyError
        If the file is damaged, or is no ablation's.
    """
    if not path.exists():
        return pl.DataFrame(schema=SCHEMA)
    try:
        raw = path.read_bytes()
        header = raw.partition(b"\n")[0].decode().strip().split(",")
        if header == list(SCHEMA):
            table = pl.read_csv(io.BytesIO(raw), schema=SCHEMA)
            problem = _problem(table)
            if not problem:
                return table
        elif set(header) < set(SCHEMA):
            lacking = ", ".join(name for name in SCHEMA if name not in header)
            problem = f"it lacks the columns {lacking}, as one of an earlier version of abaw does"
        else:
            problem = f"its columns are {', '.join(header[:5])} ..."
    except (OSError, UnicodeDecodeError, ConfigError, pl.exceptions.PolarsError) as error:
        problem = str(error).partition("\n")[0]
    raise FileExistsAlreadyError(
        f"An ablation's table was expected with columns {', '.join(list(SCHEMA)[:3])} ..., but the file in its place "
        f"cannot be read as one: {problem} (file: {path}). It is left as it is: move it away, or choose another --out."
    )


def _problem(table: pl.DataFrame) -> str:
    """Why rows cannot be gone on from; empty if they can."""
    for row in table.iter_rows(named=True):
        head_of(row)
    if table["data"].null_count() + table["key"].null_count():
        return "a row has no data or no key"
    others = table["protocol"].unique().drop_nulls().to_list()
    if table.height and others != [PROTOCOL]:
        return f"its rows are of another protocol than this version's {PROTOCOL}, and not to be compared with new ones"
    return ""


def write_ledger(path: Path, table: pl.DataFrame) -> None:
    """Write a table as CSV, the whole file or nothing."""
    with replace_file(path) as partial:
        table.write_csv(partial)


def set_aside(path: Path, stale: list[LedgerRow]) -> None:
    """Add rows to the table of those that are no longer true of the store; of a key that is there already none."""
    if not stale:
        return
    earlier = read_ledger(path)
    merged = pl.concat([earlier, as_table(stale)]).unique("key", keep="first", maintain_order=True)
    if merged.height > earlier.height:
        write_ledger(path, merged)


def head_of(row: LedgerRow) -> HeadConfig:
    """The head that a row is of.

    Raises
    ------
    ConfigError
        If the row describes none.
    """
    head = HeadConfig(
        encoder=str(row["base"] or ""),
        fuse=tuple(str(row["fused"]).split("+")) if row["fused"] else (),
        fusion=str(row["fusion"]),
        joint=tuple(str(row["joined"]).split("+")),
        temporal=str(row["temporal"]),
        seq=int(row["S"] or 0),
        window=int(row["W"] or 0),
    )
    return plain(head)


def as_table(rows: list[LedgerRow]) -> pl.DataFrame:
    """Rows as a table of `SCHEMA`."""
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")
