"""Audits and scores as tables for the console."""

from collections.abc import Iterator, Mapping
from math import isfinite

from rich import box
from rich.markup import escape
from rich.table import Table

from featurestore.challenge.audit import Audit
from heads.calibration.calibration import Calibration
from heads.scoring.compare import Comparison, PartComparison
from heads.scoring.scores import PartScore, Scores
from heads.tasks import PART_TITLES, PARTS


def compact_table(title: str) -> Table:
    """An empty table without lines between its columns, so that it fits in 80 characters."""
    return Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def scores_table(
    scores: Scores, *, title: str, probe: Mapping[str, float] | None = None, before: Scores | None = None
) -> Table:
    """P and its parts, each with interval, trivial reference and linear probe.

    Parameters
    ----------
    scores
        Of one split.
    title
        Above the table.
    probe
        ``"P"`` and parts -> what a linear probe on the same embeddings scores; left out if there is none.
    before
        What was scored before the post-processing.
    """
    table = compact_table(title)
    table.add_column("score of", no_wrap=True)
    probes = () if probe is None else ("probe",)
    befores = () if before is None else ("before",)
    for heading in ("score", *befores, "95 % interval", "trivial", *probes, "within"):
        table.add_column(heading, justify="right", no_wrap=True)
    uncalibrated = {} if before is None else before.points()
    parts: Mapping[str, PartScore | None] = {"P": scores.p, **{name: scores.parts[name] for name in PARTS}}
    for name, part in parts.items():
        if part is None:
            table.add_row(PART_TITLES[name], "-")
            continue
        within = scores.within_video.get(name)
        table.add_row(
            PART_TITLES[name],
            f"{part.score:.4f}",
            *([] if before is None else [f"{uncalibrated[name]:.4f}" if name in uncalibrated else "-"]),
            "-" if part.low is None or part.high is None else f"{part.low:.3f} .. {part.high:.3f}",
            f"{part.trivial:.4f}",
            *([] if probe is None else [f"{probe[name]:.4f}" if name in probe else "-"]),
            "" if within is None else f"{within:.4f}",
        )
    unscored = f", {scores.n_unscored:,} labelled rows without an embedding left out" if scores.n_unscored else ""
    several = f"{scores.n_videos} videos; intervals resample videos"
    videos = "1 video, too few for intervals" if scores.n_videos == 1 else several
    reasons = "".join(f"\nno {PART_TITLES[name]}: {reason}" for name, reason in scores.reasons.items())
    table.caption = f"{scores.n_frames:,} rows of {videos}{unscored}{reasons}"
    table.caption_justify = "left"
    return table


def audit_tables(audit: Audit) -> Iterator[Table]:
    """An audit as three tables: rows and labels, expressions, action units.

    Parameters
    ----------
    audit
        Of the files of one challenge.
    """
    splits = audit.splits
    yield _table(
        "frames",
        list(splits),
        {
            "rows": [f"{s.rows:,}" for s in splits.values()],
            "duplicates": [f"{s.duplicates:,}" for s in splits.values()],
            "  with other labels": [f"{s.conflicting_duplicates:,}" for s in splits.values()],
            "distinct rows": [f"{s.distinct:,}" for s in splits.values()],
            "videos": [f"{s.videos:,}" for s in splits.values()],
            "  in other splits, too": [f"{len(s.videos_in_other_splits):,}" for s in splits.values()],
            "valid valence": [f"{s.valence:,}" for s in splits.values()],
            "valid arousal": [f"{s.arousal:,}" for s in splits.values()],
            "valid expression": [f"{s.expression:,}" for s in splits.values()],
            "valid action units": [f"{s.au:,}" for s in splits.values()],
            "rows without an image": [f"{s.missing_images:,}" for s in splits.values()],
            "adjacent rows": ["-" if s.adjacent_share is None else f"{s.adjacent_share:.1%}" for s in splits.values()],
        },
    )
    labelled = {name: split for name, split in splits.items() if split.expression or split.au}
    classes = next(iter(splits.values())).expression_counts
    yield _table(
        "expressions",
        list(labelled),
        {name: [f"{s.expression_counts[name]:,}" for s in labelled.values()] for name in classes},
    )
    units = next(iter(splits.values())).au_rates
    rates = {name: [s.au_rates[name] for s in labelled.values()] for name in units}
    yield _table(
        "action units, share of active",
        list(labelled),
        {name: ["-" if rate is None else f"{rate:.3f}" for rate in row] for name, row in rates.items()},
    )


def _table(title: str, columns: list[str], rows: Mapping[str, list[str]]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def details_table(scores: Scores, *, title: str) -> Table:
    """F1 of every expression and of every action unit, side by side.

    Parameters
    ----------
    scores
        Of one split; a task that was not scored has no column.
    title
        Above the table.
    """
    table = Table(title=title, title_justify="left", header_style="bold")
    lists = [
        (heading, list(values.items()))
        for heading, values in (("expression", scores.per_expression), ("action unit", scores.per_au))
        if values
    ]
    for heading, _ in lists:
        table.add_column(heading)
        table.add_column("F1", justify="right")
    for number in range(max((len(items) for _, items in lists), default=0)):
        row: list[str] = []
        for _, items in lists:
            row += [items[number][0], f"{items[number][1]:.4f}"] if number < len(items) else ["", ""]
        table.add_row(*row)
    return table


def comparison_table(comparison: Comparison, *, a: str, b: str) -> Table:
    """P and its parts of both sides, the difference with its interval, and the probability that it is real.

    Parameters
    ----------
    comparison
        Of two heads.
    a, b
        What the sides are called.
    """
    table = Table(title=escape(f"A: {a}\nB: {b}"), title_justify="left", header_style="bold")
    table.add_column("score of")
    for heading in ("A", "B", "B - A", "95 % interval", "real"):
        table.add_column(heading, justify="right")
    parts: Mapping[str, PartComparison | None] = {"P": comparison.p, **{name: comparison.parts[name] for name in PARTS}}
    for name, part in parts.items():
        if part is None:
            table.add_row(PART_TITLES[name], "-", "-", "", "", "")
            continue
        table.add_row(
            PART_TITLES[name],
            f"{part.a:.4f}",
            f"{part.b:.4f}",
            f"{part.difference:+.4f}",
            f"{part.low:+.3f} .. {part.high:+.3f}" if isfinite(part.low) and isfinite(part.high) else "-",
            f"{part.probability:.1%}{' *' if part.stands else '  '}",
        )
    reasons = "".join(f"\nno {PART_TITLES[name]}: {reason}" for name, reason in comparison.reasons.items())
    n_a, n_b = comparison.n_seeds
    table.caption = (
        f"{comparison.n_frames:,} rows of {comparison.n_videos} videos; intervals resample videos, the same for both, "
        f"and add what other seeds would change ({n_a} and {n_b} runs)\n"
        "real: share of resamples in which the difference has its sign, a tie counts half; * the interval leaves 0 out"
        f"{reasons}"
    )
    table.caption_justify = "left"
    return table


def calibration_lines(calibration: Calibration) -> Iterator[str]:
    """What was tried in post-processing, a line each: the score without and with it, and whether it was kept."""
    for step in calibration.steps:
        kept = "" if step.is_kept else ", not kept"
        yield f"{step.name} of {step.of}: {step.before:.4f} -> {step.after:.4f}{kept}"
