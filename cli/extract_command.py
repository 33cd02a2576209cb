"""`abaw extract`: embeddings of every frame into the store."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ENCODER_PANEL, DeviceOption, JsonOption, WorkersOption, WorkspaceOption

if TYPE_CHECKING:
    from extractor.encoders.encoder import Encoder
    from extractor.encoders.preparing import Prepared
    from extractor.encoders.readout import Grid, Readout
    from extractor.encoders.spec import Pooling
    from extractor.extraction.config import ExtractConfig, ExtractReport
    from featurestore.store import FeatureStore
    from featurestore.writer import Share

    from .workspace import Workspace

_HERE = Path()


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(rich_help_panel=ENCODER_PANEL)(extract)


def extract(
    *,
    encoder: Annotated[str, typer.Option(help="Encoders, such as au or mae,au,v: all in one pass over the frames.")],
    pooling: Annotated[
        str | None,
        typer.Option(help="fc_norm, mean, cls, cls+mean, tokens or default.", show_default="the encoder's own"),
    ] = None,
    layers: Annotated[str, typer.Option(help="Depths to store beside one another, such as 3,6,9,12.")] = "",
    token_grid: Annotated[str, typer.Option(help="Average the patch tokens to a grid, such as 4x4.")] = "",
    token_pca: Annotated[
        int | None, typer.Option(min=1, help="Reduce each token to so many principal components, such as 128.")
    ] = None,
    views: Annotated[str, typer.Option(help="one, or flip: the mean of a frame and its mirror image.")] = "one",
    batch: Annotated[
        int | None, typer.Option(min=1, help="Frames a forward pass; a power of two.", show_default="calibrated")
    ] = None,
    stored: Annotated[str, typer.Option(help="Type of the stored numbers: float16 or float32.")] = "float16",
    on_error: Annotated[str, typer.Option(help="Unreadable frames: mask (list them, go on) or stop.")] = "mask",
    retry_unreadable: Annotated[
        bool, typer.Option("--retry-unreadable", help="Compute again where masked frames can be found now.")
    ] = False,
    reuse_duplicates: Annotated[
        bool, typer.Option("--reuse-duplicates", help="Compute images of the same bytes once a batch (frozen video).")
    ] = False,
    share: Annotated[
        str, typer.Option(help="This process's share, such as 2/8: run 1/8 to 8/8 side by side, on any machines.")
    ] = "1/1",
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Take a preset's weights though they match only a part of it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be computed.")] = False,
    device: DeviceOption = "auto",
    devices: Annotated[
        str | None, typer.Option(help="Several GPUs of this machine, such as 0,1,2,3: a process each.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="auto (bfloat16 or float16 where the GPU or CPU computes in it natively, if faster and close to "
            "float32; else float32), float32, bfloat16 or float16."
        ),
    ] = "auto",
    workers: WorkersOption = None,
    json_: JsonOption = False,
    workspace: WorkspaceOption = _HERE,
) -> None:
    """Run encoders over every frame once and keep the embeddings; a second call computes nothing.

    An encoder is one of the workspace's, a preset, a file of weights, or any timm name (see `abaw encoders`). One whose
    weights have changed since is refused; as au@2 the new ones are kept beside the old ones. Another pooling, layer or
    view is kept under a name of its own, such as mae-layer6.

    For example: abaw extract --encoder mae,au,expr,v,a
    """
    from extractor.extraction.config import ExtractConfig
    from featurestore.errors import ConfigError, unknown_name

    from .console import print_json, progress_bar, say, tell_unreadable
    from .packing import tell_not_packed
    from .workspace import open_workspace

    if on_error not in ("mask", "stop"):
        raise unknown_name("way to meet unreadable frames", on_error, ("mask", "stop"))
    config = ExtractConfig(
        device=device,
        precision=precision,
        batch=batch,
        n_workers=workers,
        stored=stored,
        stop_on_error=on_error == "stop",
        retry_unreadable=retry_unreadable,
        reuse_duplicates=reuse_duplicates,
        share=_parse_share(share),
    )
    if devices and device != "auto":
        raise ConfigError(f"--device {device} and --devices {devices} exclude each other. Give one of them.")
    asked = _parse_asked(pooling, layers, token_grid, token_pca, views)
    opened = open_workspace(workspace)
    store = opened.open_store()
    prepared = _prepare(opened, encoder, allow_partial=allow_partial)

    # torch takes seconds to import, and what is not there should be told at once.
    from extractor.extraction.devices import extract_on, parse_devices

    on = parse_devices(devices) if devices else (device,)
    encoders = _load(prepared, asked)
    if dry_run:
        _tell_plan(opened, store, encoders, config, json_=json_)
        return
    with progress_bar(f"extract {','.join(encoders)}", "frames") as update:

        def on_progress(done: int, total: int, failed: int) -> None:
            update(done, total, f"{failed} unreadable" if failed else "")

        report = extract_on(on, store, encoders, opened.images(), config, on_progress=on_progress, on_note=say)
    tell_unreadable(
        report.failures, store.frames.data["path"].to_list(), consequence="their rows hold NaN and are masked"
    )
    for note in report.notes:
        say(note)
    if retry_unreadable:
        tell_not_packed(opened, report.failures)
    if json_:
        print_json(_summary(report, store))
    else:
        _tell(report, store)
        say(f"store: {store.location}")


def _prepare(opened: "Workspace", text: str, *, allow_partial: bool) -> "dict[str, Path]":
    """Name in the store -> encoder folder, made if it has to be."""
    from featurestore.errors import ConfigError
    from heads.tasks import parse_names

    from .encoders_command import tell_match

    names = parse_names(text)
    if not names:
        raise ConfigError("--encoder names no encoder. Give one, such as --encoder au, or several: mae,au,v.")
    folders: dict[str, Path] = {}
    for name in names:
        prepared, kept_as = _prepare_one(opened, name, allow_partial=allow_partial)
        if prepared.report is not None:
            tell_match(prepared.report, name=prepared.name, source=prepared.source)
        if kept_as in folders:
            raise ConfigError(f"--encoder {text} names {kept_as} twice in the store. Name each once.")
        folders[kept_as] = prepared.folder
    return folders


def _prepare_one(opened: "Workspace", name: str, *, allow_partial: bool) -> "tuple[Prepared, str]":
    """An encoder's folder and its name in the store; ``au@2``, if there is no such encoder, is ``au`` as it is now."""
    from featurestore.errors import UnknownNameError

    try:
        prepared = opened.prepare_encoder(name, allow_partial=allow_partial)
        return prepared, prepared.name
    except UnknownNameError:
        base, _, version = name.rpartition("@")
        if not base or not version.isdecimal():
            raise
        prepared = opened.prepare_encoder(base, allow_partial=allow_partial)
        return prepared, f"{prepared.name}@{version}"


def _load(folders: "Mapping[str, Path]", asked: "_Asked") -> "dict[str, Encoder]":
    """Name in the store -> encoder, one a readout; those of one folder share its backbone."""
    from extractor.encoders.folder import load_encoder
    from featurestore.errors import ConfigError

    encoders: dict[str, Encoder] = {}
    for name, folder in folders.items():
        loaded = load_encoder(folder)
        own = loaded.readout.pooling
        for readout in asked.readouts(own):
            in_store = name + readout.suffix(own)
            if in_store in encoders:
                raise ConfigError(f"Two of these encoders would be {in_store} in the store. Extract them one by one.")
            encoders[in_store] = loaded.with_readout(readout)
    return encoders


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the options ask to be read from every encoder."""

    pooling: "Pooling | None"
    layers: tuple[int, ...]
    token_grid: "Grid | None"
    n_components: int | None
    flip: bool

    def readouts(self, own: "Pooling") -> "list[Readout]":
        """One a layer, or one of the model's end."""
        from extractor.encoders.readout import Readout

        return [
            Readout(
                pooling=self.pooling or own,
                layer=layer,
                token_grid=self.token_grid,
                n_components=self.n_components,
                flip=self.flip,
            )
            for layer in self.layers or (None,)
        ]


def _parse_asked(pooling: str | None, layers: str, token_grid: str, token_pca: int | None, views: str) -> _Asked:
    from extractor.encoders.readout import parse_grid, parse_pooling
    from featurestore.errors import ConfigError, unknown_name

    if views not in ("one", "flip"):
        raise unknown_name("views", views, ("one", "flip"))
    numbers = [text.strip() for text in layers.split(",") if text.strip()]
    if not all(number.isdecimal() and int(number) > 0 for number in numbers) or len(set(numbers)) < len(numbers):
        raise ConfigError(f"--layers are different numbers from 1, such as 3,6,9,12, not {layers!r}. Correct them.")
    return _Asked(
        pooling=None if pooling is None else parse_pooling(pooling),
        layers=tuple(int(number) for number in numbers),
        token_grid=parse_grid(token_grid) if token_grid else None,
        n_components=token_pca,
        flip=views == "flip",
    )


def _parse_share(text: str) -> "Share":
    from featurestore.errors import ConfigError
    from featurestore.writer import Share

    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal()):
        raise ConfigError(f"--share is one of 1/N to N/N, such as 2/8, not {text!r}. Give such a share.")
    return Share(int(number), int(of))


def _tell_plan(
    opened: "Workspace",
    store: "FeatureStore",
    encoders: "Mapping[str, Encoder]",
    config: "ExtractConfig",
    *,
    json_: bool,
) -> None:
    from extractor.extraction.planning import n_missing, plan, tell_sizes
    from heads.devices import resolve_device

    from .console import print_json, stdout

    planned = plan(store, encoders, opened.images(), config, resolve_device(config.device), measure=False)
    if json_:
        to_compute = {name: n_missing(store, name) for name in planned}
        disk_bytes = {name: each.layout.disk_bytes for name, each in planned.items()}
        print_json({"n_frames": store.n_frames, "to_compute": to_compute, "disk_bytes": disk_bytes})
        return
    for line in tell_sizes(store, planned):
        stdout.print(line, markup=False, soft_wrap=True)


def _summary(report: "ExtractReport", store: "FeatureStore") -> dict[str, object]:
    paths = store.frames.data["path"]
    return {
        "computed": report.computed,
        "reused": report.reused,
        "left": report.left,
        "unreadable": len(report.failures),
        "failures": {paths[row]: reason for row, reason in sorted(report.failures.items())},
        "n_frames": report.n_frames,
        "frames_per_second": report.frames_per_second,
        "seconds": report.seconds,
        "device_busy": report.device_busy,
        "stages": dict(report.stages),
    }


def _tell(report: "ExtractReport", store: "FeatureStore") -> None:
    from .console import stdout

    for name, computed in report.computed.items():
        shape = " x ".join(map(str, store.embedding(name).row_shape))
        left = f", {report.left[name]:,} are other shares'" if report.left[name] else ""
        line = f"{name}: {computed:,} rows x {shape} computed, {report.reused[name]:,} were there{left}"
        stdout.print(line, markup=False, soft_wrap=True)
    if report.n_frames:
        stdout.print(
            f"{report.n_frames:,} frames decoded once in {report.seconds:.1f} s: "
            f"{report.frames_per_second:,.0f} frames/s, the device busy {100 * report.device_busy:.0f} % of the time"
        )
