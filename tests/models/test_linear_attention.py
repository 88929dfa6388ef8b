"""Linear attention in a model: the recurrence spelled out, decoding, padding, packing, taps, refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.gates import GateSpec
from gatescope.interventions import BlendGates
from gatescope.layers import LinearAttention, LinearAttentionSpec, half_life
from gatescope.layers.decay import logit_of
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, TinyLM
from gatescope.probes import Gates
from gatescope.scope import Scope
from gatescope.taps import Handler, attached
from torch import Tensor, nn

D = 12
SOFTMAX = AttentionSpec(2, 1, 6)
GATE = GateSpec(position="sdpa", activation="silu")
CHANNEL = LinearAttentionSpec(n_heads=2, key_dim=5, value_dim=4, half_life=6.0)
VARIANTS = {
    "none": replace(CHANNEL, decay="none"),
    "fixed": replace(CHANNEL, decay="fixed"),
    "head": replace(CHANNEL, decay="head", convolution=3),
    "channel": CHANNEL,
    "plain": replace(CHANNEL, directions="plain"),
    "gated": replace(CHANNEL, gate=GATE, convolution=4),
    "delta": replace(CHANNEL, decay="head", update="delta", convolution=2),
    "kimi": replace(CHANNEL, update="delta"),
}
each_variant = pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)


def layer_of(spec: LinearAttentionSpec) -> LinearAttention:
    """A layer with weights large enough that every part of it shows."""
    generator = torch.Generator().manual_seed(4)
    layer = LinearAttention(spec, D, layer=1, generator=generator).double()
    with torch.no_grad():
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=0.6, generator=generator)
    return layer


def model_of(*mixers, mlp=None) -> TinyLM:
    return TinyLM(LMConfig(19, D, len(mixers), tuple(mixers), mlp, init_std=0.3), init_seed=2).double()


def inputs(batch: int = 2, length: int = 9) -> Tensor:
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def tokens_of(batch: int = 2, length: int = 11) -> Tensor:
    return torch.randint(19, (batch, length), generator=torch.Generator().manual_seed(3))


def written_out(layer: LinearAttention, x: Tensor) -> Tensor:
    """The layer for one sequence [T D], head by head and token by token, from its weights alone."""
    spec, own = layer.spec, dict(layer.named_parameters())
    H, K, V = spec.n_heads, spec.key_dim, spec.value_dim
    projected = {}
    for place, name in enumerate(("q", "k", "v")):
        y = x @ own[f"{name}_proj.weight"].T
        if spec.convolution:
            start = place * H * K
            w = own["convolution.weight"][:, start : start + y.shape[1]]
            rows = [sum(w[j] * y[t - j] for j in range(len(w)) if t >= j) for t in range(len(y))]
            y = torch.stack(rows)
        projected[name] = y
    gates = None
    if spec.gate:
        logits = (x @ own["gate.weight"].T).view(len(x), H, V)
        gates = logits * torch.sigmoid(logits)
    rows = []
    state = torch.zeros(H, K, V, dtype=x.dtype)
    for t in range(len(x)):
        heads = []
        for h in range(H):
            q, k = (projected[name][t, h * K : (h + 1) * K] for name in ("q", "k"))
            v = projected["v"][t, h * V : (h + 1) * V]
            if spec.directions == "unit":
                q, k = q / q.norm(), k / k.norm()
            else:
                q = q / math.sqrt(K)
            logit = {
                "none": lambda: torch.tensor([math.inf], dtype=x.dtype),
                "fixed": lambda h=h: own["decay.bias"][h : h + 1],
                "head": lambda h=h, t=t: (own["decay.up.weight"] @ x[t] + own["decay.bias"])[h : h + 1],
                "channel": lambda h=h, t=t: (
                    own["decay.up.weight"] @ own["decay.down.weight"] @ x[t] + own["decay.bias"]
                )[h * K : (h + 1) * K],
            }[spec.decay]()
            kept = torch.sigmoid(logit) ** (1 / 16) * state[h].T  # [V K]
            if spec.update == "delta":
                beta = torch.sigmoid(own["beta_proj.weight"][h] @ x[t])
                kept = kept - beta * torch.outer(kept @ k, k)
                kept = kept + beta * torch.outer(v, k)
            else:
                kept = kept + torch.outer(v, k)
            state[h] = kept.T
            out = kept @ q
            if gates is not None:
                out = out / (out.square().mean() + 1e-5).sqrt() * own["norm.weight"] * gates[t, h]
            heads.append(out)
        rows.append(own["o_proj.weight"] @ torch.cat(heads))
    return torch.stack(rows)


@each_variant
@torch.no_grad()
def test_is_the_recurrence_written_out(spec: LinearAttentionSpec) -> None:
    layer, x = layer_of(spec), inputs()
    wanted = torch.stack([written_out(layer, sequence) for sequence in x])
    torch.testing.assert_close(layer(x), wanted, rtol=1e-9, atol=1e-10)


@each_variant
@torch.no_grad()
def test_decoding_gives_what_the_whole_sequence_gives(spec: LinearAttentionSpec) -> None:
    layer, x = layer_of(spec), inputs()
    state, rows = layer.start(2), []
    for t in range(x.shape[1]):
        row, state = layer.step(x[:, t], state)
        rows.append(row)
        assert state.memory.shape == (2, 2, 5, 4)
        assert state.recent.shape == (2, (spec.convolution or 1) - 1, 2 * (5 + 5 + 4))
    torch.testing.assert_close(torch.stack(rows, 1), layer(x), rtol=1e-9, atol=1e-10)


@each_variant
def test_causal_and_differentiable(spec: LinearAttentionSpec) -> None:
    model, tokens = model_of(SOFTMAX, spec), tokens_of()
    later = tokens.clone()
    later[:, 6:] = (later[:, 6:] + 1) % 19
    before, after = model(tokens), model(later)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=1e-10, atol=1e-10)
    assert ((before - after)[:, 6:].abs().amax(-1) > 1e-6).all()
    before.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@each_variant
def test_padding_is_read_by_no_one(spec: LinearAttentionSpec) -> None:
    model, tokens = model_of(spec, spec), tokens_of()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, 3:5] = False
    other = tokens.clone()
    other[1, 3:5] = (other[1, 3:5] + 1) % 19
    torch.testing.assert_close(model(tokens, mask)[mask], model(other, mask)[mask], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(model(tokens)[mask], model(other)[mask])


@each_variant
def test_packed_documents_read_as_if_alone(spec: LinearAttentionSpec) -> None:
    model, tokens = model_of(spec, SOFTMAX, spec), tokens_of()
    packed = model(tokens, documents=torch.tensor([[0] * 4 + [1] * 6 + [2], [3] * 11]))
    for b, start, stop in ((0, 0, 4), (0, 4, 10), (0, 10, 11), (1, 0, 11)):
        alone = model(tokens[b : b + 1, start:stop])
        torch.testing.assert_close(packed[b : b + 1, start:stop], alone, rtol=1e-9, atol=1e-9)


def test_softmax_attention_may_have_the_convolution_too() -> None:
    """Causal, and a model of its own; without RoPE and convolution softmax attention does not know an order."""
    tokens, swapped = tokens_of(), tokens_of()[:, [1, 0, *range(2, 11)]]
    blind = model_of(replace(SOFTMAX, rope_theta=None))
    torch.testing.assert_close(blind(tokens)[:, -1], blind(swapped)[:, -1], rtol=1e-10, atol=1e-10)
    sighted = model_of(replace(SOFTMAX, rope_theta=None, convolution=2))
    assert not torch.allclose(sighted(tokens)[:, -1], sighted(swapped)[:, -1])
    later = tokens.clone()
    later[:, 6:] = (later[:, 6:] + 1) % 19
    torch.testing.assert_close(sighted(tokens)[:, :6], sighted(later)[:, :6], rtol=1e-10, atol=1e-10)


class _Seen(Handler):
    def __init__(self, sites: frozenset[str]) -> None:
        self.sites, self.seen = sites, []

    def watch(self, event) -> None:
        self.seen.append((event.site, event.layer))


def test_shows_the_sites_it_names() -> None:
    model = model_of(SOFTMAX, CHANNEL, replace(CHANNEL, decay="none"))
    handler = _Seen(model.tap_sites)
    with attached(model, handler):
        model(tokens_of())
    per_block = [
        ["attention", "attention_update", "resid"],
        ["gate", "linear_attention", "attention_update", "resid"],
        ["linear_attention", "attention_update", "resid"],
    ]
    wanted = [("tokens", None), ("key_mask", None), ("embed", None)]
    wanted += [(site, layer) for layer, block in enumerate(per_block) for site in block]
    assert handler.seen == [*wanted, ("logits", None)]
    assert model_of(replace(CHANNEL, decay="none"), mlp=MLPSpec("gelu", 8)).tap_sites >= {"mlp", "mlp_update"}
    assert "attention" not in model_of(CHANNEL).tap_sites


def test_scope_sees_the_decay_gates_and_blending_moves_them() -> None:
    """At 0 a blended decay is 1, and the layer one without decay; at 1 the very bits it had."""
    model = model_of(CHANNEL)
    with torch.no_grad(), Scope(model, probes=[Gates("decay")]) as scope:
        plain = model(tokens_of())
    record = scope.record()
    assert record.gate_mean.dims == ("layer", "gate_head")
    assert record.gate_mean.shape == (1, 2)
    assert ((record.gate_mean > 0.5) & (record.gate_mean < 0.99)).all()
    bare = model_of(replace(CHANNEL, decay="none"))
    bare.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad(), BlendGates(0.0).on(model):
        torch.testing.assert_close(model(tokens_of()), bare(tokens_of()))
    with torch.no_grad(), BlendGates(1.0).on(model):
        torch.testing.assert_close(model(tokens_of()), plain)
    assert not torch.allclose(bare(tokens_of()), plain)


@pytest.mark.parametrize("tokens", [0.5, 16.0, 1000.0])
def test_a_half_life_is_what_halves(tokens: float) -> None:
    score = torch.sigmoid(torch.tensor(logit_of(tokens), dtype=torch.float64)) ** (1 / 16)
    assert float(score**tokens) == pytest.approx(0.5)
    assert half_life(float(score)) == pytest.approx(tokens)


def test_half_lives_at_the_ends() -> None:
    assert half_life(0.0) == 0.0
    assert half_life(1.0) == math.inf
    assert half_life(0.9) == pytest.approx(6.5788, abs=1e-4)
    assert logit_of(16.0) == pytest.approx(0.0)


def test_only_a_decay_made_from_the_token_tells_tokens_apart() -> None:
    def scores(spec: LinearAttentionSpec) -> Iterator[Tensor]:
        class Keep(Handler):
            sites = frozenset({"gate"})

            def watch(self, event) -> None:
                kept.append(event.value.scores)

        kept: list[Tensor] = []
        model = model_of(spec)
        with attached(model, Keep()):
            model(tokens_of())
        return iter(kept)

    fixed, head, channel = (next(scores(VARIANTS[name])) for name in ("fixed", "head", "channel"))
    assert fixed.shape == head.shape == (2, 2, 11, 1)
    assert channel.shape == (2, 2, 11, 5)
    assert torch.equal(fixed, fixed[:1, :, :1].expand_as(fixed))
    assert head.std(2).min() > 1e-4
    assert channel.std(-1).min() > 1e-5


def test_config_of_a_hybrid_survives_json() -> None:
    config = LMConfig(19, D, 3, (SOFTMAX, VARIANTS["gated"], VARIANTS["delta"]), None, init_std=0.1)
    assert LMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    one = replace(config, attention=CHANNEL)
    assert LMConfig.from_dict(one.to_dict()) == one
    assert one.mixers == (CHANNEL,) * 3


def test_init_std_scales_the_maps_and_nothing_else() -> None:
    config = LMConfig(19, D, 2, (SOFTMAX, CHANNEL), MLPSpec("gelu", 16))
    narrow, wide = (TinyLM(c, init_seed=3).state_dict() for c in (config, replace(config, init_std=0.1)))
    for name, weight in narrow.items():
        linear = weight.ndim == 2 and "embed" not in name and "convolution" not in name
        torch.testing.assert_close(wide[name], 5 * weight if linear else weight)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_heads": 0}, "n_heads >= 1"),
        ({"key_dim": 0}, "key_dim >= 1"),
        ({"value_dim": -1}, "value_dim >= 1"),
        ({"half_life": 0.0}, "half_life > 0"),
        ({"half_life": math.inf}, "half_life > 0"),
        ({"update": "delta", "directions": "plain"}, "keys of length 1"),
        ({"convolution": 0}, "convolution >= 1"),
        ({"gate": GateSpec(position="value")}, "position 'sdpa'"),
    ],
)
def test_spec_refuses(changes: dict, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        replace(CHANNEL, **changes)


@pytest.mark.parametrize("field", ["decay", "update", "directions"])
def test_a_file_may_not_name_an_unknown_variant(field: str) -> None:
    config = LMConfig(19, D, 1, CHANNEL, None).to_dict()
    config["attention"][field] = "odd"
    with pytest.raises(Refusal, match=f"LinearAttentionSpec.{field}"):
        LMConfig.from_dict(config)


def test_config_refuses_a_pattern_of_another_length() -> None:
    with pytest.raises(Refusal, match="2 for 3 blocks"):
        LMConfig(19, D, 3, (SOFTMAX, CHANNEL), None)
    with pytest.raises(Refusal, match="init_std > 0"):
        LMConfig(19, D, 1, CHANNEL, None, init_std=0.0)
    with pytest.raises(Refusal, match="convolution >= 1"):
        replace(SOFTMAX, convolution=0)
