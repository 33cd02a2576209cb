import multiprocessing
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import MissingFileError, StoreError
from featurestore.exchange.storezip import write_zip
from featurestore.provenance import Provenance
from featurestore.storage.zipped import ZipStorage
from featurestore.store import FeatureStore


@pytest.fixture
def zipped(make_store: Callable[[int], FeatureStore], provenance: Provenance, tmp_path: Path) -> Path:
    store = make_store(100)
    with store.writer("au", provenance, row_shape=(32,), chunk_rows=32) as writer:
        for task in writer.pending():
            writer.append(task.start, np.full((task.stop - task.start, 32), task.chunk, dtype=np.float16))
    write_zip(store, ["au"], tmp_path / "store.zarr.zip")
    return tmp_path / "store.zarr.zip"


def test_chunks_are_mapped_and_aligned(zipped: Path) -> None:
    embedding = FeatureStore.open(zipped).embedding("au")
    rows = embedding.read(32, 64)
    assert not rows.flags.owndata
    assert rows.flags.aligned
    assert rows.ctypes.data % 64 == 0


def test_the_same_store_gives_the_same_file(zipped: Path, tmp_path: Path) -> None:
    write_zip(FeatureStore.open(tmp_path / "features"), ["au"], tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == zipped.read_bytes()


def test_a_file_that_was_deflated_by_another_tool_is_read(zipped: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(zipped) as source,
        zipfile.ZipFile(tmp_path / "small.zip", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    assert (tmp_path / "small.zip").stat().st_size < zipped.stat().st_size
    expected = FeatureStore.open(zipped).embedding("au").load()
    assert FeatureStore.open(tmp_path / "small.zip").embedding("au").load().tobytes() == expected.tobytes()


def test_a_damaged_file_is_named(zipped: Path, tmp_path: Path) -> None:
    raw = bytearray(zipped.read_bytes())
    (tmp_path / "cut.zip").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(StoreError, match=r"no whole ZIP file .*cut\.zip"):
        FeatureStore.open(tmp_path / "cut.zip")
    raw[raw.index(b"zarr_format") + 2] ^= 1
    (tmp_path / "flipped.zip").write_bytes(raw)
    with pytest.raises(StoreError, match=r"'zarr\.json' of this ZIP file is damaged .*flipped\.zip"):
        FeatureStore.open(tmp_path / "flipped.zip")
    with pytest.raises(MissingFileError, match=r"none\.zip is not there"):
        ZipStorage(tmp_path / "none.zip")
    (tmp_path / "empty.zip").write_bytes(b"")
    with pytest.raises(StoreError, match="no whole ZIP file"):
        ZipStorage(tmp_path / "empty.zip")


def test_a_flipped_bit_in_a_chunk_is_found(zipped: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(zipped) as archive:
        info = archive.getinfo("au/embedding/c.1.0")
    raw = bytearray(zipped.read_bytes())
    raw[info.header_offset + 200] ^= 1
    (tmp_path / "flipped.zip").write_bytes(raw)
    assert FeatureStore.open(tmp_path / "flipped.zip").embedding("au").verify() == [1]


def test_processes_that_were_forked_read_at_once(zipped: Path) -> None:
    store = FeatureStore.open(zipped)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(_rows_done, [store.storage] * 40, chunksize=1)
    assert found == [100] * 40


def _rows_done(storage: ZipStorage) -> int:
    return FeatureStore(storage).embedding("au").rows_done()


def test_more_chunks_than_a_process_may_have_files_open(make_store: Callable[[int], FeatureStore]) -> None:
    script = (
        "import resource, sys\nimport numpy as np\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "from featurestore.provenance import Provenance\nfrom featurestore.store import FeatureStore\n"
        "store = FeatureStore.open(sys.argv[1])\n"
        "made = Provenance(architecture='a', weights='w', preprocessing={}, pooling='cls', precision='float32')\n"
        "writer = store.writer('au', made, row_shape=(3,), chunk_rows=2)\n"
        "for task in writer.pending():\n    writer.append(task.start, np.ones((2, 3), dtype=np.float16))\n"
        "embedding = store.embedding('au')\n"
        "print(sum(int(embedding.read(row, row + 1).sum()) for row in range(200)))"
    )
    store = make_store(200)
    ran = subprocess.run([sys.executable, "-c", script, store.location], capture_output=True, text=True, check=False)
    assert ran.stdout == "600\n", ran.stderr
