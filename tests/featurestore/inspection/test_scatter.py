"""Pictures of projections: what they say is read from the drawn figure, what they are from the file."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from featurestore.errors import ConfigError, MissingFileError
from featurestore.inspection.colouring import Colouring
from featurestore.inspection.knowledge import Knowledge
from featurestore.inspection.projection import Projection
from featurestore.inspection.scatter import check_picture, draw_projection
from featurestore.labels import EXPRESSIONS

RNG = np.random.default_rng(0)
KNOWN = Knowledge(measure="balanced accuracy", score=0.4, chance=0.125, held_out="videos", n_folds=5, n_components=50)


def projection(name: str, classes: tuple[str, ...], values: np.ndarray) -> Projection:
    n = len(values)
    return Projection(
        encoder="au",
        n_frames=2 * n,
        n_committed=2 * n,
        n_labelled=n,
        colouring=Colouring(name=name, classes=classes, values=values.astype(np.float64)),
        rows=np.arange(n),
        points=RNG.normal(size=(n, 2)),
        explained=np.array([0.351, 0.2, 0.1]),
        knowledge=KNOWN,
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, in order."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: object, **options: object) -> None:
        figures.append(self)
        save(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def legend_of(figure: Figure) -> list[str]:
    legends = [axes.get_legend() for axes in figure.axes]
    return [text.get_text() for legend in legends if legend is not None for text in legend.get_texts()]


def test_names_are_drawn_as_they_are(tmp_path: Path, drawn: list[Figure]) -> None:
    names = ("b$x_{$", "$\\frac$", "视频一", "_hidden", "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for suffix in (".png", ".pdf", ".svg"):
            picture = tmp_path / f"pca{suffix}"
            draw_projection(projection("video", names, np.repeat(np.arange(5), 10)), picture)
            assert picture.stat().st_size > 1000
    assert sorted(legend_of(drawn[0])) == sorted(f"{name} (10)" for name in names)


def test_eight_expressions_have_eight_colours_and_their_rows(tmp_path: Path, drawn: list[Figure]) -> None:
    values = np.repeat(np.arange(8), np.arange(10, 90, 10))
    draw_projection(projection("expression", EXPRESSIONS, values), tmp_path / "pca.png")
    assert legend_of(drawn[0]) == [f"{name} ({10 * number})" for number, name in enumerate(EXPRESSIONS, start=1)]
    points = drawn[0].axes[0].collections[0]
    colours = [to_hex(colour) for colour in points.get_facecolors()]
    assert len(set(colours)) == 8
    assert sorted(colours.count(colour) for colour in set(colours)) == list(range(10, 90, 10))
    assert drawn[0].axes[0].get_xlabel() == "component 1: 35.1 % of the variance"
    assert drawn[0].axes[0].get_title(loc="left") == "au, coloured by expression: 360 of 720 rows"
    assert KNOWN.sentence() in [text.get_text() for text in drawn[0].axes[0].texts]
    with Image.open(tmp_path / "pca.png") as image:
        assert image.format == "PNG"
        assert image.size == (1290, 930)
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 8


def test_points_keep_their_colours_in_the_order_that_they_are_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    values = np.arange(30) % 2
    made = projection("au12", ("off", "on"), values)
    draw_projection(made, tmp_path / "pca.png")
    points = drawn[0].axes[0].collections[0]
    on = {tuple(point) for point in made.points[values == 1]}
    placed = [tuple(point) in on for point in np.asarray(points.get_offsets())]
    colours = [to_hex(colour) for colour in points.get_facecolors()]
    assert len(set(colours)) == 2
    assert len({colour for colour, is_on in zip(colours, placed, strict=True) if is_on}) == 1
    assert placed == sorted(placed)  # grey lies below


def test_the_ten_largest_videos_are_named_and_the_others_grey(tmp_path: Path, drawn: list[Figure]) -> None:
    lengths = np.arange(1, 26)
    values = np.repeat(np.arange(25), lengths)
    names = tuple(f"{number}-1080x1920-with-a-long-name" for number in range(25))
    draw_projection(projection("video", names, values), tmp_path / "pca.png")
    told = legend_of(drawn[0])
    assert told[0] == "24-1080x1920-with-a… (25)"
    assert told[-1] == f"15 others ({lengths[:15].sum()})"
    assert len(told) == 11


def test_a_real_has_a_scale_from_minus_one_to_one(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_projection(projection("valence", (), RNG.uniform(-0.2, 0.2, 50)), tmp_path / "pca.png")
    scale = drawn[0].axes[-1]
    assert scale.get_ylim() == (-1, 1)
    assert scale.get_title(loc="left") == "valence"
    assert legend_of(drawn[0]) == []


@pytest.mark.parametrize(
    ("suffix", "start"), [(".jpg", b"\xff\xd8"), (".PDF", b"%PDF"), (".svg", b"<?xml"), (".jpeg", b"\xff\xd8")]
)
def test_a_suffix_decides_the_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    out = tmp_path / f"pca{suffix}"
    draw_projection(projection("split", ("train", "val", "test"), np.arange(60) % 3), out)
    assert out.read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("name", ["pca.txt", "pca", "pca.npy"])
def test_what_is_no_picture(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.png, .*Take pca\.png\."):
        check_picture(tmp_path / name)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"written to a folder that is there; .*nowhere is not"):
        draw_projection(projection("split", ("train",), np.zeros(5)), tmp_path / "nowhere" / "pca.png")
