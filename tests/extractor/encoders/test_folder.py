from pathlib import Path

import pytest
import torch

from extractor.encoders.encoder import Encoder
from extractor.encoders.folder import load_encoder, read_spec, save_encoder
from extractor.encoders.onnxmodel import OnnxBackbone
from extractor.encoders.spec import EncoderSpec
from featurestore.errors import ConfigError, MissingFileError, StoreError


def test_a_saved_encoder_loads_to_the_same_outputs(tiny_encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(tmp_path / "e", tiny_encoder, tiny_encoder.spec)
    loaded = load_encoder(tmp_path / "e")
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(images), tiny_encoder(images))
    assert loaded.spec == tiny_encoder.spec
    assert not loaded.training


def test_weights_of_another_architecture_are_refused(tiny_encoder: Encoder, tmp_path: Path) -> None:
    deeper = tiny_encoder.spec.model_copy(update={"arguments": {**tiny_encoder.spec.arguments, "depth": 3}})
    save_encoder(tmp_path / "e", tiny_encoder, deeper)
    with pytest.raises(StoreError, match=r"(?s)not a whole vit_tiny_patch16_224.*blocks\.2"):
        load_encoder(tmp_path / "e")


def test_damaged_and_missing_files(tiny_encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "e"
    save_encoder(folder, tiny_encoder, tiny_encoder.spec)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="Nothing was loaded"):
        load_encoder(folder)
    weights.unlink()
    with pytest.raises(MissingFileError, match=r"has no model\.safetensors"):
        load_encoder(folder)
    (folder / "encoder.json").write_text('{"architecture": "vit", "input_px": 0, "surprise": 1}')
    with pytest.raises(StoreError, match=r"(?s)input_px.*surprise"):
        read_spec(folder)


@pytest.fixture
def onnx_encoder() -> Encoder:
    """A network whose outputs are the mean and the largest of each colour."""
    pytest.importorskip("onnxruntime")
    helper = pytest.importorskip("onnx.helper")
    float_type = 1
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("ReduceMax", ["images"], ["largest"], axes=[2, 3], keepdims=0),
        ],
        "colours",
        [helper.make_tensor_value_info("images", float_type, ["n", 3, "side", "side"])],
        [helper.make_tensor_value_info(name, float_type, ["n", 3]) for name in ("mean", "largest")],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    spec = EncoderSpec(architecture="onnx", arguments={"output": "largest"}, input_px=16, pooling="default")
    return Encoder(spec, OnnxBackbone(content, output="largest", input_px=16)).eval()


def test_an_onnx_encoder_is_kept_byte_for_byte(onnx_encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(tmp_path / "e", onnx_encoder, onnx_encoder.spec)
    assert isinstance(onnx_encoder.backbone, OnnxBackbone)
    assert (tmp_path / "e" / "model.onnx").read_bytes() == onnx_encoder.backbone.content
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == ["encoder.json", "model.onnx"]
    loaded = load_encoder(tmp_path / "e")
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(loaded(images), images.amax(dim=(2, 3)))
    assert loaded.spec == onnx_encoder.spec
    assert not loaded.training


def test_a_spec_of_another_kind_is_refused(onnx_encoder: Encoder, tiny_encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"architecture 'onnx' does not describe a VisionTransformer"):
        save_encoder(tmp_path / "e", tiny_encoder, onnx_encoder.spec)
    with pytest.raises(ConfigError, match=r"'vit_tiny_patch16_224' does not describe a OnnxBackbone"):
        save_encoder(tmp_path / "e", onnx_encoder, tiny_encoder.spec)
    assert not (tmp_path / "e").exists()


def test_an_onnx_folder_without_its_model(onnx_encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(tmp_path / "e", onnx_encoder, onnx_encoder.spec)
    (tmp_path / "e" / "model.onnx").unlink()
    with pytest.raises(MissingFileError, match=r"has no model\.onnx"):
        load_encoder(tmp_path / "e")
