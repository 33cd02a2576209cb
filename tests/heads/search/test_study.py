from pathlib import Path

import pytest

from featurestore.errors import StoreError
from heads.fitting.config import FitConfig
from heads.search.space import Space
from heads.search.study import open_study

SPACE = Space(task="v", widths={"mae": 16}, joinable=(), training=FitConfig(select="v"))


@pytest.mark.parametrize("line", ["garbage", "{}", "[1]"])
def test_a_damaged_journal_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "journal.log").write_text(f"{line}\n{line}\n")
    with (
        pytest.raises(
            StoreError, match=r"journal was expected, .*journal\.log\)\. Bring it back .* or move the folder"
        ),
        open_study(tmp_path, SPACE, seed=1),
    ):
        pass
