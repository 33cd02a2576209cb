"""Weights that are put into a folder become encoders of the workspace, once."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from extractor.encoders.adding import Given, add_given, describe
from extractor.encoders.architectures import build_backbone
from extractor.encoders.encoder import Encoder
from extractor.encoders.folder import load_encoder, read_spec, save_encoder
from extractor.encoders.preparing import add_encoder, prepare_encoder
from extractor.encoders.presets import PRESETS
from extractor.encoders.spec import IMAGENET_STD, EncoderSpec
from featurestore.errors import (
    ConfigError,
    FileExistsAlreadyError,
    MissingFileError,
    StoreError,
    UnknownNameError,
)

TIMM_NAME = "test_vit"  # timm's smallest: it is made for tests
REAL = Path(__file__).parents[4] / "shared" / "real"
MakeWeights = Callable[..., Path]


@pytest.fixture
def encoders(tmp_path: Path) -> Path:
    return tmp_path / "encoders"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which cannot be reached."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def make(weights: Path) -> MakeWeights:
    """Write weights of timm's smallest ViT, as timm would; another seed, other weights."""
    import timm

    def write(name: str, *, seed: int = 0, without: str = "nothing") -> Path:
        torch.manual_seed(seed)
        state = timm.create_model(TIMM_NAME, num_classes=0).state_dict()
        state = {key: tensor for key, tensor in state.items() if not key.startswith(without)}
        path = weights / name
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save({"model": state}, path)
        return path

    return write


@pytest.mark.parametrize("file", [f"{TIMM_NAME}.pth", f"{TIMM_NAME}.safetensors"])
def test_local_weights_are_adopted_once(encoders: Path, weights: Path, make: MakeWeights, file: str) -> None:
    source = make(file)
    made = prepare_encoder(TIMM_NAME, encoders, weights=weights)
    assert (made.name, made.folder, made.source, made.was_there) == (TIMM_NAME, encoders / TIMM_NAME, source, False)
    assert made.report is not None
    assert made.report.matched == made.report.total
    spec = made.spec
    assert (spec.origin["kind"], spec.origin["file"], spec.origin["dim"]) == ("adopted", file, 64)
    assert [path.name for path in encoders.iterdir()] == [TIMM_NAME]  # nothing hidden stays
    loaded = load_encoder(made.folder)
    assert loaded.spec == spec
    assert loaded.dim == 64

    again = prepare_encoder(TIMM_NAME, encoders, weights=weights)
    assert (again.was_there, again.report, again.spec) == (True, None, spec)
    os.utime(source, ns=(1, 1))  # another time, the same bytes
    assert prepare_encoder(f"timm:{TIMM_NAME}", encoders, weights=weights).was_there
    source.unlink()
    assert prepare_encoder(TIMM_NAME, encoders, weights=weights).was_there


def test_weights_that_changed_since_are_told(encoders: Path, weights: Path, make: MakeWeights) -> None:
    source = make(f"{TIMM_NAME}.pth")
    prepare_encoder(TIMM_NAME, encoders, weights=weights)
    make(f"{TIMM_NAME}.pth", seed=1)
    message = (
        rf"was made from other weights than those in \S+ now\. To replace it: abaw encoders add {TIMM_NAME} \S+ --f"
    )
    with pytest.raises(FileExistsAlreadyError, match=message):
        prepare_encoder(TIMM_NAME, encoders, weights=weights)
    with pytest.raises(FileExistsAlreadyError, match=message):
        prepare_encoder(TIMM_NAME, encoders, table={TIMM_NAME: source})
    before = read_spec(encoders / TIMM_NAME)
    replaced = add_encoder(TIMM_NAME, source, encoders, spec=before, force=True)
    assert replaced.spec.origin["digest"] != before.origin["digest"]
    assert prepare_encoder(TIMM_NAME, encoders, weights=weights).was_there
    make("another.pth", seed=2).rename(weights / f"{TIMM_NAME}.bin")  # two files now; one of them is the source
    assert prepare_encoder(TIMM_NAME, encoders, weights=weights).was_there


def test_a_path_and_a_name_of_the_table(encoders: Path, make: MakeWeights) -> None:
    file = make("mine.pth")
    table = {"mine": file}
    spec = EncoderSpec(architecture=TIMM_NAME, input_px=160, pooling="default")
    add_encoder("mine", file, encoders, spec=spec)
    assert prepare_encoder("mine", encoders, table=table).was_there
    assert prepare_encoder(str(file), encoders).folder == encoders / "mine"
    other = make("other.pth", seed=3)
    other.parent.joinpath("sub").mkdir()
    clash = other.rename(other.parent / "sub" / "mine.pth")
    with pytest.raises(
        FileExistsAlreadyError, match=r"'mine' \(\S+\) was made from other weights than those in \S+sub"
    ):
        prepare_encoder(str(clash), encoders)


def test_a_trained_encoder_is_not_taken_for_an_adopted_one(
    encoders: Path, weights: Path, make: MakeWeights, tiny_encoder: Encoder
) -> None:
    save_encoder(encoders / TIMM_NAME, tiny_encoder, tiny_encoder.spec)
    file = make(f"{TIMM_NAME}.pth")
    assert prepare_encoder(TIMM_NAME, encoders, weights=weights).spec == tiny_encoder.spec
    with pytest.raises(
        FileExistsAlreadyError, match=r"is there already \(\S+\), and was not made from \S+\.pth\. Give"
    ):
        prepare_encoder(str(file), encoders)


def test_nothing_is_left_of_what_failed(encoders: Path, weights: Path, make: MakeWeights) -> None:
    make(f"{TIMM_NAME}.pth", without="blocks.1.")
    with pytest.raises(StoreError, match=r"blocks\.1\."):
        prepare_encoder(TIMM_NAME, encoders, weights=weights)
    assert not encoders.exists() or not list(encoders.iterdir())
    made = prepare_encoder(TIMM_NAME, encoders, weights=weights, allow_partial=True)
    assert made.report is not None
    assert made.report.is_partial
    assert read_spec(made.folder).origin["partial"] is True


def test_names_and_files_that_cannot_be(encoders: Path, make: MakeWeights) -> None:
    file = make("x.pth")
    with pytest.raises(ConfigError, match=r"'\.hidden' cannot name an encoder"):
        add_encoder(".hidden", file, encoders)
    with pytest.raises(MissingFileError, match=r"no file of weights at \S*nothing\.pth"):
        add_encoder("x", file.with_name("nothing.pth"), encoders)
    (encoders / "x").mkdir(parents=True)
    with pytest.raises(FileExistsAlreadyError, match=r"'x' is there already"):
        add_encoder("x", file, encoders)


@pytest.mark.usefixtures("hub_cache")
def test_weights_that_are_nowhere(encoders: Path, weights: Path) -> None:
    advice = (
        r"Download weights such as mae_pretrain_vit_base\.pth from https://github\.com/facebookresearch/mae and put "
    )
    with pytest.raises(MissingFileError, match=rf"{advice}the file into \S+weights, under its own name or as mae\.pth"):
        prepare_encoder("mae", encoders, weights=weights)
    message = (
        r"'iresnet50' are not on this machine, and no hub has them\. Download weights such as ms1mv3\S+ from http\S+,"
    )
    with pytest.raises(MissingFileError, match=message):
        prepare_encoder("iresnet50", encoders)
    assert not encoders.exists()


def test_published_weights_are_adopted_like_any_others(encoders: Path, make: MakeWeights, hub_cache: Path) -> None:
    repository, commit = hub_cache / f"models--timm--{TIMM_NAME}.r160_in1k", "0" * 40
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    make("model.safetensors").rename(repository / "snapshots" / commit / "model.safetensors")
    made = prepare_encoder(f"timm:{TIMM_NAME}.r160_in1k", encoders)
    assert made.name == f"{TIMM_NAME}.r160_in1k"
    assert made.report is not None
    assert made.report.matched == made.report.total


@pytest.mark.skipif(not REAL.is_dir(), reason="the real models are not here")
def test_a_real_onnx_file_is_known_by_its_name(encoders: Path, weights: Path) -> None:
    (weights / "mobilefacenet_112.onnx").write_bytes((REAL / "mobilefacenet_112.onnx").read_bytes())
    made = prepare_encoder("mobilefacenet_128", encoders, weights=weights)
    assert (made.spec.architecture, made.spec.input_px, made.spec.std) == ("onnx", 112, IMAGENET_STD)
    assert (made.spec.origin["preset"], made.spec.origin["dim"]) == ("mobilefacenet_128", 128)
    assert load_encoder(made.folder).dim == 128
    assert prepare_encoder("mobilefacenet_128", encoders, weights=weights).was_there
    given = describe(weights / "mobilefacenet_112.onnx", Given(licence="mine", mean="0.5")).spec
    assert given is not None
    assert (given.mean, given.licence, given.architecture) == ((0.5, 0.5, 0.5), "mine", "onnx")


def test_what_is_said_comes_before_what_is_known(make: MakeWeights) -> None:
    file = make("x.pth")
    assert describe(file, Given()).spec is None
    spec = describe(file, Given(architecture=TIMM_NAME, mean="0.5", std="0.1,0.2,0.3", pooling="cls", n_scores=0)).spec
    assert spec is not None
    assert (spec.mean, spec.std, spec.pooling) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3), "cls")
    arcface = describe(file, Given(architecture="iresnet50", mean="imagenet")).spec
    assert arcface is not None
    assert (arcface.architecture, arcface.input_px, arcface.mean[0], arcface.std[0]) == ("iresnet50", 112, 0.485, 0.5)
    sized = describe(file, Given(preset="dinov2", input_px=238)).spec
    assert sized is not None
    assert (sized.architecture, sized.input_px) == ("vit_base_patch14_dinov2", 238)
    assert sized.origin == {"preset": "dinov2_base"}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (Given(preset="mae", architecture="resnet18"), ConfigError, r"Give --preset or --arch, not both"),
        (Given(preset="maee"), UnknownNameError, r"no preset 'maee'\. Did you mean 'mae'"),
        (Given(preset="mae", mean="0.5,0.5"), ConfigError, r"--mean is imagenet, or one or three numbers"),
        (Given(preset="mae", mean="123,116,103"), ConfigError, r"Divide values for pixels from 0 to 255 by 255"),
        (Given(preset="mae", std="0"), ConfigError, r"--std is imagenet.*not '0'"),
        (Given(preset="mae", pooling="max"), ConfigError, r"pooling: .*got 'max'\. Correct these options"),
        (Given(preset="mae", output="x"), ConfigError, r"names an output of an ONNX model"),
        (Given(architecture="resnet10x"), UnknownNameError, r"no timm model 'resnet10x'\. Did you mean"),
    ],
)
def test_what_cannot_be_said(make: MakeWeights, given: Given, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        describe(make("x.pth"), given)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """An ONNX file whose outputs are each colour's mean and its largest value; it takes images of any size."""
    pytest.importorskip("onnxruntime")
    helper = pytest.importorskip("onnx.helper")
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("ReduceMax", ["images"], ["largest"], axes=[2, 3], keepdims=0),
        ],
        "colours",
        [helper.make_tensor_value_info("images", 1, ["n", 3, "side", "side"])],
        [helper.make_tensor_value_info(name, 1, ["n", 3]) for name in ("mean", "largest")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "colours.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_an_onnx_file_is_what_it_puts_out(encoders: Path, colours: Path) -> None:
    said = Given(mean="0.5", std="0.5")
    with pytest.raises(ConfigError, match=r"2 outputs that could be the embedding: mean float .*--output mean"):
        add_given("c", colours, encoders, replace(said, input_px=24))
    with pytest.raises(ConfigError, match=r"Leave --pooling out"):
        add_given("c", colours, encoders, replace(said, input_px=24, output="mean", pooling="cls"))
    message = r"'efficientnet_b0' puts out 1,290 numbers .*'mean' of \S+ puts out 3\. Its outputs: mean, largest\. Name"
    with pytest.raises(ConfigError, match=message):
        add_given("c", colours, encoders, Given(preset="efficientnet_b0", output="mean"))
    under_its_name = colours.rename(colours.with_name("enet_b0_8_va_mtl.onnx"))
    with pytest.raises(ConfigError, match=r"puts out 1,290 numbers"):
        add_given("c", under_its_name, encoders, Given(output="mean"))
    made = add_given("c", under_its_name, encoders, replace(said, input_px=24, output="mean"))
    assert (made.assumed, made.spec.described()) == (("interpolation",), "onnx(output=mean)")
    made = add_given("d", under_its_name, encoders, replace(said, input_px=24, output="mean", interpolation="bicubic"))
    assert (made.assumed, made.spec.interpolation) == ((), "bicubic")


def test_an_onnx_file_in_the_folder_of_weights_is_measured(encoders: Path, weights: Path, colours: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(colours)
    del model.graph.output[1:], model.graph.node[1:]
    (weights / "efficientnet_b0.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match=r"puts out 1,290 numbers"):
        prepare_encoder("efficientnet_b0", encoders, weights=weights)


def test_what_nobody_told_is_told(tmp_path: Path, make: MakeWeights) -> None:
    file = tmp_path / "face.safetensors"
    with torch.device("meta"):
        face = build_backbone(PRESETS["mobilefacenet"].spec)
    save_file({key: torch.zeros(tensor.shape) for key, tensor in face.state_dict().items()}, file)
    assert describe(file, Given()).assumed is None  # adopting says it
    assert describe(file, Given(licence="MIT")).assumed == ("mean", "std")
    assert describe(file, Given(licence="MIT", std="0.5")).assumed == ("mean",)
    assert describe(file, Given(preset="mobilefacenet", licence="MIT")).assumed == ()
    made = add_given("face", file, tmp_path / "encoders", Given(licence="MIT"))
    assert (made.assumed, made.spec.licence) == (("mean", "std"), "MIT")
    assert add_encoder("two", file, tmp_path / "encoders", spec=PRESETS["mobilefacenet"].adoptable()).assumed == ()
    assert describe(make("x.pth"), Given(architecture=TIMM_NAME, mean="0.5")).assumed == ("std", "interpolation")


def test_an_architecture_is_not_the_preset_of_its_name(make: MakeWeights) -> None:
    spec = describe(make("x.pth"), Given(architecture="vgg16")).spec
    assert spec is not None
    assert spec.std == IMAGENET_STD
    shallow = describe(make("x.pth"), Given(architecture="iresnet18")).spec
    assert shallow is not None
    assert (shallow.architecture, shallow.input_px, shallow.std[0], shallow.origin) == ("iresnet18", 112, 0.5, {})


@pytest.mark.parametrize(
    ("preset", "tensor", "message"),
    [
        (
            "vgg16",
            "features.0.weight",
            r"of preset 'vgg16' .*: there is no fc6\.weight among .*Net's VGG-16 is timm:vgg16",
        ),
        ("mobilefacenet", "module.gdconv.depthwise.weight", r"there is gdconv.*take preset mobilefacenet_128"),
        ("mobilefacenet_128", "conv1.conv.weight", r"there is no gdconv.*take preset mobilefacenet\."),
    ],
)
def test_weights_that_would_fit_another_preset(
    encoders: Path, weights: Path, preset: str, tensor: str, message: str
) -> None:
    save_file({tensor: torch.zeros(3)}, weights / f"{preset}.safetensors")
    with pytest.raises(ConfigError, match=message):
        prepare_encoder(preset, encoders, weights=weights)
    with pytest.raises(ConfigError, match=message):
        add_given("x", weights / f"{preset}.safetensors", encoders, Given(preset=preset))
    marked = {"vgg16": "fc6.weight", "mobilefacenet_128": "net.gdconv.depthwise.weight"}.get(
        preset, "conv1.conv.weight"
    )
    save_file({marked: torch.zeros(3)}, weights / f"{preset}.safetensors")
    with pytest.raises(
        StoreError, match=r"missing|of no architecture|does not fill|tensors"
    ):  # it comes to the weights
        prepare_encoder(preset, encoders, weights=weights)


def test_a_pickled_network_is_told_how_to_be_saved(encoders: Path, weights: Path, tmp_path: Path) -> None:
    file = weights / "enet_b0_8_va_mtl.pt"
    torch.save(torch.nn.Linear(2, 2), file)
    with pytest.raises(StoreError, match=r"carries code.*Where you trust it.* python -c \"import torch;") as e:
        prepare_encoder("efficientnet_b0", encoders, weights=weights)
    line = str(e.value).partition('python -c "')[2].rstrip('"')
    exec(line)
    saved = torch.load(file.with_name("enet_b0_8_va_mtl_weights.pth"))
    assert saved.keys() == {"weight", "bias"}
    torch.save(torch.nn.Linear(2, 2), tmp_path / "other.pt")
    with pytest.raises(StoreError, match=r"and give that file\.$"):
        add_encoder("x", tmp_path / "other.pt", encoders)


def test_a_size_is_a_multiple_of_the_patch(encoders: Path, make: MakeWeights) -> None:
    given = Given(architecture=TIMM_NAME, input_px=165)
    with pytest.raises(ConfigError, match=rf"{TIMM_NAME} sees patches of 16 px .*, not 165\. Give 160 or 176\."):
        add_given("x", make("x.pth"), encoders, given)
    assert add_given("x", make("x.pth"), encoders, replace(given, input_px=176)).spec.input_px == 176


def test_a_short_name_takes_the_encoder_of_the_long_one(encoders: Path, tiny_encoder: Encoder) -> None:
    save_encoder(encoders / "dinov2_base", tiny_encoder, tiny_encoder.spec)
    made = prepare_encoder("dinov2", encoders)
    assert (made.name, made.folder, made.was_there) == ("dinov2_base", encoders / "dinov2_base", True)


def test_two_at_once_do_not_take_one_another_s_weights(
    encoders: Path, make: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    import extractor.encoders.folder as folder

    spec = EncoderSpec(architecture=TIMM_NAME, input_px=160, pooling="default")
    one, other = make("one.pth"), make("other.pth", seed=1)

    def save_after(file: Path) -> None:
        monkeypatch.undo()

        def save(place: Path, encoder: Encoder, told: EncoderSpec) -> None:
            monkeypatch.undo()
            add_encoder("x", file, encoders, spec=spec)  # the other process is faster
            save_encoder(place, encoder, told)

        monkeypatch.setattr(folder, "save_encoder", save)

    save_after(one)
    assert add_encoder("x", one, encoders, spec=spec).was_there
    (encoders / "x").rename(encoders / "y")
    save_after(one)
    with pytest.raises(
        FileExistsAlreadyError, match=r"'x' \(\S+\) was added by another process meanwhile, from one\.pth"
    ):
        add_encoder("x", other, encoders, spec=spec)
    assert sorted(path.name for path in encoders.iterdir()) == ["x", "y"]


def test_an_onnx_file_must_be_told_how_it_is_fed(encoders: Path, colours: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not say how its images are normalised.*--mean and --std"):
        prepare_encoder(str(colours), encoders)
    with pytest.raises(ConfigError, match=r"does not say how its images are normalised"):
        add_given("c", colours, encoders, Given(mean="imagenet"))
    said = Given(mean="0.5", std="0.5")
    with pytest.raises(ConfigError, match=r"leaves the size of the images open"):
        add_given("c", colours, encoders, said)
    with pytest.raises(ConfigError, match=r"Leave --arch out"):
        add_given("c", colours, encoders, replace(said, architecture="resnet18"))
    with pytest.raises(ConfigError, match=r"Leave --scores out"):
        add_given("c", colours, encoders, replace(said, n_scores=8))
    made = add_given("c", colours, encoders, replace(said, input_px=24, output="largest"))
    assert made.report is None
    assert made.spec.arguments == {"output": "largest"}
    images = torch.rand(2, 3, 24, 24)
    torch.testing.assert_close(load_encoder(made.folder)(images), images.amax(dim=(2, 3)))
    assert prepare_encoder("c", encoders).was_there
