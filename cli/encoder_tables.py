"""Encoders and presets as a person reads them: the list, and all about one of them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from extractor.encoders.finding import Folder, PresetFound, WeightsFile, candidate_weights, find_encoder, own_encoders
from extractor.encoders.hub import is_cached
from extractor.encoders.presets import ALIASES, PRESETS, Preset, weight_names
from extractor.encoders.spec import EncoderSpec
from extractor.encoders.specfile import read_spec
from featurestore.errors import AbawError

_NOT_STATED = "not stated"
# Told by other lines, or of use to nobody but the program.
_NOT_TOLD = frozenset({"matched", "total", "prefix", "dim", "file_bytes", "file_mtime_ns"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderLine:
    """An encoder of the workspace, or a preset, and what of it is on this machine.

    Attributes
    ----------
    state
        ``ready`` (a folder), ``weights`` (a file, taken at first use), ``cached`` and ``hub`` (published weights, in
        the hub's cache or to be downloaded), ``absent``, or ``unreadable``.
    where
        The folder, the file, the hub's tag, or the name of a file to look for.
    page, files
        Of a preset: where its weights are found, and the patterns of their names.
    """

    name: str
    what: str
    spec: EncoderSpec | None
    dim: int | None
    state: str
    where: str
    page: str | None = None
    files: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """As JSON has it."""
        spec = self.spec
        return {
            "what": self.what,
            "state": self.state,
            "where": self.where,
            "page": self.page,
            "files": list(self.files),
            "architecture": spec and spec.described(),
            "dim": self.dim,
            "input_px": spec and spec.input_px,
            "pooling": spec and spec.pooling,
            "n_scores": spec and spec.n_scores,
            "licence": spec and spec.licence,
        }


def encoder_lines(encoders: Path | None, weights: Path | None, table: Mapping[str, Path]) -> list[EncoderLine]:
    """The workspace's encoders, then the presets that it has not made yet.

    Parameters
    ----------
    encoders, weights
        Folders of the workspace; None outside of one.
    table
        `abaw.toml`'s further encoders.
    """
    own = own_encoders(encoders)
    lines = [_own_line(name, folder) for name, folder in own.items()]
    lines += [_elsewhere(name, path) for name, path in sorted(table.items()) if name not in own]
    made = {line.name for line in lines}
    return lines + [_preset_line(preset, weights) for name, preset in PRESETS.items() if name not in made]


def encoder_line(name: str, encoders: Path | None, weights: Path | None, table: Mapping[str, Path]) -> EncoderLine:
    """What `abaw extract --encoder` takes a name for: also a path, a short or sized name, and a timm model.

    Parameters
    ----------
    name, encoders, weights, table
        As `finding.find_encoder` takes them.

    Raises
    ------
    AbawError
        What finding raises.
    """
    found = find_encoder(name, encoders, table, weights=weights)
    if isinstance(found, Folder):
        return _own_line(found.path.name if found.path.parent == encoders else name, found.path)
    if isinstance(found, WeightsFile):
        what = "a file of weights, recognised at first use"
        return EncoderLine(name=name, what=what, spec=None, dim=None, state="weights", where=str(found.path))
    if isinstance(found, PresetFound):
        line = _preset_line(found.preset, weights, asked=name)
        return line if found.weights is None else replace(line, state="weights", where=str(found.weights))
    state, where = _published(found.tag) if found.tag else ("absent", f"{name}.pth")
    if found.weights is not None:
        state, where = "weights", str(found.weights)
    what = f"timm's {found.spec.architecture}"
    return EncoderLine(name=name, what=what, spec=found.spec, dim=None, state=state, where=where)


def encoders_table(lines: Iterable[EncoderLine], *, root: Path | None, is_narrow: bool = False) -> Table:
    """Encoders, one a line; places are relative to the workspace. A narrow one has fewer columns."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("encoder", no_wrap=True)
    if not is_narrow:
        table.add_column("what it is", overflow="fold")
    table.add_column("dim", justify="right", no_wrap=True)
    table.add_column("px", justify="right", no_wrap=True)
    if not is_narrow:
        table.add_column("pooling")
        table.add_column("licence of the weights", overflow="fold")
    table.add_column("on this machine", overflow="fold")
    for line in lines:
        spec = line.spec
        further = ("-", "-") if spec is None else (spec.pooling, escape(spec.licence or _NOT_STATED))
        table.add_row(
            line.name,
            *(() if is_narrow else (escape(line.what),)),
            "-" if line.dim is None else f"{line.dim:,}",
            "-" if spec is None else str(spec.input_px),
            *(() if is_narrow else further),
            escape(_told(line, root)),
            style="dim" if line.state == "absent" else "red" if line.state == "unreadable" else None,
        )
    names = ", ".join(f"{short} is {name}" for short, name in ALIASES.items())
    table.caption = f"{names}; another size stands behind the name, as in dinov2_giant_238; any timm model works, too"
    table.caption_justify = "left"
    return table


def spec_pairs(spec: EncoderSpec) -> Iterator[tuple[str, str]]:
    """How an encoder is built and fed."""
    yield "architecture", spec.described()
    yield "input", f"{spec.input_px} x {spec.input_px} px, {spec.interpolation}"
    yield "mean", ", ".join(f"{value:.6g}" for value in spec.mean)
    yield "std", ", ".join(f"{value:.6g}" for value in spec.std)
    yield "pooling", spec.pooling + (f", and {spec.n_scores} scores" if spec.n_scores else "")
    yield "licence", spec.licence or _NOT_STATED


def origin_pairs(spec: EncoderSpec) -> Iterator[tuple[str, str]]:
    """Where an encoder's weights came from, what is not a list or a table of its own."""
    for key, value in spec.origin.items():
        if isinstance(value, str | int | float) and key not in _NOT_TOLD:
            yield key, str(value)


def match_pairs(spec: EncoderSpec) -> Iterator[tuple[str, str]]:
    """What of a file of weights went into an encoder, as `encoder.json` keeps it; nothing for one that was trained."""
    if "matched" not in spec.origin:
        return
    from extractor.encoders.matching import MatchReport  # torch: seconds to import

    for what, n_tensors, which in MatchReport.from_json(spec.origin).rows():
        yield what, f"{n_tensors:,}  {which}".rstrip()


def _own_line(name: str, folder: Path) -> EncoderLine:
    try:
        spec = read_spec(folder)
    except AbawError as error:
        return EncoderLine(name=name, what=str(error), spec=None, dim=None, state="unreadable", where=str(folder))
    origin = spec.origin
    preset = PRESETS.get(str(origin.get("preset")))
    parts = [str(origin[key]) for key in ("kind", "form", "task", "parent", "file") if origin.get(key)]
    what = preset.what if preset else f"{spec.architecture}: {', '.join(parts) or 'no origin'}"
    dim = origin.get("dim") or spec.arguments.get("embed_dim")
    return EncoderLine(
        name=name,
        what=what,
        spec=spec,
        dim=dim if isinstance(dim, int) else None,
        state="ready",
        where=str(folder),
        page=preset.page if preset else None,
    )


def _elsewhere(name: str, path: Path) -> EncoderLine:
    if path.is_dir():
        return _own_line(name, path)
    state = "weights" if path.is_file() else "absent"
    return EncoderLine(name=name, what="of abaw.toml", spec=None, dim=None, state=state, where=str(path))


def _preset_line(preset: Preset, weights: Path | None, *, asked: str | None = None) -> EncoderLine:
    files = candidate_weights(weights, weight_names(preset, asked), preset.files)
    if files:
        state, where = "weights", ", ".join(map(str, files))
    elif preset.hub_tag is not None:
        state, where = _published(preset.hub_tag)
    else:
        state, where = "absent", preset.files[0]
    return EncoderLine(
        name=asked or preset.name,
        what=preset.what,
        spec=preset.spec,
        dim=preset.dim,
        state=state,
        where=where,
        page=preset.page,
        files=preset.files,
    )


def _published(tag: str) -> tuple[str, str]:
    return "cached" if is_cached(tag) else "hub", tag


def _told(line: EncoderLine, root: Path | None) -> str:
    where = line.where
    if root is not None and line.state in ("ready", "weights", "unreadable"):
        where = where.replace(f"{root}/", "")
    match line.state:
        case "hub":
            return f"no; downloaded at first use: {where}"
        case "cached":
            return f"in the hub's cache: {where}"
        case "absent":
            return f"no; put {where} into the folder weights"
        case "weights":
            return f"weights: {where}"
    return where
