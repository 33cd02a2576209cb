from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extractor.synth.dataset import SynthSummary
from extractor.synth.sheet import write_sheet
from featurestore.errors import ConfigError, MissingFileError


def test_the_sheet_shows_faces_in_rows_of_eight(small: tuple[Path, SynthSummary], tmp_path: Path) -> None:
    write_sheet(small[0], tmp_path / "few.png", faces=8)
    write_sheet(small[0], tmp_path / "more.png", faces=9)
    with Image.open(tmp_path / "few.png") as few, Image.open(tmp_path / "more.png") as more:
        assert few.width == more.width > 8 * 224
        assert more.height > few.height + 224
        assert np.asarray(few).std() > 20


def test_the_same_dataset_gives_the_same_sheet(small: tuple[Path, SynthSummary], tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_sheet(small[0], tmp_path / name, faces=4)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_no_dataset_no_sheet(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"training_set_annotations\.txt is not in"):
        write_sheet(tmp_path, tmp_path / "sheet.png")


def test_a_sheet_without_faces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1 face, 0 came"):
        write_sheet(tmp_path, tmp_path / "sheet.png", faces=0)
