import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

from featurestore.errors import (
    ConfigError,
    EncoderMismatchError,
    FileExistsAlreadyError,
    FrameMismatchError,
    MissingEmbeddingsError,
    MissingFileError,
    ShapeError,
    StoreError,
)
from featurestore.frames import FrameTable
from featurestore.layout import ChunkLayout
from featurestore.metadata import EncoderRecord, FramesRecord, create_encoder
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

N_FRAMES = 20
MakeStore = Callable[[int], FeatureStore]
MakeFrames = Callable[..., FrameTable]


def extract(store: FeatureStore, name: str, provenance: Provenance, value: float = 1.0) -> None:
    """Embeddings of three dimensions, all of one value."""
    with store.writer(name, provenance, row_shape=(3,), chunk_rows=8) as writer:
        for task in writer.pending():
            writer.append(task.start, np.full((task.stop - task.start, 3), value, dtype=np.float32))


def test_a_new_store(make_store: MakeStore, make_frames: MakeFrames) -> None:
    made = make_store(N_FRAMES)
    store = FeatureStore.open(Path(made.location))
    assert store.names() == ()
    assert "au" not in store
    assert store.n_frames == N_FRAMES
    assert store.fingerprint == make_frames(N_FRAMES).fingerprint == store.frames.fingerprint
    assert store.sources == {}


def test_any_zarr_reader_opens_it(make_store: MakeStore, provenance: Provenance) -> None:
    store = make_store(N_FRAMES)
    extract(store, "au", provenance)
    group = zarr.open(Path(store.location), mode="r")
    assert group.attrs["abaw"] == {
        "format": 1, "frames": store.fingerprint, "n_frames": N_FRAMES, "sources": {},
    }  # fmt: skip
    facts = group["au"].attrs["abaw"]
    assert facts["frames"] == store.fingerprint
    assert facts["batch_rows"] == 1
    assert Provenance.from_dict(facts["provenance"]) == provenance
    array = group["au/embedding"]
    assert (array.shape, array.chunks, array.dtype) == ((N_FRAMES, 3), (8, 3), np.float16)
    assert array.compressors == ()


def test_two_encoders_are_independent(make_store: MakeStore, provenance: Provenance) -> None:
    store = make_store(N_FRAMES)
    extract(store, "mae", provenance, 1.0)
    extract(store, "au+v.2@x-y", dataclasses.replace(provenance, weights="1"), 2.0)
    assert store.names() == ("au+v.2@x-y", "mae")
    assert (store.embedding("mae").load() == 1.0).all()
    store.remove("mae")
    assert store.names() == ("au+v.2@x-y",)
    assert (store.embedding("au+v.2@x-y").load() == 2.0).all()
    assert sorted(entry.name for entry in Path(store.location).iterdir()) == [
        "au+v.2@x-y",
        "frames.parquet",
        "zarr.json",
    ]


def test_removal_leaves_open_readers_alone_and_the_name_free(make_store: MakeStore, provenance: Provenance) -> None:
    store = make_store(N_FRAMES)
    extract(store, "au", provenance)
    embedding = store.embedding("au")
    rows = embedding.read(0, 8)
    store.remove("au")
    assert (rows == 1.0).all()
    extract(store, "au", dataclasses.replace(provenance, weights="1"), 2.0)
    assert (store.embedding("au").load() == 2.0).all()
    with pytest.raises(MissingEmbeddingsError, match="no encoder 'v'"):
        store.remove("v")


def test_removal_clears_what_a_killed_one_left(make_store: MakeStore, provenance: Provenance) -> None:
    store = make_store(N_FRAMES)
    extract(store, "au", provenance)
    extract(store, "v", provenance)
    (Path(store.location) / "au").rename(Path(store.location) / ".au.0.removed")
    assert store.names() == ("v",)
    store.remove("v")
    assert sorted(entry.name for entry in Path(store.location).iterdir()) == ["frames.parquet", "zarr.json"]


def test_an_unknown_encoder_names_the_near_one_and_the_command(make_store: MakeStore, provenance: Provenance) -> None:
    store = make_store(N_FRAMES)
    extract(store, "dinov2", provenance)
    with pytest.raises(MissingEmbeddingsError, match=r"Did you mean 'dinov2'.*abaw extract --encoder dinov\b"):
        store.embedding("dinov")
    with pytest.raises(MissingEmbeddingsError, match=r"no encoder '\.\./features/dinov2'"):
        store.embedding("../features/dinov2")


@pytest.mark.parametrize("name", ["", ".au", "-au", "a/b", "a b", "zarr.json", "frames.parquet", "äu", "au\n"])
def test_names_that_cannot_be(make_store: MakeStore, provenance: Provenance, name: str) -> None:
    with pytest.raises(ConfigError, match="An encoder's name starts with a letter or digit"):
        make_store(N_FRAMES).writer(name, provenance, row_shape=(3,))


def test_other_weights_are_refused_with_both_fingerprints(make_store: MakeStore, provenance: Provenance) -> None:
    store = make_store(N_FRAMES)
    extract(store, "au", provenance)
    other = dataclasses.replace(provenance, weights="1", pooling="cls")
    with pytest.raises(
        EncoderMismatchError, match=rf"{provenance.fingerprint}.*{other.fingerprint}.*weights, pooling.*store rm au"
    ):
        store.writer("au", other, row_shape=(3,))
    later = dataclasses.replace(provenance, versions={"torch": "9"}, made_at="later")
    assert store.writer("au", later, row_shape=(3,)).pending() == []
    assert store.embedding("au").provenance == provenance


def test_other_rows_are_refused(make_store: MakeStore, provenance: Provenance) -> None:
    store = make_store(N_FRAMES)
    extract(store, "au", provenance)
    with pytest.raises(ShapeError, match=r"shape \(3,\), these would have \(4,\)"):
        store.writer("au", provenance, row_shape=(4,))
    with pytest.raises(EncoderMismatchError, match="are float16, these would be float32"):
        store.writer("au", provenance, row_shape=(3,), dtype=np.float32)


def test_default_sizes(make_store: MakeStore, provenance: Provenance) -> None:
    writer = make_store(N_FRAMES).writer("au", provenance, row_shape=(768,), batch_rows=64)
    assert (writer.chunk_rows, writer.batch_rows) == (2048, 64)
    with pytest.raises(ConfigError, match="power of two"):
        make_store(N_FRAMES).writer("v", provenance, row_shape=(768,), batch_rows=48)


def test_corrected_labels_keep_the_embeddings(
    make_store: MakeStore, make_frames: MakeFrames, provenance: Provenance
) -> None:
    store = make_store(N_FRAMES)
    extract(store, "au", provenance)
    corrected = FrameTable(make_frames(N_FRAMES).data.with_columns(pl.lit(0.5, dtype=pl.Float32).alias("valence")))
    again = FeatureStore.create(Path(store.location), corrected, sources={"train.txt": "d1"})
    assert again.frames.data["valence"].to_list() == [0.5] * N_FRAMES
    assert (again.embedding("au").load() == 1.0).all()
    assert again.sources == {"train.txt": "d1"}
    assert FeatureStore.create(Path(store.location), corrected).sources == {"train.txt": "d1"}


def test_other_frames_are_refused_where_there_are_embeddings(
    make_store: MakeStore, make_frames: MakeFrames, provenance: Provenance
) -> None:
    store = make_store(N_FRAMES)
    FeatureStore.create(Path(store.location), make_frames(N_FRAMES + 1))
    store = FeatureStore.create(Path(store.location), make_frames(N_FRAMES, video="w"))
    assert store.frames.data["video"][0] == "w000000"
    extract(store, "au", provenance)
    with pytest.raises(FrameMismatchError, match=r"keeps its 20 rows.*20 are missing.*, 0 are further"):
        FeatureStore.create(Path(store.location), make_frames(N_FRAMES))
    assert FeatureStore.open(Path(store.location)).fingerprint == store.fingerprint


def grown_frames(make_frames: MakeFrames, n_videos: int) -> FrameTable:
    """The store's 20 frames of videos v, and whole videos w after them."""
    return FrameTable(make_frames(N_FRAMES).data.vstack(make_frames(7 * n_videos, video="w").data))


def test_videos_are_appended_when_that_is_asked_for(
    make_store: MakeStore, make_frames: MakeFrames, provenance: Provenance
) -> None:
    store = make_store(N_FRAMES)
    extract(store, "au", provenance)
    more = grown_frames(make_frames, 2)
    with pytest.raises(FrameMismatchError, match=r"\(au\); these are 14 frames of 2 further videos.*abaw frames --add"):
        FeatureStore.create(store.location, more)
    assert FeatureStore.open(store.location).n_frames == N_FRAMES
    for n_videos in (2, 3):
        grown = FeatureStore.create(store.location, grown_frames(make_frames, n_videos), add=True)
        assert grown.n_frames == N_FRAMES + 7 * n_videos
        with pytest.raises(MissingEmbeddingsError, match=f"{N_FRAMES + 7 * n_videos - 7} of|{N_FRAMES} of"):
            grown.embedding("au").load()
        extract(grown, "au", provenance, 2.0)
    values = grown.embedding("au").load()[:, 0].tolist()
    assert values == [1.0] * N_FRAMES + [2.0] * 21
    assert grown.embedding("au").record.frames.fingerprint == grown.fingerprint
    # The array that any Zarr reader sees has grown with it.
    assert zarr.open_group(grown.location, mode="r")["au/embedding"].shape == (41, 3)
    # What is asked for without an order of its own gets the store's.
    in_any_order = FrameTable(grown_frames(make_frames, 3).data.sort("video", "frame", descending=[True, False]))
    assert FeatureStore.create(store.location, in_any_order).fingerprint == grown.fingerprint


def test_a_kill_while_the_store_grows_leaves_it_as_it_was(
    make_store: MakeStore, make_frames: MakeFrames, provenance: Provenance
) -> None:
    store = make_store(N_FRAMES)
    extract(store, "au", provenance)
    grown_frames(make_frames, 2).write(Path(store.location) / "frames.parquet")  # and no more than that
    again = FeatureStore.open(store.location)
    assert len(again.frames) == again.n_frames == N_FRAMES
    assert (again.embedding("au").load() == 1.0).all()
    assert FeatureStore.create(store.location, grown_frames(make_frames, 2), add=True).n_frames == N_FRAMES + 14


def test_a_kill_while_an_encoder_grows_loses_nothing(
    make_store: MakeStore, make_frames: MakeFrames, provenance: Provenance
) -> None:
    store = make_store(N_FRAMES)
    extract(store, "au", provenance)
    before = (Path(store.location) / "au" / "zarr.json").read_bytes()
    grown = FeatureStore.create(store.location, grown_frames(make_frames, 2), add=True)
    grown.writer("au", provenance, row_shape=(3,))
    (Path(store.location) / "au" / "zarr.json").write_bytes(before)  # the arrays are longer, the group does not say so
    assert grown.embedding("au").rows_done() == N_FRAMES
    extract(grown, "au", provenance, 2.0)
    assert grown.embedding("au").is_complete()


def test_a_store_of_an_older_layout_is_read_and_gone_on_with(make_store: MakeStore, provenance: Provenance) -> None:
    store = make_store(N_FRAMES)
    layout = ChunkLayout(
        n_frames=N_FRAMES, row_shape=(3,), dtype=np.dtype("<f2"), chunk_rows=8, batch_rows=1, separator="/"
    )
    frames = FramesRecord(n_frames=N_FRAMES, fingerprint=store.fingerprint)
    create_encoder(store.storage, "au", EncoderRecord(frames=frames, provenance=provenance, layout=layout))
    extract(store, "au", provenance)
    assert (Path(store.location) / "au/embedding/c/2/0").stat().st_size == 48
    assert (Path(store.location) / "au/commits/c/2/0").stat().st_size == 16
    assert (store.embedding("au").load() == 1.0).all()
    assert (np.asarray(zarr.open_group(store.location, mode="r")["au/embedding"][:]) == 1.0).all()


def test_a_store_that_was_opened_before_it_grew_goes_on(
    make_store: MakeStore, make_frames: MakeFrames, provenance: Provenance
) -> None:
    early = make_store(N_FRAMES)
    extract(early, "au", provenance)
    grown = FeatureStore.create(early.location, grown_frames(make_frames, 2), add=True)
    extract(grown, "au", provenance, 2.0)
    assert (early.embedding("au").load() == 1.0).all()
    extract(early, "au", provenance)  # nothing to do, and nothing shrinks
    assert grown.embedding("au").is_complete()
    assert zarr.open_group(early.location, mode="r")["au/embedding"].shape == (N_FRAMES + 14, 3)


def test_a_worker_does_not_write_into_what_was_made_anew(make_store: MakeStore, provenance: Provenance) -> None:
    store = make_store(N_FRAMES)
    early, late = (store.writer("au", provenance, row_shape=(3,), chunk_rows=8) for _ in range(2))
    for writer in (early, late):
        writer.append(0, np.ones((8, 3), dtype=np.float32))
    store.remove("au")
    with pytest.raises(EncoderMismatchError, match="'au' were removed, or made anew, while they were being written"):
        early.append(8, np.ones((8, 3), dtype=np.float32))
    assert store.names() == ()
    extract(store, "au", dataclasses.replace(provenance, weights="1"), 2.0)
    with pytest.raises(EncoderMismatchError, match="made anew"):
        late.append(8, np.ones((8, 3), dtype=np.float32))
    assert (store.embedding("au").load() == 2.0).all()


def test_what_a_worker_wrote_after_a_removal_is_not_in_the_way(make_store: MakeStore, provenance: Provenance) -> None:
    store = make_store(N_FRAMES)
    orphan = Path(store.location) / "au" / "embedding" / "c.1.0"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(bytes(48))
    extract(store, "au", provenance)
    assert (store.embedding("au").load() == 1.0).all()


def test_a_frame_table_that_was_lost_is_made_again(
    make_store: MakeStore, make_frames: MakeFrames, provenance: Provenance
) -> None:
    store = make_store(N_FRAMES)
    extract(store, "au", provenance)
    (Path(store.location) / "frames.parquet").unlink()
    with pytest.raises(MissingFileError, match=r"frames\.parquet is not there. Run `abaw frames`"):
        _ = FeatureStore.open(store.location).frames
    again = FeatureStore.create(store.location, make_frames(N_FRAMES))
    assert len(again.frames) == N_FRAMES
    assert (again.embedding("au").load() == 1.0).all()


def test_what_others_noted_in_the_root_stays(make_store: MakeStore, make_frames: MakeFrames) -> None:
    store = make_store(N_FRAMES)
    path = Path(store.location) / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata["attributes"]["abaw"]["later"] = 1
    metadata["attributes"]["mine"] = "a note"
    path.write_text(json.dumps(metadata))
    FeatureStore.create(store.location, make_frames(N_FRAMES), sources={"train": "d"})
    attributes = json.loads(path.read_text())["attributes"]
    assert (attributes["abaw"]["later"], attributes["mine"]) == (1, "a note")
    assert attributes["abaw"]["sources"] == {"train": "d"}


def test_a_table_that_was_swapped_is_refused(make_store: MakeStore, make_frames: MakeFrames) -> None:
    store = make_store(N_FRAMES)
    make_frames(N_FRAMES, video="w").write(Path(store.location) / "frames.parquet")
    with pytest.raises(FrameMismatchError, match=f"made for frames {store.fingerprint}"):
        _ = FeatureStore.open(Path(store.location)).frames


def test_a_group_of_other_frames_is_refused(
    make_store: MakeStore, make_frames: MakeFrames, provenance: Provenance, tmp_path: Path
) -> None:
    store = make_store(N_FRAMES)
    other = FeatureStore.create(tmp_path / "other", make_frames(N_FRAMES, video="w"))
    extract(other, "au", provenance)
    (Path(other.location) / "au").rename(Path(store.location) / "au")
    with pytest.raises(FrameMismatchError, match="Embeddings of encoder 'au' are of 20 frames"):
        store.embedding("au")
    with pytest.raises(FrameMismatchError, match="Embeddings of encoder 'au' are of 20 frames"):
        store.writer("au", provenance, row_shape=(3,))


def test_what_is_not_a_store(make_frames: MakeFrames, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"is not there.*abaw frames"):
        FeatureStore.open(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match=r"is empty or is not there.*abaw frames"):
        FeatureStore.open(tmp_path)
    zarr.create_group(tmp_path / "plain", zarr_format=3)
    with pytest.raises(StoreError, match="attribute 'abaw'"):
        FeatureStore.open(tmp_path / "plain")
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsAlreadyError, match=r"taken \(by 'thesis.tex'\)|taken \(by 'plain'\)"):
        FeatureStore.create(tmp_path, make_frames(3))
    with pytest.raises(FileExistsAlreadyError, match=r"taken \(by 'thesis.tex'\)"):
        FeatureStore.create(tmp_path / "thesis.tex", make_frames(3))


def test_an_interrupted_creation_is_made_again(make_frames: MakeFrames, tmp_path: Path) -> None:
    make_frames(3).write(tmp_path / "frames.parquet")
    assert FeatureStore.create(tmp_path, make_frames(4)).n_frames == 4


def test_a_newer_format_says_so(make_store: MakeStore) -> None:
    path = Path(make_store(N_FRAMES).location, "zarr.json")
    metadata = json.loads(path.read_text())
    metadata["attributes"]["abaw"]["format"] = 2
    path.write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match=r"up to format 1; this one is format 2.*Update abaw"):
        FeatureStore.open(path.parent)


def test_rows_and_bytes(make_store: MakeStore, provenance: Provenance) -> None:
    store = make_store(N_FRAMES)
    with store.writer("au", provenance, row_shape=(3,), chunk_rows=8) as writer:
        writer.append(8, np.ones((5, 3), dtype=np.float32))
    assert store.rows_done("au") == 5
    n_zarr_json = sum(path.stat().st_size for path in (Path(store.location) / "au").rglob("zarr.json"))
    assert store.size_bytes("au") - n_zarr_json == 8 * 3 * 2 + 16
