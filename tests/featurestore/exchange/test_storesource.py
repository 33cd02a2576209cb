from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import MissingEmbeddingsError, MissingFileError, StoreError, UnknownNameError
from featurestore.exchange.exporting import export_vectors
from featurestore.exchange.importing import import_vectors
from featurestore.layout import FloatArray
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

StoreMaker = Callable[..., FeatureStore]
Filler = Callable[..., FloatArray]


def test_another_store_over_other_frames(
    make_store: StoreMaker, fill: Filler, tmp_path: Path, provenance: Provenance
) -> None:
    source = make_store("source")
    rows = fill(source, dtype="float32")
    target = make_store("target", {"new": (1,), "34": (2, 5, 341), "341": (1, 3, 66, 67)})
    report = import_vectors(target, tmp_path / "source")
    assert (report.encoder, report.format, report.dtype, report.restored) == ("au", "store", "float32", True)
    assert (report.matched, report.missing, report.extra) == (5, 3, 3)
    embedding = target.embedding("au")
    assert embedding.failures() == {0: "no vector in source", 2: "no vector in source", 6: "no such file"}
    assert embedding.load()[[1, 3, 4, 5, 7]].tobytes() == rows[[6, 8, 0, 1, 3]].tobytes()
    assert np.isnan(embedding.load()[6]).all()
    assert embedding.provenance == provenance


def test_which_encoder(make_store: StoreMaker, fill: Filler, tmp_path: Path) -> None:
    source, target = make_store("source"), make_store("target")
    with pytest.raises(MissingEmbeddingsError, match="this one has none yet"):
        import_vectors(target, tmp_path / "source")
    fill(source, "au")
    assert import_vectors(target, tmp_path / "source", encoder="mine").encoder == "mine"
    rows = fill(source, "v", row_shape=(2,))
    for asked in (None, "expr"):
        with pytest.raises(UnknownNameError, match=r"no encoder to import .*Known: au, v"):
            import_vectors(target, tmp_path / "source", encoder=asked)
    import_vectors(target, tmp_path / "source", encoder="v")
    assert target.embedding("v").load().tobytes() == rows.tobytes()
    assert target.names() == ("mine", "v")


def test_one_that_is_not_complete(make_store: StoreMaker, fill: Filler, tmp_path: Path) -> None:
    source, target = make_store("source"), make_store("target")
    fill(source, stop=8)
    with pytest.raises(MissingEmbeddingsError, match="'au' 8 of 10 rows are there"):
        import_vectors(target, tmp_path / "source")
    assert target.names() == ()


def test_a_folder_that_is_no_store(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match=r"zarr.json"):
        import_vectors(store, tmp_path / "empty", encoder="au")


def test_a_zipped_store_under_any_name(make_store: StoreMaker, fill: Filler, tmp_path: Path) -> None:
    rows = fill(make_store("source"))
    export_vectors(FeatureStore.open(tmp_path / "source"), tmp_path / "au.zarr.zip", encoder="au")
    target = make_store("target")
    report = import_vectors(target, (tmp_path / "au.zarr.zip").rename(tmp_path / "features.dat"))
    assert (report.format, report.matched) == ("store", 8)
    assert target.embedding("au").failures() == dict.fromkeys((2, 5), "no such file")
    assert target.embedding("au").load().tobytes() == rows.tobytes()


def test_a_zipped_store_that_is_damaged(make_store: StoreMaker, fill: Filler, tmp_path: Path) -> None:
    first = fill(make_store("source"))[0].tobytes()
    path = tmp_path / "au.zarr.zip"
    export_vectors(FeatureStore.open(tmp_path / "source"), path, encoder="au")
    raw = bytearray(path.read_bytes())
    raw[raw.index(first)] ^= 1
    path.write_bytes(raw)
    target = make_store("target")
    with pytest.raises(StoreError, match=r"chunks \[0\] of encoder 'au' are damaged .*Copy that store again"):
        import_vectors(target, path)
    path.write_bytes(raw[:-40])
    with pytest.raises(StoreError, match="damaged or cut short"):
        import_vectors(target, path, encoder="au")
    assert target.names() == ()
