"""`abaw frames --pack`: a pack of the workspace's frames, and the line in `abaw.toml` by which all commands read it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from featurestore.errors import ConfigError, FileExistsAlreadyError, StoreError
from featurestore.frames import FrameTable
from featurestore.images.framepack import FramePack
from featurestore.images.imagesource import (
    EMPTY_FILE,
    NO_SUCH_FILE,
    NOT_A_FILE,
    ImageFolder,
    ImageSource,
    is_pack_path,
)
from featurestore.images.packwriter import write_pack

from .configfile import set_entry
from .console import progress_bar, say, warn
from .workspace import CONFIG_FILE, Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What became of a pack.

    Attributes
    ----------
    file
        The pack.
    n_images, n_bytes
        What it holds.
    n_absent
        Frames that have no image in it.
    seconds
        That it took to write; None if it was there before.
    is_checked
        Whether its bytes were read again, and are those that were packed.
    """

    file: Path
    n_images: int
    n_bytes: int
    n_absent: int
    seconds: float | None
    is_checked: bool = False

    @classmethod
    def of(cls, pack: FramePack, *, seconds: float | None) -> Self:
        """What stands in a pack's index."""
        index = pack.index
        n_absent = len(index.absent)
        return cls(file=pack.path, n_images=pack.n_images, n_bytes=index.n_bytes, n_absent=n_absent, seconds=seconds)

    def as_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        counts = {"images": self.n_images, "bytes": self.n_bytes, "absent": self.n_absent}
        written = {"written": self.seconds is not None, "seconds": self.seconds or 0.0}
        return {"file": str(self.file), **counts, **written, "checked": self.is_checked}

    def __str__(self) -> str:
        images = "1 image" if self.n_images == 1 else f"{self.n_images:,} images"
        text = f"{self.file}: {images}, {self.n_bytes / 1e6:,.1f} MB"
        text += f"; {self.n_absent:,} listed without an image" if self.n_absent else ""
        text += "; there already, --force packs again" if self.seconds is None else f"; packed in {self.seconds:.1f} s"
        return text + ("; every byte is as it was packed" if self.is_checked else "")


def pack_target(path: Path | None, root: Path, *, force: bool) -> Path | None:
    """The absolute path of the pack that is asked for, if one is; a relative one starts at the workspace.

    Raises
    ------
    ConfigError
        If the name is no pack's, or nothing is to be packed by force.
    """
    if path is None:
        if force:
            raise ConfigError("--force is about the pack, and none is named. Add it, such as --pack frames.h5.")
        return None
    path = (root / path.expanduser()).resolve()
    if not is_pack_path(path):
        raise ConfigError(f"A pack is a file that ends in .h5, such as frames.h5; {path} is not. Give such a name.")
    return path


def images_to_audit(opened: Workspace, frames: FrameTable, *, packing: Path | None) -> ImageSource:
    """Where `abaw frames` counts images: where commands read them, or the folder, if the pack is to be made (again).

    Parameters
    ----------
    opened
        The workspace.
    frames
        Its frames, as its annotations are now.
    packing
        The pack that is asked for.
    """
    folder = opened.config.frames
    if packing is not None and folder.is_dir():
        return ImageFolder(folder)
    if packing is not None and packing.is_file():
        return FramePack(packing)
    images = opened.images()
    if folder.is_dir() and isinstance(images, FramePack) and not images.is_of(frames):
        return ImageFolder(folder)
    return images


def update_pack(
    opened: Workspace, frames: FrameTable, path: Path | None, *, force: bool, check: bool, allow_missing: bool = False
) -> Packed | None:
    """Pack the images of a workspace's folder if that is asked for, and check the pack if that is.

    Parameters
    ----------
    opened
        The workspace; its `abaw.toml` names the pack afterwards.
    frames
        Of its store.
    path
        The pack to make, of which there may be one; None for that of `abaw.toml`, if there is one.
    force
        Replace whatever is there.
    check
        Read the pack, and compare its digest.
    allow_missing
        Replace a pack even if it holds images that the folder has not.

    Returns
    -------
    What became of it; None if there was nothing to do.

    Raises
    ------
    ConfigError
        If there is no folder to pack, or no pack to check.
    FileExistsAlreadyError
        If something else is there, or a pack with images that the folder has not.
    StoreError
        If the check finds another digest.
    """
    if path is not None:
        packed = _pack(opened, frames, path, force=force, allow_missing=allow_missing)
        _name_in_config(opened, path)
    else:
        images = opened.images()
        if isinstance(images, FramePack) and not images.is_of(frames):
            warn(f"the pack is of other frames: run `abaw frames --pack {images.path}` before images are read.")
        if not check:
            return None
        if not isinstance(images, FramePack):
            raise ConfigError(f"--check reads a pack, and {CONFIG_FILE} names none. Make one with --pack frames.h5.")
        packed = Packed.of(images, seconds=None)
    if check:
        with progress_bar("check", "bytes") as update:
            FramePack(packed.file).verify(on_progress=lambda done, total: update(done, total, ""))
        packed = replace(packed, is_checked=True)
    return packed


def tell_not_packed(opened: Workspace, failures: Mapping[int, str]) -> None:
    """Say of frames that failed again, row -> reason, how many none can find: the pack was made without them."""
    images = opened.images()
    n_absent = sum(reason in (NO_SUCH_FILE, NOT_A_FILE, EMPTY_FILE) for reason in failures.values())
    if n_absent and isinstance(images, FramePack):
        frames = "1 of these frames has" if n_absent == 1 else f"{n_absent:,} of these frames have"
        warn(
            f"{frames} no image in the pack, which is read in place of the folder. If the folder has it by now, "
            f"`abaw frames --pack {images.path} --force` packs again."
        )


def _pack(opened: Workspace, frames: FrameTable, path: Path, *, force: bool, allow_missing: bool) -> Packed:
    if path.exists() and not force and _is_pack_of(path, frames):
        return Packed.of(FramePack(path), seconds=None)
    folder = opened.config.frames
    if is_pack_path(folder):
        raise ConfigError(
            f"A pack is made of an image folder, but `frames` in {CONFIG_FILE} is a pack itself ({folder}). "
            "Point it at the folder first."
        )
    with progress_bar("pack", "frames") as update:
        report = write_pack(path, frames, ImageFolder(folder), allow_missing=allow_missing, on_progress=update)
    return Packed.of(FramePack(path), seconds=report.seconds)


def _is_pack_of(path: Path, frames: FrameTable) -> bool:
    """Whether a file is a pack of these frames; if it is no pack, it is somebody's, and not replaced unasked."""
    try:
        return FramePack(path).is_of(frames)
    except StoreError as error:
        raise FileExistsAlreadyError(
            f"Something else than a pack of this format is in the way at {path}. Give another name, or --force to "
            f"replace it. ({error})"
        ) from error


def _name_in_config(opened: Workspace, path: Path) -> None:
    """Make the workspace read from a pack, if it does not yet."""
    if path == (opened.config.pack or opened.config.frames):
        return
    file = opened.root / CONFIG_FILE
    value = str(path.relative_to(opened.root)) if path.is_relative_to(opened.root) else str(path)
    if set_entry(file, "pack", value, after="frames"):
        say(
            f'pack = "{value}" stands in {file} now: every command reads the images from there. '
            "Take that line out to read the folder again."
        )
