"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

WorkspaceOption = Annotated[
    Path, typer.Option("-w", "--workspace", help="Workspace directory, or one inside it.", show_default="here")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        help="Memory for embeddings, such as 4GB; if they take more they are streamed.",
        show_default="half of what is free",
    ),
]
TrainingPrecisionOption = Annotated[
    str, typer.Option(help="auto (bfloat16 on a GPU, float32 on a CPU), float32 or bfloat16.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Threads that decode images.", show_default="chosen by the device")
]
ParallelOption = Annotated[str, typer.Option(help="Fits at once, each in a process of its own: auto, or a number.")]
SeedOption = Annotated[  # up to what torch takes
    int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same bits on the same machine.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there under this name.")]

DATA_PANEL = "Data"
ENCODER_PANEL = "Encoders and embeddings"
HEAD_PANEL = "Heads and scores"
