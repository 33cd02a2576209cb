import argparse
import contextlib
import os
import pathlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from extractor.encoders.weightfile import is_onnx, read_weights
from featurestore.errors import MissingFileError, StoreError
from featurestore.provenance import file_digest

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Malice:
    """What reading it as an ordinary pickle would run: a file appears."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.evidence}",)


def assert_is_state(state: object) -> None:
    assert isinstance(state, dict)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("content", "entry"),
    [
        (STATE, None),
        ({"model": STATE, "epoch": 3}, "model"),
        (
            {"state_dict": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}},
            "state_dict",
        ),
        ({"net": {"model": STATE}, "best": 0.5}, "net.model"),
        ({"weird": STATE, "step": 1}, "weird"),
        # The best score and the epoch are tensors too, and as many as the weights.
        ({"state_dict": STATE, "best_acc1": torch.ones(()), "epoch": torch.ones(())}, "state_dict"),
        ({"checkpoint": {"model": {"module": STATE}}, "epoch": 1}, "checkpoint.model.module"),
        ({"weird": STATE, "optimizer": {"state": {"model": {"exp_avg": torch.ones(2)}}}}, "weird"),
    ],
)
def test_torch_files_wherever_their_weights_lie(
    content: dict[str, object], entry: str | None, legacy: bool, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    read = read_weights(path)
    assert_is_state(read.state)
    assert (read.kind, read.entry, read.others, read.not_tensors) == ("torch", entry, (), ())
    assert read.digest == file_digest(path)


def test_safetensors_by_content_and_not_by_suffix(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    safetensors.torch.save_file(STATE, path)
    read = read_weights(path)
    assert_is_state(read.state)
    assert (read.kind, read.entry) == ("safetensors", None)


def test_of_several_sets_the_most_telling_is_taken_and_the_others_named(tmp_path: Path) -> None:
    other: dict[str, Tensor] = {"b": torch.zeros(1)}
    torch.save({"student": other, "teacher": STATE, "state_dict_ema": other}, tmp_path / "dino.pth")
    read = read_weights(tmp_path / "dino.pth")
    assert_is_state(read.state)
    assert read.entry == "teacher"
    assert read.others == ("student", "state_dict_ema")
    torch.save({"one": other, "two": STATE}, tmp_path / "two.pth")
    with pytest.raises(StoreError, match=r"several sets of weights: one, two\. Save one state_dict"):
        read_weights(tmp_path / "two.pth")


def test_layouts_of_two_networks_or_of_an_average(tmp_path: Path) -> None:
    margin = {"weight": torch.ones(9, 3)}
    torch.save({"state_dict_softmax_fc": margin, "state_dict_backbone": STATE}, tmp_path / "arcface.pt")
    read = read_weights(tmp_path / "arcface.pt")
    assert_is_state(read.state)
    assert (read.entry, read.others) == ("state_dict_backbone", ("state_dict_softmax_fc",))
    torch.save({"ema": margin, "model_ema": margin, "model": {"module": STATE}}, tmp_path / "ema.pt")
    assert read_weights(tmp_path / "ema.pt").entry == "model.module"
    assert read_weights(tmp_path / "ema.pt").others == ("model_ema", "ema")
    torch.save({"ema": margin, "epoch": torch.ones(()), **STATE}, tmp_path / "loose.pt")
    read = read_weights(tmp_path / "loose.pt")
    assert (read.entry, read.others, read.not_tensors) == (None, ("ema",), ("ema",))
    torch.save({"one": {"model": STATE}, "two": {"model": STATE}}, tmp_path / "two.pt")
    with pytest.raises(StoreError, match=r"several sets of weights: one\.model, two\.model\."):
        read_weights(tmp_path / "two.pt")


def test_a_module_with_a_few_other_values_is_still_its_tensors(tmp_path: Path) -> None:
    torch.save({**STATE, "version": 2}, tmp_path / "w.pth")
    read = read_weights(tmp_path / "w.pth")
    assert_is_state(read.state)
    assert read.not_tensors == ("version",)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_training_scripts_leave_beside_the_weights_is_let_through_and_not_built(
    legacy: bool, tmp_path: Path
) -> None:
    options = argparse.Namespace(lr=1e-3, output=pathlib.PosixPath("/x/y"), nested=argparse.Namespace(a=[1]))
    left = {"args": options, "best": np.float64(0.5), "history": np.arange(3.0)}
    path = tmp_path / "mae.pth"
    torch.save({"model": STATE, **left}, path, _use_new_zipfile_serialization=not legacy)
    assert_is_state(read_weights(path).state)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_carries_code_is_refused_by_name_and_not_run(legacy: bool, protocol: int, tmp_path: Path) -> None:
    evidence, path = tmp_path / "ran", tmp_path / "w.pth"
    content = {"model": STATE, "hook": Malice(evidence), "net": nn.Linear(2, 2)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    with pytest.raises(StoreError, match=r"carries code.*posix\.system, torch\.nn\.modules\.linear\.Linear\. Nothing"):
        read_weights(path)
    assert not evidence.exists()
    # The file is what it is taken for: torch's own unguarded reader runs it.
    torch.load(path, weights_only=False)
    assert evidence.exists()


def test_a_whole_module_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), tmp_path / "enet.pt")
    with pytest.raises(StoreError, match=r"(?s)torch\.nn\.modules\.container\.Sequential.*save model\.state_dict\(\)"):
        read_weights(tmp_path / "enet.pt")


def test_a_pickle_protocol_that_the_safe_reader_does_not_know(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pt", pickle_protocol=4)
    with pytest.raises(StoreError, match=r"safe reader does not know .*save it again with torch\.save"):
        read_weights(tmp_path / "w.pt")


def test_a_plain_pickle_that_is_no_torch_file_is_not_run_either(tmp_path: Path) -> None:
    evidence, path = tmp_path / "ran", tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(Malice(evidence)))
    with pytest.raises(StoreError, match=r"carries code.*posix\.system"):
        read_weights(path)
    assert not evidence.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)
    with pytest.raises(StoreError, match=r"TorchScript archive: a program.*save its state_dict"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"\(0 bytes\) is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", r"git-lfs pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html><head>", r"web page.*Download the file again"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), r"HDF5 file"),
        (bytes(257) + b"ustar" + bytes(250), r"tar archive"),
        (b"a,b,c\n1,2,3\n", r"is text and begins 'a,b,c"),
        (bytes(range(200, 240)), r"begins with the bytes c8 c9"),
        (b"\x80\x02not a pickle at all", r"damaged or cut-off torch file"),
    ],
)
def test_what_is_no_weights_file(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(StoreError, match=f"(?s){message}"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_cut_off_files(form: str, part: float, tmp_path: Path) -> None:
    path = tmp_path / "w"
    state = {"a": torch.randn(50, 50), "b": torch.randn(50)}
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(StoreError, match="damaged or cut-off"):
        read_weights(path)


def test_an_old_torch_file_cut_anywhere_or_changed_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.randn(4), "b": torch.randn(3)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for end in range(2, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(StoreError, match=r"damaged or cut-off torch file: .*[^ .]\. Copy"):
            read_weights(path)
    for place in range(2, len(whole) - 30, 3):
        path.write_bytes(whole[:place] + bytes([255 - whole[place]]) + whole[place + 1 :])
        with contextlib.suppress(StoreError):
            read_weights(path)


def test_a_changed_directory_of_an_archive_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"data.pkl")] = 0x80  # no character of a name
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged or cut-off torch file"):
        read_weights(path)


def test_other_archives_and_contents(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    with pytest.raises(StoreError, match=r"zip archive without torch's data\.pkl; it holds a\.npy"):
        read_weights(tmp_path / "w.npz")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(StoreError, match=r"holds list, and a state_dict .* was expected"):
        read_weights(tmp_path / "list.pt")
    torch.save({"epoch": 3, "loss": [0.5]}, tmp_path / "log.pt")
    with pytest.raises(StoreError, match=r"no tensors by name, but 'epoch' \(int\), 'loss' \(list\)"):
        read_weights(tmp_path / "log.pt")
    with pytest.raises(MissingFileError, match=r"no weights file .*nowhere\.pt"):
        read_weights(tmp_path / "nowhere.pt")


def test_onnx_by_name_or_by_its_first_bytes(tmp_path: Path) -> None:
    helper = pytest.importorskip("onnx.helper")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [])
    (tmp_path / "model").write_bytes(helper.make_model(graph, producer_name="here").SerializeToString())
    assert is_onnx(tmp_path / "model")
    (tmp_path / "model.onnx").write_bytes(b"")
    assert is_onnx(tmp_path / "model.onnx")
    torch.save(STATE, tmp_path / "w.pth")
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(STATE, tmp_path / "w.safetensors")
    (tmp_path / "long.safetensors").write_bytes(bytes([0x08, 0x10, 0x1A, 0, 0, 0, 0, 0]) + b'{"a": ')
    for name in ("w.pth", "old.pth", "w.safetensors", "long.safetensors"):
        assert not is_onnx(tmp_path / name)
