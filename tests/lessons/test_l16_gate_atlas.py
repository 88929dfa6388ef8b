"""Lesson 16: two studies as one record, metrics on planted numbers, a panel at its ends, checks on known mistakes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.errors import Refusal
from gatescope.records import Quantity, new
from gatescope.studies import expand, load
from gatescope_lessons.l02_one_gate_no_sink import lab as one_gate
from gatescope_lessons.l16_gate_atlas import checks, lab
from gatescope_lessons.l16_gate_atlas.panel import METRICS, VARIED, atlas_panel
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge

CLAIMS = [claim for claim in load_claims() if claim.lesson == "l16_gate_atlas"]
NAMES = tuple(METRICS)
HELD = ("trigger_loss", "first_attention")


def kept(name: str) -> xr.Dataset:
    """A study as it is kept, its numbers a rule: first-token attention 0.1 for sdpa, 0.5 elsewhere, and a seed's
    hundredth; the loss by learning rate 0.1, but 3 beyond 1e-2 (no gate) and beyond 2e-2 (gates)."""
    points = expand(load(name)).points
    fields = {key: [point.config[key] for point in points] for key in (*lab.AXES, "lr", "seed")}
    values = {}
    for metric in NAMES:
        found = np.full(len(points), 0.5) + 0.01 * np.array(fields["seed"])
        if metric == "first_attention":
            found = found - 0.4 * (np.array(fields["position"]) == "sdpa")
        if metric == "trigger_loss":
            edge = np.where(np.array(fields["position"]) == "none", 1e-2, 2e-2)
            found = np.where(np.array(fields["lr"]) > edge, 3.0, 0.1)
        quantity = Quantity(metric, ("point",), "1", metric.replace("_", " "), "x", "planted", "none")
        values[metric] = quantity.variable(found, {"point": [point.address for point in points]})
    return new(values).assign_coords({key: ("point", held) for key, held in fields.items()})


@pytest.fixture(scope="module")
def record() -> xr.Dataset:
    both = lab.atlas([kept(name) for name in lab.STUDIES])
    names = list(map(lab.label, lab.TRAINED.values()))
    labels = {"variant": names, "length": list(lab.LENGTHS), "seed": list(lab.SEEDS)}
    rise = np.linspace(0, 3, len(lab.LENGTHS))[None, :, None] * np.array([1.0, 0.5, 0.4, 2.0])[:, None, None]
    at = lab._AT_LENGTH.variable(np.broadcast_to(rise, (4, len(lab.LENGTHS), 5)), labels)
    return xr.merge([both, new({at.name: at})], join="outer", combine_attrs="drop_conflicts")


def test_both_studies_are_one_record_with_nothing_lost(record):
    points = [point.config for name in lab.STUDIES for point in expand(load(name)).points]
    assert int(record.trigger_loss.notnull().sum()) == len(points)
    assert record.lr.values.tolist() == [2e-3, 5e-3, 1e-2, 2e-2, 4e-2, 8e-2]
    for config in points[::17]:
        gate = {name: config[name] for name in lab.AXES}
        assert np.isfinite(record.loss.sel(variant=lab.label(gate), lr=config["lr"], seed=config["seed"]))


def test_no_two_gates_share_a_label():
    configs = [
        {name: point.config[name] for name in lab.AXES} for study in lab.STUDIES for point in expand(load(study)).points
    ]
    gates = {repr(sorted(config.items())): lab.label(config) for config in configs}
    assert len(set(gates.values())) == len(gates)
    assert "no gate" in gates.values()


def test_every_published_row_and_every_gate_of_the_panel_is_in_the_study(record):
    asked = [config for config, _ in lab.PUBLISHED] + list(itertools.chain(*VARIED.values()))
    assert {lab.label(config) for config in asked} <= set(record.variant.values.tolist())


def test_a_gate_that_was_not_trained_is_refused(record):
    with pytest.raises(Refusal, match="wanted a gate of the atlas"):
        lab.first(record, position="key", source="none")


def test_metrics_read_what_was_planted(record):
    found = {name: metric(record) for name, metric in lab.METRICS.items()}
    np.testing.assert_allclose(found["first_attention_sdpa_minus_best_elsewhere"], -0.4)
    np.testing.assert_allclose(found["first_attention_non_sparse_minus_sigmoid"], 0, atol=1e-12)
    np.testing.assert_allclose(found["largest_rate_sdpa_over_none_log2"], 1)
    assert found["largest_rate_sdpa_over_none_log2"].shape == (3,)
    np.testing.assert_allclose(found["forgetting_sdpa_minus_none"], -1.0)
    assert found["order_of_first_attention"].shape == (5,)
    assert set(found) == {claim.terms.metric for claim in CLAIMS}
    assert all(np.isfinite(values).all() for values in found.values())


def test_a_run_that_diverged_bears_no_rate(record):
    loss = record.trigger_loss.copy()
    loss.loc[{"variant": "sdpa", "lr": 2e-2, "seed": 1}] = np.nan
    found = lab.largest_rate(record.assign(trigger_loss=loss), position="sdpa")
    np.testing.assert_allclose(found, [2e-2, 1e-2, 2e-2])


def test_longer_sequences_begin_with_the_trained_length():
    model = one_gate.load("softmax", 0)
    tokens, bound = one_gate.held_out(16)
    from gatescope.models import next_token_nll

    with torch.no_grad():
        own = float(next_token_nll(model, tokens)[bound[:, :-1]].double().mean())
        assert lab.loss_at(model, lab.LENGTHS[0], 16) == pytest.approx(own)
    assert lab.loss_at(model, lab.LENGTHS[2], 16) != pytest.approx(own)


@pytest.mark.parametrize("vary", VARIED)
def test_every_setting_of_the_panel_draws_or_says_why_not(vary, record):
    panel = atlas_panel(record, vary=vary)
    for metric, lr in itertools.product(METRICS, (2e-3, 5e-3)):
        panel.apply(metric=metric, lr=lr)
        assert panel.message == "" or "choose lr = 0.005" in panel.message
        if lr == lab.RATE:
            assert panel.message == ""
            assert len(panel.frame("numbers")) >= 4


def test_differences_are_paired_with_the_gateless_model(record):
    chosen = lab.measured_gates(record, "first_attention", VARIED["place"], lab.RATE)
    frame = lab.against_control(chosen, "first_attention", "first_attention").set_index("gate")
    assert frame.loc["sdpa", "difference"] == pytest.approx(-0.4)
    assert frame.loc["sdpa", "paper"] == 0.048
    assert np.isnan(frame.loc["no gate", "difference"])
    shared = lab.measured_gates(record, "first_attention", VARIED["own or shared scores (2 heads)"], lab.RATE)
    assert lab.against_control(shared, "first_attention", None)["difference"].notna().sum() == 8


def test_a_gate_of_the_learner_trains_and_an_impossible_one_is_refused():
    training = lab.training(steps=1, position="value", activation="tanh").run(progress=False)
    assert training.model.config.mixers[0].gate.position == "value"
    with pytest.raises(Refusal, match="W_O has mixed the heads"):
        lab.training(position="output", granularity="head")


def test_published_numbers_come_out_again():
    record = lab.published()
    for claim in CLAIMS:
        assert judge(lab.METRICS[claim.terms.metric](record), claim.terms).n >= claim.terms.replicates
    again = lab.lengths(seeds=(0,), size=128).trigger_loss_at_length.sel(seed=0)
    held = record.trigger_loss_at_length.sel(seed=0, variant=again.variant)
    np.testing.assert_allclose(again, held, rtol=1e-3)


def solutions(record):
    none, of = lab.first(record).mean(), lambda name: lab.first(record, position="sdpa", activation=name).mean()

    def step_down(p):
        order = p.argsort()
        corrected = np.empty_like(p)
        corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
        return corrected

    return {
        "half_open": (lambda logits: 0.5 + 0.5 * torch.sigmoid(logits),),
        "share_of_closing": (1 - (of("non_sparse_sigmoid") - none) / (of("sigmoid") - none), record),
        "step_down": (step_down,),
        "bears": (lambda rates, loss, limit: rates[loss < limit].max(),),
    }


@pytest.fixture
def uneven(record):
    """Here the gate that cannot close has a part of the effect."""
    first = record.first_attention.copy()
    first.loc[{"variant": "sdpa, non sparse sigmoid"}] += np.array([0.1, 0.2, 0.05, 0.1, 0.05])
    return record.assign(first_attention=first)


@pytest.mark.parametrize("name", ["half_open", "share_of_closing", "step_down", "bears"])
def test_right_answers_pass(name, uneven):
    assert getattr(checks, name)(*solutions(uneven)[name])


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [
        ("half_open", torch.sigmoid, "it still closes"),
        ("half_open", lambda logits: 0.5 + torch.sigmoid(logits), "halve the sigmoid"),
        ("half_open", lambda logits: torch.sigmoid(logits).clamp(min=0.5), "kink"),
        ("step_down", lambda p: np.minimum(1, len(p) * p), "Bonferroni"),
        ("step_down", lambda p: p, "nothing is corrected"),
        ("step_down", lambda p: np.minimum(1, p * np.arange(len(p), 0, -1)), "sort first"),
        ("bears", lambda rates, loss, limit: rates.max(), "learnt or not"),
        ("bears", lambda rates, loss, limit: rates[~(loss >= limit)].max(), "diverged"),
        ("bears", lambda rates, loss, limit: (loss < limit).sum(), "how many rates"),
        ("bears", lambda rates, loss, limit: rates[np.nanargmin(loss)], "lowest loss"),
        ("bears", lambda rates, loss, limit: max([]), "compare first"),
    ],
)
def test_mistakes_are_named(name, answer, told, expect_diagnosis):
    expect_diagnosis(getattr(checks, name), answer, told)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda none, sigmoid, stiff: (stiff - none).mean() / (sigmoid - none).mean(), "the share that stays"),
        (lambda none, sigmoid, stiff: 1 - stiff.mean() / sigmoid.mean(), "levels, not effects"),
        (lambda none, sigmoid, stiff: stiff.mean() - sigmoid.mean(), "difference of the two effects"),
    ],
)
def test_wrong_shares_are_named(answer, told, uneven):
    gates = ({}, {"position": "sdpa"}, {"position": "sdpa", "activation": "non_sparse_sigmoid"})
    result = checks.share_of_closing(answer(*(lab.first(uneven, **gate) for gate in gates)), uneven)
    assert result.status == "not yet"
    assert told in result.detail
