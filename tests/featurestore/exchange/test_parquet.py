from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featurestore.errors import ShapeError, StoreError
from featurestore.exchange.exporting import export_vectors
from featurestore.exchange.importing import import_vectors
from featurestore.exchange.origin import ORIGIN
from featurestore.layout import FloatArray
from featurestore.store import FeatureStore


def test_the_columns_are_what_any_reader_expects(
    store: FeatureStore, fill: Callable[..., FloatArray], tmp_path: Path
) -> None:
    rows = fill(store)
    export_vectors(store, tmp_path / "au.parquet", encoder="au")
    read = pl.read_parquet(tmp_path / "au.parquet")
    assert read.schema == {
        "video": pl.String,
        "frame": pl.Int32,
        "path": pl.String,
        "vector": pl.Array(pl.Float16, (6,)),
    }
    assert read["path"].to_list() == [path for row, path in enumerate(store.frames.data["path"]) if row not in (2, 5)]
    np.testing.assert_array_equal(read["vector"].to_numpy(), np.delete(rows, (2, 5), axis=0))


def test_blocks_and_row_groups(
    make_store: Callable[..., FeatureStore],
    fill: Callable[..., FloatArray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that is read and written in several blocks, in another order than the table's."""
    source = make_store("source", {"b": range(40), "a": range(30)})
    target = make_store("target", {"a": range(30), "b": range(40)})
    rows = fill(source, failed=())
    monkeypatch.setattr("featurestore.exchange.source.BLOCK_BYTES", 7 * 12)
    for file in ("v.parquet", "v.h5", "v.npz", "v.pkl"):
        export_vectors(source, tmp_path / file, encoder="au")
        import_vectors(target, tmp_path / file, encoder=file.replace(".", "_"))
        loaded = target.embedding(file.replace(".", "_")).load()
        assert loaded.tobytes() == np.concatenate([rows[40:], rows[:40]]).tobytes()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"vector": [[1.0]]}, "names its frames in the columns video and frame, or path; this one has vector"),
        ({"path": ["341/1.jpg"]}, "one column of arrays or lists, 'vector' if there are several; this one has 0"),
        ({"path": ["341/1.jpg"], "a": [[1.0]], "b": [[1.0]]}, "this one has 2 among path, a, b"),
        ({"path": [None, "341/1.jpg"], "vector": [[1.0], [1.0]]}, "names its frame; 1 do not"),
        ({"path": ["341/1.jpg", "341/3.jpg"], "vector": [[1.0], None]}, "1 have none, such as '341/3.jpg'"),
        ({"path": ["341/1.jpg"], "vector": [["a"]]}, "'vector' is of dtype object"),
        ({"path": ["341/1.jpg"], "vector": [[1.0, None]]}, "'341/1.jpg' holds nan"),
    ],
)
def test_files_that_are_refused(
    store: FeatureStore, tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(StoreError, match=message):
        import_vectors(store, tmp_path / "v.parquet", encoder="au")
    assert store.names() == ()


def test_lists_of_two_lengths_before_the_first_match(store: FeatureStore, tmp_path: Path) -> None:
    names = ["341/1.jpg", "341/3.jpg", "341/66.jpg"]
    pl.DataFrame({"path": names, "v": [[1.0, 2.0], [1.0, 2.0], [1.0]]}).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(ShapeError, match=r"here \(2,\); '341/66.jpg' has \(1,\)"):
        import_vectors(store, tmp_path / "v.parquet", encoder="au")
    assert store.names() == ()


def test_damage_and_malformed_notes(store: FeatureStore, fill: Callable[..., FloatArray], tmp_path: Path) -> None:
    fill(store, "whole", row_shape=(3000,))
    path = tmp_path / "v[1]*.parquet"  # which is no pattern
    export_vectors(store, path, encoder="whole")
    raw = path.read_bytes()
    for n_bytes in (100, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:n_bytes])
        with pytest.raises(StoreError, match=r"a Parquet file to its end; this one is damaged"):
            import_vectors(store, path, encoder="au")
    path.write_bytes(raw)
    pl.read_parquet(raw).write_parquet(path, metadata={ORIGIN: "{}"})
    with pytest.raises(StoreError, match=r"note 'abaw'.*no JSON object of format 1"):
        import_vectors(store, path, encoder="au")
    assert store.names() == ("whole",)
