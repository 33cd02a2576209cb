from dataclasses import replace

import pytest
import torch
from torch import Tensor

from featurestore.errors import ConfigError, ShapeError
from heads.modules.config import TEMPORAL_WIDTH, HeadConfig
from heads.modules.trunk import Trunk

SHAPES = {"mae": (8,), "wide": (12,)}
LENGTH = 7
BOTH = HeadConfig(fuse=("wide",), fusion="affine", temporal="bigru", temporal_width=6, layers=1)
ALONE = replace(BOTH, skip=False)
"""The temporal module's state is all that the outputs read."""


def make(config: HeadConfig) -> Trunk:
    torch.manual_seed(4)
    return Trunk(config, SHAPES).eval()


def embeddings_of(config: HeadConfig, n_windows: int = 3) -> list[Tensor]:
    return [torch.randn(n_windows, LENGTH, *SHAPES[name]) for name in config.encoders]


def gaps_of(n_windows: int = 3) -> Tensor:
    return torch.randint(0, 500, (n_windows, LENGTH)).float()


def test_widths() -> None:
    trunk = make(ALONE)
    assert (trunk.fused_width, trunk.temporal_width, trunk.out_width) == (8, 6, 12)
    assert trunk(embeddings_of(ALONE)).shape == (3, LENGTH, 12)
    beside = make(BOTH)
    assert (beside.fused_width, beside.temporal_width, beside.out_width) == (8, 6, 12 + 8)
    assert beside(embeddings_of(BOTH)).shape == (3, LENGTH, 12 + 8)
    plain = make(HeadConfig(temporal="none", temporal_width=None))
    assert (plain.fused_width, plain.temporal_width, plain.out_width) == (8, 8, 8)
    assert make(HeadConfig(temporal="none")).out_width == 8
    default = make(HeadConfig())
    assert (default.fused_width, default.temporal_width, default.out_width) == (8, TEMPORAL_WIDTH, TEMPORAL_WIDTH + 8)
    wide = make(replace(ALONE, fusion="concat", temporal_width=None))
    assert (wide.fused_width, wide.temporal_width, wide.out_width) == (20, 20, 40)


def test_parts_follow_each_other() -> None:
    config = replace(ALONE, columns={"wide": (2, 7)}, normalise=True)
    trunk, embeddings = make(config), embeddings_of(config)
    mask = torch.arange(LENGTH) < torch.tensor([7, 3, 1])[:, None]
    fused = trunk.fusion([embeddings[0], embeddings[1][..., 2:7]])
    expected = trunk.temporal(fused, mask)
    torch.testing.assert_close(trunk(embeddings, mask=mask), expected)
    assert not torch.allclose(trunk(embeddings), expected, atol=1e-3)
    beside = make(replace(config, skip=True))  # of the same seed, so of the same weights
    found = beside(embeddings, mask=mask)
    torch.testing.assert_close(found, torch.cat([expected, fused], dim=-1))
    torch.testing.assert_close(found[..., beside.frame_columns], fused)
    torch.testing.assert_close(expected[..., trunk.frame_columns], expected)  # without `skip` the state is all there is


def test_in_training_the_temporal_module_reads_dropped_inputs_and_the_skip_does_not() -> None:
    config = replace(BOTH, fusion_dropout=0.0, input_dropout=0.9, state_dropout=0.0)
    trunk, embeddings = make(config), embeddings_of(config)
    whole = trunk(embeddings)
    dropped = trunk.train()(embeddings)
    assert torch.equal(dropped[..., 12:], whole[..., 12:])
    assert not torch.allclose(dropped[..., :12], whole[..., :12], atol=1e-3)
    kept = make(replace(config, input_dropout=0.0)).train()
    assert torch.equal(kept(embeddings), whole)
    single = make(replace(config, temporal="none")).train()  # there is no temporal module to mislead
    assert torch.equal(single(embeddings), single.eval()(embeddings))


def test_in_training_the_outputs_do_not_see_the_state_of_some_rows() -> None:
    config = replace(BOTH, fusion_dropout=0.0, input_dropout=0.0, state_dropout=0.3)
    trunk, embeddings = make(config), embeddings_of(config, n_windows=300)
    whole = trunk(embeddings)
    seen = trunk.train()(embeddings)
    assert torch.equal(seen[..., 12:], whole[..., 12:])
    is_hidden = (seen[..., :12] == 0).all(dim=-1)
    assert torch.equal(seen[~is_hidden], whole[~is_hidden])  # nothing is scaled, and the temporal module reads on
    assert is_hidden.float().mean().item() == pytest.approx(0.3, abs=0.03)
    per_window = is_hidden.sum(dim=1)
    assert per_window.min() < per_window.max()
    for whole_state in (replace(config, state_dropout=0.0), replace(config, skip=False)):
        kept = make(whole_state)
        expected = kept(embeddings)
        assert torch.equal(kept.train()(embeddings), expected)


def test_padding_changes_nothing() -> None:
    config = replace(BOTH, gap_input=True, normalise=True)
    trunk, embeddings, gaps = make(config), embeddings_of(config), gaps_of()
    torch.nn.init.normal_(trunk.gap.linear.weight)
    mask = torch.arange(LENGTH) < torch.tensor([7, 3, 0])[:, None]
    states = trunk([torch.where(mask.unsqueeze(-1), each, 1e3) for each in embeddings], mask=mask, gaps=gaps)
    assert states.isfinite().all()
    alone = trunk([each[1:2, :3] for each in embeddings], gaps=gaps[1:2, :3])
    torch.testing.assert_close(states[1:2, :3], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temporal", ["none", "lstm", "transformer"])
def test_gaps_say_nothing_at_the_start_and_can_be_learned(temporal: str) -> None:
    config = HeadConfig(temporal=temporal, gap_input=True)
    trunk, embeddings, gaps = make(config), embeddings_of(config), gaps_of()
    without = make(replace(config, gap_input=False))
    without.load_state_dict({name: each for name, each in trunk.state_dict().items() if not name.startswith("gap.")})
    assert torch.equal(trunk(embeddings, gaps=gaps), without(embeddings))
    (trunk(embeddings, gaps=gaps) * torch.randn(3, LENGTH, trunk.out_width)).sum().backward()
    assert (trunk.gap.linear.weight.grad != 0).any()
    torch.nn.init.normal_(trunk.gap.linear.weight)
    told, other = trunk(embeddings, gaps=gaps), trunk(embeddings, gaps=gaps + 30)
    assert not torch.allclose(told, other, atol=1e-3)


def test_a_gap_is_read_as_its_logarithm() -> None:
    trunk = make(HeadConfig(temporal="none", gap_input=True))
    torch.nn.init.ones_(trunk.gap.linear.weight)
    base = torch.zeros(1, LENGTH, 8)
    gaps = torch.tensor([[0, 1, 2, 4, 8, 29, 543]])
    expected = torch.log1p(gaps.float()).unsqueeze(-1).expand(1, LENGTH, 8)
    torch.testing.assert_close(trunk([base], gaps=gaps), expected)


def test_gaps_must_be_there() -> None:
    trunk = make(HeadConfig(gap_input=True))
    with pytest.raises(ConfigError, match=r"reads the gap .* no gaps were given .* Give them, shape \(B, S\)"):
        trunk(embeddings_of(HeadConfig()))


@pytest.mark.parametrize("temporal", ["lstm", "gru+lstm"])
def test_segments_one_by_one_are_the_whole(temporal: str) -> None:
    config = replace(BOTH, temporal=temporal, stateful=True, gap_input=True)
    trunk, embeddings, gaps = make(config), embeddings_of(config), gaps_of()
    torch.nn.init.normal_(trunk.gap.linear.weight)
    whole = trunk(embeddings, gaps=gaps)
    first, state = trunk.step([each[:, :4] for each in embeddings], None, gaps=gaps[:, :4])
    second, _ = trunk.step([each[:, 4:] for each in embeddings], state, gaps=gaps[:, 4:])
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=1e-6, atol=1e-6)
    fresh, _ = trunk.step([each[:, 4:] for each in embeddings], None, gaps=gaps[:, 4:])
    assert not torch.allclose(fresh, whole[:, 4:], atol=1e-3)


def test_widths_that_cannot_be_summed() -> None:
    with pytest.raises(ShapeError, match="'wide' have 12 columns, but those of the base encoder 'mae' have 8"):
        make(HeadConfig(fuse=("wide",)))


@pytest.mark.filterwarnings("ignore")  # of the exporter on itself
def test_a_trunk_can_be_exported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every temporal module traces without a branch on values, at any batch and length."""
    ort = pytest.importorskip("onnxruntime")
    for temporal in ("lstm", "bigru", "transformer", "tcn"):
        config = HeadConfig(temporal=temporal, temporal_width=6, attention_heads=2, positions=True, normalise=True)
        trunk = make(config)
        path = tmp_path_factory.mktemp("export") / f"{temporal}.onnx"
        torch.onnx.export(
            _OfOne(trunk).eval(),
            (torch.randn(2, LENGTH, 8),),
            path,
            dynamo=False,
            input_names=["mae"],
            dynamic_axes={"mae": {0: "B", 1: "S"}},
        )
        other = torch.randn(3, 2 * LENGTH, 8)
        (found,) = ort.InferenceSession(path).run(None, {"mae": other.numpy()})
        assert found == pytest.approx(trunk([other]).detach().numpy(), abs=1e-5)


class _OfOne(torch.nn.Module):
    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, base: Tensor) -> Tensor:
        states: Tensor = self.trunk([base])
        return states
