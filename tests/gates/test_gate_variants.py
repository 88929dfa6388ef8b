"""Every gate variant: parameter shapes, effect, gradients, and its values against the equation spelled out in fp64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.gates import ACTIVATIONS, GateSpec
from gatescope.layers import Attention, AttentionSpec, Gate, score_shape
from gatescope.taps import Handler, attached
from torch import nn

D, H, G, K, T, B = 10, 4, 2, 6, 5, 2

VARIANTS = [
    GateSpec(
        position=position,
        granularity=granularity,
        sharing=sharing,
        activation=activation,
        combine=combine,
        input=source,
    )
    for position, granularity, sharing, activation, combine, source in itertools.product(
        ("sdpa", "value", "key", "query", "output"),
        ("element", "head"),
        ("per_head", "shared"),
        ACTIVATIONS,
        ("multiply", "add"),
        ("token", "none"),
    )
    if position != "output" or (granularity, sharing) == ("element", "per_head")
]


def name_of(spec: GateSpec) -> str:
    return "-".join((spec.position, spec.granularity, spec.sharing, spec.activation, spec.combine, spec.input))


def attention_of(gate: GateSpec | None) -> Attention:
    """A layer in fp64 whose weights are large enough to show; the same with any gate, the gate's own apart."""
    generator = torch.Generator().manual_seed(0)
    layer = Attention(AttentionSpec(H, G, K, gate=gate), D, layer=0).double()
    own = [] if gate is None else list(layer.gate.parameters())
    with torch.no_grad():
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj):
            projection.weight.normal_(std=0.4, generator=generator)
        for parameter in own:
            parameter.normal_(generator=generator)
    return layer


def inputs() -> torch.Tensor:
    return torch.randn(B, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def turned(x: torch.Tensor, theta: float) -> torch.Tensor:
    """RoPE, one position and one channel pair at a time."""
    out = torch.empty_like(x)
    half = x.shape[-1] // 2
    for t, c in itertools.product(range(x.shape[2]), range(half)):
        angle = t * theta ** (-2 * c / x.shape[-1])
        first, second = x[..., t, c], x[..., t, c + half]
        out[..., t, c] = first * math.cos(angle) - second * math.sin(angle)
        out[..., t, c + half] = second * math.cos(angle) + first * math.sin(angle)
    return out


def spelled_out(layer: Attention, x: torch.Tensor) -> torch.Tensor:
    """The docstring of `Attention`, term by term, every head with keys, values and scores of its own."""
    spec, gate = layer.spec.gate, layer.gate

    def heads(weight: torch.Tensor) -> torch.Tensor:
        return torch.einsum("btd,hkd->bhtk", x, weight.view(-1, K, D))

    if spec.input == "token":
        logits = torch.einsum("btd,nwd->bntw", x, gate.weight.view(*gate.shape, D))
        logits = logits if gate.bias is None else logits + gate.bias[:, None]
    else:
        logits = gate.logits[None, :, None].expand(B, -1, T, -1)
    sigmoid = 1 / (1 + torch.exp(-logits))
    scores = {
        "sigmoid": sigmoid,
        "non_sparse_sigmoid": 0.5 + 0.5 * sigmoid,
        "silu": logits * sigmoid,
        "tanh": 2 / (1 + torch.exp(-2 * logits)) - 1,
        "linear": logits,
    }[spec.activation]

    def at(position: str, y: torch.Tensor) -> torch.Tensor:
        if position != spec.position:
            return y
        full = scores.expand(-1, y.shape[1], -1, y.shape[-1])
        return y * full if spec.combine == "multiply" else y + full

    q = at("query", heads(layer.q_proj.weight))
    k = at("key", heads(layer.k_proj.weight)).repeat_interleave(H // G, 1)
    v = at("value", heads(layer.v_proj.weight)).repeat_interleave(H // G, 1)
    q, k = turned(q, layer.spec.rope_theta), turned(k, layer.spec.rope_theta)
    logit = torch.einsum("bhik,bhjk->bhij", q, k) / math.sqrt(K)
    weight = torch.exp(logit) * torch.ones(T, T, dtype=x.dtype).tril()
    a = weight / weight.sum(-1, keepdim=True)
    y = at("sdpa", torch.einsum("bhij,bhjk->bhik", a, v))
    out = torch.einsum("bhtk,dhk->btd", y, layer.o_proj.weight.view(D, H, K))
    return at("output", out[:, None])[:, 0]


@pytest.mark.parametrize("spec", VARIANTS, ids=name_of)
def test_values_gradients_and_effect(spec: GateSpec) -> None:
    layer, x = attention_of(spec), inputs()
    y = layer(x)
    torch.testing.assert_close(y, spelled_out(layer, x), rtol=1e-10, atol=1e-12)
    y.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    plain = attention_of(None)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert torch.equal(getattr(layer, name).weight, getattr(plain, name).weight)
    assert (y - plain(x)).abs().max() > 1e-3


SCORE_SHAPES = [
    # position, granularity, sharing, heads, channels
    ("sdpa", "element", "per_head", H, K),
    ("sdpa", "element", "shared", 1, K),
    ("sdpa", "head", "per_head", H, 1),
    ("sdpa", "head", "shared", 1, 1),
    ("query", "element", "per_head", H, K),
    ("query", "element", "shared", 1, K),
    ("query", "head", "per_head", H, 1),
    ("query", "head", "shared", 1, 1),
    ("key", "element", "per_head", G, K),
    ("key", "element", "shared", 1, K),
    ("key", "head", "per_head", G, 1),
    ("key", "head", "shared", 1, 1),
    ("value", "element", "per_head", G, K),
    ("value", "element", "shared", 1, K),
    ("value", "head", "per_head", G, 1),
    ("value", "head", "shared", 1, 1),
    ("output", "element", "per_head", 1, D),
]


@pytest.mark.parametrize("bias", [None, 2.0])
@pytest.mark.parametrize("source", ["token", "none"])
@pytest.mark.parametrize(("position", "granularity", "sharing", "heads", "channels"), SCORE_SHAPES)
def test_score_widths(position, granularity, sharing, heads, channels, source, bias) -> None:
    spec = GateSpec(position=position, granularity=granularity, sharing=sharing, input=source, bias_init=bias)
    assert score_shape(spec, n_heads=H, n_kv_heads=G, head_dim=K, d_model=D) == (heads, channels)
    layer = Attention(AttentionSpec(H, G, K, gate=spec), D)
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.gate.named_parameters()}
    if source == "none":
        assert shapes == {"logits": (heads, channels)}
        assert (layer.gate.logits == (bias or 0.0)).all()
    else:
        wanted = {"weight": (heads * channels, D)}
        assert shapes == (wanted if bias is None else wanted | {"bias": (heads, channels)})
        assert bias is None or (layer.gate.bias == bias).all()
    assert layer.gate(torch.randn(B, T, D)).shape == (B, heads, T, channels)


def test_initial_scores_follow_the_released_code() -> None:
    """N(0, 0.02) without bias: scores start near one half, not at the identity."""
    spec = GateSpec(position="sdpa")
    gate = Gate(spec, (8, 64), 512, generator=torch.Generator().manual_seed(0))
    assert gate.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert gate(torch.randn(4, 16, 512)).mean().item() == pytest.approx(0.5, abs=0.01)


class _Model(nn.Module):
    """The least that can be tapped: one attention layer."""

    def __init__(self, layer: Attention) -> None:
        super().__init__()
        self.layer = layer
        self.tap_sites = frozenset({"attention"} | ({"gate"} if layer.gate else set()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class _Identity(Handler):
    """Sets every gate score to the value that changes nothing, and keeps what it saw."""

    sites = frozenset({"gate"})

    def __init__(self) -> None:
        self.seen = []

    def edit(self, site, layer, value):
        return type(value)(torch.full_like(value.scores, value.identity), value.position, value.combine)

    def watch(self, event) -> None:
        self.seen.append((event.layer, event.value.position, event.value.combine, tuple(event.value.scores.shape)))


@pytest.mark.parametrize("combine", ["multiply", "add"])
@pytest.mark.parametrize("position", ["sdpa", "value", "key", "query", "output"])
def test_identity_scores_are_no_gate(position: str, combine: str) -> None:
    spec = GateSpec(position=position, combine=combine)
    model, x, handler = _Model(attention_of(spec)), inputs(), _Identity()
    with attached(model, handler):
        edited = model(x)
    torch.testing.assert_close(edited, attention_of(None)(x), rtol=1e-12, atol=1e-12)
    shape = score_shape(spec, n_heads=H, n_kv_heads=G, head_dim=K, d_model=D)
    assert handler.seen == [(0, position, combine, (B, shape[0], T, shape[1]))]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"position": "sdpa", "activation": "relu"}, "activation"),
        ({"position": "output", "granularity": "head"}, "W_O"),
        ({"position": "output", "sharing": "shared"}, "W_O"),
    ],
)
def test_impossible_gates_are_refused(changes: dict, word: str) -> None:
    with pytest.raises(Refusal, match=word):
        GateSpec(**changes)
