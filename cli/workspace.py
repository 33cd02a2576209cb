"""A workspace: a directory with `abaw.toml`, which says where frames, annotations and results are.

    frames = "/data/cropped_aligned"                    # <video>/<00001>.jpg; or a pack, frames.h5
    pack = "frames.h5"                                  # optional: the same images in one file, read instead
    train = "/data/training_set_annotations.txt"
    val = "/data/validation_set_annotations.txt"
    test = "/data/MTL_Challenge_test_set_release.txt"   # optional
    store = "features"                                  # a folder, or a URL such as s3://bucket/features
    cache = "/scratch/abaw"                             # optional: copies of what is read from a URL
    encoders = "encoders"
    weights = "weights"                                 # files of weights, such as mae_pretrain_vit_base.pth
    runs = "runs"

    [encoder_folders]                                   # optional: encoders, or files of weights, that live elsewhere
    mae_base = "/models/mae_base"
    arcface = "/models/ms1mv3_arcface_r100_fp16.pth"

Relative paths start at the workspace.
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from featurestore.atomic import replace_file
from featurestore.challenge.annotations import read_annotations, read_list
from featurestore.errors import (
    ConfigError,
    FileExistsAlreadyError,
    FrameMismatchError,
    MissingFileError,
    UnknownNameError,
    unknown_name,
)
from featurestore.images.imagesource import is_pack_path
from featurestore.provenance import file_digest
from featurestore.storage.opening import is_url
from featurestore.store import FeatureStore

if TYPE_CHECKING:
    from extractor.encoders.preparing import Prepared
    from featurestore.images.imagesource import ImageSource

CONFIG_FILE: Final = "abaw.toml"
LEADERBOARD_FOLDER: Final = "leaderboard"
"""Where `abaw leaderboard` keeps its table and its systems, unless it is told otherwise."""


class WorkspaceConfig(BaseModel):
    """What `abaw.toml` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: Path
    pack: Path | None = None
    train: Path
    val: Path
    test: Path | None = None
    store: str = "features"
    cache: Path | None = None
    encoders: Path = Path("encoders")
    weights: Path = Path("weights")
    runs: Path = Path("runs")
    encoder_folders: dict[str, Path] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workspace:
    """An opened workspace; all its paths are absolute.

    Attributes
    ----------
    root
        The directory that holds `abaw.toml`.
    config
        As written, with paths made absolute.
    """

    root: Path
    config: WorkspaceConfig

    def annotation_files(self) -> dict[str, Path]:
        """Split to annotation file or list, those that are configured."""
        files = {"train": self.config.train, "val": self.config.val}
        return files | ({"test": self.config.test} if self.config.test is not None else {})

    def sources(self) -> dict[str, str]:
        """Split to the digest of its file, for files that can be found."""
        return {split: file_digest(path) for split, path in self.annotation_files().items() if path.is_file()}

    def images(self) -> "ImageSource":
        """Where the images are read from: the pack, if there is one in `abaw.toml`; else `frames`."""
        from featurestore.images.framepack import open_images  # h5py: a tenth of a second to import

        return open_images(self.config.frames if self.config.pack is None else self.config.pack)

    def prepare_encoder(self, name: str, *, allow_partial: bool = False) -> "Prepared":
        """The folder of an encoder: one of the workspace's or of `abaw.toml`'s, or made of a preset or of weights."""
        from extractor.encoders.preparing import prepare_encoder

        places = self.config
        return prepare_encoder(
            name, places.encoders, weights=places.weights, table=places.encoder_folders, allow_partial=allow_partial
        )

    def find_run(self, name: str) -> Path:
        """The folder of a run: one of the workspace's by name, or a path.

        By name first of those in the folder of runs, then of the leaderboard's systems.

        Raises
        ------
        UnknownNameError
            If there is no such run; it suggests the nearest name.
        """
        records = ("config.json", "system.json")  # of a head, of a recipe's system
        places = (self.config.runs, self.root / LEADERBOARD_FOLDER)
        own: dict[str, Path] = {}
        for place in places:
            for path in (path.parent for record in records for path in place.glob(f"[!.]*/{record}")):
                own.setdefault(path.name, path)
        if name in own:
            return own[name]
        if any((Path(name) / record).is_file() for record in records):
            return Path(name)
        raise UnknownNameError(
            f"{unknown_name('run', name, own)} Looked in {places[0]} and {places[1]}; a path serves as well."
        )

    def read_listed(self, split: str) -> pl.DataFrame:
        """Every row of a split's file in its order, duplicates included: what a submission answers.

        Raises
        ------
        ConfigError
            If the workspace has no file for the split.
        """
        files = self.annotation_files()
        if split not in files:
            raise ConfigError(
                f"The workspace has no {split!r} list, only {', '.join(files)}. "
                f'Add `{split} = "FILE"` to {CONFIG_FILE}, and run `abaw frames` again.'
            )
        return read_list(files[split]) if split == "test" else read_annotations(files[split], split)

    def open_store(self, *, check_sources: bool = True) -> FeatureStore:
        """The workspace's store.

        Parameters
        ----------
        check_sources
            Refuse a store of other annotation files; what only lists or removes embeddings needs no such check.

        Raises
        ------
        MissingFileError
            If `abaw frames` has not made it yet.
        FrameMismatchError
            If the annotation files are not the ones that it was made from.
        """
        store = FeatureStore.open(self.config.store, cache=self.config.cache)
        if not check_sources:
            return store
        recorded = store.sources
        changed = [split for split, digest in self.sources().items() if recorded.get(split) != digest]
        if changed:
            files = ", ".join(str(self.annotation_files()[split]) for split in changed)
            raise FrameMismatchError(
                f"The store {store.location} was made from other annotations than those in {CONFIG_FILE} now "
                f"({files}). "
                "Run `abaw frames` to bring it up to date: embeddings stay if the frames are the same."
            )
        return store


def create_workspace(root: Path, config: WorkspaceConfig, *, force: bool = False) -> Workspace:
    """Make a workspace of a directory, after checking that everything it names is there.

    Raises
    ------
    MissingFileError
        If the image folder, or the pack given as such, or an annotation file is missing; all of them are named.
    FileExistsAlreadyError
        If the directory is a workspace already, and `force` is not given.
    """
    absolute = _absolute(config, Path.cwd())
    is_there = absolute.frames.is_dir() or (is_pack_path(absolute.frames) and absolute.frames.is_file())
    missing = [] if is_there else [f"the image folder {absolute.frames}"]
    files = [("train", absolute.train), ("val", absolute.val), ("test", absolute.test)]
    missing += [f"the {split} file {path}" for split, path in files if path is not None and not path.is_file()]
    if missing:
        raise MissingFileError(f"Not there: {', '.join(missing)}. Correct the path; no workspace was made.")
    target = root / CONFIG_FILE
    if target.exists() and not force:
        raise FileExistsAlreadyError(f"{root} is a workspace already ({target}). Edit that file, or give --force.")
    root.mkdir(parents=True, exist_ok=True)
    lines = ["# An abaw workspace; `abaw frames` comes next."]
    named: dict[str, Path | str | None] = {"frames": absolute.frames, "train": absolute.train, "val": absolute.val}
    named |= {"test": absolute.test, "store": config.store, "encoders": config.encoders, "runs": config.runs}
    lines += [f"{key} = {json.dumps(str(path))}" for key, path in named.items() if path is not None]
    with replace_file(target) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return open_workspace(root)


def open_workspace(start: Path) -> Workspace:
    """The workspace at a directory, or at the nearest one above it.

    Raises
    ------
    MissingFileError
        If there is none.
    ConfigError
        If its `abaw.toml` cannot be used.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        path = folder / CONFIG_FILE
        if path.is_file():
            return Workspace(folder, _absolute(_read(path), folder))
    raise MissingFileError(
        f"No {CONFIG_FILE} in {start} or above. Make a workspace with `abaw init`, or name one with -w DIR."
    )


def _read(path: Path) -> WorkspaceConfig:
    try:
        return WorkspaceConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}. Correct that line.") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"{path} cannot be used: {problems}. Correct these entries.") from error


def _absolute(config: WorkspaceConfig, root: Path) -> WorkspaceConfig:
    def resolve(path: Path | None) -> Path | None:
        return None if path is None else (root / path.expanduser()).resolve()

    paths = ("frames", "pack", "train", "val", "test", "cache", "encoders", "weights", "runs")
    folders = {name: resolve(path) for name, path in config.encoder_folders.items()}
    store = config.store if is_url(config.store) else str(resolve(Path(config.store)))
    return config.model_copy(
        update={name: resolve(getattr(config, name)) for name in paths} | {"store": store, "encoder_folders": folders}
    )
