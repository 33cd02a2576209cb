"""Running the paper's tables over a store: every row a fit, all of them on features that were loaded once.

A row is finished when it stands in the CSV. Run again, rows whose key is there are not computed again; the key covers
the head, the training, the embeddings, the frames and their labels. Rows that are not asked for (of another base, seed
or training) stay in the file as long as the store still holds what they were computed from; a row whose embeddings,
frames or labels have changed or are gone is stale: it is dropped, and that is told.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import polars as pl
import xxhash
from rich import box
from rich.markup import escape
from rich.table import Table

from featurestore.errors import ConfigError
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.modules.config import HeadConfig
from heads.tasks import TASKS

from .ledger import LedgerRow, as_table, head_of, read_ledger, write_ledger
from .tables import TABLES, PlannedRow, plan

PROTOCOL: Final = 1
"""Part of every key and of `data`; raised when a change to fitting or scoring makes old rows incomparable."""

_ROW_OF_TABLE: Final = ["task", "base", "fused", "fusion", "joined", "temporal", "S", "W"]
"""What tells rows of one table apart, but for the seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReport:
    """One row done.

    Attributes
    ----------
    index, n_rows
        Its number, from 1, and how many there are.
    row
        Column -> value (see `ledger.SCHEMA`).
    is_kept
        Whether it was finished before.
    """

    index: int
    n_rows: int
    row: LedgerRow
    is_kept: bool


def run_ablation(
    features: FeatureSet,
    table: str,
    *,
    out: Path,
    training: FitConfig,
    seeds: Sequence[int] = (),
    base: str | None = None,
    on_row: Callable[[RowReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> pl.DataFrame:
    """Fit and score every row of a table.

    Parameters
    ----------
    features
        With the encoders of ``plan(table, ...)``; others do no harm.
    table
        ``"fusion"``, ``"temporal"``, ``"joint"``, or ``"all"``.
    out
        Folder of the CSVs ``<table>.csv`` and, with several seeds, ``<table>_summary.csv``; made if need be.
    training
        Of every row, but for the epoch's selection (the row's task) and the seed.
    seeds
        One run of every row each; by default the training's own.
    base
        As in `plan`.
    on_row
        Called after each row.
    on_note
        Called with a sentence for each table that loses stale rows, before it does.

    Returns
    -------
    DataFrame
        The rows asked for (see `ledger.SCHEMA`), in the order of the plan, seeds innermost.

    Raises
    ------
    FileExistsAlreadyError
        If a file of such a name is not an ablation's table. Nothing has been computed then.
    ConfigError
        If seeds repeat, or the store allows no row.
    """
    wanted = tuple(seeds) or (training.seed,)
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"Each seed makes one run, but seeds repeat: {', '.join(map(str, wanted))}. Name each once.")
    rows = plan(table, features.names, base=base).rows
    names = [name for name in TABLES if any(row.table == name for row in rows)]
    kept = {name: read_ledger(out / f"{name}.csv") for name in names}
    out.mkdir(parents=True, exist_ok=True)
    n_rows, done = len(rows) * len(wanted), 0
    results = []
    for name in names:
        path, planned, reports = out / f"{name}.csv", [row for row in rows if row.table == name], []
        true = _still_true(features, kept[name])
        n_stale = kept[name].height - true.height
        if n_stale and on_note is not None:
            on_note(
                f"{name}: finished rows of other embeddings or labels than the store holds, now dropped: "
                f"{n_stale:,} of {kept[name].height:,} (file: {path})."
            )
        for report in _run_table(features, planned, training, wanted, true, path):
            done += 1
            if on_row is not None:
                on_row(replace(report, index=done, n_rows=n_rows))
            reports.append(report)
        if n_stale and all(report.is_kept for report in reports):  # else it was written without them already
            write_ledger(path, true)
        asked = [report.row for report in reports]
        if len(wanted) > 1:
            write_ledger(out / f"{name}_summary.csv", summarise(as_table(asked)))
        results += asked
    return as_table(results)


def summarise(rows: pl.DataFrame) -> pl.DataFrame:
    """Mean and spread over seeds.

    Parameters
    ----------
    rows
        As `run_ablation` returns them.

    Returns
    -------
    DataFrame
        One row a head: ``table``, the columns that tell heads apart, ``n_seeds``, ``mean``, ``std`` (ddof=1; null for
        one seed), ``trivial``, ``published``, ``published_mark``, ``is_best`` (of its table and task, by mean).
    """
    grouped = rows.group_by("table", *_ROW_OF_TABLE, maintain_order=True).agg(
        pl.len().alias("n_seeds"),
        pl.col("score").mean().alias("mean"),
        pl.col("score").std(ddof=1).alias("std"),
        pl.col("trivial", "published", "published_mark").first(),
    )
    return grouped.with_columns((pl.col("mean") == pl.col("mean").max().over("table", "task")).alias("is_best"))


def render_table(rows: pl.DataFrame, *, title: str | None = None) -> Table:
    """What `run_ablation` returned, for the console: the best row of each task is bold.

    Parameters
    ----------
    rows
        Of one table or several.
    title
        Above it.
    """
    several = rows["seed"].n_unique() > 1
    shown = _telling_columns(rows)
    # Without lines between the columns, so that it fits in 80 characters.
    made = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in shown:
        made.add_column(heading, no_wrap=True)
    for heading in ("S/W", "score", "+- seeds" if several else "95 % interval", "trivial", "published"):
        made.add_column(heading, justify="right", no_wrap=True)
    firsts = rows.group_by("table", *_ROW_OF_TABLE, maintain_order=True).agg(pl.col("low", "high").first())
    summary = summarise(rows).with_columns(firsts["low", "high"])
    previous = None
    for row in summary.iter_rows(named=True):
        if previous not in (None, (row["table"], row["task"])):
            made.add_section()
        previous = (row["table"], row["task"])
        # Escaped: rich would take the paper's mark [i] for "italic from here".
        cells = _cells(row, shown, several=several)
        made.add_row(*map(escape, cells), style="bold" if row["is_best"] else None)
    return made


def _telling_columns(rows: pl.DataFrame) -> list[str]:
    """Columns that tell printed rows apart: not those with one value, nor those that repeat the task."""
    telling = [
        name
        for name in ("table", "base", "fused", "joined")
        if rows[name].n_unique() > 1 and not (rows[name] == rows["task"]).all()
    ]
    # The fusion module follows from what is fused, unless something else was asked for.
    follows = pl.when(pl.col("fused") == "").then(pl.lit("none")).otherwise(pl.lit("sum"))
    if rows["fusion"].n_unique() > 1 and not rows.select((pl.col("fusion") == follows).all()).item():
        telling.append("fusion")
    return ["task", *telling]


def row_key(features: FeatureSet, row: PlannedRow, training: FitConfig) -> str:
    """The xxh3-128 of all that decides a row's numbers; the device and the table's name are left out."""
    return _digest(
        {
            "task": row.task,
            "head": row.head.to_dict(),
            "training": {name: value for name, value in training.to_dict().items() if name != "device"},
            "data": row_data(features, row.head),
        }
    )


def row_data(features: FeatureSet, head: HeadConfig) -> str:
    """The xxh3-128 of what a head's row is computed from: embeddings of its encoders, frames, labels.

    Raises
    ------
    KeyError
        If the store lacks one of the encoders.
    """
    return _digest(
        {
            "protocol": PROTOCOL,
            "encoders": {name: features.fingerprints[name] for name in head.encoders},
            "frames": features.frames.fingerprint,
            "labels": features.labels_digest,
        }
    )


def _digest(decisive: dict[str, object]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(decisive, sort_keys=True).encode())


def _run_table(
    features: FeatureSet,
    planned: Sequence[PlannedRow],
    training: FitConfig,
    seeds: Sequence[int],
    kept: pl.DataFrame,
    path: Path,
) -> Iterator[RowReport]:
    """The rows of one table, kept or computed; the CSV is rewritten after each computed one, the rest of it stays."""
    wanted = [(row, replace(training, select=row.task, seed=seed)) for row in planned for seed in seeds]
    keys = [row_key(features, row, training) for row, training in wanted]
    finished: dict[str, LedgerRow] = {str(row["key"]): row for row in kept.iter_rows(named=True)}
    current = {key: finished[key] for key in keys if key in finished}
    others = [row for key, row in finished.items() if key not in current]
    for (row, config), key in zip(wanted, keys, strict=True):
        is_kept = key in current
        if not is_kept:
            current[key] = _compute(features, row, config, key)
            ordered = [current[each] for each in keys if each in current]
            write_ledger(path, as_table(ordered + others))
        yield RowReport(index=0, n_rows=0, row=current[key], is_kept=is_kept)


def _still_true(features: FeatureSet, kept: pl.DataFrame) -> pl.DataFrame:
    """The finished rows that were computed from what the store holds today, whatever their base, seed or training."""
    true: list[LedgerRow] = []
    for row in kept.iter_rows(named=True):
        head = head_of(row)
        if all(name in features.fingerprints for name in head.encoders) and row_data(features, head) == row["data"]:
            true.append(row)
    return as_table(true)


def _compute(features: FeatureSet, planned: PlannedRow, training: FitConfig, key: str) -> LedgerRow:
    fitted = fit(features, planned.head, training)
    own = fitted.scores.parts[TASKS[planned.task].part]
    if own is None:
        reason = fitted.scores.reasons.get(TASKS[planned.task].part, "")
        raise ConfigError(f"Row {planned.task!r} of table {planned.table!r} has no score: {reason}.")
    head = planned.head.resolved()
    return {
        "table": planned.table,
        "task": planned.task,
        "base": head.encoder,
        "fused": "+".join(head.fuse),
        "fusion": head.fusion,
        "joined": "+".join(head.joint),
        "temporal": head.temporal,
        "S": head.seq,
        "W": head.step,
        "seed": training.seed,
        "epochs": training.epochs,
        "learning_rate": training.learning_rate,
        "batch_frames": training.batch_frames,
        "score": own.score,
        "low": own.low,
        "high": own.high,
        "trivial": own.trivial,
        "published": planned.published.score if planned.published else None,
        "published_mark": planned.published.mark if planned.published else None,
        "epoch": fitted.epoch,
        "parameters": fitted.n_parameters,
        "seconds": round(fitted.seconds, 3),
        "data": row_data(features, planned.head),
        "key": key,
    }


def _cells(row: dict[str, object], shown: Sequence[str], *, several: bool) -> list[str]:
    spread = "" if row["std"] is None else f"{row['std']:.4f}"
    beside = spread if several else f"{row['low']:.3f}..{row['high']:.3f}"
    published = "" if row["published"] is None else f"{row['published']:.4f} {_MARKS[str(row['published_mark'])]}"
    window = "single" if row["S"] == 1 else f"{row['S']}/{row['W']}"
    texts = [str(row[name] or "-") for name in shown]
    return [*texts, window, f"{row['mean']:.4f}", beside, f"{row['trivial']:.3f}", published]


_MARKS: Final = {"text": "[t]", "inferred": "[i]", "table": "   "}
