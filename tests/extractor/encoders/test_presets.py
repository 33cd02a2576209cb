import itertools
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import timm
import torch

from extractor.encoders.architectures import build_backbone, embedding_dim
from extractor.encoders.presets import ALIASES, PRESETS, find_preset, preset_of_file
from featurestore.errors import ConfigError

# One of each family; the others differ in size alone.
BUILT = ("mae", "dinov2_small", "dinov3_small", "convnext_tiny", "iresnet50", "mobilefacenet", "mobilefacenet_128")
BUILT += ("efficientnet_b0", "efficientnet_b0_8", "vgg16")


@pytest.mark.parametrize("name", BUILT)
def test_a_preset_is_as_wide_as_it_says(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        backbone = build_backbone(preset.spec)
    dim = embedding_dim(backbone)
    assert dim is not None
    assert dim + preset.spec.n_scores == preset.dim


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_what_timm_publishes_is_fed_as_timm_feeds_it(preset: object) -> None:
    assert isinstance(preset, type(PRESETS["mae"]))
    if preset.hub_tag is None:
        assert preset.page.startswith("https://")
        return
    config = timm.get_pretrained_cfg(preset.hub_tag)
    assert config is not None
    assert config.hf_hub_id == f"timm/{preset.hub_tag}"
    assert config.architecture == preset.spec.architecture
    assert (tuple(config.mean), tuple(config.std)) == (preset.spec.mean, preset.spec.std)
    assert config.interpolation == preset.spec.interpolation
    stated = (preset.spec.licence or "").lower().replace(" ", "-")
    if not preset.name.startswith("convnext"):  # timm says apache-2.0, where its authors say MIT
        assert str(config.license).split("-license")[0] in stated


def test_a_size_stands_behind_the_name() -> None:
    giant = find_preset("dinov2_giant_238")
    assert giant is not None
    assert (giant.spec.input_px, giant.name, giant.dim) == (238, "dinov2_giant", 1536)
    assert (giant.spec.input_px // 14) ** 2 == 289
    assert find_preset("dinov2_518") == PRESETS["dinov2_base"].at_size(518)
    assert find_preset("iresnet100_112") == PRESETS["iresnet100"]
    assert find_preset("nothing_224") is None
    with pytest.raises(ConfigError, match=r"dinov2_giant takes multiples of 14 px, not 240\. Give 238 or 252\."):
        find_preset("dinov2_giant_240")
    with pytest.raises(ConfigError, match=r"iresnet50 takes 112 px only, not 224"):
        find_preset("iresnet50_224")


def test_a_resized_vit_has_the_patches_of_its_size() -> None:
    preset = find_preset("dinov2_small_98")
    assert preset is not None
    with torch.device("meta"):
        assert build_backbone(preset.spec).patch_embed.num_patches == 49


def test_short_names_are_no_presets_of_their_own() -> None:
    assert not ALIASES.keys() & PRESETS.keys()
    assert all(find_preset(short) == PRESETS[name] for short, name in ALIASES.items())


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("mae_pretrain_vit_base.pth", "mae"),
        ("mae_face_pretrain_vit_base.pth", "mae_face"),
        ("dinov2_vitg14_pretrain.pth", "dinov2_giant"),
        ("dinov3_vits16_pretrain_lvd1689m-08c60483.pth", "dinov3_small"),
        ("dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth", "dinov3_small_plus"),
        ("ms1mv3_arcface_r100_fp16/backbone.pth", "iresnet100"),
        ("glint360k_cosface_r50_fp16_0.1.pth", "iresnet50"),
        ("enet_b0_8_va_mtl.pt", "efficientnet_b0"),
        ("backbone.pth", None),
        ("weights.safetensors", None),
    ],
)
def test_files_as_people_have_them(file: str, name: str | None) -> None:
    preset = preset_of_file(Path("/models") / file)
    assert (preset and preset.name) == name


def test_no_file_fits_two_presets() -> None:
    for one, other in itertools.permutations(PRESETS.values(), 2):
        for pattern in one.files:
            example = pattern.replace("*", "-x")
            assert not any(fnmatchcase(example, theirs) for theirs in other.files), (one.name, other.name)
