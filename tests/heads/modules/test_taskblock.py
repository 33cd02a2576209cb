from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from featurestore.errors import ConfigError
from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.labels import AU_COLUMNS
from heads.features.featureset import FeatureSet
from heads.fitting.config import FitConfig
from heads.fitting.fit import fit
from heads.fitting.predict import predict
from heads.modules.augraph import AuGraph
from heads.modules.config import HeadConfig
from heads.modules.model import HeadModel
from heads.modules.taskblock import Attention, TaskBlock, TaskQueries, attend, attend_plainly

HEAD = HeadConfig(
    encoder="patches",
    framework="task-queries",
    temporal="none",
    query_width=16,
    query_heads=4,
    query_feedforward=24,
    seq=1,
)
SCU = HeadConfig(encoder="patches", framework="task-queries", temporal="none")
SHAPE = (5, 6)  # tokens, columns


def model_of(head: HeadConfig, shape: tuple[int, int] = SHAPE) -> tuple[HeadModel, TaskQueries]:
    torch.manual_seed(0)
    model = HeadModel(head, {"patches": shape}).eval()
    assert isinstance(model.framework, TaskQueries)
    return model, model.framework


def graph_of(framework: TaskQueries) -> AuGraph:
    assert framework.graph is not None
    return framework.graph


def test_the_size_of_the_proposal() -> None:
    model, framework = model_of(SCU, (289, 1536))
    width, feedforward, norm = 128, 512, 2 * 128
    attention = 4 * (width * width + width)
    feed = norm + (width * feedforward + feedforward) + (feedforward * width + width)
    first = norm + attention + feed
    expected = (
        (1536 * width + width + norm)  # tokens
        + 2 * 22 * width  # queries and their embeddings
        + first
        + 2 * (first + norm + attention)
        + norm
        + 2 * (width * width + width)  # graph
        + 22 * (width + 1)  # one linear a query
    )
    assert model.n_parameters() == expected == 966_166
    assert [block.cross_attention.n_heads for block in framework.blocks] == [8, 8, 8]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 6), st.integers(1, 9))
def test_attention_is_a_softmax_of_scaled_products(seed: int, heads: int, n_queries: int, n_keys: int) -> None:
    torch.manual_seed(seed)
    query, key, value = (torch.randn(2, heads, n, 4) for n in (n_queries, n_keys, n_keys))
    expected = torch.zeros(2, heads, n_queries, 4)
    for batch in range(2):
        for head in range(heads):
            scores = query[batch, head] @ key[batch, head].T / 2
            expected[batch, head] = scores.softmax(dim=1) @ value[batch, head]
    assert torch.allclose(attend(query, key, value), expected, atol=1e-5)
    assert torch.allclose(attend_plainly(query, key, value), expected, atol=1e-5)


def test_attention_agrees_with_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    projections = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([each.weight for each in projections])
    theirs.in_proj_bias.data = torch.cat([each.bias for each in projections])
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries, keys, values = torch.randn(2, 4, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    assert torch.allclose(ours(queries, keys, values), theirs(queries, keys, values)[0], atol=1e-6)


def reached(block: TaskBlock) -> Tensor:
    """Whether what a query (row) becomes depends on what another (column) was."""
    states = torch.randn(1, 4, 16, requires_grad=True)
    after = block(states, torch.randn(1, 5, 16), torch.randn(4, 16))
    gradients = [torch.autograd.grad(after[0, i].square().sum(), states, retain_graph=True)[0][0] for i in range(4)]
    return torch.stack([each.abs().sum(dim=1) > 0 for each in gradients])


def test_the_first_block_alone_has_no_self_attention() -> None:
    _, framework = model_of(HEAD)
    assert [block.self_attention is None for block in framework.blocks] == [True, False, False]
    assert torch.equal(reached(framework.blocks[0]), torch.eye(4, dtype=torch.bool))
    assert reached(framework.blocks[1]).all()


@pytest.mark.parametrize(
    ("joint", "n_queries", "has_graph"),
    [(("au", "expr", "v", "a"), 22, True), (("expr", "v"), 9, False), (("au",), 12, False), (("au", "a"), 13, True)],
)
def test_only_queries_of_joined_tasks_exist(joint: tuple[str, ...], n_queries: int, has_graph: bool) -> None:
    model, framework = model_of(replace(HEAD, joint=joint))
    assert framework.n_queries == len(framework.queries) == len(framework.embedding) == n_queries
    assert (framework.graph is not None) == has_graph
    assert list(model([torch.randn(2, 3, *SHAPE)])) == list(joint)
    assert model_of(replace(HEAD, joint=joint, graph_layers=0))[1].graph is None


def test_each_output_is_one_linear_of_its_query() -> None:
    _, framework = model_of(HEAD)
    base = torch.randn(2, 3, *SHAPE)
    states = framework.helped(framework.asked(framework.tokens(base.flatten(0, 1))))
    logits = framework([base])
    flat = torch.cat([logits[task] for task in ("au", "expr", "v", "a")], dim=-1).flatten(0, 1)
    for query in range(22):
        expected = states[:, query] @ framework.weight[query] + framework.bias[query]
        assert torch.allclose(flat[:, query], expected, atol=1e-5)


def test_the_graph_helps_all_but_the_action_units() -> None:
    model, framework = model_of(HEAD)
    tokens = [torch.randn(2, 3, *SHAPE)]
    alone = model(tokens)
    graph_of(framework).set_co_occurrence(np.random.default_rng(0).random((12, 12)))
    helped = model(tokens)
    assert torch.equal(helped["au"], alone["au"])
    for task in ("expr", "v", "a"):
        assert not torch.allclose(helped[task], alone[task])
    helped["v"].sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in graph_of(framework).layers)
    assert framework.queries.grad is not None
    assert (framework.queries.grad[:12].abs().sum(dim=1) > 0).all()  # through the graph, too, v hears of every unit


def test_tokens_have_no_order_and_frames_do_not_meet() -> None:
    model, _ = model_of(HEAD)
    tokens = torch.randn(2, 3, *SHAPE)
    other = tokens.clone()
    other[0, 1] += 1
    for task, output in model([tokens]).items():
        assert torch.allclose(model([tokens[:, :, torch.randperm(5)]])[task], output, atol=1e-5)
        changed = (model([other])[task] - output).abs().sum(dim=-1) > 1e-6
        assert changed.tolist() == [[False, True, False], [False, False, False]]


def test_a_batch_of_a_thousand_frames_stays_small() -> None:
    """The largest tensor that training keeps is the tokens' own size: what grows with 289 tokens is linear in them."""
    _, framework = model_of(replace(SCU, blocks=1), (289, 24))
    sizes: list[int] = []

    def kept(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        framework([torch.randn(8, 1, 289, 24)])
    assert max(sizes) == 8 * 289 * 128


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"temporal": "lstm"}, "reads the base's patch tokens of single frames"),
        ({"fusion": "concat"}, "reads the base's patch tokens of single frames"),
        ({"hidden": (4,)}, "has one linear layer a query: leave out hidden layers"),
        ({"gap_input": True}, "leave out hidden layers and gap_input"),
        ({"query_heads": 5}, "query_width must be a multiple of query_heads, got 16 and 5"),
        ({"query_dropout": 1.0}, r"query_dropout must be in \[0, 1\), got 1\.0"),
    ],
)
def test_refusals(change: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        replace(HEAD, **change)  # type: ignore[arg-type]


def patches(frames: FrameTable, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Five tokens a frame that hold its vector's columns in turn, and noise, (n, 5, 6)."""
    rng = np.random.default_rng(5)
    held = np.zeros((len(frames), 5, 6), dtype=np.float32)
    held[:, :4, :4] = vectors.reshape(len(frames), 4, 4)
    held[:, :4, 4] = np.arange(4)  # which part of the vector it is: attention has no other way to know
    return held + 0.1 * rng.normal(size=held.shape).astype(np.float32)


NewFeatures = Callable[..., FeatureSet]


@pytest.fixture
def tokens(
    frames: FrameTable, label_vectors: Callable[..., NDArray[np.float32]], new_features: NewFeatures
) -> FeatureSet:
    return new_features(frames, {"patches": patches(frames, label_vectors(frames))})


def test_it_is_fitted_on_tokens(tokens: FeatureSet) -> None:
    training = FitConfig(epochs=3, batch_frames=48, learning_rate=3e-3, device="cpu")
    found = fit(tokens, replace(HEAD, normalise=True, seq=2), training)
    assert found.curve[-1].loss < 0.9 * found.curve[0].loss
    model = found.model
    assert isinstance(model.framework, TaskQueries)
    assert not torch.equal(graph_of(model.framework).adjacency, torch.eye(12))
    again = HeadModel(model.config, found.shapes).eval()
    again.load_state_dict(model.state_dict())
    assert np.array_equal(predict(again, tokens).expression, found.predictions.expression)


def test_the_graph_of_a_fit_ignores_labels_of_val(
    frames: FrameTable, tokens: FeatureSet, label_vectors: Callable[..., NDArray[np.float32]]
) -> None:
    training = FitConfig(epochs=1, batch_frames=512, device="cpu")

    def adjacency(split: str) -> Tensor:
        here = pl.col("split") == split
        columns = [pl.when(here).then(1).otherwise(pl.col(name)).alias(name) for name in AU_COLUMNS]
        changed = replace(tokens, frames=FrameTable(frames.data.with_columns(columns).cast(FRAME_SCHEMA)))
        framework = fit(changed, replace(HEAD, blocks=1), training).model.framework
        assert isinstance(framework, TaskQueries)
        return graph_of(framework).adjacency

    untouched = adjacency("none")
    assert torch.equal(adjacency("val"), untouched)
    assert torch.equal(adjacency("test"), untouched)
    assert torch.allclose(adjacency("train"), torch.full((12, 12), 1 / 12))
