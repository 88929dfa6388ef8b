"""Lesson 05: forms that agree, what they cost, shipped models, a panel at its ends, checks on known mistakes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.errors import Refusal
from gatescope.models import TinyLM
from gatescope.taps import GateScores
from gatescope_kernels import gated_linear_attention
from gatescope_lessons.l05_the_gate_as_a_clock import checks, forms, lab, live, runs
from gatescope_lessons.l05_the_gate_as_a_clock.panel import MODELS, PAIRS, SPEEDS, clock_panel
from gatescope_lessons.l05_the_gate_as_a_clock.runs import TASKS, TRAINED, VARIANTS, Run
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge

CLAIMS = [claim for claim in load_claims() if claim.lesson == "l05_the_gate_as_a_clock"]


@pytest.fixture(scope="module")
def published():
    return lab.published()


@pytest.mark.parametrize("length", [1, 63, 130])
def test_forms_agree_with_the_sum_over_pairs(length):
    q, k, v, g = forms.inputs(length, seed=3, dtype=torch.float64)
    wanted = torch.zeros_like(v)
    for i in range(length):
        for j in range(i + 1):
            weight = (q[0, 0, i] @ k[0, 0, j]) * g[0, 0, j + 1 : i + 1].sum().exp() / math.sqrt(forms.WIDTH)
            wanted[0, 0, i] += weight * v[0, 0, j]
    for name, form in forms.FORMS.items():
        torch.testing.assert_close(form(q, k, v, g), wanted, rtol=1e-9, atol=1e-9, msg=name)


def test_costs_are_those_of_a_product_and_a_sum():
    with torch.no_grad(), forms.Costs() as counted:
        a = torch.ones(3, 5)
        (a @ torch.ones(5, 7)).T.exp()
    assert counted.operations == 15 + 35 + 2 * 3 * 5 * 7 + 21
    assert (counted.calls, counted.largest) == (4, 35)


def test_work_is_linear_in_chunks_and_quadratic_in_pairs(published):
    assert abs(lab.exponent(published, "recurrent") - 1) < 0.05
    assert abs(lab.exponent(published, "chunk") - 1) < 0.1
    assert abs(lab.exponent(published, "parallel") - 2) < 0.1
    assert lab.exponent(published, "parallel", "calls") == pytest.approx(0)
    assert lab.exponent(published, "recurrent", "calls") > 0.95
    again = forms.costs("chunk", 512)
    assert again.operations == published.operations.sel(form="chunk", length=512)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_published_accuracies_come_out_of_the_shipped_checkpoints(variant, published):
    again = runs.accuracy(runs.load(Run(variant, "16 pairs", 1)), TASKS["16 pairs"], 512)
    assert again == pytest.approx(float(published.accuracy.sel(variant=variant, seed=1, setting="16 pairs")), abs=2e-3)


def test_recall_tells_softmax_from_a_state_and_a_state_from_a_window():
    """Eight rows hold four pairs and not sixteen; eight tokens of context hold none of the sixteen."""
    found = {name: runs.accuracy(runs.load(Run(name, "16 pairs", 0)), TASKS["16 pairs"], 64) for name in VARIANTS}
    assert found["softmax"] > 0.9
    assert found["softmax"] > found["gla"] + 0.3
    assert found["gla"] > 2 * found["window"]
    assert runs.accuracy(runs.load(Run("gla", "4 pairs", 0)), TASKS["4 pairs"], 64) > found["gla"] + 0.3


def test_every_run_is_in_the_record_and_no_other(published):
    for task in TASKS:
        found = published.accuracy.sel(setting=task).notnull().all("seed")
        assert set(published.variant.values[found.values]) == set(TRAINED[task])


def test_training_scores_answers_alone_and_sees_the_clock():
    work = runs.training(Run("gla", "4 pairs", 5), watched=True, steps=2, record_every=1)
    work.run(progress=False)
    assert work.losses == work.trigger_losses
    assert 0.9 < float(work.record.gate_mean.mean()) < 1
    assert not runs.training(Run("softmax", "4 pairs", 5), watched=True).probes
    with pytest.raises(Refusal, match="one of"):
        Run("gla", "5 pairs", 0)


def test_the_same_seed_brings_all_variants_the_same_batches():
    batches = [runs.training(Run(variant, "8 pairs", 2)) for variant in ("softmax", "gla")]
    first, other = (work.task.batch((work.spec.seed, 0), 4)[0] for work in batches)
    assert torch.equal(first, other)


@pytest.mark.parametrize("variant", ["fixed", "gla", "delta", "hybrid"])
def test_influence_times_values_is_the_output(variant):
    model = TinyLM(VARIANTS[variant], init_seed=1).double()
    keep = live._Calls()
    with torch.no_grad(), live.attached(model, keep):
        model(TASKS["4 pairs"].batch(0, 3)[0])
    call = keep.calls[1]
    weights = live.influence(call)
    torch.testing.assert_close(weights @ call.v, gated_linear_attention(**call.arguments())[0])
    assert not weights.triu(1).any()


def test_the_clock_is_a_power_of_the_decay_and_of_nothing_else():
    scores = torch.full((1, 1, 2, 1), 0.9)
    faster = live.Clock(3.0).edit("gate", 0, GateScores(scores, "decay"))
    torch.testing.assert_close(faster.scores, scores**3)
    other = GateScores(scores, "sdpa")
    assert live.Clock(3.0).edit("gate", 0, other) is other


def test_a_stopped_clock_forgets_nothing_and_the_learned_one_is_the_model():
    model, task = runs.load(Run("gla", "3 segments", 0)), TASKS["3 segments"]
    stopped, learned = (live.turned(model, task, speed) for speed in (0.0, 1.0))
    assert (stopped.kept == 1).all()
    assert stopped.attrs["half_life"] == math.inf
    assert learned.attrs["accuracy"] == pytest.approx(runs.accuracy(model, task, 64, 20251106))
    assert stopped.attrs["accuracy"] < learned.attrs["accuracy"]
    assert len(learned.attrs["accuracy_by_segment"]) == 3
    assert "".join(learned.piece.values[:3]).startswith("| k")


def test_the_panel_answers_at_the_ends_of_every_control():
    panel = clock_panel(pairs=4)
    ends = {
        "speed": (SPEEDS[0], SPEEDS[-1], 1.0),
        "segments": (1, 4),
        "pairs": (PAIRS[0], PAIRS[-5]),
        "model": MODELS,
    }
    for name, value in [(name, value) for name, values in ends.items() for value in values]:
        panel.apply(**{name: value})
        assert panel.message == "", (name, value)
        assert len(panel.frame("influence_map"))
    assert panel.frame("numbers")["now"].notna().all()


def test_the_panel_says_what_is_too_long_and_goes_back():
    panel = clock_panel(pairs=4)
    before = panel.frame("numbers")
    panel.apply(pairs=32, segments=4)
    assert "at most 260 tokens, got 516" in panel.message
    panel.reset()
    assert panel.message == ""
    assert panel.frame("numbers").equals(before)
    panel.apply(model="linear, trained on 16 pairs", speed=2.0)
    assert "a model whose state decays, got one that forgets nothing" in panel.message
    with pytest.raises(Refusal, match="a model with linear attention"):
        live.turned(TinyLM(VARIANTS["softmax"]), TASKS["4 pairs"], 1.0)


def planted(opposite: bool) -> xr.Dataset:
    """A record in which every claim of the lesson holds clearly, or its opposite does; seeds differ a little."""
    high, low = (0.2, 0.9) if opposite else (0.9, 0.2)
    best = {"softmax", "hybrid", "gla_k32", "delta"}
    wobble = np.array([0.0, 0.01, 0.02])
    by_task = np.full((len(VARIANTS), 3, len(TASKS)), 0.5)
    for v, variant in enumerate(VARIANTS):
        middle = 0.5 * (high + low)
        by_task[v] = (high if variant in best else middle if variant == "gla" else low) + wobble[:, None]
    names = list(TASKS)
    by_task[:, :, names.index("4 pairs")] = 0.5
    length = np.array(lab.LENGTHS, dtype=float)
    operations = np.stack([length ** (2.0 if opposite else 1.0)] * 3)
    return xr.Dataset(
        {
            "accuracy": (("variant", "seed", "setting"), by_task),
            "disagreement": ("seed", (1e-2 if opposite else 1e-6) * (1 + wobble)),
            "operations": (("form", "length"), operations),
        },
        coords={
            "variant": list(VARIANTS),
            "seed": [0, 1, 2],
            "setting": names,
            "form": list(forms.FORMS),
            "length": list(lab.LENGTHS),
        },
    )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_shown_by_its_own_record_and_contradicted_by_the_opposite(claim):
    metric = lab.METRICS[claim.terms.metric]
    assert judge(metric(planted(opposite=False)), claim.terms).outcome == "shown"
    assert judge(metric(planted(opposite=True)), claim.terms).outcome == "contradicted"


def test_every_claim_has_its_metric_and_every_metric_its_claim():
    assert {claim.terms.metric for claim in CLAIMS} == set(lab.METRICS)


def _step(forget, write, read):
    def answer(S, q, k, v, a):
        after = forget(a) * S + write(a) * torch.outer(k, v)
        return after, read(S, q, k, after)

    return answer


def _mask(make):
    return lambda g: make(g, g.cumsum(0)[:, None] - g.cumsum(0)[None, :])


MISTAKES = [
    (checks.one_step, _step(lambda a: a, lambda a: 1, lambda S, q, k, after: q @ after), None),
    (checks.one_step, _step(lambda a: 1, lambda a: 1, lambda S, q, k, after: q @ after), "nothing was forgotten"),
    (checks.one_step, _step(lambda a: a, lambda a: a, lambda S, q, k, after: q @ after), "forget first, then write"),
    (checks.one_step, _step(lambda a: 0, lambda a: 1, lambda S, q, k, after: q @ after), "the old state is gone"),
    (checks.one_step, _step(lambda a: a, lambda a: 1 - a, lambda S, q, k, after: q @ after), "moving average"),
    (checks.one_step, _step(lambda a: a, lambda a: 1, lambda S, q, k, after: q @ S), "a token may read itself"),
    (checks.one_step, _step(lambda a: a, lambda a: 1, lambda S, q, k, after: k @ after), "the query asks"),
    (checks.one_step, lambda S, q, k, v, a: a * S + torch.outer(k, v), "wanted two things"),
    (checks.half_life, lambda a: math.log(0.5) / math.log(a), None),
    (checks.half_life, lambda a: 1 / (1 - a), "until 1/e is left, nearly"),
    (checks.half_life, lambda a: math.log(a) / math.log(0.5), "turn it round"),
    (checks.half_life, lambda a: -1 / math.log(a), "logarithm of 1/2 is missing"),
    (checks.half_life, lambda a: 0.5 / (1 - a), "does not subtract"),
    (checks.decay_matrix, _mask(lambda g, d: d.exp().tril()), None),
    (checks.decay_matrix, _mask(lambda g, d: d.tril()), "take exp"),
    (checks.decay_matrix, _mask(lambda g, d: (d + g[None, :]).exp().tril()), "token j itself"),
    (checks.decay_matrix, _mask(lambda g, d: d.exp()), "future is not masked"),
    (checks.decay_matrix, _mask(lambda g, d: g.cumsum(0)[:, None].exp().expand(-1, len(g)).tril()), "before j"),
    (checks.decay_matrix, _mask(lambda g, d: g[:, None].exp().expand(-1, len(g)).tril()), "only one decay"),
]


@pytest.mark.parametrize(("check", "answer", "diagnosis"), MISTAKES)
def test_checks_name_the_mistake(check, answer, diagnosis, expect_diagnosis):
    expect_diagnosis(check, answer, diagnosis)


def test_the_gap_is_checked_with_its_seeds():
    record = planted(opposite=False)
    record["accuracy"] = record.accuracy * xr.DataArray(np.linspace(0.5, 1, len(TASKS)), dims="setting")
    own = record.accuracy.sel(setting=["4 pairs", "8 pairs", "16 pairs"])
    right = own.sel(variant="softmax") - own.sel(variant="gla")
    assert checks.recall_gap(right, record)
    assert checks.recall_gap(right.T, record)
    assert "turn it round" in checks.recall_gap(-right, record).detail
    assert "your evidence" in checks.recall_gap(right.mean("seed"), record).detail
    assert "another order" in checks.recall_gap(right[:, ::-1], record).detail
    ratio = own.sel(variant="softmax") / own.sel(variant="gla")
    assert "this is the ratio" in checks.recall_gap(ratio, record).detail
    assert checks.recall_gap(..., record).status == "not attempted"
