"""What a store has for a recipe: complete, half done, of another kind, absent, damaged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import ConfigError, UnknownNameError
from featurestore.frames import FrameTable
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from heads.recipes.catalogue import find_recipe
from heads.recipes.standing import Standing, standings
from heads.recipes.told import AFF_WILD_ROWS, Need, Published

NETEASE = find_recipe("netease")


def by_role(store: FeatureStore, name: str, **roles: str) -> dict[str, Standing]:
    return {each.role: each for each in standings(find_recipe(name), store, roles)}


def test_what_is_complete_is_ready_and_its_width_is_told(small_store: FeatureStore) -> None:
    found = by_role(small_store, "netease")
    assert all(each.is_ready and each.problem == "" for each in found.values())
    assert found["mae"].stand_in == "mae (16 columns for 768)"
    assert (found["mae"].rows_done, found["mae"].n_frames) == (60, 60)


def test_what_is_not_there_is_told_with_what_brings_it(small_store: FeatureStore) -> None:
    found = by_role(small_store, "aim3", iresnet100="au")
    assert found["iresnet100"].is_ready
    assert found["iresnet100"].stand_in == "iresnet100=au (16 columns for 512)"
    assert found["densenet121"].state == "absent"
    assert found["densenet121"].stand_in is None
    assert found["densenet121"].command == "abaw extract --encoder densenet121"
    assert found["densenet121"].remedy.endswith("(brings ImageNet's DenseNet-121, 1024 columns for 342: a stand-in)")
    assert by_role(small_store, "aim3", densenet121="gone")["densenet121"].brings == ""
    tokens = by_role(small_store, "scu")["dinov2_giant_238-tokens-pca128"]
    assert tokens.command == "abaw extract --encoder dinov2_giant_238 --pooling tokens --token-pca 128"


def test_vectors_are_no_tokens_and_tokens_no_vectors(small_store: FeatureStore) -> None:
    role = "dinov2_giant_238-tokens-pca128"
    assert by_role(small_store, "scu", **{role: "tokens"})[role].is_ready
    vectors = by_role(small_store, "scu", **{role: "mae"})[role]
    assert (vectors.state, vectors.problem) == ("other", "encoder 'mae' holds 16 columns, not patch tokens.")
    tokens = by_role(small_store, "linear-probe", mae="tokens")["mae"]
    assert (tokens.state, tokens.problem) == ("other", "encoder 'tokens' holds 3 x 4 tokens, not one vector a frame.")
    # Extracting what is there already would bring nothing.
    assert tokens.command == "abaw extract --encoder mae"
    assert vectors.command == "abaw extract --encoder dinov2_giant_238 --pooling tokens --token-pca 128"
    own = replace(tokens, encoder="mae")
    assert own.command == "abaw store rm mae; abaw extract --encoder mae"


@pytest.fixture
def half_done(small_frames: FrameTable, provenance: Provenance, tmp_path: Path) -> FeatureStore:
    store = FeatureStore.create(tmp_path / "features", small_frames)
    with store.writer("mae", provenance, row_shape=(4,), chunk_rows=16) as writer:
        writer.append(0, np.zeros((16, 4), dtype=np.float32), {})
    return store


@pytest.fixture
def provenance() -> Provenance:
    return Provenance(
        architecture="test", weights="w", preprocessing={"size_px": 8}, pooling="mean", precision="float32"
    )


def test_half_done_is_not_ready(half_done: FeatureStore) -> None:
    mae = by_role(half_done, "netease")["mae"]
    assert (mae.state, mae.rows_done) == ("incomplete", 16)
    assert mae.problem == "encoder 'mae' is not complete: 16 of 60 rows."
    assert mae.command == "abaw extract --encoder mae"


def test_damage_is_told(half_done: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "features" / "mae" / "zarr.json").write_text("{")
    mae = by_role(FeatureStore.open(str(tmp_path / "features")), "netease")["mae"]
    assert mae.state == "unreadable"
    assert "mae" in mae.problem


def test_an_unknown_role_is_refused(small_store: FeatureStore) -> None:
    with pytest.raises(UnknownNameError, match=r"no role in recipe 'netease' 'arcface'"):
        standings(NETEASE, small_store, {"arcface": "au"})


def test_costs_are_those_of_the_embeddings() -> None:
    need = Need(what="w", dim=768, gflops=35.13)
    plain = AFF_WILD_ROWS * 768 * 2
    assert plain <= need.store_bytes(AFF_WILD_ROWS) < 1.02 * plain
    assert need.petaflops(AFF_WILD_ROWS) == pytest.approx(7.677, abs=1e-3)
    assert Need(what="w", dim=1).petaflops(5) is None
    assert Need(what="w", dim=128, tokens=289).row_shape == (289, 128)


def test_what_cannot_be_is_refused(make_frames: Callable[..., FrameTable]) -> None:
    with pytest.raises(ConfigError, match=r"what must say.*dim must be.*tokens must be.*gflops must be"):
        Need(what="", dim=0, tokens=-1, gflops=0.0)
    with pytest.raises(ConfigError, match=r"au must be in \[-1, 1\], got 1.5"):
        Published(p=1.0, au=1.5)
