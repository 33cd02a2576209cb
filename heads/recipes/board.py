"""The rows of a leaderboard, and its CSV: rewritten whole after each system, read back when the leaderboard goes on.

A system has one row a seed as it was fitted (stage ``raw``), and one post-processed (``post``), if anything was
calibrated. What its recipe only tells (published scores, which encoders are meant) is of the recipe as it is now. A
file of that name which is no leaderboard is left alone and refused: it may be someone's work.
"""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
import xxhash

from featurestore.atomic import replace_file
from featurestore.errors import AbawError, FileExistsAlreadyError
from featurestore.store import FeatureStore
from heads.features.targets import labels_digest
from heads.scoring.scores import PartScore, Scores
from heads.tasks import PARTS

from .fitting import FittedSystem
from .plan import SystemConfig
from .system import System, stand_ins
from .systemrecord import SystemRecord
from .tables import recipe_to_table
from .told import Published

PROTOCOL: Final = 1
"""Part of every key and of `data`; raised when a change to fitting or scoring makes old rows incomparable."""

STAGES: Final = ("raw", "post")
_SCORED: Final = ("p", *PARTS)
_TOLD: Final = ("title", "challenge", "year", "source", "link", "published", "notes", "needs")
"""What a recipe tells of itself, and decides nothing. Its name does not either, but it tells whose row it is."""

SCHEMA: Final = pl.Schema(
    {
        "system": pl.String,
        "stage": pl.String,
        "seed": pl.Int64,
        **{f"{name}{end}": pl.Float64 for name in _SCORED for end in ("", "_low", "_high")},
        "published_val": pl.Float64,
        "published_test": pl.Float64,
        "published_untold": pl.Float64,
        "published_test_au": pl.Float64,
        "published_test_expr": pl.Float64,
        "published_test_va": pl.Float64,
        "models": pl.Int64,
        "parameters": pl.Int64,
        "seconds": pl.Float64,
        "folds": pl.Int64,
        "epochs": pl.Int64,
        "selected_on": pl.String,
        "calibrated_on": pl.String,
        "in_sample": pl.String,
        "stand_ins": pl.String,
        "encoders": pl.String,
        "data": pl.String,
        "key": pl.String,
    }
)
"""Columns: scores on val with their 95 % intervals by resampling videos, null where a part has no score; P's published
figures, ``untold`` without its set; `folds` that each model was fitted once more in; `epochs` if they were set for all;
`selected_on` picked the epochs; `in_sample`: why the score is no score of unseen frames; `stand_ins`: encoders that are
not the recipe's; `data` names the embeddings, frames and labels that the row was computed from, `key` everything that
decides it."""

BoardRow = dict[str, str | int | float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """What a store holds, as far as it decides numbers.

    Attributes
    ----------
    fingerprints
        Encoder -> fingerprint of its embeddings' provenance; those that cannot be read are left out.
    shapes
        Encoder -> row shape of its embeddings; the same encoders.
    frames, labels
        Fingerprint of the frame table, digest of its labels and splits.
    """

    fingerprints: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    frames: str
    labels: str

    @classmethod
    def of(cls, store: FeatureStore) -> "StoreState":
        """As the store is now."""
        prints: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name in store.names():
            with contextlib.suppress(AbawError):  # told by who reads it
                embedding = store.embedding(name)
                prints[name], shapes[name] = embedding.provenance.fingerprint, embedding.row_shape
        frames = store.frames
        return cls(fingerprints=prints, shapes=shapes, frames=frames.fingerprint, labels=labels_digest(frames))


def board_key(state: StoreState, config: SystemConfig) -> str:
    """The xxh3-128 of all that decides a system's numbers; what its recipe only tells is left out."""
    recipe = recipe_to_table(config.recipe, full=True)
    return _digest(
        {
            "recipe": {name: value for name, value in recipe.items() if name not in _TOLD},
            "roles": {role: config.roles.get(role, role) for role in config.recipe.needs},
            "seed": config.seed,
            "calibrate_on": config.calibrate_on,
            "folds": config.n_folds,
            "epochs": config.epochs,
            "select_on_folds": config.select_on_folds,
            "data": board_data(state, config.recipe.on(config.roles).encoders),
        }
    )


def record_key(record: SystemRecord) -> str:
    """The same of a system on disk, by what it was fitted on."""
    state = StoreState(fingerprints=record.encoders, shapes=record.shapes, frames=record.frames, labels=record.labels)
    return board_key(state, record.config)


def board_data(state: StoreState, encoders: Sequence[str]) -> str:
    """The xxh3-128 of what a system is computed from: embeddings of its encoders, frames, labels.

    Raises
    ------
    KeyError
        If the store lacks one of the encoders.
    """
    return _digest(
        {
            "protocol": PROTOCOL,
            "encoders": {name: state.fingerprints[name] for name in encoders},
            "frames": state.frames,
            "labels": state.labels,
        }
    )


def board_rows(fitted: FittedSystem, system: System, state: StoreState) -> list[BoardRow]:
    """The rows of a fitted system: raw, and post-processed if anything was calibrated."""
    stages = {"raw": fitted.raw_scores} | ({} if fitted.calibration is None else {"post": fitted.scores})
    config, record = fitted.config, system.record
    shared: BoardRow = told_columns(config, state) | {
        "models": len(fitted.made),
        "parameters": fitted.n_parameters,
        "seconds": round(fitted.seconds, 3),
        "folds": config.n_folds,
        "epochs": config.epochs,
        "selected_on": "; ".join(record.selected_on),
        "encoders": "+".join(record.encoders),
        "data": board_data(state, system.encoders),
        "key": board_key(state, config),
    }
    rows: list[BoardRow] = []
    for stage, scores in stages.items():
        is_post = stage == "post"
        standing: BoardRow = {
            "calibrated_on": record.calibrated_on if is_post else None,
            "in_sample": record.in_sample("val") if is_post else None,
        }
        which: BoardRow = {"system": config.recipe.name, "stage": stage, "seed": config.seed}
        rows.append(which | _score_columns(scores) | shared | standing)
    return rows


def told_columns(config: SystemConfig, state: StoreState) -> BoardRow:
    """The columns of a system's rows that its recipe tells; they decide nothing and are not in the key."""
    val, test, untold = (config.recipe.published.get(name, Published()) for name in ("val", "test", "untold"))
    return {
        "published_val": val.p,
        "published_test": test.p,
        "published_untold": untold.p,
        "published_test_au": test.au,
        "published_test_expr": test.expr,
        "published_test_va": test.va,
        "stand_ins": "; ".join(stand_ins(config, state.shapes)) or None,
    }


def read_board(path: Path) -> pl.DataFrame:
    """The rows of a leaderboard's CSV; none if there is no file.

    Raises
    ------
    FileExistsAlreadyError
        If the file is damaged, or is no leaderboard's.
    """
    if not path.exists():
        return pl.DataFrame(schema=SCHEMA)
    try:
        content = path.read_bytes()
        header = content.partition(b"\n")[0].decode().strip().split(",")
        if header == list(SCHEMA):
            table = pl.read_csv(io.BytesIO(content), schema=SCHEMA)
            if not table["data"].null_count() + table["key"].null_count():
                return table
            problem = "a row has no data or no key"
        else:
            problem = f"its columns are {', '.join(header[:5])} ..."
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        problem = str(error).partition("\n")[0]
    raise FileExistsAlreadyError(
        f"A leaderboard was expected with columns {', '.join(list(SCHEMA)[:4])} ..., but the file in its place cannot "
        f"be read as one: {problem} (file: {path}). Move it away, or choose another --out."
    )


def write_board(path: Path, table: pl.DataFrame) -> None:
    """Write the rows as CSV, the whole file or nothing."""
    with replace_file(path) as partial:
        table.write_csv(partial)


def as_board(rows: Sequence[BoardRow]) -> pl.DataFrame:
    """Rows as a table of `SCHEMA`."""
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def still_true(state: StoreState, kept: pl.DataFrame) -> pl.DataFrame:
    """The finished rows that were computed from what the store holds today, whatever their recipe, seed or epochs."""
    true: list[BoardRow] = []
    for row in kept.iter_rows(named=True):
        encoders = str(row["encoders"]).split("+")
        if all(name in state.fingerprints for name in encoders) and board_data(state, encoders) == row["data"]:
            true.append(row)
    return as_board(true)


def _score_columns(scores: Scores) -> BoardRow:
    parts: dict[str, PartScore | None] = {"p": scores.p, **{str(name): scores.parts[name] for name in PARTS}}
    columns: BoardRow = {}
    for name, part in parts.items():
        columns[name] = None if part is None else part.score
        columns[f"{name}_low"] = None if part is None else part.low
        columns[f"{name}_high"] = None if part is None else part.high
    return columns


def _digest(decisive: dict[str, object]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(decisive, sort_keys=True).encode())
