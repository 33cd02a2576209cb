"""The whole head: sizes, padding, carried states and a short real fit, in every framework."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from featurestore.errors import ConfigError
from featurestore.frames import FrameTable
from featurestore.labels import AU_COLUMNS
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.modules.config import HeadConfig
from heads.modules.frameworks import ShareEncoder
from heads.modules.model import HeadModel
from heads.tasks import TASKS

MakeFrames = Callable[..., FrameTable]
NewFeatures = Callable[[FrameTable, Mapping[str, NDArray[np.float32]]], FeatureSet]

WIDTH = 8

FRAMEWORKS = {
    "share-encoder": HeadConfig(fuse=("au",), seq=6),
    "share-bottom": HeadConfig(fuse=("au",), framework="share-bottom", temporal="gru", layers=1, own_layers=2, seq=6),
    "hidden-feedback": HeadConfig(framework="hidden-feedback", hidden=(7, 5), temporal_width=None, seq=6),
    "label-feedback": HeadConfig(framework="label-feedback", label_width=3, temporal="bigru", layers=1, seq=6),
    "per-task": HeadConfig(fuse=("au",), framework="per-task", seq=6),
    "late": HeadConfig(fuse=("au",), fusion="late", width=5, seq=6),
    "task-queries": HeadConfig(framework="task-queries", temporal="none", query_width=16, query_heads=2, seq=6),
}
STATEFUL = ("share-encoder", "share-bottom", "hidden-feedback", "per-task", "late")


def model_of(head: HeadConfig, dim: int = WIDTH, seed: int = 0) -> HeadModel:
    torch.manual_seed(seed)
    shape = (3, dim) if head.reads_tokens else (dim,)
    return HeadModel(head, dict.fromkeys(head.encoders, shape))


def inputs_of(head: HeadConfig, n_windows: int = 2, length: int = 6) -> list[Tensor]:
    shape = (n_windows, length, 3, WIDTH) if head.reads_tokens else (n_windows, length, WIDTH)
    return [torch.randn(*shape) for _ in head.encoders]


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_papers_module_sizes_at_768() -> None:
    paper = HeadConfig(fuse=("au", "v"), temporal_width=None, normalise=False, hidden=(), skip=False, input_dropout=0.0)
    model = model_of(paper, 768)
    assert count(model.fusion) == 1_181_184
    assert count(model.temporal) == 9_449_472
    assert model.n_parameters() == 1_181_184 + 9_449_472 + 769 * (12 + 8 + 1 + 1)
    assert count(model_of(replace(paper, fuse=(), temporal="none", seq=1, joint=("v",)), 768)) == 769


def test_defaults_are_the_papers_with_a_narrower_state_a_hidden_layer_and_a_skip() -> None:
    config = HeadConfig(fuse=("au",)).resolved()
    assert (config.encoder, config.fusion, config.temporal, config.seq, config.window) == ("mae", "sum", "lstm", 20, 20)
    assert (config.normalise, config.skip, config.hidden) == (True, True, (256,))
    assert (config.input_dropout, config.state_dropout) == (0.7, 0.5)
    state = 64
    assert config.temporal_width == state
    # 12 + 8 + 1 + 1 outputs of four layers of 256; the action units' linear path reads the fused embedding alone.
    own = 22 + 4 * 256 + 256 * 22 + 12 * (768 + 1)
    single = model_of(HeadConfig(temporal="none", seq=1), 768)
    assert count(single) == 4 * 768 * 256 + own
    beside = model_of(HeadConfig(fuse=("au", "v")), 768)  # the outputs read the state and the fused embedding
    lstm = 4 * state * ((768 + state + 2) + (state + state + 2))  # four gates with two biases each, in two layers
    assert count(beside.temporal) == lstm
    assert count(beside) == 1_181_184 + lstm + 4 * (768 + state) * 256 + own


# AIM3-RUC's sizes: three embeddings side by side, Transformer layers of 1024 with feed-forward 2048, outputs 512, 256.
_LINEAR = (768 + 512 + 342) * 1024 + 1024
_LAYER = 4 * (1024 * 1024 + 1024) + (1024 * 2048 + 2048) + (2048 * 1024 + 1024) + 2 * 2 * 1024
_OUTPUTS = 4 * ((1024 * 512 + 512) + (512 * 256 + 256)) + 257 * (12 + 8 + 1 + 1)


@pytest.mark.parametrize(
    ("framework", "layers", "expected"),
    [
        ("share-encoder", 4, 37_891_606),
        ("share-bottom", 1, 113_490_454),
        ("hidden-feedback", 4, 38_153_750),
        ("label-feedback", 4, 38_157_078),
    ],
)
def test_the_sizes_of_aim3s_frameworks(framework: str, layers: int, expected: int) -> None:
    by_hand = {
        "share-encoder": _LINEAR + 4 * _LAYER + _OUTPUTS,
        "share-bottom": _LINEAR + (1 + 4 * 3) * _LAYER + _OUTPUTS,
        "hidden-feedback": _LINEAR + 4 * _LAYER + _OUTPUTS + 2 * 256 * 512,
        "label-feedback": _LINEAR + 4 * _LAYER + _OUTPUTS + 2 * 256 * 512 + (12 + 1) * 256,
    }
    head = HeadConfig(
        fuse=("iresnet", "densenet"),
        fusion="concat",
        temporal="transformer",
        layers=layers,
        temporal_width=1024,
        feedforward=2048,
        attention_heads=16,
        framework=framework,
        feedback_to=("a",),
        hidden=(512, 256),
        skip=False,
        au_linear_share=0.0,
    )
    # Counts need no weights; but to draw a table's there, torch first loads its compiler.
    with torch.device("cpu" if framework == "label-feedback" else "meta"):
        model = HeadModel(head, {"mae": (768,), "iresnet": (512,), "densenet": (342,)})
    assert model.n_parameters() == by_hand[framework] == expected


@pytest.mark.parametrize("head", FRAMEWORKS.values(), ids=FRAMEWORKS)
def test_outputs(head: HeadConfig) -> None:
    outputs = model_of(head)([10 * each for each in inputs_of(head)])
    assert {task: tuple(values.shape) for task, values in outputs.items()} == {
        task: (2, 6, TASKS[task].n_outputs) for task in ("au", "expr", "v", "a")
    }
    assert list(outputs) == ["au", "expr", "v", "a"]
    assert max(outputs["v"].abs().max(), outputs["a"].abs().max()) <= 1
    assert outputs["expr"].min() < 0


@pytest.mark.parametrize("head", FRAMEWORKS.values(), ids=FRAMEWORKS)
def test_padding_changes_nothing(head: HeadConfig) -> None:
    if not head.reads_tokens:
        head = replace(head, temporal="bigru", layers=1)  # it would see padding, were it not told
    model = model_of(head).eval()
    clean = inputs_of(head)
    mask = torch.arange(6).expand(2, 6) < torch.tensor([[6], [4]])
    spoilt = [torch.where(mask.reshape(2, 6, *[1] * (each.dim() - 2)), each, 1e3) for each in clean]
    for task, output in model(clean, mask=mask).items():
        other = model(spoilt, mask=mask)[task]
        assert torch.allclose(output[mask], other[mask], atol=1e-6)
        assert not torch.allclose(output[~mask], other[~mask])
        assert other.isfinite().all()


@pytest.mark.parametrize("name", STATEFUL)
def test_two_segments_in_steps_equal_one_over_both(name: str) -> None:
    head = FRAMEWORKS[name]
    model = model_of(head).eval()
    both = inputs_of(head, length=12)
    whole = model(both)
    first, state = model.step([each[:, :6] for each in both], None)
    second, _ = model.step([each[:, 6:] for each in both], state)
    for task, output in whole.items():
        assert torch.allclose(torch.cat([first[task], second[task]], dim=1), output, atol=1e-6)
    # Lanes 1 and 0 go on, the second of them with another segment.
    kept = model.kept(state, torch.tensor([1, 0]), torch.tensor([False, True]))
    swapped, _ = model.step([each[:, 6:].flip(0) for each in both], kept)
    anew = model([each[:, 6:] for each in both])
    for task, output in second.items():
        assert torch.allclose(swapped[task][0], output[1], atol=1e-6)
        assert torch.allclose(swapped[task][1], anew[task][0], atol=1e-6)
        assert not torch.allclose(output[0], anew[task][0], atol=1e-4)


@pytest.mark.parametrize("name", [name for name in FRAMEWORKS if name != "task-queries"])
def test_gaps_reach_every_trunk(name: str) -> None:
    head = replace(FRAMEWORKS[name], gap_input=True)
    model, given = model_of(head).eval(), inputs_of(head)
    gaps = torch.randint(0, 9, (2, 6)).float()
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if ".gap." in part:
                parameter.normal_()
    told, other = model(given, gaps=gaps), model(given, gaps=gaps + 5)
    assert not any(torch.allclose(told[task], other[task]) for task in told)
    with pytest.raises(ConfigError, match="no gaps were given"):
        model(given)
    if name in STATEFUL:
        stepped, _ = model.step(given, None, gaps=gaps)
        assert all(torch.allclose(stepped[task], told[task], atol=1e-6) for task in told)


def test_a_carried_state_is_detached() -> None:
    model = model_of(FRAMEWORKS["share-encoder"])
    _, state = model.step(inputs_of(model.config), None)
    assert not any(each.requires_grad for each in state)


def test_a_head_without_a_state_says_so() -> None:
    head = FRAMEWORKS["task-queries"]
    with pytest.raises(ConfigError, match=r"TaskQueries carries no state .* Call forward"):
        model_of(head).step(inputs_of(head), None)


@pytest.mark.parametrize("name", ["per-task", "late", "task-queries"])
def test_heads_without_one_shared_trunk_say_so(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"no trunk that all tasks share: its framework is '.*' and its fusion '.*', held"
    ):
        _ = model_of(FRAMEWORKS[name]).fusion


def test_a_separated_head_puts_out_the_same() -> None:
    head = replace(FRAMEWORKS["share-encoder"], skip=True)
    model = model_of(head).eval()
    given, apart = inputs_of(head), model.separated()
    before, expected = model(given), model.step(given, None)[0]
    for found in (apart(given), apart.step(given, None)[0]):
        assert list(found) == list(expected)
    for task in head.joint:
        assert torch.equal(apart(given)[task], before[task])
        assert torch.equal(apart.step(given, None)[0][task], expected[task])
    with pytest.raises(ConfigError, match="held as PerTask"):
        _ = apart.trunk
    with torch.no_grad():  # nothing is shared any more
        for name, parameter in apart.named_parameters():
            if name.startswith("framework.heads.au."):
                parameter.zero_()
    assert torch.equal(apart(given)["v"], before["v"])
    assert torch.equal(model(given)["au"], before["au"])


def test_prepare_counts_the_rows_that_are_given_and_no_others(features: FeatureSet) -> None:
    rows = features.frames.rows("train")
    model = model_of(HeadConfig(normalise=True, framework="per-task", joint=("v", "a")), 16)
    model.prepare(features, rows)
    vectors = next(iter(features.windows(("mae",), rows[None], batch_windows=1).in_order())).inputs[0][0]
    for head in model.framework.heads.values():
        assert torch.allclose(head.trunk.inputs.mean_0, vectors.mean(dim=0), atol=1e-5)
        assert torch.allclose(head.trunk.inputs.std_0, vectors.std(dim=0, unbiased=False), atol=1e-5)


@pytest.fixture
def partly_labelled(make_frames: MakeFrames, new_features: NewFeatures) -> FeatureSet:
    """Rows 0 to 39 have action units, 40 to 69 have none; of two encoders, the means differ from part to part."""
    data = make_frames({"a": ("train", 40), "b": ("train", 30), "c": ("val", 20)}).data
    unknown = [pl.when(pl.col("video") == "b").then(None).otherwise(pl.col(name)).alias(name) for name in AU_COLUMNS]
    rng = np.random.default_rng(0)
    shift = np.repeat([1.0, -2.0, 0.0], [40, 30, 20])[:, None]
    vectors = {name: (rng.normal(3, 2, (90, WIDTH)) + shift).astype(np.float32) for name in ("mae", "au")}
    return new_features(FrameTable(data.with_columns(unknown)), vectors)


@pytest.mark.parametrize(
    "head",
    [
        HeadConfig(temporal="none"),
        HeadConfig(temporal="none", normalise=False),
        HeadConfig(framework="per-task"),
        HeadConfig(framework="hidden-feedback", feedback_from=("v",)),
        HeadConfig(fuse=("au",), fusion="concat", columns={"au": (-3, None)}),
        HeadConfig(fuse=("au",), fusion="late"),
    ],
    ids=["frame", "as they are", "per-task", "hidden-feedback", "concat", "late"],
)
def test_the_units_linear_path_is_centred_on_their_own_rows(partly_labelled: FeatureSet, head: HeadConfig) -> None:
    model = model_of(head)
    model.prepare(partly_labelled, np.arange(70))
    shares = [each for each in model.modules() if isinstance(each, ShareEncoder) and "au" in each.outputs]
    assert shares
    for share in shares:
        assert share.outputs["au"].linear is not None
        reader = partly_labelled.windows(share.trunk.inputs.names, np.arange(40)[None], batch_windows=1)
        fused = share.trunk.fused(next(iter(reader.in_order())).inputs)
        assert fused.mean(dim=(0, 1)).abs().min() > 0.1
        torch.testing.assert_close(share.outputs["au"].linear_centre, fused.mean(dim=(0, 1)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", [HeadConfig(fuse=("au",)), HeadConfig(skip=False)], ids=["learned fusion", "no skip"])
def test_a_linear_path_that_reads_what_is_learned_is_not_centred(partly_labelled: FeatureSet, head: HeadConfig) -> None:
    model = model_of(head)
    model.prepare(partly_labelled, np.arange(70))
    assert isinstance(model.framework, ShareEncoder)
    assert not model.framework.outputs["au"].linear_centre.any()


def test_a_head_without_labels_of_action_units_is_not_centred(partly_labelled: FeatureSet) -> None:
    model = model_of(HeadConfig(temporal="none"))
    model.prepare(partly_labelled, np.arange(40, 70))
    assert isinstance(model.framework, ShareEncoder)
    assert not model.framework.outputs["au"].linear_centre.any()


TRAINING = FitConfig(epochs=2, batch_frames=96, learning_rate=3e-3, device="cpu")


def check_fit(features: FeatureSet, head: HeadConfig) -> None:
    certain = replace(head, input_dropout=0.0, state_dropout=0.0, temporal_dropout=0.0, hidden_dropout=0.0)
    found = fit(features, certain, TRAINING)
    assert found.curve[1].loss < found.curve[0].loss
    assert list(found.predictions.arrays()) == list(head.joint)
    assert all(np.isfinite(values).all() for values in found.predictions.arrays().values())


@pytest.mark.parametrize("name", [name for name in FRAMEWORKS if name != "task-queries"])
def test_every_framework_is_fitted(features: FeatureSet, name: str) -> None:
    check_fit(features, FRAMEWORKS[name])


@pytest.mark.parametrize("name", STATEFUL)
def test_stateful_heads_are_fitted(features: FeatureSet, name: str) -> None:
    check_fit(features, replace(FRAMEWORKS[name], stateful=True))
