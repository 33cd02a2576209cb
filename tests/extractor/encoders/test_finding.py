from collections.abc import Callable
from pathlib import Path

import pytest

from extractor.encoders.encoder import Encoder
from extractor.encoders.finding import (
    Folder,
    PresetFound,
    TimmModel,
    WeightsFile,
    find_encoder,
    find_weights,
    local_name,
)
from extractor.encoders.folder import save_encoder
from extractor.encoders.presets import PRESETS
from featurestore.errors import ConfigError, MissingFileError, UnknownNameError

Put = Callable[[str], Path]


@pytest.fixture
def own(tmp_path: Path, tiny_encoder: Encoder) -> Path:
    """The encoders of a workspace: `au`, and one that is hidden."""
    for name in ("au", ".hidden"):
        save_encoder(tmp_path / "encoders" / name, tiny_encoder, tiny_encoder.spec)
    return tmp_path / "encoders"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.fixture
def put(weights: Path) -> Put:
    """Put a file into the folder of weights; what it holds does not matter to finding it."""

    def write(name: str) -> Path:
        (weights / name).parent.mkdir(exist_ok=True)
        (weights / name).write_bytes(b"weights")
        return weights / name

    return write


def test_encoders_are_found_by_name_table_and_path(own: Path, tiny_encoder: Encoder, tmp_path: Path) -> None:
    elsewhere = tmp_path / "models" / "base"
    save_encoder(elsewhere, tiny_encoder, tiny_encoder.spec)
    assert find_encoder("au", own) == Folder(own / "au")
    assert find_encoder("base", own, {"base": elsewhere}) == Folder(elsewhere)
    assert find_encoder(str(elsewhere), own) == Folder(elsewhere)
    with pytest.raises(ConfigError, match="'au' is in two places"):
        find_encoder("au", own, {"au": elsewhere})
    with pytest.raises(UnknownNameError, match=r"no encoder 'aus'\. Did you mean 'au'\? Known: au, base\. Make one"):
        find_encoder("aus", own, {"base": elsewhere})


def test_a_table_may_name_weights(own: Path, put: Put) -> None:
    file = put("arcface.pth")
    assert find_encoder("face", own, {"face": file}) == WeightsFile(file)
    assert find_encoder("au", own, {"au": file}) == Folder(own / "au")  # made of that file, which is checked later
    known = put("dinov2_vits14_pretrain.pth")
    assert find_encoder("d", own, {"d": known}) == PresetFound(PRESETS["dinov2_small"], known)
    with pytest.raises(MissingFileError, match=r"'face' of abaw\.toml is neither an encoder folder nor a file"):
        find_encoder("face", own, {"face": file.with_suffix(".txt")})


def test_an_own_encoder_comes_before_the_preset_of_its_name(
    own: Path, tiny_encoder: Encoder, weights: Path, put: Put
) -> None:
    file = put("mae_pretrain_vit_base.pth")
    assert find_encoder("mae", own, weights=weights) == PresetFound(PRESETS["mae"], file)
    save_encoder(own / "mae", tiny_encoder, tiny_encoder.spec)
    assert find_encoder("mae", own, weights=weights) == Folder(own / "mae")


def test_a_short_name_means_the_encoder_that_was_made_under_the_long_one(own: Path, tiny_encoder: Encoder) -> None:
    save_encoder(own / "dinov2_base", tiny_encoder, tiny_encoder.spec)
    assert find_encoder("dinov2", own) == Folder(own / "dinov2_base")
    elsewhere = own.parent / "elsewhere"
    save_encoder(elsewhere, tiny_encoder, tiny_encoder.spec)
    assert find_encoder("dinov2", own, {"dinov2": elsewhere}) == Folder(elsewhere)
    save_encoder(own / "dinov2", tiny_encoder, tiny_encoder.spec)
    assert find_encoder("dinov2", own) == Folder(own / "dinov2")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mae", "mae_pretrain_vit_base_full.pth"),
        ("mae", "mae.safetensors"),
        ("dinov2", "dinov2_vitb14_pretrain.pth"),
        ("dinov2", "dinov2.bin"),
        ("dinov2", "dinov2_base.pt"),
        ("dinov2_base", "dinov2.pth"),
        ("dinov2_base_238", "dinov2.pth"),
        ("dinov2_giant_238", "dinov2_vitg14_pretrain.pth"),
        ("iresnet100", "ms1mv3_arcface_r100_fp16/backbone.pth"),
        ("iresnet100", "iresnet100.onnx"),
    ],
)
def test_weights_of_a_preset_are_found_under_their_names(
    own: Path, weights: Path, put: Put, name: str, file: str
) -> None:
    found = find_encoder(name, own, weights=weights)
    assert isinstance(found, PresetFound)
    assert found.weights is None
    path = put(file)
    found = find_encoder(name, own, weights=weights)
    assert isinstance(found, PresetFound)
    assert found.weights == path


def test_two_files_are_named_rather_than_chosen_from(own: Path, weights: Path, put: Put) -> None:
    put("mae.pth")
    put("mae_pretrain_vit_base.pth")
    put("mae.txt")
    message = r"2 files in .*weights could be the weights of 'mae': mae\.pth, mae_pretrain_vit_base\.pth\. Move all"
    with pytest.raises(ConfigError, match=message):
        find_encoder("mae", own, weights=weights)
    assert find_weights(None, {"mae"}) is None
    assert find_weights(weights / "none", {"mae"}) is None


def test_paths_to_weights(own: Path, put: Put) -> None:
    assert find_encoder(str(put("mine.pth")), own) == WeightsFile(put("mine.pth"))
    file = put("ms1mv3_arcface_r50_fp16.pth")
    assert find_encoder(str(file), own) == PresetFound(PRESETS["iresnet50"], file)
    with pytest.raises(MissingFileError, match=r"no file of weights at \S*no\.pth\. Correct"):
        find_encoder(str(file.with_name("no.pth")), own)
    with pytest.raises(ConfigError, match=r"neither an encoder folder \(it has no encoder\.json\) nor a file"):
        find_encoder(str(file.parent), own)


def test_timm_models_are_fed_as_their_weights_were(own: Path, weights: Path, put: Put) -> None:
    found = find_encoder("resnet10t", own)
    assert isinstance(found, TimmModel)
    assert (found.tag, found.weights, found.spec.input_px) == ("resnet10t.c3_in1k", None, 176)
    assert (found.spec.pooling, found.spec.interpolation, found.spec.licence) == ("default", "bicubic", "apache-2.0")
    tagged = find_encoder("timm:vit_base_patch16_224.augreg_in21k", own)
    assert isinstance(tagged, TimmModel)
    assert (tagged.tag, tagged.spec.mean) == ("vit_base_patch16_224.augreg_in21k", (0.5, 0.5, 0.5))
    file = put("resnet10t.pth")
    found = find_encoder("resnet10t", own, weights=weights)
    assert isinstance(found, TimmModel)
    assert found.weights == file
    plain = find_encoder("timm:densenet121", own)
    assert isinstance(plain, TimmModel)  # and not the preset of that name
    put("densenet121.pth")  # the preset's
    plain = find_encoder("timm:densenet121", own, weights=weights)
    assert isinstance(plain, TimmModel)
    assert plain.weights is None
    file = put("timm_densenet121.pth")
    assert find_encoder("timm:densenet121", own, weights=weights) == TimmModel(plain.spec, plain.tag, file)
    with pytest.raises(UnknownNameError, match=r"no timm model 'resnet10x'\. Did you mean 'resnet10t'"):
        find_encoder("timm:resnet10x", own)
    with pytest.raises(UnknownNameError, match=r"no published weights of timm's resnet10t 'a1'\. Did you mean|Known"):
        find_encoder("resnet10t.a1", own)


def test_a_misspelt_preset_is_told(own: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'iresnet50'\?"):
        find_encoder("irsnet50", own)


@pytest.mark.parametrize(
    ("name", "kept_as"),
    [
        ("mae", "mae"),
        ("au@2", "au@2"),
        ("/models/base", "base"),
        ("/models/mae_pretrain_vit_base.pth", "mae_pretrain_vit_base"),
        ("w/glint360k_cosface_r100_fp16_0.1.pth", "glint360k_cosface_r100_fp16_0.1"),
        ("timm:resnet10t", "resnet10t"),
        ("timm:vgg16", "timm_vgg16"),
        ("timm:convnext_tiny_224", "timm_convnext_tiny_224"),
        ("timm:vgg16.tv_in1k", "vgg16.tv_in1k"),
        ("resnet10t.c3_in1k", "resnet10t.c3_in1k"),
    ],
)
def test_names_under_which_encoders_are_kept(name: str, kept_as: str) -> None:
    assert local_name(name) == kept_as
