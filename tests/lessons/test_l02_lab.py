"""Lesson 02: fair variants, a blend that follows its equation, metrics on planted records, checks on known mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.errors import Refusal
from gatescope.interventions import BlendGates
from gatescope.panels.blending import measure_blend
from gatescope_lessons.l02_one_gate_no_sink import checks, lab
from gatescope_lessons.l02_one_gate_no_sink.panel import own_sequence
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge

CLAIMS = [claim for claim in load_claims() if claim.lesson == "l02_one_gate_no_sink"]
GATED = [name for name, config in lab.VARIANTS.items() if config.attention.gate]


@pytest.fixture(scope="module")
def published():
    return lab.published()


def test_variants_of_one_seed_share_every_weight_that_is_not_a_gate_or_a_sink():
    weights = {name: lab.training(name, seed=3).model.state_dict() for name in lab.VARIANTS}
    for name, own in weights.items():
        extra = set(own) - set(weights["softmax"])
        assert all("gate" in key or "sink" in key for key in extra)
        assert bool(extra) == (name not in {"softmax", "off_by_one"})
        assert all(torch.equal(value, own[key]) for key, value in weights["softmax"].items())


def test_an_unknown_variant_is_refused():
    with pytest.raises(Refusal, match="wanted a variant of"):
        lab.training("g9", 0)


@pytest.mark.parametrize("name", lab.VARIANTS)
def test_the_published_numbers_come_out_of_the_shipped_checkpoints(name, published):
    batch = lab.held_out(128)
    again = lab.evaluate(lab.load(name, seed=1), *batch)
    record = published.sel(variant=name, seed=1)
    np.testing.assert_allclose(again.first_attention, record.first_attention, atol=1e-4)
    np.testing.assert_allclose(again.loss, record.loss, atol=1e-4)


@pytest.mark.parametrize("name", GATED)
def test_blending_a_gate_out_changes_what_comes_after_it_and_nothing_before(name):
    model, (tokens, _) = lab.load(name), lab.held_out(8)
    off, half, learned = (measure_blend(model, tokens, amount) for amount in (0.0, 0.5, 1.0))
    assert torch.equal(*(torch.as_tensor(r.first_attention.sel(layer=0).values) for r in (off, learned)))
    assert abs(float((off.first_attention - learned.first_attention).sel(layer=1).max())) > 1e-3
    np.testing.assert_allclose(off.gate_mean, 1.0)
    np.testing.assert_allclose(
        half.gate_mean.sel(layer=0), 0.5 + 0.5 * learned.gate_mean.sel(layer=0), rtol=1e-5
    )  # layer 0 sees the same input at every amount
    assert float(off.nll) > float(learned.nll)
    with BlendGates(1.0).on(model), torch.no_grad():
        blended = model(tokens)
    assert torch.equal(blended, model(tokens))


def test_letters_are_tokens_and_back():
    tokens, _ = lab.held_out(2)
    assert torch.equal(lab.read(lab.spell(tokens[0])), tokens[:1])
    assert len(set(lab.ALPHABET)) == lab.TASK.vocab


@pytest.mark.parametrize(("letters", "said"), [("", "at least two"), ("^", "at least two"), ("Ax!Z", "! Z")])
def test_letters_that_are_no_tokens_are_refused(letters, said):
    with pytest.raises(Refusal, match=said):
        lab.read(letters)


def test_the_own_sequence_panel_answers_to_letters_and_to_the_model():
    panel = own_sequence("daAxdcfBqpAxhgBqdaAx")
    before = panel.frame("token_strip").set_index("token").token_nll
    assert before[4] > 1 > before[20]  # the first x after A is a surprise, the third is not
    panel.letters.value = "daAxdcfBqpAxhgBqdaAy"
    assert panel.frame("token_strip").set_index("token").token_nll[20] > 1
    panel.model.value = "g2_element"
    assert panel.message == ""
    panel.apply(
        model="g1_element", letters=lab.spell(lab.held_out(1)[0][0])
    )  # the law holds on the task, not on any text
    learned = panel.frame("token_strip").token_nll
    panel.amount.value = 0.0
    assert panel.frame("token_strip").token_nll.mean() > learned.mean()
    panel.letters.value = "A?"
    assert "got ?" in panel.message
    panel.reset()
    assert panel.message == ""
    np.testing.assert_allclose(panel.frame("token_strip").set_index("token").token_nll, before)


N_SEEDS = 5


def planted(opposite: bool) -> xr.Dataset:
    """A record in which every claim of the lesson holds clearly, or its opposite does; seeds differ a little."""
    wobble = 1 + 0.01 * np.arange(N_SEEDS)
    claimed = {"softmax": 0.6, "g1_element": 0.05, "g1_head": 0.06, "g2_element": 0.4, "learned_sink": 0.04,
               "off_by_one": 0.05}  # fmt: skip
    reverse = {"softmax": 0.3, "g1_element": 0.9, "g1_head": 0.8, "g2_element": 0.5, "learned_sink": 0.7,
               "off_by_one": 0.6}  # fmt: skip
    first = np.array(list((reverse if opposite else claimed).values()))[:, None] * wobble
    gated = np.array([name == "g1_element" for name in lab.VARIANTS])[:, None]
    shape = (len(lab.VARIANTS), N_SEEDS)
    better, worse = np.where(gated, 2.0, 2.2) * wobble, np.where(gated, 2.2, 2.0) * wobble
    heads = first[:, :, None, None] * np.array([0.3, 1.0])[:, None]
    gates = np.full((*shape, 2, 1), 0.8 if opposite else 0.2) * wobble[:, None, None]
    ratio = worse if opposite else np.where(gated, 5.0, 50.0) * wobble
    runs = ("variant", "seed")
    return xr.Dataset(
        {
            "first_attention": ((*runs, "layer", "head"), heads),
            "loss": (runs, worse if opposite else better),
            "gate_mean": ((*runs, "layer", "gate_head"), gates),
            "massive_ratio": ((*runs, "layer"), np.repeat(ratio[..., None], 2, -1)),
        },
        coords={"variant": list(lab.VARIANTS), "seed": list(range(N_SEEDS))},
    )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_shown_by_its_own_record_and_contradicted_by_the_opposite(claim):
    metric = lab.METRICS[claim.terms.metric]
    assert judge(metric(planted(opposite=False)), claim.terms).outcome == "shown"
    assert judge(metric(planted(opposite=True)), claim.terms).outcome == "contradicted"


def test_every_claim_has_its_metric():
    assert {claim.terms.metric for claim in CLAIMS} <= set(lab.METRICS)


def _gate(y, x, w, b):
    return torch.sigmoid(x @ w + b)


MISTAKES = [
    (checks.gated_output, lambda y, x, w, b: y * _gate(y, x, w, b), None),
    (checks.gated_output, _gate, "multiply Y by it"),
    (checks.gated_output, lambda y, x, w, b: y * (x @ w + b), "sigmoid is missing"),
    (checks.gated_output, lambda y, x, w, b: y * torch.sigmoid(x @ w), "bias is missing"),
    (checks.gated_output, lambda y, x, w, b: y + _gate(y, x, w, b), "is added"),
    (checks.gated_output, lambda y, x, w, b: y * (x @ w + b).softmax(-1), "compete"),
    (checks.off_by_one, lambda out, lse: out * torch.sigmoid(lse)[:, None], None),
    (checks.off_by_one, lambda out, lse: out / (1 + lse.exp())[:, None], "once more"),
    (checks.off_by_one, lambda out, lse: out * (lse / (1 + lse))[:, None], "use exp(LSE)"),
    (checks.off_by_one, lambda out, lse: torch.sigmoid(lse)[:, None], "multiply the output by it"),
    (checks.off_by_one, lambda out, lse: out * torch.sigmoid(lse), "your code raised RuntimeError"),
]


@pytest.mark.parametrize(("check", "answer", "diagnosis"), MISTAKES)
def test_checks_name_the_mistake(check, answer, diagnosis, expect_diagnosis):
    expect_diagnosis(check, answer, diagnosis)


def test_the_ratio_is_checked_with_its_seeds():
    record = planted(opposite=False)
    top = record.first_attention.max(("layer", "head"))
    gated, plain = top.sel(variant="g1_element"), top.sel(variant="softmax")
    assert checks.sink_ratio(gated / plain, record)
    assert "turn the ratio round" in checks.sink_ratio(plain / gated, record).detail
    assert "your evidence" in checks.sink_ratio((gated / plain).mean(), record).detail
    assert checks.sink_ratio(..., record).status == "not attempted"


def test_the_learner_is_judged_by_the_same_rule_as_the_claims():
    record = planted(opposite=False)
    assert checks.verdicts({"g1_element": "shown", "off_by_one": "shown"}, record)
    wrong = checks.verdicts({"g1_element": "contradicted", "off_by_one": "shown"}, record)
    assert "you say 'contradicted', but the ratios are [0.08" in wrong.detail
    assert "still to judge: off_by_one" in checks.verdicts({"g1_element": "shown"}, record).detail
    assert checks.verdicts({"g1_element": ..., "off_by_one": ...}, record).status == "not attempted"
