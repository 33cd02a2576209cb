"""A contact sheet of a rendered dataset: faces with their labels under them, and one video over time.

The faces are chosen so that every expression and every action unit appears, over as many videos as possible.
"""

from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from featurestore.atomic import replace_file
from featurestore.challenge.annotations import read_annotations
from featurestore.errors import ConfigError, MissingFileError
from featurestore.labels import ACTION_UNITS, AU_COLUMNS, EXPRESSIONS, LABEL_COLUMNS

from .layers import CROP_PX
from .listing import FILES, IMAGE_FOLDER

_FACE_PX: Final = 2 * CROP_PX
_COLUMNS: Final = 8
_TEXT_PX: Final = 62
_GAP_PX: Final = 8
_STRIP_PX: Final = 148
_STRIP_FACES: Final = 12
_PLOT_PX: Final = 120
_HOLE_FRAMES: Final = 200  # a gap that long is where labels were withheld
_INK: Final = (28, 28, 32)
_PAPER: Final = (250, 249, 246)
_COURSES: Final = {"valence": (190, 60, 60), "arousal": (40, 90, 170)}


def write_sheet(root: Path, out: Path, *, faces: int = 48) -> None:
    """Draw the contact sheet of a dataset.

    Parameters
    ----------
    root
        What `write_dataset` wrote.
    out
        An image file, such as faces.png.
    faces
        How many, at least 1.

    Raises
    ------
    MissingFileError
        If there is no dataset in `root`.
    """
    if faces < 1:
        raise ConfigError(f"A contact sheet shows at least 1 face, {faces} came (sheet: {out}). Ask for more.")
    frames = _read_labelled(root)
    chosen = [frames.row(row, named=True) for row in _choose(frames, min(faces, frames.height))]
    n_rows = -(-len(chosen) // _COLUMNS)
    width = _COLUMNS * (_FACE_PX + _GAP_PX) + _GAP_PX
    grid_px = n_rows * (_FACE_PX + _TEXT_PX + _GAP_PX) + _GAP_PX
    sheet = Image.new("RGB", (width, grid_px + 30 + _STRIP_PX + _PLOT_PX + 2 * _GAP_PX), _PAPER)
    for index, frame in enumerate(chosen):
        row, column = divmod(index, _COLUMNS)
        at = (_GAP_PX + column * (_FACE_PX + _GAP_PX), _GAP_PX + row * (_FACE_PX + _TEXT_PX + _GAP_PX))
        _draw_face(sheet, root, frame, at)
    _draw_strip(sheet, root, _most_varied(frames), grid_px)
    with replace_file(out) as partial:
        sheet.save(partial)


def _read_labelled(root: Path) -> pl.DataFrame:
    """Every distinct frame that has an image and all its labels; those of test come from the withheld file."""
    files = {"train": FILES["train"], "val": FILES["val"], "test": FILES["test_labels"]}
    for name in files.values():
        if not (root / name).is_file():
            raise MissingFileError(
                f"A contact sheet is drawn of a rendered dataset; {name} is not in {root}. Make one: abaw synth DIR."
            )
    rows = pl.concat([read_annotations(root / name, split) for split, name in files.items()])
    rows = rows.unique("path", keep="first").drop_nulls(LABEL_COLUMNS).sort("video", "frame")
    there = [(root / IMAGE_FOLDER / path).is_file() for path in rows["path"]]
    return rows.filter(pl.Series(there, dtype=pl.Boolean))


def _choose(frames: pl.DataFrame, n_faces: int) -> list[int]:
    """Rows to show, by expression: classes take turns, and what was shown least often goes first."""
    units = frames.select(AU_COLUMNS).to_numpy().astype(np.float64)
    expression = frames["expression"].to_numpy()
    video = frames["video"].rank("dense").to_numpy() - 1
    shown_units, shown_video = np.zeros(len(AU_COLUMNS)), np.zeros(int(video.max()) + 1)
    available = np.ones(frames.height, np.bool_)
    chance = np.random.default_rng(0).random(frames.height) * 0.2
    classes = sorted(set(expression.tolist()))
    chosen: list[int] = []
    for turn in range(n_faces):
        wanted = available & (expression == classes[turn % len(classes)])
        wanted = wanted if wanted.any() else available
        score = units @ (1.0 / (1 + shown_units) - 0.04) + 2.5 / (1 + shown_video[video]) + chance
        # A neutral face is best shown at rest.
        score = np.where(expression == EXPRESSIONS.index("Neutral"), score - 0.7 * units.sum(1), score)
        best = int(np.argmax(np.where(wanted, score, -np.inf)))
        chosen.append(best)
        available[best] = False
        shown_units += units[best]
        shown_video[video[best]] += 1
    return sorted(chosen, key=lambda row: (expression[row], row))


def _most_varied(frames: pl.DataFrame) -> pl.DataFrame:
    """The frames of the video with the most expressions; of several, the longest. One without a hole, if there is."""
    gap = pl.col("frame").diff().max().fill_null(0)
    by_video = frames.group_by("video", maintain_order=True).agg(
        pl.col("expression").n_unique(), rows=pl.len(), whole=gap < _HOLE_FRAMES
    )
    by_video = by_video.filter(pl.col("whole")) if by_video["whole"].any() else by_video
    return frames.filter(pl.col("video") == by_video.sort("expression", "rows", descending=True)["video"][0])


def _draw_face(sheet: Image.Image, root: Path, frame: dict[str, object], at: tuple[int, int]) -> None:
    with Image.open(root / IMAGE_FOLDER / str(frame["path"])) as image:
        sheet.paste(image.resize((_FACE_PX, _FACE_PX), Image.Resampling.LANCZOS), at)
    draw = ImageDraw.Draw(sheet)
    x, y = at[0] + 2, at[1] + _FACE_PX + 2
    active = [str(unit) for unit, name in zip(ACTION_UNITS, AU_COLUMNS, strict=True) if frame[name] == 1]
    draw.text((x, y), _name(frame), _INK, ImageFont.load_default(19))
    draw.text(
        (x + 112, y + 2), f"V {frame['valence']:+.2f}  A {frame['arousal']:+.2f}", _INK, ImageFont.load_default(15)
    )
    draw.text((x, y + 23), f"AU {' '.join(active) or 'none'}", _INK, ImageFont.load_default(16))
    draw.text((x, y + 43), str(frame["path"]), (130, 130, 130), ImageFont.load_default(11))


def _draw_strip(sheet: Image.Image, root: Path, frames: pl.DataFrame, top: int) -> None:
    """One video over time: some of its faces, and the course of valence and arousal over all of them."""
    draw = ImageDraw.Draw(sheet)
    width = sheet.width - 2 * _GAP_PX
    seconds = frames["frame"].to_numpy() / 30
    draw.text(
        (_GAP_PX, top),
        f"{frames['video'][0]}: {seconds[-1]:.0f} s; valence red, arousal blue",
        _INK,
        ImageFont.load_default(18),
    )
    step = width / _STRIP_FACES
    for index in range(_STRIP_FACES):
        row = round(index * (frames.height - 1) / max(1, _STRIP_FACES - 1))
        frame = frames.row(row, named=True)
        with Image.open(root / IMAGE_FOLDER / str(frame["path"])) as image:
            side = min(_STRIP_PX - 20, round(step) - 4)
            sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), (_GAP_PX + round(index * step), top + 26))
        label = f"{seconds[row]:.0f} s {_name(frame)}"
        draw.text((_GAP_PX + round(index * step), top + 28 + side), label, _INK, ImageFont.load_default(13))
    _draw_courses(draw, frames, seconds, (_GAP_PX, top + 30 + _STRIP_PX, width))


def _draw_courses(
    draw: ImageDraw.ImageDraw, frames: pl.DataFrame, seconds: NDArray[np.float64], place: tuple[int, int, int]
) -> None:
    left, top, width = place
    middle = top + _PLOT_PX / 2
    draw.line((left, middle, left + width, middle), (190, 190, 190))
    span = max(float(seconds[-1] - seconds[0]), 1.0)
    x = left + (seconds - seconds[0]) / span * width
    for name, colour in _COURSES.items():
        y = middle - frames[name].to_numpy() * _PLOT_PX / 2
        draw.line(np.column_stack([x, y]).ravel().tolist(), colour, 2, joint="curve")


def _name(frame: dict[str, object]) -> str:
    return EXPRESSIONS[int(str(frame["expression"]))]
