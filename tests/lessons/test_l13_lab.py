"""Lesson 13: a loop that survives, metrics on planted records, models of others, checks on known mistakes, a panel."""

from __future__ import annotations

import math
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope import records
from gatescope.errors import Refusal, UntappableModelError
from gatescope.models.smollm2 import load_smollm2
from gatescope.probes import Entropy, Routing, Sinks
from gatescope.scope import Scope
from gatescope.series import measure_series
from gatescope.taps import AttentionCall, attend
from gatescope.tasks.text import BYTE_BOS, TEXTS
from gatescope_kernels import Visibility
from gatescope_lessons.l02_one_gate_no_sink import lab as gates
from gatescope_lessons.l13_scope_your_own_model import checks, foreign, lab, page, training
from gatescope_lessons.l13_scope_your_own_model.panel import MOST_BYTES, encode, routing_panel
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge
from torch.nn import functional

CLAIMS = [claim for claim in load_claims() if claim.lesson == "l13_scope_your_own_model"]


def trained(folder, until=None):
    loop = training.Loop(training.RUNS["binding"], folder=folder)
    recorder = training.binding_recorder(loop, folder, every=2)
    loop.train(recorder, until, save_every=4)
    return loop, recorder


def test_a_loop_that_was_interrupted_ends_with_the_bits_of_one_that_was_not(tmp_path):
    whole, recorded = trained(tmp_path / "whole", 10)
    trained(tmp_path / "parts", 7)
    resumed = training.Loop(training.RUNS["binding"], folder=tmp_path / "parts")
    assert resumed.step == 4
    again, record = trained(tmp_path / "parts", 10)
    for ours, theirs in zip(again.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    for name, values in recorded.record.data_vars.items():
        assert values.variable.equals(record.record[name].variable), name


def test_the_process_is_killed_and_leaves_whole_rows(tmp_path):
    command = [sys.executable, "-m", training.__name__, str(tmp_path), "13"]
    ended = subprocess.run(command, capture_output=True, timeout=240)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert records.load(tmp_path / "record.zarr").step.values.tolist() == [10]


def test_held_out_text_is_packed_crops():
    tokens, documents = lab.held_out()
    assert tokens.shape == documents.shape == (1, 25 * 64)
    starts = (tokens[0] == BYTE_BOS).nonzero()[:, 0].tolist()
    assert starts == list(range(0, 1600, 64))
    assert documents[0, starts].tolist() == list(range(25))
    first = bytes(tokens[0, 1:64].tolist()).decode()
    assert TEXTS[lab.TOPICS[0]].text.startswith(first)


def test_repetition_is_told_in_units_of_chance():
    rng = np.random.default_rng(0)
    shuffled = rng.integers(0, 4, 20_000)
    every = np.ones(19_999, dtype=bool)
    assert lab.repetition(shuffled, every) == pytest.approx(1, abs=0.05)
    runs = np.repeat(rng.integers(0, 4, 5_000), 4)
    assert lab.repetition(runs, every) == pytest.approx((0.75 + 0.25 / 4) * 4, rel=0.05)
    turns = np.tile([0, 1], 100)
    assert lab.repetition(turns, np.ones(199, dtype=bool)) == 0
    apart = np.arange(1, 200) % 2 == 0
    assert lab.repetition(np.repeat([0, 1], 100), ~apart) == pytest.approx(2, abs=0.05)


def test_information_is_that_of_the_labels_and_none_by_chance():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 5, 4_000)
    assert lab.information(label, label) == pytest.approx(math.log(5), abs=0.02)
    assert lab.information(label, rng.integers(0, 60, 4_000)) == pytest.approx(0, abs=0.02)
    assert lab.information(label // 3, label) == pytest.approx(-0.6 * math.log(0.6) - 0.4 * math.log(0.4), abs=0.02)


@pytest.fixture(scope="module")
def series():
    steps = {step: lab.shipped()[step] for step in (0, lab.EARLY, lab.STEPS)}
    return measure_series(steps, lab.probes, lab.held_out()[0], forward=lab.forward, progress=False)


def test_the_shipped_models_have_the_numbers_of_the_record(series):
    ours, published = lab.summarised(series), lab.published().sel(seed=0)
    for name in ("routing_saturation", "repetition", "coactivation_largest", "load_violation"):
        np.testing.assert_allclose(ours[name], published[name].sel(step=ours.step), rtol=1e-3, atol=2e-3, err_msg=name)


def test_every_metric_of_the_record_is_finite():
    record = lab.published()
    assert record.seed.values.tolist() == list(lab.SEEDS)
    for name, metric in lab.METRICS.items():
        assert metric(record).shape == (len(lab.SEEDS),), name
        assert np.isfinite(metric(record)).all(), name


def planted(opposite):
    """A record in which every claim of the lesson holds clearly, or its opposite does; seeds differ a little."""
    steps, layers, seeds = (0, lab.EARLY, lab.STEPS), 4, 5
    rising, falling = np.linspace(0.5, 0.8, layers), np.linspace(0.4, 0.2, layers)
    values = {
        "routing_saturation": falling if opposite else rising,
        "repetition": np.full(layers, 0.6 if opposite else 1.6),
        "token_information": np.full(layers, 0.1 if opposite else 1.2),
        "topic_information": np.full(layers, 0.9 if opposite else 0.1),
        "coactivation_largest": np.full(layers, 0.9 if opposite else 0.3),
    }
    wobble = 1 + 0.01 * np.arange(seeds)[:, None, None]
    shaped = {name: (("seed", "step", "layer"), wobble * np.tile(x, (seeds, 3, 1))) for name, x in values.items()}
    return xr.Dataset(shaped, coords={"seed": range(seeds), "step": list(steps), "layer": range(layers)})


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_shown_by_its_own_record_and_contradicted_by_the_opposite(claim):
    metric = lab.METRICS[claim.terms.metric]
    assert judge(metric(planted(opposite=False)), claim.terms).outcome == "shown"
    assert judge(metric(planted(opposite=True)), claim.terms).outcome == "contradicted"


def test_every_claim_has_its_metric_and_every_metric_its_claim():
    assert {claim.terms.metric for claim in CLAIMS} == set(lab.METRICS)


def test_the_answer_to_the_prediction_is_that_of_the_record():
    early = planted(opposite=False).routing_saturation.sel(step=lab.EARLY)
    assert lab.settled_first(early)[0] == "in the last"
    assert lab.settled_first(early.isel(layer=slice(None, None, -1)))[0] == "in the first"
    assert lab.settled_first(early.copy(data=np.full(early.shape, 0.5)))[0] == "it makes no difference"
    assert lab.settled_first(early.isel(layer=[0, 3, 1]))[0] == "somewhere between"


@torch.no_grad()
def test_a_llama_of_transformers_shows_what_the_own_model_shows():
    pretrained = load_smollm2()
    llama, tokens = foreign.as_llama(pretrained), pretrained.tokenizer.prepare("The cat sat on the mat.")
    found = []
    for model in (llama, pretrained.model):
        with Scope(model, [Sinks(), Entropy()]) as scope:
            model(tokens)
        found.append(scope.record())
    np.testing.assert_allclose(found[0].first_attention, found[1].first_attention, atol=1e-4)
    np.testing.assert_allclose(found[0].entropy, found[1].entropy, atol=1e-3)


@torch.no_grad()
def test_three_ways_to_write_one_attention():
    weights, (tokens, _) = gates.load("softmax"), gates.held_out(2)
    wanted = weights(tokens)
    for model in (
        foreign.OwnLM(weights, foreign.by_hand),
        foreign.OwnLM(weights, lambda q, k, v, layer: functional.scaled_dot_product_attention(q, k, v, is_causal=True)),
        foreign.TappedLM(weights, tapped),
    ):
        torch.testing.assert_close(model(tokens), wanted, rtol=1e-4, atol=1e-4)
    with (
        pytest.raises(UntappableModelError, match="no attention was seen"),
        Scope(hidden := foreign.OwnLM(weights, foreign.by_hand), [Sinks()]),
    ):
        hidden(tokens)


def tapped(q, k, v, layer):
    return attend(AttentionCall(q, k, v), layer=layer)


def called(**changes):
    return lambda q, k, v, layer: attend(AttentionCall(q, k, v, **changes), layer=layer)


def entropy(p):
    return -torch.special.xlogy(p, p).sum(-1)


RIGHT = {"by hand": "a", "output_attentions": "b", "two sequences": "c", "compiled": "d"}
MISTAKES = [
    (checks.tapped_attention, tapped, None),
    (checks.tapped_attention, foreign.by_hand, "shows no attention"),
    (checks.tapped_attention, lambda q, k, v, layer: attend(AttentionCall(q, k, v)), "pass layer="),
    (checks.tapped_attention, lambda q, k, v, layer: tapped(q / 8, k, v, layer), "scaled twice"),
    (checks.tapped_attention, called(scale=1.0), "nothing scales"),
    (checks.tapped_attention, lambda q, k, v, layer: tapped(q, v, k, layer), "changed places"),
    (checks.tapped_attention, called(visibility=Visibility(causal=False)), "sees the future"),
    (checks.tapped_attention, lambda q, k, v, layer: v, "something else than before"),
    (checks.router_entropy, lambda p: entropy(p).mean() / math.log(p.shape[-1]), None),
    (checks.router_entropy, lambda p: entropy(p).mean(), "these are nats"),
    (checks.router_entropy, lambda p: entropy(p).mean() / math.log(2), "divided by log k"),
    (checks.router_entropy, lambda p: entropy(p) / math.log(p.shape[-1]), "one value a token"),
    (checks.router_entropy, lambda p: entropy(p.mean(0)) / math.log(p.shape[-1]), "how even the *load* is"),
    (checks.router_entropy, lambda p: entropy(p).mean() / p.shape[-1], "divided by E"),
    (checks.router_entropy, lambda p: -(p * p.log()).sum(-1).mean() / math.log(p.shape[-1]), "0 log 0 is 0"),
    (checks.dead_experts, lambda index, weight, E: sorted(set(range(E)) - set(index[weight != 0].tolist())), None),
    (checks.dead_experts, lambda index, weight, E: sorted(set(range(E)) - set(index.flatten().tolist())), "weight 0"),
    (checks.dead_experts, lambda index, weight, E: index[weight != 0].unique(), "the living"),
    (checks.dead_experts, lambda index, weight, E: sorted(set(range(E)) - set(index[:, 0].tolist())), "first choices"),
    (checks.dead_experts, lambda index, weight, E: [3, 6], "from 0"),
    (checks.dead_experts, lambda index, weight, E: [1, 2, 4, 5], "rare is not dead"),
    (checks.dead_experts, lambda index, weight, E: [1], "got [1]"),
    (checks.why_refused, RIGHT, None),
    (checks.why_refused, RIGHT | {"output_attentions": " B "}, None),
    (checks.why_refused, RIGHT | {"by hand": "d", "compiled": "a"}, "by hand: not"),
    (checks.why_refused, {"by hand": "a"}, "no reason for"),
    (checks.why_refused, RIGHT | {"by hand": "e"}, "one of a, b"),
    (checks.why_refused, "abcd", "a dictionary"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "answer", "diagnosis"), MISTAKES)
def test_checks_name_the_mistake(check, answer, diagnosis, expect_diagnosis):
    expect_diagnosis(check, answer, diagnosis)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, in the import of dynamo
def test_the_four_refusals_are_refused_for_their_reasons():
    model, (held_out, _) = lab.load(), lab.held_out()
    with pytest.raises(Refusal, match="one sequence and one forward pass"), Scope(model, [Routing(keep=True)]):
        model(held_out[:, :64].repeat(2, 1))
    with (
        pytest.raises(UntappableModelError, match=r"compiled by torch\.compile"),
        Scope(torch.compile(model), [Routing()]),
    ):
        pass
    assert set(checks.REASONS) == set(checks._WHY.values())


def test_the_panel_answers_at_the_ends_of_every_control():
    panel = routing_panel("ab")
    ends = {"step": (0, lab.STEPS), "drop": ("none", 0, 7), "layer": (0, 3), "text": ("naïve \N{SNOWMAN} <b>", "ab")}
    for name, value in [(name, value) for name, values in ends.items() for value in values]:
        panel.apply(**{name: value})
        assert panel.message == "", (name, value)
    panel.apply(drop="none")
    assert len(panel.frame()) == 1
    panel.apply(drop=2)
    frame = panel.frame()
    assert frame["model"].tolist()[1] == "without expert 2"
    assert len(frame) == 5
    assert np.isfinite(frame.drop(columns="model").to_numpy(dtype=float)).all()
    load = panel.frame("expert_load_heatmap")
    assert (load.loc[load["expert"] == 2, "expert_load"] == 0).all()


def test_the_panel_says_what_it_cannot_read_and_goes_back():
    panel = routing_panel("a text")
    panel.text.value = "x"
    assert "wanted a text of 2 to" in panel.message
    panel.text.value = "y" * (MOST_BYTES + 1)
    assert f"got {MOST_BYTES + 1} bytes" in panel.message
    panel.reset()
    assert panel.message == ""
    assert encode("ab").tolist() == [[BYTE_BOS, 97, 98]]


def test_a_page_is_shown_in_a_frame_that_it_cannot_leave(tmp_path):
    report = tmp_path / "report.html"
    report.write_text('<p title="x">&amp;</p><script>alert(1)</script>', encoding="utf-8")
    html = page.shown(report)._repr_html_()
    assert 'sandbox="allow-scripts"' in html
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
