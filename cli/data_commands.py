"""`abaw synth`, `init`, `frames`: a dataset, a workspace of it, and the table of its frames."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import DATA_PANEL, ForceOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from featurestore.frames import FrameTable

_HERE = Path()


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (synth, init, frames):
        app.command(rich_help_panel=DATA_PANEL)(command)


def synth(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the dataset.")],
    *,
    videos: Annotated[int, typer.Option(help="How many videos.")] = 32,
    frames_per_video: Annotated[int, typer.Option(min=1, help="Mean number of listed frames a video.")] = 235,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 7,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 2,
    sheet: Annotated[Path | None, typer.Option(help="Also draw a contact sheet, such as faces.png.")] = None,
    json_: JsonOption = False,
) -> None:
    """Render faces in s-Aff-Wild2's exact layout, with its traps: a dataset to try everything on.

    For example: abaw synth data --videos 32 --seed 7 --sheet faces.png
    """
    from extractor.synth.dataset import SynthConfig, write_dataset
    from extractor.synth.sheet import write_sheet

    from .console import print_json, progress_bar, stdout

    config = SynthConfig(videos=videos, seed=seed, frames_per_video=frames_per_video, workers=workers)
    with progress_bar("draw", "videos") as update:
        summary = write_dataset(directory, config, on_video=lambda done, total: update(done, total, ""))
    if sheet is not None:
        write_sheet(directory, sheet)
    if json_:
        print_json(summary.as_dict())
        return
    counts = ", ".join(f"{split} {rows:,}" for split, rows in summary.rows.items())
    stdout.print(f"{directory}: {videos} videos, listed rows: {counts}; {summary.seconds:.1f} s", markup=False)
    if sheet is not None:
        stdout.print(f"{sheet}", markup=False)


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The workspace to make.")],
    *,
    frames: Annotated[Path, typer.Option(help="Folder of the crops: <video>/<00001>.jpg; or a pack of them, .h5.")],
    train: Annotated[Path, typer.Option(help="Annotations, such as training_set_annotations.txt.")],
    val: Annotated[Path, typer.Option(help="Annotations, such as validation_set_annotations.txt.")],
    test: Annotated[Path | None, typer.Option(help="Test list, such as MTL_Challenge_test_set_release.txt.")] = None,
    store: Annotated[str, typer.Option(help="The feature store: a folder, or a URL as s3://bucket/x.")] = "features",
    force: ForceOption = False,
    json_: JsonOption = False,
) -> None:
    """Make a workspace: a directory with an abaw.toml that says where frames and annotations are.

    For example: abaw init work --frames cropped_aligned --train train.txt --val val.txt --test list.txt
    """
    from .console import print_json, stdout
    from .workspace import CONFIG_FILE, WorkspaceConfig, create_workspace

    config = WorkspaceConfig(frames=frames, train=train, val=val, test=test, store=store)
    workspace = create_workspace(directory, config, force=force)
    if json_:
        print_json({"workspace": str(workspace.root), "config": str(workspace.root / CONFIG_FILE)})
        return
    stdout.print(f"{workspace.root / CONFIG_FILE}\nNext: cd {directory} && abaw frames", markup=False)


def frames(
    *,
    add: Annotated[
        bool,
        typer.Option("--add", help="Append the videos that are new in the annotations; all rows keep their place."),
    ] = False,
    pack: Annotated[
        Path | None,
        typer.Option(help="Pack the images into one file, such as frames.h5 in the workspace, and read them there."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read the pack once, and compare its digest.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Pack again, whatever is there under that name.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Replace a pack even if it holds images that the folder has not.")
    ] = False,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Read the annotations into the frame table, and print what is in them; --pack puts all images into one file.

    Labels may be corrected and this run again: embeddings stay as long as the frames are the same. With --add they stay
    when there are more videos, too, and only the new ones remain to be extracted.

    For example: abaw frames --pack frames.h5
    """
    from featurestore.challenge.annotations import build_frames, read_challenge
    from featurestore.challenge.audit import audit
    from featurestore.store import FeatureStore

    from .advice import next_for_incomplete
    from .console import print_json, say, stdout
    from .packing import images_to_audit, pack_target, update_pack
    from .render import audit_tables
    from .workspace import open_workspace

    opened = open_workspace(workspace)
    target = pack_target(pack, opened.root, force=force)
    files = read_challenge(opened.config.train, opened.config.val, opened.config.test)
    table = build_frames(files.train, files.val, files.test)
    # Images first: a store that has grown by frames whose images are out of reach would be half a step.
    ordered = _in_store_order(opened.config.store, table)
    found = audit(files, images_to_audit(opened, ordered, packing=target))
    store = FeatureStore.create(opened.config.store, table, sources=files.sources, add=add)
    packed = update_pack(opened, store.frames, target, force=force, check=check, allow_missing=allow_missing)
    if json_:
        print_json(found.as_dict() | ({} if packed is None else {"pack": packed.as_dict()}))
        return
    for each in audit_tables(found):
        stdout.print(each)
    if packed is not None:
        stdout.print(f"{packed}", markup=False)
    say(f"{'1 frame' if store.n_frames == 1 else f'{store.n_frames:,} frames'} in {store.location}")
    for line in next_for_incomplete(opened, store):
        say(line)


def _in_store_order(location: str, table: "FrameTable") -> "FrameTable":
    """The frames in the order of the store's rows, before it is touched; FrameMismatchError if it cannot hold them."""
    from featurestore.errors import MissingFileError
    from featurestore.store import FeatureStore

    try:
        store = FeatureStore.open(location)
    except MissingFileError:
        return table
    if table.fingerprint == store.fingerprint or not store.names():
        return table
    return store.frames.continued_by(table)
