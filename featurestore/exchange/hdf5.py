"""HDF5 in the layouts that this field writes, told apart by what stands where.

    flat    /feature [N, D]  /keys [N]           every row has its name, video/frame.jpg; or /video and /frame, [N] each
    video   /<video>/feature [T, D]              /<video>/frame [T] numbers its rows; without one, the rows are the
                                                 frames that the table has of the video, if they are as many
            /<video>/<image> [D]                 what f["341/00066.jpg"] = vector makes: HDF5 takes / for a group
    image   /<image>/<video> [D]                 how the winner of ABAW7 dumps its task features (its own reader takes
                                                 the image's name without a suffix)

`<video>/<image>` and `<image>/<video>` look alike where videos are numbered: the one that names more frames of the
table is taken. [D] may be [n_tokens, D] everywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import numpy.typing as npt

from featurestore.errors import ConfigError, ShapeError, StoreError, unknown_name

from .keys import FrameIndex, IntArray, frame_key
from .origin import ORIGIN, Origin
from .source import EntrySource, NumberArray, SlicedRows, VectorSource, block_rows, check_vector, damage_named

LAYOUTS: Final = ("flat", "video", "image")
FEATURE: Final = "feature"
KEYS: Final = "keys"
FRAME: Final = "frame"

_VECTORS: Final = (FEATURE, "features", "embedding", "embeddings", "vectors")
_NAMES: Final = (
    KEYS,
    "key",
    "path",
    "paths",
    "name",
    "names",
    "image",
    "images",
    "filename",
    "filenames",
    "image_location",
)
_NUMBERS: Final = (FRAME, "frames")
_DAMAGE: Final = (OSError, RuntimeError, KeyError, ValueError, UnicodeDecodeError)
_N_EXAMPLES: Final = 5


@contextmanager
def open_hdf5(path: Path, index: FrameIndex, layout: str | None = None) -> Iterator[VectorSource]:
    """The vectors of an HDF5 file.

    Parameters
    ----------
    path
        The file.
    index
        Of the store's frames: they decide between layouts that look alike, and number rows that nothing numbers.
    layout
        flat, video or image; None recognises it.

    Raises
    ------
    StoreError
        If the file is damaged, or of no known layout.
    ShapeError
        If rows that nothing numbers are not as many as the frames of their video, or keys not as many as rows.
    ConfigError
        If two layouts fit equally well, and none is told.
    """
    if layout is not None and layout not in LAYOUTS:
        raise unknown_name("HDF5 layout", layout, LAYOUTS)
    with damage_named(path, "an HDF5 file", _DAMAGE[:1]):
        file = h5py.File(path, "r")
    with file:
        with damage_named(path, "an HDF5 file", _DAMAGE[:3]):
            leaves = _leaves(file)
            note = file.attrs.get(ORIGIN)
        origin = None if note is None else Origin.from_json(note, path)
        yield _source(file, path, leaves, index, layout, origin)


def _leaves(file: h5py.File) -> list[str]:
    """Paths of everything that is in no other: datasets, and groups with nothing in them."""
    paths: list[str] = []
    file.visit(paths.append)  # hard links only: no link leads out of the file
    parents = {path.rpartition("/")[0] for path in paths}
    return [path for path in paths if path not in parents]


def _source(
    file: h5py.File, path: Path, leaves: list[str], index: FrameIndex, layout: str | None, origin: Origin | None
) -> VectorSource:
    features = [leaf for leaf in leaves if "/" in leaf and leaf.rpartition("/")[2] in (FEATURE, "features")]
    nested = [leaf for leaf in leaves if "/" in leaf]
    if layout in (None, "video") and features:
        others = _beside(features, leaves)
        _refuse_mixed(path, others, index, is_flat=layout is None and _flat_parts(file, leaves) is not None)
        return _VideoSource(file, path, features, index, origin, others)
    flat = None if layout in ("video", "image") else _flat_parts(file, leaves)
    if flat is not None:
        return _FlatSource(file, path, *flat, origin)
    if layout != "flat" and nested:
        return _LeafSource(file, path, nested, _is_image_first(path, nested, index, layout), origin)
    found = ", ".join(leaves[:_N_EXAMPLES]) or "nothing"
    raise StoreError(
        f"An HDF5 file holds {f'the layout {layout}' if layout else 'one of the layouts'}: flat (/feature and /keys), "
        f"video (/<video>/feature) or image (/<image>/<video>); this one holds {found} (file: {path}). "
        "Rename its datasets, or save an .npz keyed video/frame.jpg."
    )


def _beside(features: Sequence[str], leaves: Sequence[str]) -> list[str]:
    """The leaves that are neither a video's vectors nor what says more of them, their numbers or labels."""
    folders = {feature.rpartition("/")[0] for feature in features}
    return [leaf for leaf in leaves if leaf.rpartition("/")[0] not in folders or frame_key(leaf) is not None]


def _refuse_mixed(path: Path, others: Sequence[str], index: FrameIndex, *, is_flat: bool) -> None:
    """Refuse to pass over vectors of frames that stand in another layout than the videos'."""
    frames = [leaf for leaf in others if index.row(leaf) is not None or index.row(_turned(leaf)) is not None]
    if frames or is_flat:
        found = frames[0] if frames else "the dataset and the keys at its root"
        raise StoreError(
            f"An HDF5 file has one layout; this one holds <video>/{FEATURE} and also {found!r} (file: {path}). "
            "Save them in two files."
        )


def _is_image_first(path: Path, leaves: Sequence[str], index: FrameIndex, layout: str | None) -> bool:
    """Whether leaves are <image>/<video>, and not <video>/<image>; the table decides where none is told."""
    if layout is not None:
        return layout == "image"
    as_video = sum(index.row(leaf) is not None for leaf in leaves)
    as_image = sum(index.row(_turned(leaf)) is not None for leaf in leaves)
    if as_video == as_image and as_video:
        raise ConfigError(
            f"The layout of an HDF5 file is recognised by the frames that it names; read as <video>/<image> and as "
            f"<image>/<video> this one names {as_video} each, for example {leaves[0]!r} (file: {path}). "
            "Give --layout video or --layout image."
        )
    return as_image > as_video


def _turned(leaf: str) -> str:
    """``00066/341`` -> ``341/00066``; a video's name may have slashes."""
    image, _, video = leaf.partition("/")
    return f"{video}/{image}"


def _flat_parts(file: h5py.File, leaves: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """The dataset of the vectors and the one (or video and frame) of their names, at the root; None without."""
    datasets = {leaf: file[leaf] for leaf in leaves if "/" not in leaf and isinstance(file[leaf], h5py.Dataset)}
    vectors = [name for name, data in datasets.items() if data.ndim >= 2 and data.dtype.kind in "fiu"]
    texts = [name for name, data in datasets.items() if data.ndim == 1 and h5py.check_string_dtype(data.dtype)]
    feature = _preferred(vectors, _VECTORS)
    names = _preferred(texts, _NAMES)
    if feature is None:
        return None
    if "video" in texts and FRAME in datasets and names in (None, "video"):
        return feature, ("video", FRAME)
    return None if names is None else (feature, (names,))


def _preferred(found: Sequence[str], known: Sequence[str]) -> str | None:
    """The one that is found, or of several the one with the best known name."""
    if len(found) == 1:
        return found[0]
    return next((name for name in known if name in found), None)


def _texts(dataset: h5py.Dataset, path: Path) -> list[str]:
    """The strings, or whole numbers, of a dataset of one dimension."""
    if dataset.ndim == 1 and h5py.check_string_dtype(dataset.dtype):
        with damage_named(path, "an HDF5 file", _DAMAGE):
            return [str(text) for text in dataset.asstr()[...]]
    if dataset.ndim == 1 and dataset.dtype.kind in "iu":
        with damage_named(path, "an HDF5 file", _DAMAGE):
            return [str(number) for number in dataset[...].tolist()]
    raise StoreError(
        f"The rows of an HDF5 file are named by text, or numbered by integers, in one dimension; {dataset.name!r} is "
        f"{dataset.dtype} of shape {dataset.shape} (file: {path}). Save names or frame numbers there."
    )


def _sliced(dataset: h5py.Dataset, path: Path) -> SlicedRows:
    def read(start: int, stop: int) -> NumberArray:
        with damage_named(path, "an HDF5 file", _DAMAGE):
            rows: NumberArray = dataset[start:stop]
            return rows

    return SlicedRows(read, len(dataset), block_rows(dataset.shape[1:], dataset.dtype.itemsize))


def _check_as_many(n_names: int, n_rows: int, what: str, path: Path) -> None:
    if n_names != n_rows:
        raise ShapeError(
            f"Every row of an HDF5 file has a name of its own; {what} holds {n_rows} rows and {n_names} names "
            f"(file: {path}). Save as many of one as of the other."
        )


class _FlatSource(VectorSource):
    """One dataset of all vectors, and one of their names."""

    def __init__(
        self, file: h5py.File, path: Path, feature: str, named_by: tuple[str, ...], origin: Origin | None
    ) -> None:
        columns = [_texts(file[name], path) for name in named_by]
        self._dataset = file[feature]
        for column in columns:
            _check_as_many(len(column), len(self._dataset), repr(feature), path)
        names = ["/".join(parts) for parts in zip(*columns, strict=True)]
        super().__init__(path, names, format="hdf5", layout="flat", origin=origin)
        self._rows = _sliced(self._dataset, path)

    def read(self, entries: IntArray) -> NumberArray:
        """As of `VectorSource`."""
        shape = self._dataset.shape[1:]
        check_vector(shape, self._dataset.dtype, like=shape, name=self._dataset.name, path=self.path)
        return self._rows.take(entries)


class _VideoSource(VectorSource):
    """A dataset of vectors in the group of every video."""

    def __init__(
        self,
        file: h5py.File,
        path: Path,
        features: Sequence[str],
        index: FrameIndex,
        origin: Origin | None,
        others: Sequence[str],
    ) -> None:
        names: list[str] = []
        starts = [0]  # of every video's entries, and the end
        for feature in features:
            names += _rows_of(file, path, feature, index)
            starts.append(len(names))
        # What is neither is reported as extra; it names no frame, so it is never read.
        super().__init__(path, [*names, *others], format="hdf5", layout="video", origin=origin)
        self._file = file
        self._features = features
        self._starts = np.asarray(starts)
        self._row_shape: tuple[int, ...] | None = None
        self._kept: tuple[int, SlicedRows] | None = None  # the video at hand

    def read(self, entries: IntArray) -> NumberArray:
        """As of `VectorSource`."""
        video_of = np.searchsorted(self._starts, entries, side="right") - 1
        parts: dict[int, NumberArray] = {
            video: self._video(video).take(entries[video_of == video] - self._starts[video])
            for video in dict.fromkeys(video_of.tolist())
        }
        first = next(iter(parts.values()))
        taken: NumberArray = np.empty((len(entries), *first.shape[1:]), np.result_type(*parts.values()))
        for video, part in parts.items():
            taken[video_of == video] = part
        return taken

    def _video(self, video: int) -> SlicedRows:
        if self._kept is None or self._kept[0] != video:
            dataset = self._file[self._features[video]]
            shape = dataset.shape[1:]
            self._row_shape = self._row_shape or shape
            check_vector(shape, dataset.dtype, like=self._row_shape, name=dataset.name, path=self.path)
            self._kept = video, _sliced(dataset, self.path)
        return self._kept[1]


def _rows_of(file: h5py.File, path: Path, feature: str, index: FrameIndex) -> list[str]:
    """Names of the rows of a video's dataset."""
    folder = feature.rpartition("/")[0]
    dataset = file[feature]
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim < 2:
        shape = getattr(dataset, "shape", "no")
        raise ShapeError(
            f"A video's vectors in an HDF5 file are a dataset of shape (n_frames, dim); {feature!r} has {shape} shape "
            f"(file: {path}). Save the vectors of all its frames there, or give another --layout."
        )
    numbers = next((file[f"{folder}/{name}"] for name in _NUMBERS if f"{folder}/{name}" in file), None)
    if numbers is not None:
        texts = _texts(numbers, path)
        _check_as_many(len(texts), len(dataset), repr(feature), path)
        return [text if "/" in text else f"{folder}/{text}" for text in texts]
    video = index.video(folder)
    if video is None:  # none of ours: counted, never read
        return [f"{folder}/row {row}" for row in range(len(dataset))]
    frames = index.frames_of(video)
    if len(frames) != len(dataset):
        raise ShapeError(
            f"The rows of {feature!r} are numbered by a dataset {folder}/{FRAME}, or are exactly the frames that the "
            f"table has of the video; there is none, and {len(dataset)} rows stand against {len(frames)} frames "
            f"(file: {path}). Save the frame numbers beside them: without them, no row is certain."
        )
    return [f"{video}/{frame}" for frame in frames]


class _LeafSource(EntrySource):
    """A dataset for every frame."""

    def __init__(
        self, file: h5py.File, path: Path, leaves: list[str], is_image_first: bool, origin: Origin | None
    ) -> None:
        name: Callable[[str], str] = _turned if is_image_first else str
        layout = "image" if is_image_first else "video"
        super().__init__(path, [name(leaf) for leaf in leaves], format="hdf5", layout=layout, origin=origin)
        self._file = file
        self._leaves = leaves

    def vector(self, entry: int) -> npt.NDArray[np.generic]:
        """As of `EntrySource`."""
        with damage_named(self.path, "an HDF5 file", _DAMAGE):
            dataset = self._file[self._leaves[entry]]
            if isinstance(dataset, h5py.Dataset):
                return np.asarray(dataset[()])
        raise StoreError(
            f"The frames of an HDF5 file in this layout are datasets; {self._leaves[entry]!r} is an empty group "
            f"(file: {self.path}). Remove it, or save the vector there."
        )
