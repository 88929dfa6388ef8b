"""Liger layers: the recurrence and the window written out, pure forms, ablations, decoding, padding, packing, taps."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.gates import GateSpec
from gatescope.interventions import BlendGates
from gatescope.layers import LigerAttention, LigerSpec, LinearAttentionSpec
from gatescope.models import AttentionSpec, Decoder, LMConfig, MLPSpec, TinyLM
from gatescope.probes import Gates
from gatescope.scope import Scope
from gatescope.surgery import to_liger
from gatescope.taps import Handler, attached
from gatescope_kernels import Visibility
from torch import Tensor, nn

D, VOCAB = 12, 19
PLAIN = AttentionSpec(2, 2, 6, rope_theta=None)
GROUPED = AttentionSpec(4, 2, 6, rope_theta=50.0, convolution=3)
VARIANTS = {
    "liger": LigerSpec(attention=GROUPED, window=4),
    "head": LigerSpec(attention=GROUPED, window=4, decay="head", mix=0.3),
    "fixed": LigerSpec(attention=GROUPED, window=3, decay="fixed"),
    "ungated": LigerSpec(attention=PLAIN, window=3, decay="none"),
    "mean": LigerSpec(attention=GROUPED, window=2, denominator="sum"),
    "recurrent": LigerSpec(attention=GROUPED, mix=1.0),
    "window": LigerSpec(attention=GROUPED, mix=0.0, window=4),
    "one": LigerSpec(attention=PLAIN, window=1),
    "cache": LigerSpec(attention=GROUPED, mix=0.0, window=None),
}
each_variant = pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)


def layer_of(spec: LigerSpec) -> LigerAttention:
    """A layer with weights large enough that every part of it shows."""
    generator = torch.Generator().manual_seed(4)
    layer = LigerAttention(spec, D, layer=1, generator=generator).double()
    with torch.no_grad():
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=0.6, generator=generator)
    return layer


def trained(*mixers: AttentionSpec, mlp: MLPSpec | None = None) -> TinyLM:
    """Stands for a trained model: large weights."""
    return TinyLM(LMConfig(VOCAB, D, len(mixers), tuple(mixers), mlp, init_std=0.4), init_seed=2).double().eval()


def inputs(length: int = 9) -> Tensor:
    return torch.randn(2, length, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def tokens_of(length: int = 11) -> Tensor:
    return torch.randint(VOCAB, (2, length), generator=torch.Generator().manual_seed(3))


def turned_by(x: Tensor, t: int, theta: float | None) -> Tensor:
    """RoPE as complex numbers: channels c and c + K/2 are one number, turned by t theta^(-2c/K)."""
    if theta is None:
        return x
    half = len(x) // 2
    pairs = torch.complex(x[:half], x[half:])
    angle = t * theta ** (-torch.arange(half, dtype=x.dtype) * 2 / len(x))
    pairs = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pairs.real, pairs.imag])


def written_out(layer: LigerAttention, x: Tensor) -> Tensor:
    """The layer for one sequence [T D], head by head and token by token, from its weights alone."""
    spec, plain, own = layer.liger, layer.spec, dict(layer.named_parameters())
    H, G, K = plain.n_heads, plain.n_kv_heads, plain.head_dim
    projected = torch.cat([x @ own[f"{name}_proj.weight"].T for name in "qkv"], -1)
    if plain.convolution:
        w = own["convolution.weight"]
        rows = [sum(w[j] * projected[t - j] for j in range(len(w)) if t >= j) for t in range(len(x))]
        projected = torch.stack(rows)
    q, k, v = projected.split([H * K, G * K, G * K], -1)
    outputs = torch.zeros(len(x), H * K, dtype=x.dtype)
    for h in range(H):
        own_q, group = q[:, h * K : (h + 1) * K], h // (H // G)
        own_k, own_v = (part[:, group * K : (group + 1) * K] for part in (k, v))
        state, norm = torch.zeros(K, K, dtype=x.dtype), torch.zeros(K, dtype=x.dtype)
        for t in range(len(x)):
            logit = {
                "channel": own_k[t],
                "head": own_k[t].mean().expand(K),
                "fixed": torch.zeros(K, dtype=x.dtype),
                "none": torch.full((K,), math.inf, dtype=x.dtype),
            }[spec.decay]
            kept = torch.sigmoid(logit) ** (1 / 16)
            feature = own_k[t].exp() / own_k[t].exp().sum()
            state, norm = kept[:, None] * state + torch.outer(feature, own_v[t]), kept * norm + feature
            asked = own_q[t].exp() / own_q[t].exp().sum()
            recurrent = asked @ state
            if spec.denominator == "sum":
                recurrent = recurrent / (asked @ norm)
            first = 0 if spec.window is None else max(0, t - spec.window + 1)
            query = turned_by(own_q[t], t, plain.rope_theta)
            logits = [query @ turned_by(own_k[s], s, plain.rope_theta) / math.sqrt(K) for s in range(first, t + 1)]
            weights = torch.stack(logits).exp()
            softmax = weights @ own_v[first : t + 1] / weights.sum()
            outputs[t, h * K : (h + 1) * K] = spec.mix * recurrent + (1 - spec.mix) * softmax
    return outputs @ own["o_proj.weight"].T


@each_variant
@pytest.mark.parametrize("length", [1, 9])
@torch.no_grad()
def test_is_the_recurrence_and_the_window_written_out(spec: LigerSpec, length: int) -> None:
    layer, x = layer_of(spec), inputs(length)
    wanted = torch.stack([written_out(layer, sequence) for sequence in x])
    torch.testing.assert_close(layer(x), wanted, rtol=1e-9, atol=1e-10)


@each_variant
@torch.no_grad()
def test_decoding_gives_what_the_whole_sequence_gives(spec: LigerSpec) -> None:
    layer, x = layer_of(spec), inputs()
    state, rows = layer.start(2), []
    for t in range(x.shape[1]):
        row, state = layer.step(x[:, t], state)
        rows.append(row)
    torch.testing.assert_close(torch.stack(rows, 1), layer(x), rtol=1e-9, atol=1e-10)


@each_variant
def test_what_decoding_carries_does_not_grow_but_for_a_full_cache(spec: LigerSpec) -> None:
    model, carried = to_liger(trained(spec.attention), mix=spec.mix, window=spec.window), []
    decoder = Decoder(model)
    for token in tokens_of(40)[0]:
        decoder.step(token[None])
        carried.append(decoder.carried)
    plain = spec.attention
    kept = {"window": 2 * plain.n_kv_heads * plain.head_dim, "state": plain.n_heads * plain.head_dim**2}
    recent = ((plain.convolution or 1) - 1) * (plain.n_heads + 2 * plain.n_kv_heads) * plain.head_dim
    places = 0 if spec.mix == 1 else 40 if spec.window is None else spec.window - 1
    assert carried[-1] == recent + places * kept["window"] + (spec.mix > 0) * kept["state"]
    assert (len(set(carried[4:])) == 1) == (spec.window is not None or spec.mix == 1)


@each_variant
def test_causal_and_differentiable(spec: LigerSpec) -> None:
    model, tokens = to_liger(trained(spec.attention, spec.attention), mix=spec.mix, window=spec.window), tokens_of()
    later = tokens.clone()
    later[:, 6:] = (later[:, 6:] + 1) % VOCAB
    before, after = model(tokens), model(later)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=1e-10, atol=1e-10)
    assert ((before - after)[:, 6:].abs().amax(-1) > 1e-6).all()
    before.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@each_variant
def test_padding_is_read_by_no_one_and_documents_stand_alone(spec: LigerSpec) -> None:
    model, tokens = trained(spec.attention, spec.attention), tokens_of()
    model = to_liger(model, mix=spec.mix, window=spec.window, decay=spec.decay, denominator=spec.denominator)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, 3:5] = mask[0, :2] = False
    other = torch.where(mask, tokens, (tokens + 1) % VOCAB)
    torch.testing.assert_close(model(tokens, mask)[mask], model(other, mask)[mask], rtol=1e-10, atol=1e-10)
    packed = model(tokens, documents=torch.tensor([[0] * 4 + [1] * 7, [2] * 11]))
    for b, start, stop in ((0, 0, 4), (0, 4, 11), (1, 0, 11)):
        alone = model(tokens[b : b + 1, start:stop])
        torch.testing.assert_close(packed[b : b + 1, start:stop], alone, rtol=1e-9, atol=1e-9)


def test_at_the_ends_of_the_mix_it_is_exactly_the_pure_form() -> None:
    """Window and trained layer at 0, whatever the other half would say; at 1 no window matters."""
    model, tokens = trained(GROUPED, PLAIN), tokens_of()
    assert torch.equal(to_liger(model, mix=0.0, window=None, decay="none")(tokens), model(tokens))
    for window in (11, 500):
        seen = to_liger(model, mix=0.0, window=window)(tokens)
        torch.testing.assert_close(seen, model(tokens), rtol=1e-12, atol=1e-12)
    windowed = trained(*(replace(spec, visibility=Visibility(window=3)) for spec in (GROUPED, PLAIN)))
    assert torch.equal(to_liger(model, mix=0.0, window=3)(tokens), windowed(tokens))
    assert torch.equal(to_liger(model, mix=1.0, window=2)(tokens), to_liger(model, mix=1.0, window=None)(tokens))
    whole = to_liger(model, window=11)(tokens)
    torch.testing.assert_close(whole, to_liger(model, window=None)(tokens), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(to_liger(model, mix=1.0)(tokens), model(tokens))


def test_the_mix_lies_between_its_halves() -> None:
    layer, x = layer_of(VARIANTS["liger"]), inputs()
    halves = {}
    for mix in (0.0, 0.25, 1.0):
        layer.liger = replace(VARIANTS["liger"], mix=mix)
        halves[mix] = layer(x)
    torch.testing.assert_close(halves[0.25], 0.25 * halves[1.0] + 0.75 * halves[0.0])


def test_a_gate_from_keys_differs_from_no_gate_and_from_a_fixed_one() -> None:
    """And it is the only one that tells tokens apart."""
    model, tokens = trained(GROUPED), tokens_of()
    made = {decay: to_liger(model, decay=decay, mix=1.0)(tokens) for decay in ("channel", "head", "fixed", "none")}
    for one in made:
        for other in made:
            assert (one == other) == torch.allclose(made[one], made[other], atol=1e-6)
    scores = {}
    for decay in ("channel", "head", "fixed"):
        keep = Keep()
        converted = to_liger(model, decay=decay)
        with attached(converted, keep):
            converted(tokens)
        scores[decay] = keep.kept[0]
    assert scores["channel"].shape == (2, 2, 11, 6)
    assert scores["head"].shape == scores["fixed"].shape == (2, 2, 11, 1)
    torch.testing.assert_close(scores["fixed"], torch.full((2, 2, 11, 1), 0.5, dtype=torch.float64) ** (1 / 16))
    assert scores["channel"].std(2).min() > 1e-4
    assert scores["head"].std(2).min() > 1e-4


def test_differs_from_its_window_alone_once_a_key_has_left_the_window() -> None:
    model, tokens = trained(PLAIN), tokens_of()
    other = tokens.clone()
    other[:, 0] = (other[:, 0] + 1) % VOCAB
    moved = {
        mix: (to_liger(model, mix=mix, window=3)(tokens) - to_liger(model, mix=mix, window=3)(other)).abs()
        for mix in (0.0, 0.5)
    }
    assert moved[0.0][:, 3:].max() == 0
    assert moved[0.5][:, 3:].amax(-1).min() > 1e-6


class Keep(Handler):
    sites = frozenset({"gate"})

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def watch(self, event) -> None:
        self.kept.append(event.value.scores)


class Seen(Handler):
    def __init__(self, sites: frozenset[str]) -> None:
        self.sites, self.seen = sites, []

    def watch(self, event) -> None:
        self.seen.append((event.site, event.layer))


def test_shows_the_sites_it_names() -> None:
    base = trained(PLAIN, GROUPED, mlp=MLPSpec("gelu", 8))
    wanted = {
        0.0: ["attention"],
        0.5: ["gate", "linear_attention", "attention"],
        1.0: ["gate", "linear_attention"],
    }
    for mix, block in wanted.items():
        model = to_liger(base, mix=mix)
        handler = Seen(model.tap_sites)
        with attached(model, handler):
            model(tokens_of())
        rest = ["attention_update", "mlp", "mlp_update", "resid"]
        sites = [(site, layer) for layer in (0, 1) for site in [*block, *rest]]
        assert handler.seen == [("tokens", None), ("key_mask", None), ("embed", None), *sites, ("logits", None)]
    assert "gate" not in to_liger(base, decay="none").tap_sites


def test_scope_sees_the_gates_and_blending_takes_them_away() -> None:
    base, tokens = trained(GROUPED), tokens_of()
    model = to_liger(base, mix=1.0)
    with torch.no_grad(), Scope(model, probes=[Gates("decay")]) as scope:
        model(tokens)
    assert scope.record().gate_mean.shape == (1, 2)
    with torch.no_grad(), BlendGates(0.0).on(model):
        torch.testing.assert_close(model(tokens), to_liger(base, mix=1.0, decay="none")(tokens))


def test_a_decoder_reads_models_with_mlps_and_other_states() -> None:
    config = LMConfig(
        VOCAB, D, 2, (GROUPED, LinearAttentionSpec(n_heads=2, key_dim=3, value_dim=4)), MLPSpec("gelu", 9)
    )
    model, tokens = to_liger(TinyLM(config, init_seed=1).double(), window=2), tokens_of()
    decoder = Decoder(model, batch=2)
    rows = torch.stack([decoder.step(column) for column in tokens.T], 1)
    torch.testing.assert_close(rows, model(tokens), rtol=1e-9, atol=1e-10)
    with pytest.raises(Refusal, match="softmax attention in block 0; to_liger"):
        Decoder(TinyLM(config))
    with pytest.raises(Refusal, match="batch >= 1"):
        Decoder(model, batch=0)


def test_config_survives_json() -> None:
    config = to_liger(trained(GROUPED, PLAIN), decay="head", mix=0.25, window=None, denominator="sum").config
    assert LMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("field", ["decay", "denominator"])
def test_a_file_may_not_name_an_unknown_variant(field: str) -> None:
    config = LMConfig(VOCAB, D, 1, VARIANTS["liger"], None).to_dict()
    config["attention"][field] = "odd"
    with pytest.raises(Refusal, match=f"LigerSpec.{field}"):
        LMConfig.from_dict(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mix": -0.1}, "mix from 0 to 1"),
        ({"mix": math.nan}, "mix from 0 to 1"),
        ({"window": 0}, "window >= 1 or None"),
        ({"attention": replace(PLAIN, sink="learned")}, "plain causal softmax"),
        ({"attention": replace(PLAIN, gate=GateSpec(position="sdpa"))}, "plain causal softmax"),
        ({"attention": replace(PLAIN, visibility=Visibility(window=4))}, "plain causal softmax"),
    ],
)
def test_spec_refuses(changes: dict, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        replace(VARIANTS["liger"], **changes)
