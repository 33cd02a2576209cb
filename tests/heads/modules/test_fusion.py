import pytest
import torch
from torch import Tensor, nn

from featurestore.errors import ConfigError, ShapeError
from heads.modules.config import FUSION_NAMES, WIDTH_FUSIONS, HeadConfig
from heads.modules.fusion import Fusion, make_fusion

NAMES = [name for name in FUSION_NAMES if name not in ("none", "late")]
ANY_WIDTHS = [name for name in NAMES if name != "sum"]
WIDTHS = (8, 12, 5)


def make(name: str, widths: tuple[int, ...] = WIDTHS, **options: object) -> Fusion:
    torch.manual_seed(2)
    fuse = ("au", "v", "a")[: len(widths) - 1]
    return make_fusion(HeadConfig(fuse=fuse, fusion=name, **options), widths).eval()


def embeddings_of(widths: tuple[int, ...] = WIDTHS) -> list[Tensor]:
    return [torch.randn(2, 5, width) for width in widths]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def woken(fusion: Fusion) -> Fusion:
    """With parameters that start at 0 moved, as the first steps do."""
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return fusion


class TestEveryFusion:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("n_encoders", [1, 2, 4])
    def test_columns(self, name: str, n_encoders: int) -> None:
        widths = (8,) * n_encoders if name == "sum" else (8, 12, 5, 3)[:n_encoders]
        fusion = make(name, widths)
        expected = sum(widths) if name == "concat" else 8
        assert fusion.out_width == expected
        assert fusion(embeddings_of(widths)).shape == (2, 5, expected)

    @pytest.mark.parametrize("name", [name for name in WIDTH_FUSIONS if name != "late"])
    def test_another_width(self, name: str) -> None:
        fusion = make(name, width=20)
        assert fusion.out_width == 20
        assert fusion(embeddings_of()).shape == (2, 5, 20)

    @pytest.mark.parametrize("name", NAMES)
    def test_every_encoder_is_heard(self, name: str) -> None:
        widths = (8, 8, 8) if name == "sum" else WIDTHS
        fusion = woken(make(name, widths))
        embeddings = [each.requires_grad_() for each in embeddings_of(widths)]
        (fusion(embeddings) * torch.randn(2, 5, fusion.out_width)).sum().backward()
        for embedding in embeddings:
            assert embedding.grad is not None
            assert (embedding.grad != 0).any(dim=-1).all()

    @pytest.mark.parametrize("name", NAMES)
    def test_rows_do_not_hear_each_other(self, name: str) -> None:
        widths = (8, 8, 8) if name == "sum" else WIDTHS
        fusion, embeddings = woken(make(name, widths)), embeddings_of(widths)
        whole = fusion(embeddings)
        alone = fusion([each[1:, 3:4] for each in embeddings])
        torch.testing.assert_close(alone, whole[1:, 3:4], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", NAMES)
    def test_only_a_sum_is_blind_to_the_encoders_order(self, name: str) -> None:
        fusion, (base, first, second) = woken(make(name, (8, 8, 8))), embeddings_of((8, 8, 8))
        same = torch.allclose(fusion([base, first, second]), fusion([base, second, first]), atol=1e-4)
        assert same == (name == "sum")

    @pytest.mark.parametrize("name", NAMES)
    def test_a_step_moves_it_towards_a_fused_encoder(self, name: str) -> None:
        """What only the second encoder knows is learned."""
        torch.manual_seed(0)
        fusion = make(name, (8, 8), fusion_dropout=0.0).train()
        reader = nn.Linear(fusion.out_width, 1)
        optimizer = torch.optim.Adam([*fusion.parameters(), *reader.parameters()], lr=1e-2)
        base, other = torch.randn(2, 4, 50, 8)
        target = other[..., :1]
        losses = []
        for _ in range(80):
            loss = (reader(fusion([base, other])) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.4 * target.var().item()


def test_the_winners_sum_at_768() -> None:
    fusion = make("sum", (768, 768, 768))
    assert count(fusion) == 1_181_184
    assert list(fusion.state_dict()) == ["layers.0.weight", "layers.0.bias", "layers.3.weight", "layers.3.bias"]
    assert fusion.layers[2].p == 0.3


def test_a_sum_is_the_perceptron_of_the_sum() -> None:
    fusion, embeddings = make("sum", (8, 8, 8)), embeddings_of((8, 8, 8))
    torch.testing.assert_close(fusion(embeddings), fusion([torch.stack(embeddings).sum(dim=0)]))
    assert not torch.allclose(fusion(embeddings), fusion(embeddings[:2]))
    with pytest.raises(ShapeError, match="equal widths, got 8, 12 columns"):
        make("sum", (8, 12))


def test_none_passes_the_base_on() -> None:
    fusion = make_fusion(HeadConfig(), (8,))
    (base,) = embeddings_of((8,))
    assert fusion([base]) is base
    assert (fusion.out_width, count(fusion)) == (8, 0)


def test_concat_is_raw_unless_a_width_is_asked_for() -> None:
    embeddings = embeddings_of()
    assert torch.equal(make("concat")(embeddings), torch.cat(embeddings, dim=-1))
    assert count(make("concat")) == 0
    assert count(make("concat", width=7)) == (25 + 1) * 7


def test_affine_is_the_sum_of_each_encoders_own_linear() -> None:
    fusion, embeddings = make("affine", (768, 512), width=512), embeddings_of((768, 512))
    expected = sum(linear(each) for linear, each in zip(fusion.affine, embeddings, strict=True))
    torch.testing.assert_close(fusion(embeddings), expected)
    assert count(fusion) == (768 + 1) * 512 + (512 + 1) * 512


def test_gates_start_equal_and_are_shares() -> None:
    fusion, embeddings = make("gated"), embeddings_of()
    torch.testing.assert_close(fusion.gates(embeddings), torch.full((2, 5, 3), 1 / 3))
    means = torch.stack([linear(each) for linear, each in zip(fusion.affine, embeddings, strict=True)]).mean(dim=0)
    torch.testing.assert_close(fusion(embeddings), means)
    gates = woken(fusion).gates([10 * each for each in embeddings])
    assert ((gates >= 0) & (gates <= 1)).all()
    torch.testing.assert_close(gates.sum(dim=-1), torch.ones(2, 5))
    assert gates.std(dim=(0, 1)).min() > 0.01  # each row has its own
    # A gate that is open to one encoder alone passes that one alone.
    with torch.no_grad():
        fusion.gate.weight.zero_()
        fusion.gate.bias.copy_(torch.tensor([-99.0, 99.0, -99.0]))
    torch.testing.assert_close(fusion(embeddings), fusion.affine[1](embeddings[1]))


@pytest.mark.parametrize("widths", [(8,), WIDTHS])
def test_a_residual_starts_as_the_base(widths: tuple[int, ...]) -> None:
    fusion, embeddings = make("residual", widths), embeddings_of(widths)
    assert torch.equal(fusion(embeddings), embeddings[0])
    fusion(embeddings).square().sum().backward()
    assert fusion.layers[-1].weight.grad is not None
    assert (fusion.layers[-1].weight.grad != 0).any()
    assert not torch.allclose(woken(fusion)(embeddings), embeddings[0], atol=1e-2)


def test_attention_asks_with_the_base() -> None:
    fusion, embeddings = make("attention", WIDTHS, attention_heads=2, feedforward=6), embeddings_of()
    tokens = [linear(each) for linear, each in zip(fusion.affine, embeddings, strict=True)]
    for row in ((0, 0), (1, 4)):
        keys = torch.stack([token[row] for token in tokens])[None]  # (1, n, W)
        expected = fusion.attention(keys[:, :1], keys)[0, 0]
        torch.testing.assert_close(fusion(embeddings)[row], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="3 heads needs a width that is a multiple of 3, got 8 columns"):
        make("attention", attention_heads=3)
    assert make("attention", attention_heads=3, width=9).out_width == 9


def test_late_fusion_has_no_module() -> None:
    with pytest.raises(ConfigError, match=r"'late' joins the predictions .* \(encoders mae, au\)\. Build the whole"):
        make_fusion(HeadConfig(fuse=("au",), fusion="late"), (8, 8))


@pytest.mark.parametrize("name", ["sum", "auto", "residual"])
def test_a_width_is_refused_where_it_would_do_nothing(name: str) -> None:
    with pytest.raises(ConfigError, match=f"width is of fusion concat, .*; '{name}' keeps the base's: leave it out"):
        HeadConfig(fuse=("au",), fusion=name, width=8)
