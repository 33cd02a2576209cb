"""What a store holds, as a person reads it: the list of encoders, and all about one of them."""

from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from featurestore.inspection.overview import EncoderEntry, UnreadableEntry
from featurestore.inspection.summary import EmbeddingSummary
from featurestore.tokenprojection import TokenProjection

Pairs = Iterator[tuple[str, str]]


def encoders_table(entries: Sequence[EncoderEntry | UnreadableEntry], *, title: str) -> Table:
    """Encoders, one a line; of one that cannot be read, only that.

    Parameters
    ----------
    entries
        Of one store.
    title
        Above the table.
    """
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, header_style="bold")
    table.collapse_padding = True
    table.add_column("encoder", overflow="fold")
    for heading in ("rows", "failed", "dim", "dtype", "MB", "chunks"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("made from", overflow="fold", min_width=9)
    table.add_column("made at", overflow="fold", min_width=10)  # a date; its time may stand below it
    for entry in entries:
        if isinstance(entry, UnreadableEntry):
            table.add_row(entry.name, "unreadable", style="red")
            continue
        table.add_row(
            entry.name,
            _rows_done(entry),
            f"{entry.n_failed:,}",
            " x ".join(map(str, entry.row_shape)),
            entry.dtype,
            f"{entry.size_bytes / 1e6:,.1f}",
            f"{entry.n_chunks:,}",
            escape(_made_from(entry)),
            escape(entry.provenance.made_at[:16].replace("T", " ")),
        )
    return table


def layout_pairs(entry: EncoderEntry, *, frames: str) -> Pairs:
    """How much of an encoder is there and how it lies on disk; `frames` is the fingerprint of the frames."""
    failed = f", {entry.n_failed:,} of them failed" if entry.n_failed else ""
    *tokens, dim = entry.row_shape
    shape = f"{tokens[0]:,} tokens of {dim:,}" if tokens else f"one vector of {dim:,}"
    if entry.projected_from is not None:
        shape += f" (projected from {entry.projected_from:,})"
    yield "rows", f"{entry.rows_done:,} of {entry.n_frames:,}{failed}"
    yield "a row", f"{shape}, {entry.dtype}"
    yield "chunks", f"{entry.n_chunks:,} of {entry.chunk_rows:,} rows, computed {entry.batch_rows:,} at a time"
    yield "size", f"{entry.size_bytes / 1e6:,.1f} MB"
    yield "frames", frames


def provenance_pairs(entry: EncoderEntry) -> Pairs:
    """Where an encoder's embeddings come from."""
    for key, value in (entry.provenance.to_dict() | {"fingerprint": entry.provenance.fingerprint}).items():
        if isinstance(value, Mapping):
            yield key, ", ".join(f"{name} {_as_word(item)}" for name, item in value.items()) or "-"
        else:
            yield key, "-" if value is None else str(value)


def projection_pairs(projection: TokenProjection) -> Pairs:
    """The projection that an encoder's tokens went through."""
    shares = projection.explained
    yield "components", f"{projection.n_components:,} of {projection.dim:,} dimensions"
    yield "variance", f"{100 * float(shares.sum()):.3g} % of the tokens' ({100 * float(shares[0]):.3g} % the first)"
    yield "digest", projection.digest


def summary_pairs(summary: EmbeddingSummary) -> Pairs:
    """An encoder's values in numbers."""
    if summary.nan_share is not None:
        unexplained = summary.n_unexplained
        rows = "1 row that did not fail is" if unexplained == 1 else f"{unexplained:,} rows that did not fail are"
        odd = f"; {rows} not finite: verify the store" if unexplained else ""
        yield "NaN", f"{100 * summary.nan_share:.3g} % of the committed values{odd}"
    if norms := summary.norms:
        yield "L2 norm", f"mean {norms.mean:.4g}, from {norms.minimum:.4g} to {norms.maximum:.4g}"
        quantiles = (norms.q05, norms.q25, norms.median, norms.q75, norms.q95)
        yield "quantiles", ", ".join(f"{value:.4g}" for value in quantiles) + " (5, 25, 50, 75, 95 %)"
    if dims := summary.dimensions:
        yield (
            "dimensions",
            f"means {dims.mean_low:.4g} to {dims.mean_high:.4g}, std {dims.std_low:.4g} to {dims.std_high:.4g}",
        )
        yield "constant", f"{dims.n_constant:,} dimensions"
    if summary.repeated_share is not None:
        yield "repeated", f"{100 * summary.repeated_share:.3g} % of rows equal the one before to 0.1 %"


def _as_word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _rows_done(entry: EncoderEntry) -> str:
    if entry.is_complete:
        return f"{entry.rows_done:,}"
    return f"{entry.rows_done:,} of {entry.n_frames:,} ({100 * entry.rows_done // entry.n_frames} %)"


def _made_from(entry: EncoderEntry) -> str:
    architecture = entry.provenance.architecture.partition("(")[0]  # `show` has its arguments
    return architecture + (f", from {entry.provenance.parent}" if entry.provenance.parent else "")
