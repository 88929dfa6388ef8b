"""Mixture-of-experts blocks against loops over tokens, and what the specs refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from gatescope import checkpoints
from gatescope.errors import Refusal
from gatescope.layers import MoE, MoESpec
from gatescope.models import AttentionSpec, LMConfig, TinyLM
from gatescope.taps import Handler, attached

D = 12
SPECS = {
    "mixtral": MoESpec(experts=5, k=2, hidden=8),
    "one": MoESpec(experts=3, k=1, hidden=8, renormalise=False),
    "all": MoESpec(experts=3, k=3, hidden=8),
    "deepseek": MoESpec(experts=6, k=2, hidden=8, kind="sigmoid", balancing="bias"),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def layer_of(spec: MoESpec) -> MoE:
    layer = MoE(spec, D, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        for weight in layer.parameters():
            weight *= 20
        if layer.bias is not None:
            layer.bias += torch.linspace(-0.5, 0.5, spec.experts)
    return layer


def loops(layer: MoE, x: torch.Tensor) -> torch.Tensor:
    """Token by token, expert by expert."""
    layer = layer.requires_grad_(False)
    spec, y = layer.spec, torch.zeros_like(x)
    for b, t in torch.cartesian_prod(torch.arange(x.shape[0]), torch.arange(x.shape[1])).tolist():
        token = x[b, t]
        logits = layer.router.weight @ token
        p = torch.exp(logits) / torch.exp(logits).sum() if spec.kind == "softmax" else 1 / (1 + torch.exp(-logits))
        ranked = p if layer.bias is None else p + layer.bias
        best = sorted(range(spec.experts), key=lambda e: -float(ranked[e]))[: spec.k]
        total = sum(p[e] for e in best) if spec.renormalise else 1.0
        for e in best:
            gate = token @ layer.w_gate[e]
            hidden = gate / (1 + torch.exp(-gate)) * (token @ layer.w_up[e])
            y[b, t] += p[e] / total * (hidden @ layer.w_down[e])
    return y


def lm(spec: MoESpec) -> TinyLM:
    return TinyLM(LMConfig(19, D, 2, AttentionSpec(2, 1, 6), spec), init_seed=3)


class Seen(Handler):
    def __init__(self, site):
        self.sites, self.values = frozenset({site}), {}

    def watch(self, event):
        self.values[event.layer] = event.value


@each_spec
def test_equals_loops_over_tokens(spec) -> None:
    layer, x = layer_of(spec), torch.randn(2, 7, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), loops(layer, x))


@each_spec
def test_every_weight_learns(spec) -> None:
    layer, x = layer_of(spec), torch.randn(4, 30, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer(x).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in layer.parameters())


@each_spec
def test_the_router_is_shown_with_its_meaning(spec) -> None:
    model = lm(spec)
    seen = Seen("router")
    tokens = torch.randint(19, (2, 5), generator=torch.Generator().manual_seed(0))
    with attached(model, seen):
        model(tokens)
    assert {"router", "mlp_update"} <= model.tap_sites
    assert "mlp" not in model.tap_sites
    assert list(seen.values) == [0, 1]
    scores = seen.values[1]
    own = scores.logits.softmax(-1) if spec.kind == "softmax" else scores.logits.sigmoid()
    torch.testing.assert_close(scores.probabilities, own)
    assert scores.index.shape == scores.weight.shape == (2, 5, spec.k)
    chosen = scores.probabilities.gather(-1, scores.index)
    wanted = chosen / chosen.sum(-1, keepdim=True) if spec.renormalise else chosen
    torch.testing.assert_close(scores.weight, wanted)
    assert (scores.kind, scores.shared) == (spec.kind, 0)


@each_spec
def test_a_model_survives_its_file(spec, tmp_path) -> None:
    model = lm(spec)
    with torch.no_grad():
        for block in model.blocks:
            if block.mlp.bias is not None:
                block.mlp.balance(torch.arange(spec.experts).float(), rate=0.25)
    checkpoints.save_model(tmp_path / "m.safetensors", model)
    again = checkpoints.load_model(tmp_path / "m.safetensors")
    assert again.config == model.config
    assert LMConfig.from_dict(json.loads(json.dumps(model.config.to_dict()))) == model.config
    tokens = torch.arange(10)[None]
    assert torch.equal(again(tokens), model(tokens))


def test_the_bias_evens_the_load() -> None:
    layer = layer_of(replace(SPECS["deepseek"], k=1))
    x = torch.randn(8, 64, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x[..., 0] += 3.0

    def load() -> torch.Tensor:
        p = torch.sigmoid(x @ layer.router.weight.T) + layer.bias
        return torch.bincount(p.argmax(-1).flatten(), minlength=6).double()

    before = load()
    for _ in range(300):
        layer.balance(load(), rate=0.01)
    assert load().max() / load().mean() < 1.2 < before.max() / before.mean()


def test_only_a_balanced_layer_balances() -> None:
    with pytest.raises(Refusal, match=r"MoE\.balance: wanted a MoESpec with balancing='bias', got balancing=None"):
        layer_of(SPECS["mixtral"]).balance(torch.ones(5))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experts": 0}, "experts >= 1"),
        ({"k": 0}, "k >= 1"),
        ({"k": 6}, r"at most as many experts .*, got k=6 of 5"),
        ({"hidden": 0}, "hidden >= 1"),
        ({"kind": "tanh"}, r"MoESpec\.kind"),
        ({"balancing": "loss"}, r"MoESpec\.balancing"),
        ({"capacity": 1}, "MoESpec: .*also capacity"),
    ],
)
def test_the_spec_refuses_and_is_the_one_spoken_of(changes, words) -> None:
    data = lm(SPECS["mixtral"]).config.to_dict()
    data["mlp"] |= changes
    with pytest.raises(Refusal, match=words):
        LMConfig.from_dict(data)
