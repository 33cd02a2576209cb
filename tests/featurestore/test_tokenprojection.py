"""A projection kept in an encoder's group: what is made, read, and refused."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from featurestore.embedding import Embedding
from featurestore.errors import EncoderMismatchError, ShapeError, StoreError
from featurestore.inspection.verification import check_sound, verify_store
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from featurestore.tokenprojection import TokenProjection
from featurestore.writer import EmbeddingWriter

MakeStore = Callable[[int], FeatureStore]
N_FRAMES, ROW = 20, (3, 2)
PARTS = ("mean", "components", "explained")


def fitted(seed: int = 0, *, dim: int = 5, n_components: int = 2) -> TokenProjection:
    rng = np.random.default_rng(seed)
    components, _ = np.linalg.qr(rng.normal(size=(dim, n_components)))
    explained = np.array([0.5, 0.25], dtype=np.float32)
    return TokenProjection(mean=rng.normal(size=dim), components=components, explained=explained[:n_components])


def write(writer: EmbeddingWriter, stop: int = N_FRAMES) -> None:
    with writer:
        for task in writer.pending():
            n_rows = min(task.stop, stop) - task.start
            if n_rows > 0:
                writer.append(task.start, np.ones((n_rows, *ROW), dtype=np.float32))


@pytest.fixture
def store(make_store: MakeStore) -> FeatureStore:
    return make_store(N_FRAMES)


@pytest.fixture
def embedding(store: FeatureStore, provenance: Provenance) -> Embedding:
    write(store.writer("dino", provenance, row_shape=ROW, chunk_rows=8, projection=fitted()))
    return store.embedding("dino")


class TestTokenProjection:
    def test_its_digest_is_of_every_value_and_of_the_shape(self) -> None:
        # A store on disk names it: it must not change from one version of abaw to the next.
        ramp = np.arange(6, dtype=np.float64).reshape(3, 2)
        base = {"mean": np.arange(3.0), "components": ramp, "explained": np.array([0.5, 0.25])}
        assert TokenProjection(**base).digest == "6031284096783689421ea99dfa889fb3"
        assert (
            TokenProjection(**(base | {"components": np.asfortranarray(ramp)})).digest == TokenProjection(**base).digest
        )
        digests = {TokenProjection(**base).digest}
        for name in PARTS:
            changed = base[name].copy()
            changed.flat[-1] += 1e-6
            digests.add(TokenProjection(**(base | {name: changed})).digest)
        assert len(digests) == 4

    def test_holds_its_own_values_which_nobody_changes(self) -> None:
        mean = np.zeros(5, dtype=np.float32)
        kept = replace(fitted(), mean=mean)
        mean[0] = 7
        assert kept.mean[0] == 0
        assert kept.mean.dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            kept.mean[0] = 1

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("mean", np.zeros(4)),
            ("mean", np.zeros((5, 1))),
            ("explained", np.zeros(3)),
            ("components", np.zeros((5, 3))),
            ("components", np.zeros(5)),
            ("components", np.zeros((5, 0))),
        ],
    )
    def test_refuses_parts_that_do_not_belong_together(self, name: str, values: np.ndarray) -> None:
        with pytest.raises(ShapeError, match=r"has a mean \(dim,\), components \(dim, n_components\)"):
            replace(fitted(), **{name: values})

    def test_refuses_more_components_than_dimensions_and_what_is_not_finite(self) -> None:
        with pytest.raises(ShapeError, match=r"with 1 to dim components"):
            TokenProjection(mean=np.zeros(2), components=np.ones((2, 3)), explained=np.ones(3))
        with pytest.raises(ShapeError, match=r"NaN or infinity"):
            replace(fitted(), mean=np.array([0, 0, np.nan, 0, 0]))


class TestInAStore:
    def test_is_kept_with_the_rows_and_named_by_their_provenance(
        self, store: FeatureStore, embedding: Embedding, provenance: Provenance
    ) -> None:
        kept = embedding.projection
        assert kept is not None
        for name in PARTS:
            assert getattr(kept, name).tobytes() == getattr(fitted(), name).tobytes()
            array = zarr.open_group(store.location, mode="r")[f"dino/projection/{name}"]
            assert array[:].tobytes() == getattr(fitted(), name).tobytes()
            assert array.chunks == array.shape
        assert embedding.provenance == replace(provenance, projection=fitted().digest)
        write(store.writer("mae", provenance, row_shape=ROW))
        assert store.embedding("mae").projection is None

    def test_of_zeros_it_is_kept_as_well(self, store: FeatureStore, provenance: Provenance) -> None:
        blank = replace(fitted(), mean=np.zeros(5))  # as zarr leaves out chunks of nothing but the fill value
        write(store.writer("dino", provenance, row_shape=ROW, projection=blank))
        kept = store.embedding("dino").projection
        assert kept is not None
        assert kept.digest == blank.digest

    def test_the_one_that_is_there_counts(self, store: FeatureStore, provenance: Provenance) -> None:
        """Of a worker who was quicker, or of an earlier run."""
        write(store.writer("dino", provenance, row_shape=ROW, chunk_rows=8, projection=fitted()), stop=8)
        later = store.writer("dino", provenance, row_shape=ROW, projection=fitted(1))
        assert later.embedding.projection is not None
        assert later.embedding.projection.digest == fitted().digest != fitted(1).digest
        write(later)
        assert store.embedding("dino").is_complete()
        assert verify_store(store)[0].is_sound

    def test_of_workers_that_bring_their_own_at_once_one_counts(
        self, store: FeatureStore, provenance: Provenance
    ) -> None:
        barrier, digests = threading.Barrier(4), []

        def work(number: int) -> None:
            barrier.wait()
            writer = store.writer("dino", provenance, row_shape=ROW, projection=fitted(number))
            assert writer.embedding.projection is not None
            digests.append(writer.embedding.projection.digest)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(digests) == 4
        assert len(set(digests)) == 1
        assert digests[0] in {fitted(number).digest for number in range(4)}

    def test_rows_with_and_without_one_never_mix(
        self, store: FeatureStore, embedding: Embedding, provenance: Provenance
    ) -> None:
        with pytest.raises(EncoderMismatchError, match=r"'dino'.*they differ in projection.*Extract it as dino@2"):
            store.writer("dino", provenance, row_shape=ROW)
        # One who says by name through which projection rows went is held to it.
        with pytest.raises(EncoderMismatchError, match=r"they differ in projection"):
            store.writer("dino", replace(provenance, projection=fitted(1).digest), row_shape=ROW, projection=fitted(1))
        write(store.writer("dino", embedding.provenance, row_shape=ROW))
        write(store.writer("plain", provenance, row_shape=ROW))
        with pytest.raises(EncoderMismatchError, match=r"'plain'.*they differ in projection"):
            store.writer("plain", provenance, row_shape=ROW, projection=fitted())
        # Imported rows whose projection did not travel with them.
        write(store.writer("guest", replace(provenance, projection="d" * 32), row_shape=ROW))
        assert store.embedding("guest").projection is None
        with pytest.raises(EncoderMismatchError, match=r"'guest'.*they differ in projection"):
            store.writer("guest", provenance, row_shape=ROW, projection=fitted())

    def test_refuses_rows_that_did_not_go_through_it(self, store: FeatureStore, provenance: Provenance) -> None:
        for row_shape in ((3, 5), (2,)):
            with pytest.raises(ShapeError, match=r"projection to 2 dimensions have shape \(n_tokens, 2\), not"):
                store.writer("dino", provenance, row_shape=row_shape, projection=fitted())
        with pytest.raises(EncoderMismatchError, match=r"rows of encoder 'dino' went through projection 0000"):
            store.writer("dino", replace(provenance, projection="0" * 32), row_shape=ROW, projection=fitted())
        assert store.names() == ()

    @pytest.mark.parametrize(
        ("file", "change", "message"),
        [
            (
                "components/c.0.0",
                lambda raw: raw[:9] + bytes([raw[9] ^ 1]) + raw[10:],
                "has other bytes than were kept",
            ),
            ("mean/c.0", lambda raw: raw[:2] + b"\xff\xff" + raw[4:], "holds no finite numbers"),
            ("explained/c.0", lambda raw: raw[:-1], "has 7 bytes of explained, not 8"),
            ("mean/c.0", lambda raw: None, "is not there as a whole"),
        ],
    )
    def test_damage_is_found_on_reading_writing_and_by_verify(
        self,
        store: FeatureStore,
        embedding: Embedding,
        provenance: Provenance,
        file: str,
        change: Callable[[bytes], bytes | None],
        message: str,
    ) -> None:
        path = Path(store.location) / "dino" / "projection" / file
        raw = change(path.read_bytes())
        path.unlink() if raw is None else path.write_bytes(raw)
        damaged = store.embedding("dino")
        assert damaged.read(0, N_FRAMES).shape == (N_FRAMES, *ROW)  # which needs no projection
        with pytest.raises(StoreError, match=rf"projection of encoder 'dino' {message}.*abaw store rm dino"):
            _ = damaged.projection
        with pytest.raises(StoreError, match=message):
            store.writer("dino", provenance, row_shape=ROW, projection=fitted())
        (verdict,) = verify_store(store, repair=True)
        assert (verdict.bad, verdict.error, verdict.is_sound) == ((), None, False)
        assert message in (verdict.projection_error or "")
        with pytest.raises(StoreError, match=rf"every committed chunk is sound, but: .*{message}.*\(store: here\)\.$"):
            check_sound([verdict], where="here")

    @pytest.mark.parametrize("file", ["zarr.json", "mean/zarr.json"])
    def test_verify_finds_what_no_zarr_reader_would(self, store: FeatureStore, embedding: Embedding, file: str) -> None:
        path = Path(store.location) / "dino" / "projection" / file
        path.write_text("{")
        assert f"has no such projection/{file} as was made" in (verify_store(store)[0].projection_error or "")
        path.unlink()
        assert f"has no such projection/{file} as was made" in (verify_store(store)[0].projection_error or "")

    def test_a_shape_that_is_none_is_refused(self, store: FeatureStore, embedding: Embedding) -> None:
        path = Path(store.location) / "dino" / "zarr.json"
        metadata = json.loads(path.read_text())
        assert metadata["attributes"]["abaw"]["projection"] == [5, 2]
        metadata["attributes"]["abaw"]["projection"] = [5]
        path.write_text(json.dumps(metadata))
        with pytest.raises(StoreError, match=r"the shape \(dim, n_components\) of the projection"):
            store.embedding("dino")
