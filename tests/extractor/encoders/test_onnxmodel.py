"""Networks of two layers, written as ONNX here, beside the same in torch; and a real face encoder, if there is one."""

import copy
import pickle
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from extractor.encoders.encoder import Encoder, weights_digest
from extractor.encoders.onnxmodel import OnnxBackbone
from extractor.encoders.spec import EncoderSpec
from featurestore.errors import ConfigError, StoreError, UnknownNameError
from featurestore.provenance import file_digest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
REAL = Path(__file__).parents[4] / "shared" / "real"
SIDE = 8
WEIGHT = np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32)


def model(
    *,
    batch: int | str = "n",
    side: int | str = SIDE,
    channels: int = 3,
    layout: str = "NCHW",
    dtype: str = "FLOAT",
    ends_in: str = "vector",
    fixed_inside: int | None = None,
    outputs: Sequence[str] = ("embedding",),
) -> bytes:
    """Patches of 4 x 4 to 5 numbers, then their mean (vector), tokens, or the map itself."""
    from onnx import TensorProto, helper, numpy_helper

    kind = getattr(TensorProto, dtype)
    weight = WEIGHT[:, :channels].astype(np.float16 if dtype == "FLOAT16" else np.float32)
    sizes = [channels, side, side] if layout == "NCHW" else [side, side, channels]
    taken = helper.make_tensor_value_info("images", kind, [batch, *sizes])
    nodes, seen = [], "images"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [seen], ["upright"], perm=[0, 3, 1, 2]))
        seen = "upright"
    nodes.append(helper.make_node("Conv", [seen, "weight"], ["map"], strides=[4, 4]))
    made = [numpy_helper.from_array(weight, "weight")]
    shape: list[int | str] = [batch, 5]
    if ends_in == "vector":
        nodes.append(helper.make_node("GlobalAveragePool", ["map"], ["pooled"]))
        made.append(numpy_helper.from_array(np.array([fixed_inside or 0, 5], np.int64), "shape"))
        nodes.append(helper.make_node("Reshape", ["pooled", "shape"], [outputs[-1]]))
    elif ends_in == "pixel":
        nodes.append(helper.make_node("GlobalAveragePool", ["map"], [outputs[-1]]))
        shape = [batch, 5, 1, 1]
    elif ends_in == "tokens":
        made.append(numpy_helper.from_array(np.array([0, 5, -1], np.int64), "shape"))
        nodes += [
            helper.make_node("Reshape", ["map", "shape"], ["columns"]),
            helper.make_node("Transpose", ["columns"], [outputs[-1]], perm=[0, 2, 1]),
        ]
        shape = [batch, "tokens", 5]
    else:
        nodes.append(helper.make_node("Identity", ["map"], [outputs[-1]]))
        shape = [batch, 5, "rows", "columns"]
    told = [helper.make_tensor_value_info(outputs[-1], kind, shape)]
    if len(outputs) == 2:  # the map comes first
        nodes.append(helper.make_node("Identity", ["map"], [outputs[0]]))
        told.insert(0, helper.make_tensor_value_info(outputs[0], kind, [batch, 5, "rows", "columns"]))
    graph = helper.make_graph(nodes, "tiny", [taken], told, made)
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


@pytest.fixture
def images() -> Tensor:
    return torch.randn(11, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def patches(images: Tensor) -> Tensor:
    return torch.nn.functional.conv2d(images, torch.from_numpy(WEIGHT), stride=4)


@pytest.mark.parametrize("batch", ["n", 1, 4, 16])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_any_batch_and_layout_gives_what_torch_gives(images: Tensor, batch: int | str, layout: str) -> None:
    backbone = OnnxBackbone(model(batch=batch, layout=layout))
    assert (backbone.batch, backbone.layout, backbone.input_px) == (None if batch == "n" else batch, layout, SIDE)
    assert (backbone.row_shape, backbone.num_features) == ((5,), 5)
    torch.testing.assert_close(backbone(images), patches(images).mean(dim=(2, 3)), rtol=1e-5, atol=1e-5)
    assert backbone(images[:0]).shape == (0, 5)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("batch", ["n", 1])
def test_the_number_of_threads_changes_no_bit(images: Tensor, batch: int | str) -> None:
    many = images.repeat(5, 1, 1, 1)
    backbone = OnnxBackbone(model(batch=batch))
    by_two = backbone(many)
    torch.set_num_threads(1)
    assert torch.equal(backbone(many), by_two)
    assert torch.equal(by_two[:11], by_two[44:])


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_thread_is_raised() -> None:
    with pytest.raises(StoreError, match=r"cannot be run on 8 images of 8 px: .*Export it again"):
        OnnxBackbone(model(side="side"), input_px=SIDE)(torch.zeros(20, 3, 2, 2))


def test_a_batch_that_only_seems_open(images: Tensor) -> None:
    backbone = OnnxBackbone(model(fixed_inside=1))
    assert backbone.batch == 1
    torch.testing.assert_close(backbone(images), patches(images).mean(dim=(2, 3)), rtol=1e-5, atol=1e-5)
    backbone = OnnxBackbone(model(fixed_inside=2))
    assert backbone.batch == 2
    torch.testing.assert_close(backbone(images), patches(images).mean(dim=(2, 3)), rtol=1e-5, atol=1e-5)


def test_tokens_maps_and_maps_of_one_pixel(images: Tensor) -> None:
    tokens = OnnxBackbone(model(ends_in="tokens"))
    assert (tokens.row_shape, tokens.num_features) == ((4, 5), None)
    torch.testing.assert_close(tokens(images), patches(images).flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert OnnxBackbone(model(ends_in="pixel"))(images).shape == (11, 5)
    with pytest.raises(ConfigError, match=r"'embedding' of The model has the shape \(2, 5, 2, 2\).* with its pooling"):
        OnnxBackbone(model(ends_in="map"))


def test_an_output_is_taken_if_it_is_the_only_one_that_can_be_an_embedding() -> None:
    content = model(outputs=("map_first", "embedding"))
    assert (OnnxBackbone(content).output, OnnxBackbone(content).outputs) == ("embedding", ("map_first", "embedding"))
    assert OnnxBackbone(content, output="embedding").row_shape == (5,)
    with pytest.raises(ConfigError, match=r"Outputs: map_first float .*embedding float"):
        OnnxBackbone(content, output="map_first")
    with pytest.raises(UnknownNameError, match=r"no output of The model 'embeding'\. Did you mean 'embedding'"):
        OnnxBackbone(content, output="embeding")


def test_of_several_outputs_one_must_be_named() -> None:
    from onnx import TensorProto, helper

    content = onnx.load_from_string(model())
    content.graph.node.append(helper.make_node("Softmax", ["embedding"], ["scores"]))
    content.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 5]))
    message = r"2 outputs that could be the embedding: embedding float \('n', 5\), scores float .* --output embedding"
    with pytest.raises(ConfigError, match=message):
        OnnxBackbone(content.SerializeToString())
    assert OnnxBackbone(content.SerializeToString(), output="scores").output == "scores"


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_rows_that_depend_on_their_batch_are_computed_one_by_one(images: Tensor, layout: str) -> None:
    from onnx import TensorProto, helper

    content = onnx.load_from_string(model(layout=layout))
    content.graph.node.append(helper.make_node("ReduceMean", ["embedding"], ["of_batch"], axes=[0], keepdims=1))
    content.graph.node.append(helper.make_node("Div", ["embedding", "of_batch"], ["normed"]))
    del content.graph.output[:]
    content.graph.output.append(helper.make_tensor_value_info("normed", TensorProto.FLOAT, ["n", 5]))
    backbone = OnnxBackbone(content.SerializeToString())
    assert backbone.batch == 1
    torch.testing.assert_close(backbone(images), torch.ones(11, 5))


def test_half_precision_inside_is_float32_outside(images: Tensor) -> None:
    backbone = OnnxBackbone(model(dtype="FLOAT16"))
    expected = patches(images).mean(dim=(2, 3))
    for given in (images, images.half(), images.bfloat16()):
        got = backbone(given)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


def test_sizes_that_the_file_leaves_open_or_fixes() -> None:
    content = model(side="side")
    assert OnnxBackbone(content, input_px=16).input_px == 16
    with pytest.raises(ConfigError, match=r"leaves the size of the images open\. Give one"):
        OnnxBackbone(content)
    with pytest.raises(ConfigError, match=r"any x 3 x 8 x 8: images of 8 px, not 16"):
        OnnxBackbone(model(), input_px=16)
    with pytest.raises(ConfigError, match=r"any x 1 x 8 x 8, which is no batch of RGB images"):
        OnnxBackbone(model(channels=1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"cannot be opened as an ONNX model \(0 bytes\).*Copy or export it again"),
        (model()[:200], r"\(200 bytes\): Failed to load model.*Copy or export"),
        (b"<!DOCTYPE html><html>", r"It is a web page: download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid", r"pointer of git-lfs, not the file: run `git lfs pull`"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=message):
        OnnxBackbone(path)


def test_weights_in_further_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    loaded = onnx.load_from_string(model())
    onnx.save(loaded, path, save_as_external_data=True, location="model.data", size_threshold=0)
    with pytest.raises(StoreError, match=r"Its weights are in further files: save it as one file"):
        OnnxBackbone(path)


def test_it_goes_to_other_processes_and_devices_whole(images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model())
    backbone = OnnxBackbone(path)
    expected = backbone(images)
    path.unlink()
    for other in (pickle.loads(pickle.dumps(backbone)), copy.deepcopy(backbone).to(dtype=torch.bfloat16)):
        assert torch.equal(other(images), expected)
        assert other.digest == backbone.digest


def test_without_onnxruntime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"not installed\. Install it: pip install 'abaw\[onnx\]'"):
        OnnxBackbone(model())


def test_an_encoder_of_it(images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model())
    spec = EncoderSpec(architecture="onnx", input_px=SIDE, pooling="default")
    encoder = Encoder(spec, OnnxBackbone(path)).eval()
    assert (encoder.dim, encoder.row_shape) == (5, (5,))
    assert weights_digest(encoder) == file_digest(path)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(images), patches(images).mean(dim=(2, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real models are not here")
def test_a_real_face_encoder_and_a_detector(capfd: pytest.CaptureFixture[str]) -> None:
    backbone = OnnxBackbone(REAL / "mobilefacenet_112.onnx")
    assert (backbone.input_px, backbone.batch, backbone.row_shape) == (112, 1, (128,))
    faces = torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    rows = backbone(faces)
    assert torch.equal(rows, torch.cat([backbone(face[None]) for face in faces]))
    assert rows.std() > 0
    with pytest.raises(ConfigError, match=r"1 x 3 x 240 x 320: images of 240 x 320\. Frames are fed as squares"):
        OnnxBackbone(REAL / "face_detector_rfb320.onnx")
    # Its 244 weights are inputs, too: a warning each, unless they are silenced.
    assert "Initializer" not in "".join(capfd.readouterr())
