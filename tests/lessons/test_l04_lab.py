"""Lesson 04: its experiments, its metrics on planted records, panels at the ends of their controls, known mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.errors import Refusal
from gatescope.models.smollm2 import load_smollm2
from gatescope.normalisers import NormaliserSpec, normalise
from gatescope.tasks.text import TEXTS
from gatescope_lessons.l04_entropy_and_energy import checks, collapse, heads, lab, memories
from gatescope_lessons.l04_entropy_and_energy.live import Setting, recalled
from gatescope_lessons.l04_entropy_and_energy.panel import BETAS, KEYS, heads_panel, memory_panel
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge

CLAIMS = [claim for claim in load_claims() if claim.lesson == "l04_entropy_and_energy"]


@pytest.fixture(scope="module")
def pretrained():
    return load_smollm2()


def test_digits_are_those_of_their_seed_and_half_of_them_is_hidden():
    first, again, other = (memories.digit_patterns(5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(5, dtype=torch.float64))
    half = memories.upper_half(first)
    assert torch.equal(half[:, :32], first[:, :32])
    assert not half[:, 32:].any()
    assert not memories.upper_half(first, 1.0).any()


def test_beta_leads_from_the_average_through_metastable_states_to_one_digit():
    record = memories.measure_digits(0, betas=(1.0, 8.0, 64.0), stored=30)
    kinds = record.kind_share.sel(variant="softmax")
    assert [kinds.fixed_point.values[i] for i in kinds.argmax("fixed_point")] == ["global", "metastable", "single"]
    assert float(record.energy_rise.max()) < 1e-12
    sharp = record.sel(beta=64.0)
    assert float(sharp.exact.sel(variant="1.5-entmax")) > 0.5 > float(sharp.exact.sel(variant="softmax"))
    assert float(sharp.retrieved_at_rest.sel(variant="sigmoid")) == 0
    assert float(record.weight_sum.sel(variant="off by one").max()) < 1


def test_more_dimensions_hold_more_patterns():
    small, large = (memories.capacity_of(dim, 7, sizes=(4, 16, 64, 256, 1024)) for dim in (16, 28))
    assert large > 5 * small


def test_errors_lie_below_their_bound_and_the_bound_says_something():
    error, bound, gap = memories.errors_and_bounds(3)
    assert (error <= bound).all()
    assert float((bound < 0.1).double().mean()) > 0.1
    assert len(gap) == len(error)


def test_the_same_seed_gives_both_learning_rates_the_same_start():
    short = {"steps": 4, "every": 2}
    low, high = (collapse.run(rate, 0, **short) for rate in collapse.RATES)
    assert low["train_loss"][0] == pytest.approx(high["train_loss"][0], abs=0.2)
    assert low["lowest_entropy"][-1] > high["lowest_entropy"][-1]


def test_a_text_is_read_at_every_factor(pretrained):
    record = heads.measure_text(pretrained, TEXTS["dialogue"].text, factors=(0.25, 1.0, 4.0))
    assert record.nll.values.argmin() == 1
    assert record.mean_entropy.values.tolist() == sorted(record.mean_entropy.values, reverse=True)
    assert float(record.floor_shortfall) < 1e-9
    assert (record.floor_of_spectrum <= record.floor_of_norm + 1e-9).all()
    assert float(record.state_share_rest.mean()) > float(record.state_share.mean())
    np.testing.assert_allclose(record.mode_heads.sum("mode"), 1)


def test_exchanged_weights_are_those_of_the_rows_alone(pretrained):
    tokens = pretrained.tokenizer.prepare(TEXTS["recall"].text)
    table = heads.exchanged(pretrained.model, tokens, 5)
    assert table.loc["softmax", "sum of the weights"] == 1 == table.loc["sparsemax", "sum of the weights"]
    assert table.loc["off by one", "sum of the weights"] < 1
    assert table.loc["sparsemax", "share that is exactly 0"] > table.loc["1.5-entmax", "share that is exactly 0"] > 0.2
    assert table.loc["softmax", "share that is exactly 0"] == 0
    with pytest.raises(Refusal, match="a layer of the model, got 99"):
        heads.exchanged(pretrained.model, tokens, 99)


def test_the_memory_panel_answers_at_the_ends_of_every_control():
    panel = memory_panel(beta=32.0)
    ends = {"beta": (BETAS[0], BETAS[-1]), "hidden": (0.0, 1.0), "updates": (1, 400), "stored": (1, 1000)}
    for name, value in [(name, value) for name, values in ends.items() for value in values]:
        panel.apply(**{name: value})
        assert panel.message == "", (name, value)
    for normaliser in memories.VARIANTS:
        panel.apply(normaliser=normaliser)
        assert panel.message == ""
    panel.reset()
    assert panel.state["beta"] == 32.0


def test_the_memory_panel_says_what_is_not_stored():
    panel = memory_panel(stored=2, digit=1)
    panel.digit.value = 5
    assert "wanted a digit that is stored, got digit 5 of 2" in panel.message
    with pytest.raises(Refusal, match="a normaliser of"):
        recalled(Setting(beta=1.0, normaliser="hardmax"))


def test_beta_decides_what_the_memory_panel_shows():
    kinds = [recalled(Setting(beta=beta, updates=400)).attrs["kind"] for beta in (1.0, 8.0, 256.0)]
    assert kinds == ["global", "metastable", "single"]


def test_the_heads_panel_runs_the_model_at_every_factor(pretrained):
    panel = heads_panel(pretrained, TEXTS["recall"].text)
    plain = panel.frame("numbers").set_index("quantity")
    assert plain["now"].tolist() == plain["as it is"].tolist()
    panel.apply(factor=1 / 16)
    shown = panel.frame("numbers").set_index("quantity")["now"]
    assert shown["heads that average over most keys (class I)"] > 200
    assert shown["next-token loss, nats"] > plain["now"]["next-token loss, nats"] + 1
    panel.apply(factor=16.0, keys=KEYS[1])
    assert panel.message == ""
    panel.apply(text=" ")
    assert "wanted" in panel.message


def planted(opposite: bool) -> xr.Dataset:
    """A record in which every claim of the lesson holds clearly, or its opposite does; repetitions differ a little."""
    sign, seeds, texts, layers = (-1 if opposite else 1), np.arange(5), 5, 30
    wobble, wobble_t = 1 + 0.01 * seeds, 1 + 0.01 * np.arange(texts)
    betas, variants = np.array([1.0, 8.0, 64.0, 256.0]), list(memories.VARIANTS)
    dims = np.array(memories.DIMENSIONS, dtype=float)
    # Exponential growth, or as a power that falls.
    log_capacity = -2 * np.log(dims) + 12 if opposite else 0.27 * dims - 1
    ripple = 0.01 * np.sin(dims)
    zeros = sign * np.array([0.01, 0.01, 0.5, 0.9, 0.01])
    if opposite:
        zeros = np.array([0, 0, -0.1, -0.5, 0])
    exact = np.array([0.0, 0.0, sign * 0.8, 0.0, 0.0])
    kinds = np.zeros((4, 3))
    kinds[range(4), [0, 1, 2, 2]] = sign * 0.9
    share = np.where(np.arange(layers) < 5, 0.5, 0.5 - sign * 0.4)
    norm = np.linspace(5, 40, layers * 9).reshape(layers, 9)

    def swept(values: np.ndarray) -> tuple:
        return ("seed", "variant", "beta"), wobble[:, None, None] * values[None, :, None] * np.ones((1, 1, 4))

    def per_text(values: np.ndarray) -> tuple:
        return ("text", "layer", "head"), wobble_t[:, None, None] * values[None]

    def runs(low: float, high: float) -> np.ndarray:
        return wobble[:, None] * np.array([[low, high if not opposite else low - (high - low) / 2]])

    return xr.Dataset(
        {
            "left": swept(np.full(5, 1.5 if opposite else 0.01)),
            "zeros": swept(zeros),
            "exact": swept(exact),
            "kind_share": (
                ("seed", "variant", "beta", "fixed_point"),
                wobble[:, None, None, None] * kinds * np.ones((1, 5, 1, 1)),
            ),
            "log10_error_over_bound": ("seed", -sign * 1.5 * wobble),
            "error_exponent": ("seed", -sign * wobble),
            "capacity": (("seed", "dimension"), np.exp(wobble[:, None] * (log_capacity + ripple))),
            "lowest_entropy": (("seed", "lr", "step"), runs(0.8, 0.05)[..., None] * np.ones(3)),
            "train_trigger_loss": (("seed", "lr", "step"), runs(1.5, 3.3)[..., None] * np.ones(3)),
            "loss_roughness": (("seed", "lr"), runs(0.05, 0.09)),
            "state_share": per_text(share[:, None] * np.ones(9)),
            "operating_mode": per_text(np.full((layers, 9), 4 if opposite else 2)),
            "logit_norm": per_text(norm),
            "row_entropy": per_text(sign * -norm),
            "floor_shortfall": ("text", (1e-3 if opposite else -0.1) * wobble_t),
        },
        coords={
            "variant": variants, "beta": betas, "seed": seeds, "dimension": list(memories.DIMENSIONS),
            "fixed_point": ["global", "metastable", "single"], "lr": list(collapse.RATES), "step": [1, 2, 3],
        },
    )  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_shown_by_its_own_record_and_contradicted_by_the_opposite(claim):
    metric = lab.METRICS[claim.terms.metric]
    record, other = planted(opposite=False), planted(opposite=True)
    record["operating_mode"], other["operating_mode"] = (np.round(r.operating_mode) for r in (record, other))
    assert judge(metric(record), claim.terms).outcome == "shown"
    assert judge(metric(other), claim.terms).outcome == "contradicted"


def test_every_claim_has_its_metric_and_every_metric_its_claim():
    assert {claim.terms.metric for claim in CLAIMS} == set(lab.METRICS)


def test_the_published_numbers_come_out_again():
    record = lab.published()
    again = memories.measure_digits(1, betas=(8.0,))
    for name in ("retrieved_at_rest", "memory_share", "zeros"):
        np.testing.assert_allclose(again[name].sel(beta=8.0), record[name].sel(seed=1, beta=8.0), atol=0.011)
    assert memories.capacity_of(20, 1) == pytest.approx(float(record.capacity.sel(seed=1, dimension=20)), rel=0.02)


def _softmax_update(state, patterns, beta):
    return (beta * patterns @ state).softmax(-1) @ patterns


def _count(weights, ordered):
    return int((ordered.cumsum(-1) < 0.9 * weights.sum() * (1 - 1e-12)).sum()) + 1


MISTAKES = [
    (checks.hopfield_update, _softmax_update, None),
    (checks.hopfield_update, lambda s, p, b: (b * p @ s).softmax(-1), "these are the weights"),
    (checks.hopfield_update, lambda s, p, b: _softmax_update(s, p, 1.0), "beta is missing"),
    (checks.hopfield_update, lambda s, p, b: _softmax_update(s, p, 1 / b), "an inverse temperature"),
    (checks.hopfield_update, lambda s, p, b: s + _softmax_update(s, p, b), "the update replaces it"),
    (checks.hopfield_update, lambda s, p, b: p @ s @ p, "a linear memory"),
    (checks.hopfield_energy, lambda s, p, b: s @ s / 2 - torch.logsumexp(b * p @ s, -1) / b, None),
    (checks.hopfield_energy, lambda s, p, b: s @ s / 2 - torch.logsumexp(b * p @ s, -1), "divided by beta"),
    (checks.hopfield_energy, lambda s, p, b: s @ s - torch.logsumexp(b * p @ s, -1) / b, "half of xi.xi"),
    (checks.hopfield_energy, lambda s, p, b: s @ s / 2 + torch.logsumexp(b * p @ s, -1) / b, "must lower the energy"),
    (checks.hopfield_energy, lambda s, p, b: -torch.logsumexp(b * p @ s, -1) / b, "no lowest point"),
    (checks.patterns_read, lambda w: _count(w, w.sort(descending=True).values), None),
    (checks.patterns_read, lambda w: _count(w, w), "sort them first"),
    (checks.patterns_read, lambda w: _count(w, w.sort().values), "begin with the largest"),
    (checks.patterns_read, lambda w: _count(w, w.sort(descending=True).values) - 1, "one too few"),
    (checks.patterns_read, lambda w: int((w > w.mean()).sum()), "reach 90 % together"),
    (checks.sparsemax, lambda s: normalise(s[None], NormaliserSpec("sparsemax"))[0], None),
    (checks.sparsemax, lambda s: s.softmax(-1), "this is the softmax"),
    (checks.sparsemax, lambda s: (s - (s.sum() - 1) / len(s)).clamp(min=0), "that of all scores"),
    (checks.sparsemax, lambda s: s.clamp(min=0) / s.clamp(min=0).sum(), "the threshold is subtracted"),
]


@pytest.mark.parametrize(("check", "answer", "diagnosis"), MISTAKES)
def test_checks_name_the_mistake(check, answer, diagnosis, expect_diagnosis):
    expect_diagnosis(check, answer, diagnosis)
