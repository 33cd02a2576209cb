"""`abaw fit-heads` beyond its defaults: parts by name, light heads, calibration, recipes, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.settings import parse_columns, parse_post, parse_settings
from featurestore.errors import ConfigError, UnknownNameError

Refused = Callable[..., str]


def test_a_run_keeps_what_was_asked_for(workspace: Path, abaw: Callable) -> None:
    options = ["--encoder", "au", "--fuse", "v", "--fusion", "gated", "--temporal", "bigru", "--seq-frames", 24]
    options += [
        "--window",
        12,
        "--gap-input",
        "--framework",
        "share-bottom",
        "--set",
        "hidden=[8]",
        "--set",
        "layers=1",
    ]
    options += ["--loss", "va=ccc+0.5*mse,weighting=uncertainty", "--joint", "v,a", "--epochs", 1, "--name", "own"]
    assert abaw("fit-heads", *options).code == 0
    text = (workspace / "runs" / "own" / "config.json").read_text()
    for part in ('"fusion": "gated"', '"span": "frames"', '"layers": 1', '"weighting": "uncertainty"', '"v": "ccc+0.5'):
        assert part in text
    scored = abaw("evaluate", "own", "--json").json()
    assert scored["ccc_valence"] is not None
    assert scored["f1_au"] is None


def test_what_is_calibrated_is_marked(workspace: Path, abaw: Callable, refused: Refused) -> None:
    frame = ("--temporal", "none", "--epochs", 1, "--post", "thresholds,class-bias")
    honest = abaw("fit-heads", *frame, "--folds", 2, "--name", "honest", "--json").json()
    assert (honest["calibrated_on"], honest["in_sample"]) == ("train, out of fold", None)
    assert {"uncalibrated", "out_of_fold"} <= set(honest)
    shown = abaw("fit-heads", *frame, "--folds", 2, "--name", "again")
    assert "again, train, out of 2 folds" in shown.out
    assert re.search(r"score of +score +before +95 % interval +trivial +probe", shown.out)
    kept = re.search(r"^calibrated on train, out of fold: (.*)$", shown.out, flags=re.MULTILINE)
    assert kept is not None
    assert re.search(r"(thresholds?|class bias|class_bias) of |nothing, for nothing helped", kept[1])
    assert "note: The fit took 2 steps (1 epochs of 2), too few for a head to learn." in shown.err
    assert not abaw("evaluate", "honest", "--json").json()["in_sample"]
    assert abaw("evaluate", "honest", "--split", "train", "--json").json()["in_sample"]
    text = refused(2, "fit-heads", *frame, "--calibrate-on", "val", "--name", "tuned")
    assert "videos that it was not fitted on, but val has embeddings of 1" in text
    detailed = abaw("evaluate", "honest", "--per-class").out
    assert "Happiness" in detailed
    assert "au26" in detailed


def test_what_is_calibrated_unless_it_is_asked_otherwise(workspace: Path, abaw: Callable) -> None:
    light = ("--light", "ridge")
    few = abaw("fit-heads", *light, "--name", "few")  # three clips of train
    assert few.code == 0
    assert "no thresholds are fitted: train has 3 clips with labels of action units, at least 6 needed" in few.err
    none = abaw("fit-heads", *light, "--post", "none", "--name", "none")
    assert none.code == 0
    assert "no thresholds are fitted" not in none.err
    va = abaw("fit-heads", *light, "--joint", "v,a", "--name", "va")
    assert va.code == 0
    assert "no thresholds are fitted" not in va.err
    neural = abaw("fit-heads", "--temporal", "none", "--epochs", 1, "--name", "neural")
    assert neural.code == 0
    assert "no thresholds are fitted" not in neural.err
    for name in ("few", "none", "va", "neural"):
        text = (workspace / "runs" / name / "metrics.json").read_text()
        assert '"uncalibrated"' not in text
        assert '"out_of_fold"' not in text
        assert '"probe": {' in text


@pytest.mark.parametrize(("choice", "selected_on"), [("last", "last"), ("folds", "last")])
def test_val_may_be_left_out_of_the_fit(workspace: Path, abaw: Callable, choice: str, selected_on: str) -> None:
    options = ("--temporal", "none", "--epochs", 1, "--select-on", choice, "--folds", 2, "--name", choice)
    fitted = abaw("fit-heads", *options, "--json").json()
    assert fitted["selected_on"] == selected_on
    assert (workspace / "runs" / choice / "curve.png").is_file()
    assert not abaw("evaluate", choice, "--json").json()["epoch_selected_here"]


def test_a_light_head_is_a_run_like_any_other(workspace: Path, abaw: Callable) -> None:
    fitted = abaw("fit-heads", "--light", "ridge", "--encoder", "au", "--name", "light", "--json").json()
    assert fitted["P"] is not None
    assert abaw("evaluate", "light", "--json").json()["P"] == fitted["P"]
    assert abaw("predict", "light", "--out", "light.txt").code == 0
    assert not list((workspace / "runs" / "light").rglob("*.pkl"))


def test_a_recipe_becomes_a_system(workspace: Path, abaw: Callable) -> None:
    fitted = abaw("fit-heads", "--recipe", "linear-probe", "--epochs", 1, "--name", "probe", "--json").json()
    assert abaw("evaluate", "probe", "--json").json()["P"] == fitted["P"]
    assert abaw("predict", "probe", "--out", "probe.txt").code == 0
    shown = abaw("fit-heads", "--recipe", "linear-probe", "--epochs", 1, "--name", "again").out
    assert "stand-in: mae (32 columns for 768)" in shown


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--set", "attention_head=3"), "no setting 'attention_head'. Did you mean 'attention_heads'"),
        (("--set", "epochs=3"), "'epochs' has an option of its own"),
        (("--set", "layers"), "Expected a setting such as attention_heads=16, got 'layers'"),
        (("--post", "smoth"), "no post-processing 'smoth'. Did you mean 'smooth'"),
        (("--columns", "mae=a:"), "Expected columns such as hse=-10:"),
        (("--columns", "mae=40:"), "Columns 40: of encoder 'mae' are not there: it has 32"),
        (("--set", "estimator=ridge"), "no setting 'estimator'"),
        (("--fusion", "summ", "--fuse", "au"), "Did you mean 'sum'"),
        (("--temporal", "lstm+none"), "temporal 'none' stands alone"),
        (("--stateful", "--temporal", "bilstm"), "stateful needs modules that only look back"),
        (("--select-on", "test"), "no place to pick the epoch 'test'"),
        (("--recipe", "netease", "--seq", "3", "--fuse", "au"), "--fuse, --seq would do nothing with --recipe"),
        (("--light", "ridge", "--stateful"), "--epochs, --stateful would do nothing with --light"),
        (("--use", "mae=au"), "--use says which encoders play a recipe's"),
        (("--calibrate-on", "test", "--post", "rescale"), "no split to calibrate on 'test'"),
        (("--recipe", "netese"), "Did you mean 'netease'"),
        (("--loss", "v=cc"), "Did you mean 'ccc'"),
    ],
)
def test_refusals(finished: Path, refused: Refused, options: tuple[str, ...], told: str) -> None:
    assert told in refused(2, "fit-heads", *options, "--epochs", "1", "-w", finished)


def test_settings_are_toml_values_or_words() -> None:
    found = parse_settings(["a=1", "b = [1, 2]", "c=tcn+bigru", "d=0.5", "e=true"])
    assert found == {"a": 1, "b": [1, 2], "c": "tcn+bigru", "d": 0.5, "e": True}
    with pytest.raises(ConfigError, match=r"'a' is given twice"):
        parse_settings(["a=1", "a=2"])


def test_columns_and_post_processing_are_read() -> None:
    assert parse_columns("hse=-10:, mae=0:64") == {"hse": [-10, None], "mae": [0, 64]}
    post = parse_post("smooth=gaussian, class-bias")
    assert {task: kind for task, kind in post.smoothing.items() if kind != "none"} == dict.fromkeys(
        ("expr", "v", "a"), "gaussian"
    )
    assert (post.class_bias, post.thresholds, post.rescale) == (True, False, False)
    assert parse_post("").is_empty
    with pytest.raises(UnknownNameError, match=r"no post-processing 'thresholds=box'"):
        parse_post("thresholds=box")
