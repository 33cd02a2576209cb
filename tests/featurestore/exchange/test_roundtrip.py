"""What goes out and comes in again is the same to the bit, in every format."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from featurestore.errors import ConfigError, EncoderMismatchError, StoreError
from featurestore.exchange.exporting import export_vectors
from featurestore.exchange.importing import import_vectors
from featurestore.frames import FrameTable
from featurestore.layout import FloatArray
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from featurestore.tokenprojection import TokenProjection

KEYED = [
    ("au.h5", "flat"),
    ("au.hdf5", "video"),
    ("au.h5", "image"),
    ("au.npz", None),
    ("au.npy", None),
    ("au.pkl", None),
    ("au.pickle", None),
    ("au.parquet", None),
]
FORMATS = [*KEYED, ("au.zarr.zip", None)]
Filler = Callable[..., FloatArray]
StoreMaker = Callable[..., FeatureStore]


@pytest.mark.parametrize(("file", "layout"), FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("row_shape", [(6,), (3, 4)])
class TestRoundTrip:
    def test_every_row_is_the_same_to_the_bit(
        self,
        make_store: StoreMaker,
        fill: Filler,
        tmp_path: Path,
        file: str,
        layout: str | None,
        dtype: str,
        row_shape: tuple[int, ...],
    ) -> None:
        source, target = make_store("source"), make_store("target")
        rows = fill(source, row_shape=row_shape, dtype=dtype)
        exported = export_vectors(source, tmp_path / file, encoder="au", layout=layout)
        assert (exported.rows, exported.row_shape, exported.dtype) == (8, row_shape, dtype)
        assert exported.failed == {"341/00066.jpg": "no such file", "10-60-1280x720_left/00002.jpg": "no such file"}
        assert exported.bytes == (tmp_path / file).stat().st_size
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [file]

        report = import_vectors(target, tmp_path / file, encoder="au")
        assert (report.matched, report.missing, report.extra, report.dtype) == (8, 2, 0, dtype)
        assert report.missing_examples == ("341/66", "10-60-1280x720_left/2")
        embedding = target.embedding("au")
        assert embedding.dtype == np.dtype(dtype)
        there = embedding.valid()
        assert np.flatnonzero(~there).tolist() == [2, 5]
        assert embedding.load()[there].tobytes() == rows[there].tobytes()
        assert np.isnan(embedding.load()[~there]).all()

    def test_rows_are_matched_by_video_and_frame(
        self,
        make_store: StoreMaker,
        fill: Filler,
        tmp_path: Path,
        file: str,
        layout: str | None,
        dtype: str,
        row_shape: tuple[int, ...],
    ) -> None:
        source = make_store("source")
        rows = fill(source, row_shape=row_shape, dtype=dtype)
        export_vectors(source, tmp_path / file, encoder="au", layout=layout)
        # Other videos before and between, one gone, frames fewer and more: no row stands where it stood.
        videos = {"new": (1, 2), "34": (2, 5, 341), "10-60-1280x720_left": (1,), "341": (1, 3, 66, 67)}
        target = make_store("target", videos)
        report = import_vectors(target, tmp_path / file, encoder="au")
        assert (report.matched, report.missing, report.extra) == (6, 4, 2)
        assert {name.replace(".jpg", "") for name in report.extra_examples} <= {
            *("34/00066", "140/00005", "34/66", "140/5")
        }
        loaded = target.embedding("au").load()
        expected = {2: 6, 4: 8, 5: 4, 6: 0, 7: 1, 9: 3}  # row there -> row here
        for there, here in expected.items():
            assert loaded[there].tobytes() == rows[here].tobytes()


@pytest.mark.parametrize(
    ("file", "layout"), [("au.h5", "flat"), ("au.h5", "video"), ("au.h5", "image"), ("au.zarr.zip", None)]
)
def test_provenance_and_name_travel(
    make_store: StoreMaker, fill: Filler, tmp_path: Path, provenance: Provenance, file: str, layout: str | None
) -> None:
    _check_provenance(make_store, fill, tmp_path / file, layout, provenance)


def test_provenance_and_name_travel_in_parquet(
    make_store: StoreMaker, fill: Filler, tmp_path: Path, provenance: Provenance
) -> None:
    _check_provenance(make_store, fill, tmp_path / "au.parquet", None, provenance)


def _check_provenance(
    make_store: StoreMaker, fill: Filler, path: Path, layout: str | None, provenance: Provenance
) -> None:
    source, target = make_store("source"), make_store("target")
    fill(source)
    export_vectors(source, path, encoder="au", layout=layout)
    report = import_vectors(target, path)
    assert report.restored
    assert report.encoder == "au"
    assert target.embedding("au").provenance == provenance
    # And so the same weights are known again, under any name: an extraction would go on with them.
    assert import_vectors(target, path, encoder="other").encoder == "other"
    assert target.embedding("other").provenance.fingerprint == provenance.fingerprint


@pytest.mark.parametrize("file", ["tokens.zarr.zip", "tokens.h5", "tokens.npz"])
def test_a_projection_travels_in_a_store(
    make_store: StoreMaker, provenance: Provenance, tmp_path: Path, file: str
) -> None:
    source, target = make_store("source"), make_store("target")
    components = np.eye(4, 2)
    projection = TokenProjection(mean=np.arange(4.0), components=components, explained=np.array([0.6, 0.2]))
    with source.writer("tokens", provenance, row_shape=(3, 2), projection=projection) as writer:
        writer.append(0, np.ones((source.n_frames, 3, 2), dtype=np.float32))
    report = export_vectors(source, tmp_path / file, encoder="tokens")
    assert report.lacks_projection == (not file.endswith(".zarr.zip"))
    import_vectors(target, tmp_path / file, encoder="tokens")
    there = target.embedding("tokens")
    assert there.load().tobytes() == source.embedding("tokens").load().tobytes()
    if report.lacks_projection:
        assert there.projection is None
        assert there.provenance.projection == (projection.digest if file.endswith(".h5") else None)
        # Without it nothing that is computed can be put beside these rows.
        with pytest.raises(EncoderMismatchError, match="'tokens' were made by"):
            target.writer("tokens", provenance, row_shape=(3, 2), projection=replace(projection, mean=np.zeros(4)))
        return
    assert there.projection is not None
    assert there.projection.digest == projection.digest
    damaged = Path(source.location) / "tokens" / "projection" / "mean" / "c.0"
    damaged.write_bytes(bytes(16))
    for refused in (
        lambda: export_vectors(source, tmp_path / file, encoder="tokens", force=True),
        lambda: import_vectors(target, Path(source.location), encoder="other"),
    ):
        with pytest.raises(StoreError, match="'tokens' has other bytes than were kept"):
            refused()
    assert target.names() == ("tokens",)


@pytest.mark.parametrize("file", ["au.npz", "au.npy", "au.pkl"])
def test_formats_without_a_note_ask_for_a_name(make_store: StoreMaker, fill: Filler, tmp_path: Path, file: str) -> None:
    source, target = make_store("source"), make_store("target")
    fill(source)
    export_vectors(source, tmp_path / file, encoder="au")
    with pytest.raises(ConfigError, match=r"does not say theirs .*--encoder au"):
        import_vectors(target, tmp_path / file)
    report = import_vectors(target, tmp_path / file, encoder="au")
    assert not report.restored
    assert target.embedding("au").provenance.architecture == "imported"


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), dtype=st.sampled_from(["float16", "float32"]), case=st.sampled_from(KEYED))
def test_any_finite_values(
    tmp_path: Path,
    provenance: Provenance,
    make_table: Callable[..., FrameTable],
    data: st.DataObject,
    dtype: str,
    case: tuple[str, str | None],
) -> None:
    """Subnormals, negative zero, the greatest values: none is touched."""
    file, layout = case
    for left in tmp_path.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    n_frames = data.draw(st.integers(1, 9))
    shape = data.draw(st.sampled_from([(1,), (5,), (2, 3)]))
    width = 16 if dtype == "float16" else 32
    finite = st.floats(width=width, allow_nan=False, allow_infinity=False)
    rows = data.draw(npst.arrays(dtype, (n_frames, *shape), elements=finite))
    frames = make_table({"b": range(0, 2 * n_frames, 2)})
    stores = [FeatureStore.create(tmp_path / name, frames) for name in ("source", "target")]
    with stores[0].writer("e", provenance, row_shape=shape, dtype=dtype) as writer:
        writer.append(0, rows)
    export_vectors(stores[0], tmp_path / file, encoder="e", layout=layout)
    import_vectors(stores[1], tmp_path / file, encoder="e")
    assert stores[1].embedding("e").load().tobytes() == rows.tobytes()
