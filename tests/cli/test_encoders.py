"""`abaw encoders`: the list, one encoder, and weights that are added."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from extractor.encoders.presets import PRESETS

Abaw = Callable[..., "Outcome"]
Refused = Callable[..., str]
TIMM_NAME = "test_vit"


class Outcome:
    """What a command left, as `conftest` has it."""

    code: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace without frames, with a folder of weights; the test runs inside it, and no hub has been asked yet."""
    (tmp_path / "abaw.toml").write_text('frames = "crops"\ntrain = "train.txt"\nval = "val.txt"\n')
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def vit(here: Path) -> Path:
    """Weights of timm's smallest ViT, with a classifier that no encoder wants."""
    import timm

    path = here / "vit.pth"
    torch.save({"model": timm.create_model(TIMM_NAME, num_classes=3).state_dict()}, path)
    return path


def listed(abaw: Abaw, *arguments: object) -> dict[str, dict[str, object]]:
    outcome = abaw("encoders", "--json", *arguments)
    assert outcome.code == 0, outcome.err
    encoders = json.loads(outcome.out)["encoders"]
    assert isinstance(encoders, dict)
    return encoders


def test_presets_are_listed_anywhere(
    abaw: Abaw, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoders = listed(abaw)
    assert encoders.keys() == PRESETS.keys()
    assert encoders["mae"]["licence"] == "CC BY-NC 4.0 (non-commercial)"
    assert (encoders["dinov2_giant"]["dim"], encoders["iresnet100"]["input_px"]) == (1536, 112)
    table = abaw("encoders").out
    assert "No workspace here" in table
    for name in PRESETS:
        assert f"  {name} " in table
    assert "No abaw.toml" in refused(1, "encoders", "-w", tmp_path / "none")


def test_what_is_on_this_machine(abaw: Abaw, here: Path, vit: Path) -> None:
    (here / "weights" / "mae_pretrain_vit_base.pth").write_bytes(b"weights")
    assert abaw("encoders", "add", "small", vit, "--arch", TIMM_NAME).code == 0
    (here / "abaw.toml").write_text(
        (here / "abaw.toml").read_text() + f'[encoder_folders]\nfar = "{here}/encoders/small"\nlost = "no.pth"\n'
    )
    cached = here / "hub" / "models--timm--convnext_tiny.fb_in22k_ft_in1k"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (cached / "snapshots" / ("0" * 40) / "model.safetensors").write_bytes(b"weights")
    (here / "encoders" / "broken").mkdir()
    (here / "encoders" / "broken" / "encoder.json").write_text("{}")
    encoders = listed(abaw)
    states = {name: encoders[name]["state"] for name in ("small", "far", "lost", "broken", "mae", "iresnet50")}
    assert states == {
        "small": "ready",
        "far": "ready",
        "lost": "absent",
        "broken": "unreadable",
        "mae": "weights",
        "iresnet50": "absent",
    }
    assert (encoders["convnext_tiny"]["state"], encoders["convnext_small"]["state"]) == ("cached", "hub")
    assert encoders["mae"]["where"] == str(here / "weights" / "mae_pretrain_vit_base.pth")
    assert (encoders["small"]["dim"], encoders["small"]["architecture"]) == (64, TIMM_NAME)
    told = {line.split()[0]: line for line in abaw("encoders").out.splitlines() if line.strip()}
    assert told["small"].rstrip().endswith("  encoders/small")
    assert told["mae"].rstrip().endswith("  weights: weights/mae_pretrain_vit_base.pth")
    assert told["convnext_small"].rstrip().endswith("no; downloaded at first use: convnext_small.fb_in22k_ft_in1k")
    assert told["iresnet50"].rstrip().endswith("no; put ms1mv3_arcface_r50_fp16*.pth into the folder weights")


def test_added_weights_are_accounted_for(abaw: Abaw, refused: Refused, here: Path, vit: Path) -> None:
    outcome = abaw("encoders", "add", "small", vit, "--arch", TIMM_NAME, "--pooling", "cls", "--licence", "MIT")
    assert outcome.code == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines()]
    assert lines[0] == ["small,", "from", str(vit)]
    counts = {line[0]: line[1:] for line in lines[1:]}
    n_matched = int(counts["matched"][0])
    assert counts["matched"][1:] == ["of", str(n_matched)]
    assert (counts["missing"], counts["unexpected"]) == (["0"], ["0"])
    assert counts["dropped"] == ["2", "classifier"]
    assert f"{here}/encoders/small: {TIMM_NAME}, 160 px, pooling cls, dim 64" in outcome.out
    shown = abaw("encoders", "show", "small").out
    for line in ("  state          ready", "  pooling        cls", "  licence        MIT", "  form           as given"):
        assert line in shown
    assert f"  matched        {n_matched}  of {n_matched}" in shown
    spec = json.loads(abaw("encoders", "show", "small", "--json").out)["spec"]
    assert (spec["pooling"], spec["origin"]["file"]) == ("cls", "vit.pth")

    assert "'small' is there already" in refused(1, "encoders", "add", "small", vit)
    again = abaw("encoders", "add", "small", vit, "--arch", TIMM_NAME, "--scores", 3, "--force", "--json")
    assert again.code == 0, again.err
    told = json.loads(again.out)
    assert (told["spec"]["n_scores"], told["spec"]["origin"]["dim"]) == (3, 67)
    assert (told["match"]["missing"], told["match"]["dropped"]) == ([], {})


def test_a_partial_load_is_an_error_unless_it_is_allowed(abaw: Abaw, refused: Refused, here: Path, vit: Path) -> None:
    state = torch.load(vit)["model"]
    torch.save({name: tensor for name, tensor in state.items() if "blocks.0.mlp" not in name}, vit)
    message = refused(1, "encoders", "add", "small", vit, "--arch", TIMM_NAME)
    assert "4 missing (blocks.0.mlp.fc1.weight" in message
    assert "--allow-partial" in message
    assert not (here / "encoders").exists() or not list((here / "encoders").iterdir())
    outcome = abaw("encoders", "add", "small", vit, "--arch", TIMM_NAME, "--allow-partial")
    assert "missing             4  blocks.0.mlp.fc1.weight" in outcome.out


def test_what_is_refused(abaw: Abaw, refused: Refused, here: Path, vit: Path) -> None:
    assert "no preset 'maee'. Did you mean 'mae'" in refused(2, "encoders", "add", "x", vit, "--preset", "maee")
    assert "There is no file of weights" in refused(1, "encoders", "add", "x", here / "no.pth")
    assert "no encoder 'maex'. Did you mean" in refused(2, "encoders", "show", "maex")
    assert "takes multiples of 14 px, not 100" in refused(2, "encoders", "show", "dinov2_100")


def test_a_preset_is_shown_with_its_size(abaw: Abaw, here: Path) -> None:
    shown = abaw("encoders", "show", "dinov2_giant_238").out
    assert "  input          238 x 238 px, bicubic" in shown
    assert "  page           https://github.com/facebookresearch/dinov2" in shown
    assert "  files          dinov2_vitg14_pretrain.pth" in shown
    assert here.is_dir()


def test_shown_is_what_extract_would_take(abaw: Abaw, here: Path, vit: Path) -> None:
    def shown(name: object) -> dict[str, object]:
        told = json.loads(abaw("encoders", "show", name, "--json").out)
        assert isinstance(told, dict)
        return told

    (here / "weights" / "dinov2.pth").write_bytes(b"weights")
    for name in ("dinov2", "dinov2_base", "dinov2_base_238"):
        told = shown(name)
        assert (told["encoder"], told["state"], told["where"]) == (
            name,
            "weights",
            str(here / "weights" / "dinov2.pth"),
        )
    assert (shown(vit)["state"], shown(vit)["where"]) == ("weights", str(vit))
    told = shown("timm:resnet10t")
    assert (told["state"], told["where"], told["input_px"]) == ("hub", "resnet10t.c3_in1k", 176)
    (here / "weights" / "resnet10t.pth").write_bytes(b"weights")
    assert shown("resnet10t")["where"] == str(here / "weights" / "resnet10t.pth")
    assert abaw("encoders", "add", "dinov2_base", vit, "--arch", TIMM_NAME).code == 0
    told = shown("dinov2")
    assert (told["encoder"], told["state"], told["architecture"]) == ("dinov2_base", "ready", TIMM_NAME)


def test_what_the_file_does_not_tell_is_said(abaw: Abaw, here: Path, vit: Path) -> None:
    outcome = abaw("encoders", "add", "a", vit, "--arch", TIMM_NAME, "--mean", "0.5", "--licence", "MIT")
    assert "the file does not tell std, interpolation: taken as is usual" in " ".join(outcome.err.split())
    said = ("--mean", "0.5", "--std", "0.5", "--interpolation", "bilinear")
    outcome = abaw("encoders", "add", "b", vit, "--arch", TIMM_NAME, *said)
    assert (outcome.code, "does not tell" in outcome.err) == (0, False)
    assert "  input          160 x 160 px, bilinear" in abaw("encoders", "show", "b").out
    assert here.is_dir()


def test_a_narrow_terminal_has_fewer_columns(abaw: Abaw, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.console.stdout", Console(force_terminal=True, width=80, color_system=None))
    told = abaw("encoders").out
    lines = [line for line in told.splitlines() if line.startswith("  ") and line[2:3].isalpha()]
    assert [line.split()[:3] for line in lines if "mobilefacenet_128" in line] == [["mobilefacenet_128", "128", "112"]]
    assert "licence of" not in told
    assert max(map(len, told.splitlines())) <= 80
    assert len(told.splitlines()) < 2.5 * len(PRESETS)
    monkeypatch.setattr("cli.console.stdout", Console(force_terminal=True, width=200, color_system=None))
    assert "licence of the weights" in abaw("encoders").out
    assert here.is_dir()


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys; from cli.main import app\n"
        "try: app(['encoders', '--json'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'timm', 'onnxruntime'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path("/"))
    assert done.stderr.strip() == "[]"
