import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from featurestore.errors import StoreError
from featurestore.layout import ChunkLayout
from featurestore.metadata import EncoderRecord, FramesRecord, create_encoder, read_encoder
from featurestore.provenance import Provenance
from featurestore.storage.local import LocalStorage


@pytest.fixture
def record(provenance: Provenance) -> EncoderRecord:
    layout = ChunkLayout(n_frames=10, row_shape=(2, 3), dtype=np.dtype("<f4"), chunk_rows=8, batch_rows=4)
    return EncoderRecord(frames=FramesRecord(n_frames=10, fingerprint="f" * 32), provenance=provenance, layout=layout)


def test_says_what_it_was_told(tmp_path: Path, record: EncoderRecord) -> None:
    create_encoder(LocalStorage(tmp_path), "au", record)
    assert read_encoder(LocalStorage(tmp_path), "au") == record
    assert [entry.name for entry in tmp_path.iterdir()] == ["au"]


def test_workers_that_make_one_encoder_at_once_make_one(tmp_path: Path, record: EncoderRecord) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def make() -> None:
        barrier.wait()
        try:
            create_encoder(LocalStorage(tmp_path), "au", record)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert read_encoder(LocalStorage(tmp_path), "au") == record
    assert [entry.name for entry in tmp_path.iterdir()] == ["au"]


def test_a_foreign_folder_in_the_way_is_an_error(tmp_path: Path, record: EncoderRecord) -> None:
    (tmp_path / "au").mkdir()
    (tmp_path / "au" / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match="au"):
        create_encoder(LocalStorage(tmp_path), "au", record)
    assert [entry.name for entry in tmp_path.iterdir()] == ["au"]


def compress(group: Path) -> None:
    zarr.create_array(group / "embedding", shape=(10, 3), chunks=(8, 3), dtype="f4", zarr_format=3, overwrite=True)


def split_rows(group: Path) -> None:
    zarr.create_array(
        group / "embedding", shape=(10, 4), chunks=(8, 2), dtype="f4", compressors=None, zarr_format=3, overwrite=True
    )


def edit(group: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = group / "zarr.json"
    metadata = json.loads(path.read_text())
    change(metadata["attributes"]["abaw"])
    path.write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (compress, "uncompressed"),
        (split_rows, "whole rows"),
        (lambda group: (group / "embedding" / "zarr.json").write_text("{"), "should hold JSON"),
        (lambda group: (group / "embedding" / "zarr.json").write_text("[]"), "a JSON object"),
        (lambda group: (group / "embedding" / "zarr.json").write_text("{}"), "whole rows"),
        (lambda group: (group / "embedding" / "zarr.json").unlink(), "there is none"),
        (lambda group: edit(group, lambda facts: facts.pop("batch_rows")), "batch_rows"),
        (lambda group: edit(group, lambda facts: facts.pop("format")), "format version"),
        (lambda group: edit(group, lambda facts: facts.update(format=9)), "Update abaw"),
    ],
)
def test_what_was_damaged_or_rewritten_is_refused(
    tmp_path: Path, record: EncoderRecord, damage: Callable[[Path], None], message: str
) -> None:
    create_encoder(LocalStorage(tmp_path), "au", record)
    damage(tmp_path / "au")
    with pytest.raises(StoreError, match=message):
        read_encoder(LocalStorage(tmp_path), "au")
