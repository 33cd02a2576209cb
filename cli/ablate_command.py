"""`abaw ablate`: the paper's tables over one's own store."""

from pathlib import Path
from typing import Annotated

import typer

from .features import load_features
from .options import HEAD_PANEL, DeviceOption, JsonOption, MemoryOption, ParallelOption, WorkspaceOption
from .seeds import parse_seeds

_HERE = Path()

EpochsOption = Annotated[int, typer.Option(min=1, help="Passes over the train windows; the best one is kept.")]
RateOption = Annotated[float, typer.Option(help="Learning rate of AdamW, constant.")]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("ablate", rich_help_panel=HEAD_PANEL)(ablate)


def ablate(
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="fusion, temporal, joint (the paper's tables 2, 3, 4) or all.")
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the CSV files.", show_default="ablations/ of the workspace")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Base embedding of every row.", show_default="each task's own; mae in table 4")
    ] = None,
    seeds: Annotated[str, typer.Option(help="One or several, such as 1,2,3: means over them, and their spread.")] = "1",
    epochs: EpochsOption = 20,
    patience: Annotated[
        int, typer.Option(min=0, help="End a row after so many epochs without a better one; 0 runs them all.")
    ] = 5,
    lr: RateOption = 1e-3,
    batch_frames: Annotated[
        int | None, typer.Option(min=1, help="Rows a step.", show_default="by the rows there are")
    ] = None,
    parallel: ParallelOption = "auto",
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Run the paper's ablation tables as grids over your store, one CSV each; finished rows are kept.

    Each row stands beside the first of its task (nothing fused, single frames, nothing joined); + and - mark those
    that differ from it beyond what other videos would change.

    For example: abaw ablate fusion --out ablations/ --seeds 1,2,3
    """
    from heads.ablation.printing import render_table
    from heads.ablation.running import RowReport, run_ablation
    from heads.ablation.tables import plan, readable
    from heads.fitting.config import FitConfig
    from heads.fitting.parallel import resolve_parallel

    from .console import print_json, progress_bar, say, stdout, warn
    from .workspace import open_workspace

    training = FitConfig(
        epochs=epochs, patience=patience or None, learning_rate=lr, batch_frames=batch_frames, device=device
    )
    wanted = parse_seeds(seeds)
    opened = open_workspace(workspace)
    out = opened.root / "ablations" if out is None else out
    store = opened.open_store()
    planned = plan(table, store.names(), base=encoder)
    planned = readable(planned, {name: store.embedding(name).row_shape for name in planned.encoders})
    for note in planned.notes:
        say(note)
    features = load_features(store, planned.encoders, device, memory)
    at_once = resolve_parallel(parallel, features)
    with progress_bar(f"ablate {table}", "rows") as update:

        def on_row(report: RowReport) -> None:
            update(report.index, report.n_rows, "kept" if report.is_kept else f"{report.row['seconds']:.1f} s")

        made = run_ablation(
            features,
            table,
            out=out,
            training=training,
            seeds=wanted,
            base=encoder,
            parallel=at_once,
            on_row=on_row,
            on_note=warn,
        )
    names = made.rows["table"].unique(maintain_order=True).to_list()
    if json_:
        files = {name: str(out / f"{name}.csv") for name in names}
        print_json({"files": files, "rows": made.rows.to_dicts(), "summary": made.summary.to_dicts()})
        return
    for name in names:
        stdout.print(render_table(made.summary.filter(table=name), title=f"{name} ({out / f'{name}.csv'})"))
