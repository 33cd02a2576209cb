"""Running the paper's tables over a store: every row a fit, all of them on features that were loaded once.

A row is finished when it stands in the CSV. Run again, rows whose key is there are not computed again; the key covers
the head, the training, the embeddings, the frames and their labels. Rows that are not asked for (of another base, seed
or training) stay in the file as long as the store still holds what they were computed from; a row whose embeddings,
frames or labels have changed or are gone is stale: it is moved to ``<table>_stale.csv``, and that is told. What each
row scored by, video by video, stands beside (see `heads.ablation.videosums`); of stale rows it is dropped.

Several processes may fill one table: before each writing, rows that others have finished meanwhile are taken in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from featurestore.errors import ConfigError
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.parallel import FitJob, FitResult
from heads.fitting.workers import ONE, Parallel, run_jobs
from heads.scoring.intervals import VideoSums
from heads.sharing import locked
from heads.tasks import TASKS

from .keys import PROTOCOL, row_data, row_key
from .ledger import LedgerRow, as_table, head_of, read_ledger, set_aside, write_ledger
from .standings import summarise
from .tables import TABLES, PlannedRow, plan, readable
from .videosums import read_sums, row_sums, write_sums


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReport:
    """One row done.

    Attributes
    ----------
    index, n_rows
        How many are done, this one included, and how many there are.
    row
        Column -> value (see `ledger.SCHEMA`).
    is_kept
        Whether it was finished before.
    """

    index: int
    n_rows: int
    row: LedgerRow
    is_kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """The rows that were asked for.

    Attributes
    ----------
    rows
        As `ledger.SCHEMA` says, in the order of the plan, seeds innermost.
    summary
        One row a head, with the difference to its task's reference (see `heads.ablation.standings`).
    """

    rows: pl.DataFrame
    summary: pl.DataFrame


def run_ablation(
    features: FeatureSet,
    table: str,
    *,
    out: Path,
    training: FitConfig,
    seeds: Sequence[int] = (),
    base: str | None = None,
    parallel: Parallel = ONE,
    on_row: Callable[[RowReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Ablation:
    """Fit and score every row of a table.

    Parameters
    ----------
    features
        With the encoders of ``plan(table, ...)``; others do no harm. Rows that these do not allow are left out, which
        `readable` has sentences for.
    table
        ``"fusion"``, ``"temporal"``, ``"joint"``, or ``"all"``.
    out
        Folder of the files ``<table>.csv``, ``<table>_summary.csv`` and ``<table>_videos.parquet``; made if need be.
        Other processes may write there.
    training
        Of every row, but for the epoch's selection (the row's task) and the seed.
    seeds
        One run of every row each; by default the training's own.
    base
        As in `plan`.
    parallel
        How many rows are fitted at once (see `heads.fitting.parallel`).
    on_row
        Called after each row: first those that were finished before, then the others as they are computed.
    on_note
        Called with a sentence for each table that stale rows are moved out of, before they are.

    Returns
    -------
    Ablation

    Raises
    ------
    FileExistsAlreadyError
        If a file of such a name is not an ablation's. Nothing has been computed then.
    ConfigError
        If seeds repeat, the store allows no row, or a row has no score.
    WorkerError
        If a process that fits rows died; finished rows are in their files.
    """
    wanted = tuple(seeds) or (training.seed,)
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"Each seed makes one run, but seeds repeat: {', '.join(map(str, wanted))}. Name each once.")
    planned = plan(table, features.names, base=base)
    rows = readable(planned, features.shapes(planned.encoders)).rows
    books = [
        _Book.open(features, out, name, [row for row in rows if row.table == name], training, wanted)
        for name in TABLES
        if any(row.table == name for row in rows)
    ]
    out.mkdir(parents=True, exist_ok=True)
    _tell_stale(books, on_note)
    progress = _Progress(len(rows) * len(wanted), on_row)
    for book in books:
        for key in book.asked:
            if key in book.finished:
                progress.tell(book.finished[key], is_kept=True)
    _compute(features, books, parallel, progress)
    for book in books:
        book.close()
    _tell_stale(books, on_note)
    return Ablation(
        rows=pl.concat([book.rows() for book in books]), summary=pl.concat([book.summary() for book in books])
    )


def _tell_stale(books: Sequence["_Book"], on_note: Callable[[str], None] | None) -> None:
    """Of each table, unless it was told already: a process with another store may write while this one fits."""
    for book in books:
        if len(book.stale) > book.n_told and on_note is not None:
            on_note(book.stale_note())


class _Progress:
    def __init__(self, n_rows: int, on_row: Callable[[RowReport], None] | None) -> None:
        self._n_rows, self._on_row, self._index = n_rows, on_row, 0

    def tell(self, row: LedgerRow, *, is_kept: bool) -> None:
        self._index += 1
        if self._on_row is not None:
            self._on_row(RowReport(index=self._index, n_rows=self._n_rows, row=row, is_kept=is_kept))


@dataclass(slots=True, eq=False, kw_only=True)
class _Book:
    """One table: what is asked of it, what is finished, and its files."""

    features: FeatureSet
    name: str
    out: Path
    asked: dict[str, tuple[PlannedRow, FitConfig]]  # by key, in the order of the plan
    finished: dict[str, LedgerRow] = field(default_factory=dict)
    sums: dict[str, VideoSums] = field(default_factory=dict)
    stale: dict[str, LedgerRow] = field(default_factory=dict)
    n_told: int = 0
    is_changed: bool = False

    @classmethod
    def open(
        cls,
        features: FeatureSet,
        out: Path,
        name: str,
        planned: Sequence[PlannedRow],
        training: FitConfig,
        seeds: Sequence[int],
    ) -> "_Book":
        pairs = [(row, replace(training, select=row.task, seed=seed)) for row in planned for seed in seeds]
        asked = {row_key(features, row.task, row.head, each): (row, each) for row, each in pairs}
        book = cls(features=features, name=name, out=out, asked=asked)
        book._take_in()
        if book.stale:
            read_ledger(book._file("_stale.csv"))  # refused now, rather than after the first fit
        return book

    def stale_note(self) -> str:
        self.n_told = len(self.stale)
        return (
            f"{self.name}: finished rows of other embeddings or labels than the store holds, now moved aside: "
            f"{len(self.stale):,} of {len(self.stale) + len(self.finished):,} (file: {self._file('.csv')}, "
            f"to: {self._file('_stale.csv')})."
        )

    def add(self, key: str, row: LedgerRow, sums: VideoSums) -> None:
        """Take a row in, and write the table."""
        self.finished[key], self.sums[key] = row, sums
        self._write()

    def close(self) -> None:
        """Write what is left to write: the table if it only lost rows, and its summary."""
        if self.stale and not self.is_changed:
            self._write()
        write_ledger(self._file("_summary.csv"), self.summary())

    def _file(self, ending: str) -> Path:
        return self.out / f"{self.name}{ending}"

    def _take_in(self) -> None:
        """Add the rows of the files, those that other processes have written meanwhile among them; one's own stay."""
        for row in read_ledger(self._file(".csv")).iter_rows(named=True):
            rows = self.finished if _is_true(self.features, row) else self.stale
            rows.setdefault(str(row["key"]), row)
        self.sums = read_sums(self._file("_videos.parquet")) | self.sums

    def _write(self) -> None:
        with locked(self.out):
            self._take_in()
            ordered = [self.finished[key] for key in self.asked if key in self.finished]
            others = [row for key, row in self.finished.items() if key not in self.asked]
            # The sums first: a row that stands in the table has its sums. Before both, what is to leave it.
            set_aside(self._file("_stale.csv"), list(self.stale.values()))
            write_sums(self._file("_videos.parquet"), self.sums, self.finished)
            write_ledger(self._file(".csv"), as_table(ordered + others))
        self.is_changed = True

    def rows(self) -> pl.DataFrame:
        """The rows that were asked for; all are finished."""
        return as_table([self.finished[key] for key in self.asked])

    def summary(self) -> pl.DataFrame:
        return summarise(self.rows(), self.sums)


def _is_true(features: FeatureSet, row: LedgerRow) -> bool:
    """Whether a finished row was computed from what the store holds today, whatever its base, seed or training."""
    head = head_of(row)
    return all(name in features.fingerprints for name in head.encoders) and row_data(features, head) == row["data"]


def _compute(features: FeatureSet, books: Sequence[_Book], parallel: Parallel, progress: _Progress) -> None:
    """Fit what is not finished; a row that stands in two tables is fitted once."""
    jobs: dict[str, FitJob] = {}
    for book in books:
        for key, (planned, training) in book.asked.items():
            if key not in book.finished:
                name = f"row {planned.task!r} of table {planned.table!r}, seed {training.seed}"
                jobs[key] = FitJob(name=name, head=planned.head, training=training)
    # At once, those that take longest begin: the last of them would otherwise run alone.
    keys = sorted(jobs, key=lambda key: parallel.n > 1 and jobs[key].head.temporal == "none")

    def done(number: int, result: FitResult) -> None:
        for book in books:
            if keys[number] in book.asked:
                planned, _ = book.asked[keys[number]]
                row = _ledger_row(features, planned, result, keys[number])
                book.add(keys[number], row, row_sums(features, planned.task, result.predictions))
                progress.tell(row, is_kept=False)

    run_jobs(features, [jobs[key] for key in keys], parallel=parallel, on_done=done)


def _ledger_row(features: FeatureSet, planned: PlannedRow, result: FitResult, key: str) -> LedgerRow:
    own = result.scores.parts[TASKS[planned.task].part]
    if own is None:
        reason = result.scores.reasons.get(TASKS[planned.task].part, "")
        raise ConfigError(f"Row {planned.task!r} of table {planned.table!r} has no score: {reason}.")
    head, training = planned.head.resolved(), result.training
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
        "epochs": result.schedule.epochs,
        "learning_rate": training.learning_rate,
        "batch_frames": result.schedule.batch_windows * head.seq,
        "patience": result.schedule.patience,
        "score": own.score,
        "low": own.low,
        "high": own.high,
        "trivial": own.trivial,
        "published": planned.published.score if planned.published else None,
        "published_mark": planned.published.mark if planned.published else None,
        "epoch": result.epoch,
        "parameters": result.n_parameters,
        "seconds": round(result.seconds, 3),
        "protocol": PROTOCOL,
        "data": row_data(features, planned.head),
        "key": key,
    }
