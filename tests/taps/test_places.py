"""Residual stream, updates, hidden activations, routers and gates of every family, by what they have to add up to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.taps import FAMILIES, SITES, Handler, attached, shown
from taps.tiny import Recorder, logits_of, model_of, tokens_of

EXPERTS = [family for family in FAMILIES if FAMILIES[family].router is not None]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


class Edit(Handler):
    """Applies a function at one site, in one layer or everywhere."""

    def __init__(self, site, change, layer=None):
        self.sites, self.change, self.layer = frozenset({site}), change, layer

    def edit(self, site, layer, value):
        return value if self.layer is not None and layer != self.layer else self.change(value)


def seen_in(model, tokens, **kwargs):
    seen = Recorder(shown(model))
    with attached(model, seen):
        seen.output = model(tokens, **kwargs)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_updates_add_up_to_the_residual_stream(family):
    model = model_of(family)
    seen = seen_in(model, tokens_of(2, 7), output_hidden_states=True)
    h = seen.at("embed")[None]
    torch.testing.assert_close(h, seen.output.hidden_states[0])
    resid, attended, added = (seen.at(site) for site in ("resid", "attention_update", "mlp_update"))
    assert sorted(resid) == sorted(attended) == sorted(added) == [0, 1, 2]
    blocks = model.base_model.get_submodule(FAMILIES[family].blocks)
    for layer, block in enumerate(blocks):
        if family == "bert":  # norms after each addition
            middle = block.attention.output.LayerNorm(h + attended[layer])
            expected = block.output.LayerNorm(middle + added[layer])
        else:
            expected = h + attended[layer] + added[layer]
        torch.testing.assert_close(resid[layer], expected, rtol=1e-5, atol=1e-5)
        h = resid[layer]
    for layer in (0, 1):
        torch.testing.assert_close(resid[layer], seen.output.hidden_states[layer + 1])


@pytest.mark.parametrize("family", [family for family in FAMILIES if FAMILIES[family].down is not None])
def test_hidden_activations_enter_the_down_projection(family):
    model, row = model_of(family), FAMILIES[family]
    seen = seen_in(model, tokens_of(2, 7))
    dense = seen.at("mlp")
    routed = seen.at("router") if row.router else {}
    assert sorted({*dense, *routed}) == [0, 1, 2]
    for layer, hidden in dense.items():
        block = model.base_model.get_submodule(row.blocks)[layer]
        update = block.get_submodule(row.down)(hidden)
        if row.mlp_update == "post_feedforward_layernorm":
            update = block.post_feedforward_layernorm(update)
        torch.testing.assert_close(update, seen.at("mlp_update")[layer])


@pytest.mark.parametrize("family", EXPERTS)
def test_routers_say_what_the_model_does(family):
    """Logits, probabilities, choice and weights from the router's own matrix; the update from these and the experts."""
    model, row, tokens = model_of(family), FAMILIES[family], tokens_of(2, 7)
    inputs, hooks = {}, []
    for layer, block in enumerate(model.base_model.layers):
        hooks.append(block.mlp.register_forward_pre_hook(lambda _, args, at=layer: inputs.update({at: args[0]})))
    seen = seen_in(model, tokens)
    for hook in hooks:
        hook.remove()
    expected = {"deepseek_v3": [1, 2], "qwen3_moe": [0, 2], "qwen3_next": [0, 1]}.get(family, [0, 1, 2])
    assert sorted(seen.at("router")) == expected
    for layer, scores in seen.at("router").items():
        mlp, x = model.base_model.layers[layer].mlp, inputs[layer]
        router = mlp.get_submodule(row.router.path.removeprefix("mlp."))
        logits = x @ router.weight.T + (router.bias if family == "gpt_oss" else 0)
        p = logits.sigmoid() if family == "deepseek_v3" else logits.softmax(-1)
        torch.testing.assert_close(scores.logits, logits)
        torch.testing.assert_close(scores.probabilities, p)
        assert scores.kind == ("sigmoid" if family == "deepseek_v3" else "softmax")
        assert scores.shared == {"deepseek_v3": 2, "qwen3_next": 1}.get(family, 0)
        assert (scores.bias is not None) == (family == "deepseek_v3")
        chosen = p.gather(-1, scores.index)
        if family == "deepseek_v3":  # the best 3 by p + bias within the best 2 groups of 2
            biased = p + scores.bias
            groups = biased.unflatten(-1, (4, 2)).sum(-1).topk(2).indices
            allowed = torch.zeros_like(biased, dtype=torch.bool).unflatten(-1, (4, 2))
            allowed = allowed.scatter(-2, groups[..., None].expand(-1, -1, -1, 2), True).flatten(-2)
            best = biased.masked_fill(~allowed, -torch.inf).topk(3).indices
            weight = 2.5 * chosen / chosen.sum(-1, keepdim=True)
        else:
            best = p.topk(2).indices
            weight = chosen if family == "olmoe" else chosen / chosen.sum(-1, keepdim=True)
        assert torch.equal(scores.index.sort(-1).values, best.sort(-1).values)
        torch.testing.assert_close(scores.weight, weight)
        flat = (x.flatten(0, 1), scores.index.flatten(0, 1), scores.weight.flatten(0, 1))
        update = mlp.experts(*flat).reshape(x.shape)
        if family == "deepseek_v3":
            update = update + mlp.shared_experts(x)
        if family == "qwen3_next":
            update = update + torch.sigmoid(mlp.shared_expert_gate(x)) * mlp.shared_expert(x)
        torch.testing.assert_close(seen.at("mlp_update")[layer], update)


@pytest.mark.parametrize("family", EXPERTS)
def test_an_edited_router_is_obeyed(family):
    model, tokens = model_of(family), tokens_of(2, 7)
    layer = min(seen_in(model, tokens).at("router"))
    with attached(model, Edit("router", lambda s: replace(s, weight=torch.zeros_like(s.weight)), layer)):
        silenced = seen_in(model, tokens)
    assert (silenced.at("router")[layer].weight == 0).all()
    if silenced.at("router")[layer].shared == 0:
        assert (silenced.at("mlp_update")[layer] == 0).all()
    with attached(model, Edit("router", lambda s: replace(s, index=torch.full_like(s.index, 4)), layer)):
        one_expert = seen_in(model, tokens)
    assert not torch.equal(one_expert.at("mlp_update")[layer], silenced.at("mlp_update")[layer])
    wrong = Edit("router", lambda s: replace(s, index=s.index[..., :1], weight=s.weight[..., :1]))
    with attached(model, wrong), pytest.raises(Refusal, match=r"an edit at 'router'.*keeps index.*drop an expert by"):
        model(tokens)


def test_gates_are_shown_by_query_head_and_enter_the_attention():
    model, tokens = model_of("qwen3_next"), tokens_of(2, 7)
    seen, attention = seen_in(model, tokens), model.model.layers[1].self_attn
    gates = seen.at("gate")
    assert sorted(gates) == sorted(seen.at("attention")) == [1, 2]
    x = model.model.layers[1].input_layernorm(seen.at("resid")[0])
    projected = attention.q_proj(x).view(2, 7, 4, 16)
    torch.testing.assert_close(gates[1].scores, torch.sigmoid(projected[..., 8:]).transpose(1, 2))
    assert (gates[1].position, gates[1].combine) == ("sdpa", "multiply")
    (event,) = (event for event in seen.events if event.site == "attention" and event.layer == 1)
    torch.testing.assert_close(event.value.gate, gates[1].scores)
    update = attention.o_proj(event.output.transpose(1, 2).flatten(2))
    torch.testing.assert_close(update, seen.at("attention_update")[1])


@pytest.mark.parametrize(("score", "same"), [(None, True), (0.0, False), (1.0, False)])
def test_edited_gates_are_obeyed(score, same):
    model, tokens = model_of("qwen3_next"), tokens_of(2, 7)
    change = (lambda g: g) if same else (lambda g: replace(g, scores=torch.full_like(g.scores, score)))
    with attached(model, Edit("gate", change)):
        seen = seen_in(model, tokens)
    if same:
        torch.testing.assert_close(seen.output.logits, model(tokens).logits, rtol=1e-5, atol=1e-5)
    elif score == 0:
        assert all((seen.at("attention_update")[layer] == 0).all() for layer in (1, 2))
    else:
        assert all((event.value.gate == 1).all() for event in seen.events if event.site == "attention")


EDITS = {
    "tokens": (lambda x: x.flip(1), None),
    "key_mask": (lambda m: m.roll(1, 1), None),
    "embed": (lambda x: x * 0, None),
    "resid": (lambda x: -x, 1),
    "mlp": (lambda x: x * 0, 0),
    "attention_update": (lambda x: x * 0, 1),
    "mlp_update": (lambda x: x * 0, 1),
    "attention": (lambda call: replace(call, v=call.v * 0), 1),
    "logits": (lambda x: x + 1, None),
}


@pytest.mark.parametrize(
    ("family", "site"),
    [(family, site) for family in ("gpt2", "llama", "bert") for site in EDITS if site in FAMILIES[family].sites],
)
def test_an_edit_is_what_the_model_goes_on_with(family, site):
    model, tokens = model_of(family), tokens_of(3, 7)
    mask = torch.ones_like(tokens)
    mask[0, -2:] = 0
    plain = logits_of(model(tokens, attention_mask=mask))
    with attached(model, Edit(site, *EDITS[site])):
        seen = seen_in(model, tokens, attention_mask=mask)
    changed = logits_of(seen.output)
    assert not torch.allclose(changed, plain)
    if site == "tokens":
        torch.testing.assert_close(changed, logits_of(model(tokens.flip(1), attention_mask=mask)))
    if site == "key_mask":
        expected = logits_of(model(tokens, attention_mask=mask.roll(1, 1)))[0, 1:]
        torch.testing.assert_close(changed[0, 1:], expected, rtol=1e-5, atol=1e-5)
    if site == "logits":
        torch.testing.assert_close(changed, plain + 1, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_of(model(tokens, attention_mask=mask)), plain)


def test_every_site_is_edited_somewhere():
    assert {*EDITS, "router", "gate"} == set(SITES) - {"linear_attention"}
