import json
from pathlib import Path

import pytest

from featurestore.errors import ConfigError, FileExistsAlreadyError
from heads.search.claiming import changes, claimed

SETTINGS = {"task": "v", "n_folds": None}


def test_what_changed_is_told_setting_by_setting() -> None:
    old = {
        "task": "v",
        "training": {"epochs": 3, "loss": {"v": "ccc", "a": "ccc"}, "weight_decay": 0.05},
        "encoders": {"a": "1", "au": "2", "mae": "3", "v": "4"},
        "frames": "f",
        "seeds": [1],
    }
    new = {
        "task": "v",
        "training": {"epochs": 2, "loss": {"v": "ccc", "a": "mse"}, "weight_decay": 0.05},
        "encoders": {"mae": "3", "v": "5", "wide": "6"},
        "frames": "g",
        "seeds": [1, 2],
    }
    assert changes(old, new) == (
        'epochs was 3, is 2; a was "ccc", is "mse"; encoders a, au are gone; encoder wide is new; '
        "encoder v is extracted otherwise; the frames are others; seeds was [1], is [1, 2]"
    )
    assert changes(old, json.loads(json.dumps(old))) == ""


def test_a_file_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.write_text("mine")
    expected = r"folder of its own, but .*/v is a file \(search: v\)\. Move the file away, or choose another --name"
    with pytest.raises(FileExistsAlreadyError, match=expected), claimed(path, SETTINGS):
        pass
    with (
        pytest.raises(FileExistsAlreadyError, match=r"but .*/v is a file \(search: w\)"),
        claimed(path / "w", SETTINGS),
    ):
        pass
    assert path.read_text() == "mine"


def test_something_else_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsAlreadyError, match=r"holds something else"), claimed(tmp_path, SETTINGS):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "v", SETTINGS),
        pytest.raises(ConfigError, match=r"another is at this one .*--parallel"),
        claimed(tmp_path / "v", SETTINGS),
    ):
        pass
    with claimed(tmp_path / "v", SETTINGS):
        pass


def test_without_a_complete_trial_it_can_be_another_search(tmp_path: Path) -> None:
    with claimed(tmp_path / "v", SETTINGS):
        pass
    with claimed(tmp_path / "v", SETTINGS | {"n_folds": 5}):
        assert json.loads((tmp_path / "v" / "search.json").read_text())["n_folds"] == 5


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text("{")
    with (
        pytest.raises(FileExistsAlreadyError, match=r"settings were expected.*Move the folder away"),
        claimed(tmp_path, SETTINGS),
    ):
        pass
