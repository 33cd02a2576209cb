import dataclasses
import json
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import ConfigError, StoreError
from featurestore.provenance import Provenance, file_digest

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.dictionaries(st.text(), SCALARS | st.lists(SCALARS), max_size=4), st.none() | st.text())
def test_survives_json(preprocessing: dict[str, object], parent: str | None) -> None:
    made = Provenance(
        architecture="a", weights="w", preprocessing=preprocessing, pooling="cls", precision="float32", parent=parent
    )
    back = Provenance.from_dict(json.loads(json.dumps(made.to_dict())))
    assert back == made
    assert back.fingerprint == made.fingerprint


def test_what_decides_the_numbers_decides_the_fingerprint(provenance: Provenance) -> None:
    for name, value in [
        ("architecture", "x"), ("weights", "1"), ("preprocessing", {}), ("pooling", "cls"), ("precision", "bfloat16"),
    ]:  # fmt: skip
        other = dataclasses.replace(provenance, **{name: value})
        assert other.fingerprint != provenance.fingerprint
        assert provenance.differences(other) == (name,)
    for name, value in [("versions", {"torch": "3"}), ("made_at", "later"), ("parent", "mae")]:
        other = dataclasses.replace(provenance, **{name: value})
        assert other.fingerprint == provenance.fingerprint


def test_fingerprint_is_the_same_in_every_process_and_for_tuples(provenance: Provenance) -> None:
    as_list = dataclasses.replace(provenance, preprocessing={
        "mean": [0.485, 0.456, 0.406], "interpolation": "bicubic", "size_px": 224,
    })  # fmt: skip
    assert as_list.fingerprint == provenance.fingerprint
    # A store on disk names it: it must not change from one version of abaw to the next.
    assert provenance.fingerprint == "6885a6686226ea6893bbcb7859f95b32"


def test_how_it_was_executed_is_kept_and_decides_nothing(provenance: Provenance) -> None:
    execution = {
        "device": "NVIDIA H200",
        "compiled": True,
        "channels_last": False,
        "batch": 64,
        "share": 0.5,
        "x": None,
    }
    executed = dataclasses.replace(provenance, execution=execution)
    back = Provenance.from_dict(json.loads(json.dumps(executed.to_dict())))
    assert back.execution == execution
    assert back == executed != provenance
    assert executed.fingerprint == provenance.fingerprint
    assert executed.differences(provenance) == ()
    execution["batch"] = 1
    assert executed.execution["batch"] == 64
    for value in ([1], float("inf"), object()):
        with pytest.raises(ConfigError, match="Execution 'k' of a provenance is a JSON scalar"):
            dataclasses.replace(provenance, execution={"k": value})


def test_a_projection_decides_the_numbers(provenance: Provenance) -> None:
    projected = dataclasses.replace(provenance, projection="a" * 32)
    assert projected.fingerprint != provenance.fingerprint
    assert provenance.differences(projected) == ("projection",)
    assert Provenance.from_dict(projected.to_dict()) == projected


def test_what_the_first_stores_hold_is_read(provenance: Provenance) -> None:
    values = provenance.to_dict()
    del values["execution"], values["projection"]
    assert Provenance.from_dict(values) == provenance
    with pytest.raises(StoreError, match="'execution' as mappings"):
        Provenance.from_dict(values | {"execution": 3})


@pytest.mark.parametrize("value", [float("nan"), {"a": 1}, object(), [object()]])
def test_refuses_what_json_cannot_hold(value: object) -> None:
    with pytest.raises(ConfigError, match="JSON scalar"):
        Provenance(architecture="a", weights="w", preprocessing={"k": value}, pooling="cls", precision="float32")


@pytest.mark.parametrize("key", ["architecture", "weights", "preprocessing", "pooling", "precision", "made_at"])
def test_a_field_that_is_missing_is_named(provenance: Provenance, key: str) -> None:
    values = provenance.to_dict()
    del values[key]
    with pytest.raises(StoreError, match=key):
        Provenance.from_dict(values)


def test_file_digest(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc" * 1_000_000)
    assert file_digest(path) == xxhash.xxh3_128_hexdigest(b"abc" * 1_000_000)
