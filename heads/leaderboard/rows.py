"""The rows of a leaderboard: what a system scores, and what that is worth.

A system has one row a seed as it was fitted (stage ``raw``), and one post-processed (``post``), if anything was
calibrated. What its recipe only tells (published scores, which encoders are meant) is of the recipe as it is now.
"""

from collections.abc import Sequence
from typing import Final

import polars as pl

from heads.recipes.fitting import FittedSystem
from heads.recipes.plan import SystemConfig
from heads.recipes.system import System, stand_ins
from heads.recipes.told import Published
from heads.scoring.scores import PartScore, Scores
from heads.tasks import PARTS

from .keys import StoreState, board_data, board_key, board_variant

STAGES: Final = ("raw", "post")
_SCORED: Final = ("p", *PARTS)
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
        "tuned": pl.String,
        "options": pl.String,
        "encoders": pl.String,
        "data": pl.String,
        "variant": pl.String,
        "key": pl.String,
    }
)
"""Columns: scores on val with their 95 % intervals by resampling videos, null where a part has none; P's published
figures, ``untold`` without its set; `folds` that each model was fitted once more in; `epochs` if they were set for all;
`selected_on` picked the epochs; `in_sample`: why the score is no score of unseen frames; `stand_ins`: encoders that are
not the recipe's; `tuned`: those that were fine-tuned, commonly on train, and may know the frames of every fold;
`options`: what is not as by default, as the system's folder has it; `data` names the embeddings, frames and labels that
the row was computed from, `key` everything that decides it, `variant` the same without the seed."""

BoardRow = dict[str, str | int | float | None]


def board_rows(fitted: FittedSystem, system: System, state: StoreState) -> list[BoardRow]:
    """The rows of a fitted system: raw, and post-processed if anything was calibrated."""
    stages = {"raw": fitted.raw_scores} | ({} if fitted.calibration is None else {"post": fitted.scores})
    config, record = fitted.config, system.record
    stream_bytes = record.stream_bytes
    shared: BoardRow = told_columns(config, state) | {
        "models": len(fitted.made),
        "parameters": fitted.n_parameters,
        "seconds": round(fitted.seconds, 3),
        "folds": config.n_folds,
        "epochs": config.effective().epochs,
        "options": "-".join(config.options) or None,
        "selected_on": "; ".join(record.selected_on),
        "encoders": "+".join(record.encoders),
        "data": board_data(state, system.encoders),
        "variant": board_variant(state, config, stream_bytes=stream_bytes),
        "key": board_key(state, config, stream_bytes=stream_bytes),
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
    """The columns of a system's rows that its recipe and the store tell; they decide nothing and are not in the key."""
    tuned = [name for name in config.recipe.on(config.roles).encoders if name in state.tuned]
    val, test, untold = (config.recipe.published.get(name, Published()) for name in ("val", "test", "untold"))
    return {
        "published_val": val.p,
        "published_test": test.p,
        "published_untold": untold.p,
        "published_test_au": test.au,
        "published_test_expr": test.expr,
        "published_test_va": test.va,
        "stand_ins": "; ".join(stand_ins(config, state.shapes)) or None,
        "tuned": "+".join(tuned) or None,
    }


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
